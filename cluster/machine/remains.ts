// What is left of a batch of which only some messages still live: the log keeps that instead of the whole batch. PURE.
//
//   u8 version (129), u8 0, u16 0, u32 count | count × (u32 ordinal, u32 offset) | commands, as they were      both by ascending ordinal
//
// A message keeps its name (entry index, ordinal), so whoever reads by that finds it here as well as in the whole batch. Never applied, never
// sent as an entry: there is neither an origin in it nor what the batch settled. Its first byte is no version of a batch, so that nothing
// takes it for one.

/** No version of a batch. */
export const remainsVersion = 129;
const headerBytes = 8;
const rowBytes = 8;

/** A command and its bytes in a payload. */
interface Piece {
  readonly ordinal: number;
  readonly from: number;
  readonly to: number;
}

/** Where the command of this ordinal begins, or -1 if it is not among what is left. */
export function remainsOffset(remains: Buffer, ordinal: number): number {
  const row = rowOf(remains, ordinal);
  return row < 0 ? -1 : remains.readUInt32LE(headerBytes + rowBytes * row + 4);
}

/** Commands in what is left of a batch. */
export function remainsCount(remains: Buffer): number {
  return remains.readUInt32LE(4);
}

/** One command out of what is left of a batch; null if it is not there. */
export function pieceOfRemains(remains: Buffer, ordinal: number): Piece | null {
  const row = rowOf(remains, ordinal);
  if (row < 0) return null;
  const at = headerBytes + rowBytes * row + 4;
  const to = row + 1 < remainsCount(remains) ? remains.readUInt32LE(at + rowBytes) : remains.length;
  return { ordinal, from: remains.readUInt32LE(at), to };
}

/** One command out of a whole batch that was checked; null if it has fewer. Commands follow each other, the table follows the last. */
export function pieceOfBatch(payload: Buffer, tableOffset: number, count: number, ordinal: number): Piece | null {
  if (ordinal >= count) return null;
  const at = tableOffset + 4 * ordinal;
  const to = ordinal + 1 < count ? payload.readUInt32LE(at + 4) : tableOffset;
  return { ordinal, from: payload.readUInt32LE(at), to };
}

/** Only these pieces of a payload, which ascend. */
export function encodeRemains(payload: Buffer, pieces: readonly Piece[]): Buffer {
  let bytes = headerBytes + rowBytes * pieces.length;
  for (const { from, to } of pieces) bytes += to - from;
  const remains = Buffer.allocUnsafeSlow(bytes);
  remains.writeUInt32LE(remainsVersion, 0);
  remains.writeUInt32LE(pieces.length, 4);
  let at = headerBytes;
  let end = headerBytes + rowBytes * pieces.length;
  for (const { ordinal, from, to } of pieces) {
    remains.writeUInt32LE(ordinal, at);
    remains.writeUInt32LE(end, at + 4);
    payload.copy(remains, end, from, to);
    end += to - from;
    at += rowBytes;
  }
  return remains;
}

function rowOf(remains: Buffer, ordinal: number): number {
  let low = 0;
  let high = remainsCount(remains) - 1;
  while (low <= high) {
    const middle = (low + high) >> 1;
    const found = remains.readUInt32LE(headerBytes + rowBytes * middle);
    if (found === ordinal) return middle;
    if (found < ordinal) low = middle + 1;
    else high = middle - 1;
  }
  return -1;
}
