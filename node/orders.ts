// What a launcher tells a node over the channel that it started it with. Nobody else has one. Pure.

/** On: the node has no connection to any other node, as if the network between them had failed; clients stay. */
export interface Order {
  readonly isolate: boolean;
}

/** Null: something else, which is not meant for the node. */
export function readOrder(message: unknown): Order | null {
  const { isolate } = Object(message) as { isolate?: unknown };
  return typeof isolate === 'boolean' ? { isolate } : null;
}
