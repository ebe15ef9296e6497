// A snapshot that lies in memory already, given piece by piece. PURE.

import type { SnapshotPieces } from './machine.ts';

export function piecesOf(buffers: readonly Buffer[]): SnapshotPieces {
  let at = 0;
  return { next: () => buffers[at++] ?? null, close() {} };
}

/** All that is left, at once. For tests, and for states known to be small. */
export function drain(pieces: SnapshotPieces): Buffer[] {
  const buffers: Buffer[] = [];
  for (let piece = pieces.next(1024 * 1024); piece !== null; piece = pieces.next(1024 * 1024)) buffers.push(piece);
  pieces.close();
  return buffers;
}
