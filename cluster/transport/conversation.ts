// Messages of a conversation that is rare and short, behind a handshake: u32 length (little-endian), JSON. For nodes that form or join a
// cluster; frames between members are `frames.ts`. State owned: the bytes of a message that has not yet come whole.

import type { Connection } from '../ports.ts';

const messageBytesMax = 256 * 1024;

export function say(connection: Connection, message: unknown): void {
  const body = Buffer.from(JSON.stringify(message), 'utf8');
  const head = Buffer.alloc(4);
  head.writeUInt32LE(body.length);
  connection.write([head, body]);
}

/** Takes the connection's data. What is too long, is no JSON or makes no sense to `parse` (null) closes it. `isOver`: nothing is heard any more. */
export function listenTo<M>(
  connection: Connection,
  parse: (value: unknown) => M | null,
  isOver: () => boolean,
  hear: (message: M) => void,
): void {
  let held = Buffer.alloc(0);
  connection.onData = (chunk) => {
    held = Buffer.concat([held, chunk]);
    while (held.length >= 4 && !isOver()) {
      const end = 4 + held.readUInt32LE(0);
      if (end > messageBytesMax) return connection.close();
      if (held.length < end) return;
      const message = parseText(held.toString('utf8', 4, end), parse);
      held = held.subarray(end);
      if (message === null) return connection.close();
      hear(message);
    }
  };
}

function parseText<M>(text: string, parse: (value: unknown) => M | null): M | null {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return null;
  }
  return parse(value);
}
