// The bytes of log files. PURE but for crc32. All numbers are little-endian; u64 values stay below 2^53.
//
// A log file:   file header | record | record | ... | footer | trailer          (footer and trailer only once it is sealed)
//
// File header (length in it, a multiple of 8)          Trailer (32 bytes, the last of a sealed file)
//   0  u32  magic 'WRLG'                                  0  u32  magic 'WRTR'
//   4  u16  version (1)                                   4  u32  bytes of the footer
//   6  u16  bytes of this header                          8  u64  offset of the footer
//   8  u32  salt: the file's id                          16  u32  checksum of the footer, salted
//  12  u32  checksum of the header, this field as 0      20  u32  version (1)
//  16  u64  sequence                                     24  u32  0
//  24  u64  sequence of the file before it, 0: none      28  u32  checksum of bytes 0..28, salted
//  32  u16  bytes of the cluster id
//  34  u16  bytes of the node's UUID
//  36  u32  kind: 0 log, 1 kept, 2 volatile (never synced, without a footer, removed at the next start)
//  40  u64  generation of the manifest when the file was made
//  48  cluster id, node UUID, zeros
//
// Record header (80 bytes), followed by the payload
//   0  u32  checksum of bytes 4..80, salted with the file's id
//   4  u8   version (1)
//   5  u8   kind: 1 entry, 2 kept, 3 hard state, 4 truncation, 5 checkpoint, 6 reset, 7 repaired
//   6  u8   0
//   7  u8   entry kind: 0 none, 1 data, 2 no-op, 3 configuration, 4 remains (kept only): what is left of data, some of which is live
//   8  u32  group
//  12  u32  bytes of the payload
//  16  u64  replica id
//  24  u64  index       entry, kept: its index; hard state: commit; truncation: first index dropped; checkpoint: snapshot's index
//                       reset: what has to be repaired, up to here
//  32  u64  term        entry, kept: its term;  hard state: term;   checkpoint: snapshot's term
//                       reset: its name, a sequence: kept files before it are void for the group
//  40  u64  previous    entry: term of the entry before it;  hard state: vote;  checkpoint: 0 group created, 1 snapshot installed
//  48  f64  stamp
//  56  f64  state hash
//  64  u32  machine version
//  68  u32  checksum of the payload, made by the origin; of remains by whoever wrote them first
//  72  u32  synced before: everything in this file below this offset was durable when the record was gathered
//  76  u32  0
//
// Why "synced before": a bad record above every such offset is a torn write that nobody was told of; below one it is damage.

import { crc32 } from 'node:zlib';
import { assert } from './errors.ts';

export const logVersion = 1;
export const recordHeaderBytes = 80;
export const trailerBytes = 32;
const fileHeaderFixedBytes = 48;
/** Offsets within a file are u32. */
export const fileBytesLimit = 0xf000_0000;
export const payloadBytesMax = 0x4000_0000;

const fileMagic = 0x474c5257;
const trailerMagic = 0x52545257;

export const RecordKind = {
  entry: 1,
  kept: 2,
  hardState: 3,
  truncation: 4,
  checkpoint: 5,
  reset: 6,
  repaired: 7,
} as const;
export type RecordKind = (typeof RecordKind)[keyof typeof RecordKind];

export const EntryKind = { none: 0, data: 1, noop: 2, configuration: 3, remains: 4 } as const;
export type EntryKind = (typeof EntryKind)[keyof typeof EntryKind];

export const FileKind = { log: 0, kept: 1, volatile: 2 } as const;
export type FileKind = (typeof FileKind)[keyof typeof FileKind];

export interface FileHeader {
  readonly kind: FileKind;
  readonly sequence: number;
  readonly previous: number;
  readonly salt: number;
  readonly generation: number;
  readonly clusterId: string;
  readonly nodeUuid: string;
  readonly bytes: number;
}

/** Two-step so that a record is written without an object for it. */
export interface RecordHeader {
  readonly kind: RecordKind;
  readonly entryKind: EntryKind;
  readonly group: number;
  readonly payloadBytes: number;
  readonly replica: number;
  readonly index: number;
  readonly term: number;
  readonly previous: number;
  readonly stamp: number;
  readonly stateHash: number;
  readonly machineVersion: number;
  readonly payloadChecksum: number;
  readonly syncedBefore: number;
}

// ---- numbers ----

export function readU64(view: DataView, at: number): number {
  return view.getUint32(at, true) + view.getUint32(at + 4, true) * 0x1_0000_0000;
}

export function writeU64(view: DataView, at: number, value: number): void {
  view.setUint32(at, value >>> 0, true);
  view.setUint32(at + 4, Math.floor(value / 0x1_0000_0000), true);
}

export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

const crcTable = new Int32Array(256);
for (let n = 0; n < 256; n++) {
  let c = n;
  for (let k = 0; k < 8; k++) c = c & 1 ? 0xedb88320 ^ (c >>> 1) : c >>> 1;
  crcTable[n] = c;
}

/** crc32 of bytes[from..to) begun with `salt`. For short ranges: cheaper than a call into native code (measured for 76 bytes). */
export function shortChecksum(bytes: Uint8Array, from: number, to: number, salt: number): number {
  let c = ~salt;
  for (let i = from; i < to; i++) c = crcTable[(c ^ bytes[i]!) & 255]! ^ (c >>> 8);
  return ~c >>> 0;
}

// ---- file header and trailer ----

/** Bytes of the header of any file of this node. */
export function fileHeaderBytes({
  clusterId,
  nodeUuid,
}: {
  readonly clusterId: string;
  readonly nodeUuid: string;
}): number {
  return (fileHeaderFixedBytes + Buffer.byteLength(clusterId) + Buffer.byteLength(nodeUuid) + 7) & ~7;
}

export function encodeFileHeader(header: Omit<FileHeader, 'bytes'>): Buffer {
  const cluster = Buffer.from(header.clusterId, 'utf8');
  const node = Buffer.from(header.nodeUuid, 'utf8');
  const length = fileHeaderBytes(header);
  assert(length < 0x1_0000, 'identity fits a file header');
  const bytes = Buffer.alloc(length);
  const view = viewOf(bytes);
  view.setUint32(0, fileMagic, true);
  view.setUint16(4, logVersion, true);
  view.setUint16(6, length, true);
  view.setUint32(8, header.salt, true);
  writeU64(view, 16, header.sequence);
  writeU64(view, 24, header.previous);
  view.setUint16(32, cluster.length, true);
  view.setUint16(34, node.length, true);
  view.setUint32(36, header.kind, true);
  writeU64(view, 40, header.generation);
  cluster.copy(bytes, fileHeaderFixedBytes);
  node.copy(bytes, fileHeaderFixedBytes + cluster.length);
  view.setUint32(12, crc32(bytes), true);
  return bytes;
}

/** The header at the start of `bytes`, null if it is damaged, 'version' if it is whole but from another version. */
export function decodeFileHeader(bytes: Buffer): FileHeader | 'version' | null {
  if (bytes.length < fileHeaderFixedBytes) return null;
  const view = viewOf(bytes);
  const length = view.getUint16(6, true);
  if (view.getUint32(0, true) !== fileMagic || length < fileHeaderFixedBytes || length > bytes.length) return null;
  const copy = Buffer.from(bytes.subarray(0, length));
  copy.fill(0, 12, 16);
  if (crc32(copy) !== view.getUint32(12, true)) return null;
  if (view.getUint16(4, true) !== logVersion) return 'version';
  const clusterBytes = view.getUint16(32, true);
  const nodeBytes = view.getUint16(34, true);
  const kind = view.getUint32(36, true);
  const namesEnd = fileHeaderFixedBytes + clusterBytes;
  if (namesEnd + nodeBytes > length || (kind !== FileKind.log && kind !== FileKind.kept)) return null;
  return {
    kind,
    sequence: readU64(view, 16),
    previous: readU64(view, 24),
    salt: view.getUint32(8, true),
    generation: readU64(view, 40),
    clusterId: bytes.toString('utf8', fileHeaderFixedBytes, namesEnd),
    nodeUuid: bytes.toString('utf8', namesEnd, namesEnd + nodeBytes),
    bytes: length,
  };
}

export function encodeTrailer(footer: Buffer, footerOffset: number, salt: number): Buffer {
  const bytes = Buffer.alloc(trailerBytes);
  const view = viewOf(bytes);
  view.setUint32(0, trailerMagic, true);
  view.setUint32(4, footer.length, true);
  writeU64(view, 8, footerOffset);
  view.setUint32(16, crc32(footer, salt), true);
  view.setUint32(20, logVersion, true);
  view.setUint32(28, shortChecksum(bytes, 0, 28, salt), true);
  return bytes;
}

/** Where the footer of a sealed file lies; null if these bytes are no trailer of the file with this salt. */
export function decodeTrailer(
  bytes: Buffer,
  salt: number,
): { readonly footerBytes: number; readonly footerOffset: number; readonly checksum: number } | null {
  if (bytes.length !== trailerBytes) return null;
  const view = viewOf(bytes);
  if (view.getUint32(0, true) !== trailerMagic) return null;
  if (shortChecksum(bytes, 0, 28, salt) !== view.getUint32(28, true)) return null;
  return { footerBytes: view.getUint32(4, true), footerOffset: readU64(view, 8), checksum: view.getUint32(16, true) };
}

// ---- records ----

/** Writes one record header at `at`. The caller has made sure of 80 bytes. */
export function writeRecordHeader(
  bytes: Uint8Array,
  view: DataView,
  at: number,
  salt: number,
  kind: RecordKind,
  entryKind: EntryKind,
  group: number,
  replica: number,
  index: number,
  term: number,
  previous: number,
  stamp: number,
  stateHash: number,
  machineVersion: number,
  payloadBytes: number,
  payloadChecksum: number,
  syncedBefore: number,
): void {
  view.setUint32(at + 4, logVersion | (kind << 8) | (entryKind << 24), true);
  view.setUint32(at + 8, group, true);
  view.setUint32(at + 12, payloadBytes, true);
  writeU64(view, at + 16, replica);
  writeU64(view, at + 24, index);
  writeU64(view, at + 32, term);
  writeU64(view, at + 40, previous);
  view.setFloat64(at + 48, stamp, true);
  view.setFloat64(at + 56, stateHash, true);
  view.setUint32(at + 64, machineVersion, true);
  view.setUint32(at + 68, payloadChecksum, true);
  view.setUint32(at + 72, syncedBefore, true);
  view.setUint32(at + 76, 0, true);
  view.setUint32(at, shortChecksum(bytes, at + 4, at + recordHeaderBytes, salt), true);
}

/** Writes the header of an entry that is kept beside the log, or on its way to a peer, at the beginning of `bytes`. */
export function writeKeptHeader(bytes: Uint8Array, salt: number, replica: number, header: RecordHeader): void {
  const { entryKind, group, index, term, stamp, stateHash, machineVersion, payloadBytes, payloadChecksum } = header;
  writeRecordHeader(
    bytes,
    viewOf(bytes),
    0,
    salt,
    RecordKind.kept,
    entryKind,
    group,
    replica,
    index,
    term,
    0,
    stamp,
    stateHash,
    machineVersion,
    payloadBytes,
    payloadChecksum,
    0,
  );
}

/** Quick look without the checksum: may a record header start here? Keeps a search for headers fast. */
export function looksLikeRecord(bytes: Uint8Array, at: number): boolean {
  const kind = bytes[at + 5]!;
  return bytes[at + 4] === logVersion && kind >= 1 && kind <= 7 && bytes[at + 6] === 0 && bytes[at + 7]! <= 4;
}

/** The record header at `at`, or null if it is damaged or cut. */
export function readRecordHeader(bytes: Buffer, view: DataView, at: number, salt: number): RecordHeader | null {
  if (at + recordHeaderBytes > bytes.length || !looksLikeRecord(bytes, at)) return null;
  if (shortChecksum(bytes, at + 4, at + recordHeaderBytes, salt) !== view.getUint32(at, true)) return null;
  return {
    kind: bytes[at + 5] as RecordKind,
    entryKind: bytes[at + 7] as EntryKind,
    group: view.getUint32(at + 8, true),
    payloadBytes: view.getUint32(at + 12, true),
    replica: readU64(view, at + 16),
    index: readU64(view, at + 24),
    term: readU64(view, at + 32),
    previous: readU64(view, at + 40),
    stamp: view.getFloat64(at + 48, true),
    stateHash: view.getFloat64(at + 56, true),
    machineVersion: view.getUint32(at + 64, true),
    payloadChecksum: view.getUint32(at + 68, true),
    syncedBefore: view.getUint32(at + 72, true),
  };
}
