// Assertions, always on. A failed one means that the core or its host is wrong: the replica must not go on.

export class RaftInvariantError extends Error {
  override readonly name = 'RaftInvariantError';
}

/** `text` names what should hold; it is constant, so that a passing check costs nothing. */
export function invariant(condition: boolean, text: string): asserts condition {
  if (!condition) throw new RaftInvariantError(`raft-ts: broken invariant: ${text}`);
}
