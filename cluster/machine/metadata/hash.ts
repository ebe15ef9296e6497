// Hashes of texts, for the state hash and the checksum of snapshots: against divergence and damage, not against malice. PURE.

/** 32 bits of a text (FNV-1a over its UTF-16 units, then mixed, so that sums of such hashes are as good as any). */
export function textHash(text: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
  return mix(hash);
}

/** 32 bits of bytes, begun from the hash of what precedes them. Taken four at a time; every step is one to one, so that no single damage is lost. */
export function bytesHash(start: number, bytes: Buffer): number {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const wordsEnd = bytes.length & ~3;
  let hash = start ^ 0x811c9dc5;
  for (let i = 0; i < wordsEnd; i += 4) {
    hash = Math.imul(hash ^ view.getInt32(i, true), 0x85ebca6b);
    // A product's low bits depend on nothing above them: the high ones have to come down.
    hash ^= hash >>> 15;
  }
  for (let i = wordsEnd; i < bytes.length; i++) hash = Math.imul(hash ^ bytes[i]!, 0x01000193);
  return mix(hash);
}

function mix(hash: number): number {
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}
