// The metadata as bytes: a header with version and checksum, the state as JSON, the pipe table.
//
//   magic u32 | version u32 | JSON bytes u32 | pipe table bytes u32 | hash of all that follows u32
//
// The same state gives the same bytes on every replica, whether it lived through all entries or started from a snapshot. Predeclared
// exchanges are not in it. Reading checks everything before it returns, so that damage never leaves half a state behind.
//
// PURE.

import type { ExchangeRecord, NodeRecord, QueueRecord, ShardChange } from '../metadata-types.ts';
import { bytesHash } from './hash.ts';
import type { BindingRecord } from './topology.ts';

export const snapshotVersion = 1;
const magic = 0x4154_454d;
const headerBytes = 20;

export interface MetadataSnapshot {
  readonly appliedIndex: number;
  /** Rows and what each shard applied; there are as many as shards. */
  readonly shards: readonly { readonly appliedTo: number; readonly rows: readonly ShardChange[] }[];
  readonly lastUid: number;
  readonly vhosts: readonly string[];
  readonly exchanges: readonly ExchangeRecord[];
  readonly queues: readonly QueueRecord[];
  readonly bindings: readonly BindingRecord[];
  readonly nodes: readonly NodeRecord[];
  /** The state's hash: what was read must come to the same. */
  readonly stateHash: number;
}

export function writeSnapshot(state: MetadataSnapshot, pipes: Buffer): Buffer[] {
  const json = Buffer.from(JSON.stringify(state), 'utf8');
  const header = Buffer.alloc(headerBytes);
  header.writeUInt32LE(magic, 0);
  header.writeUInt32LE(snapshotVersion, 4);
  header.writeUInt32LE(json.length, 8);
  header.writeUInt32LE(pipes.length, 12);
  header.writeUInt32LE((bytesHash(json) ^ bytesHash(pipes)) >>> 0, 16);
  return [header, json, pipes];
}

/** Throws on bytes that are damaged, or of another kind or version. */
export function readSnapshot(bytes: Buffer): { readonly state: MetadataSnapshot; readonly pipes: Buffer } {
  if (bytes.length < headerBytes || bytes.readUInt32LE(0) !== magic) throw new Error('not a metadata snapshot');
  const version = bytes.readUInt32LE(4);
  if (version !== snapshotVersion) throw new Error(`metadata snapshot version ${version} is not known`);
  const jsonEnd = headerBytes + bytes.readUInt32LE(8);
  if (jsonEnd + bytes.readUInt32LE(12) !== bytes.length) throw new Error('metadata snapshot has a wrong length');
  const json = bytes.subarray(headerBytes, jsonEnd);
  const pipes = bytes.subarray(jsonEnd);
  if ((bytesHash(json) ^ bytesHash(pipes)) >>> 0 !== bytes.readUInt32LE(16))
    throw new Error('metadata snapshot is damaged: its hash does not fit');
  return { state: JSON.parse(json.toString('utf8')) as MetadataSnapshot, pipes };
}
