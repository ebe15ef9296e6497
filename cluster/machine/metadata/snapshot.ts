// The metadata as bytes: a magic number and a version, then blocks of a few records each, the last of which says that it is the last.
//
//   magic u32 | version u32 | blocks: kind u32 | text bytes u32 | hash u32 | JSON text
//
// A block's hash continues the one before it, and covers kind and length: a block that is damaged, missing, doubled or out of place is
// seen, and so is an end that is cut off.
//
// State owned: what was captured when the snapshot began, and how much of it was written. Captured are lists of references to what never
// changes once it is made, so entries may be applied meanwhile.
//
// The same state gives the same bytes on every replica, whether it lived through all entries or started from a snapshot, and however large
// the pieces are that it is asked for in. Predeclared exchanges are not in it.
//
// PURE.

import type { SnapshotPieces } from '../machine.ts';
import type { Arguments, ExchangeRecord, NodeRecord, QueueRecord, ShardChange } from '../metadata-types.ts';
import type { ByteReader, Steps } from '../queue/bytes.ts';
import { noArguments } from './arguments.ts';
import type { Binding, BindingRow, ExchangeNode, QueueNode } from './graph.ts';
import { bytesHash } from './hash.ts';
import type { MembersState } from './members.ts';

export const snapshotVersion = 3;
const magic = 0x4154_454d;
const fileHeaderBytes = 8;
const blockHeaderBytes = 12;
/** Few enough that a block takes a fraction of a millisecond, enough that its header costs nothing. Part of the format's determinism. */
const recordsPerBlock = 64;
/** A piece is never made longer than this, whatever is asked for: so much takes about a millisecond. */
const pieceBytesMax = 64 * 1024;

const BlockKind = { head: 1, exchanges: 2, queues: 3, configured: 4, bindings: 5, rows: 6, end: 7 } as const;
type BlockKind = (typeof BlockKind)[keyof typeof BlockKind];

/** What is not a long list. */
export interface MetadataHead {
  readonly appliedIndex: number;
  /** The version that the state is of, and the one that leaders write. */
  readonly version: number;
  readonly machineVersion: number;
  readonly shards: number;
  readonly lastUid: number;
  readonly vhosts: readonly string[];
  readonly nodes: readonly NodeRecord[];
  readonly members: MembersState;
  /** The groups that have rows, and how far each has applied them. */
  readonly groups: readonly { readonly group: number; readonly appliedTo: number }[];
  /** The pipe table in base64. */
  readonly pipes: string;
  /** The state's hash: what was read must come to the same. */
  readonly stateHash: number;
}

/** What replaced a queue's declared arguments. */
export type ConfiguredRow = readonly [uid: number, arguments: Arguments];

export interface MetadataState {
  readonly head: MetadataHead;
  /** All of them, in order, the predeclared ones as well. */
  readonly exchanges: readonly ExchangeNode[];
  readonly queues: readonly QueueNode[];
  readonly configured: readonly ConfiguredRow[];
  /** For each exchange that has bindings. */
  readonly bindings: readonly (readonly Binding[])[];
  readonly rows: readonly { readonly group: number; readonly rows: readonly ShardChange[] }[];
}

export type SnapshotBlock =
  | { readonly kind: 'head'; readonly head: MetadataHead }
  | { readonly kind: 'exchanges'; readonly exchanges: readonly ExchangeRecord[] }
  | { readonly kind: 'queues'; readonly queues: readonly QueueRecord[] }
  | { readonly kind: 'configured'; readonly configured: readonly ConfiguredRow[] }
  | { readonly kind: 'bindings'; readonly bindings: readonly BindingRow[] }
  | { readonly kind: 'rows'; readonly group: number; readonly rows: readonly ShardChange[] };

// Writing.

/** What a block says, to be put into words when its turn comes. */
interface Block {
  readonly kind: BlockKind;
  readonly value: unknown;
}

export function writeSnapshot(state: MetadataState): SnapshotPieces {
  return new Pieces(blocksOf(state));
}

class Pieces implements SnapshotPieces {
  #blocks: Iterator<Block> | null;
  #hash: number = snapshotVersion;
  #isBegun = false;

  constructor(blocks: Iterator<Block>) {
    this.#blocks = blocks;
  }

  next(bytesMax: number): Buffer | null {
    const wanted = Math.min(bytesMax, pieceBytesMax);
    const parts: Buffer[] = [];
    let bytes = 0;
    const add = (part: Buffer) => {
      parts.push(part);
      bytes += part.length;
    };
    if (!this.#isBegun) add(fileHeader());
    this.#isBegun = true;
    while (bytes < wanted && this.#blocks !== null) {
      const { done, value: block } = this.#blocks.next();
      if (done === true) this.#blocks = null;
      else for (const part of this.#write(block)) add(part);
    }
    return bytes === 0 ? null : Buffer.concat(parts, bytes);
  }

  close(): void {
    this.#blocks = null;
  }

  #write({ kind, value }: Block): [header: Buffer, text: Buffer] {
    const text = Buffer.from(JSON.stringify(value), 'utf8');
    this.#hash = blockHash(this.#hash, kind, text);
    const header = Buffer.alloc(blockHeaderBytes);
    header.writeUInt32LE(kind, 0);
    header.writeUInt32LE(text.length, 4);
    header.writeUInt32LE(this.#hash, 8);
    return [header, text];
  }
}

function* blocksOf({ head, exchanges, queues, configured, bindings, rows }: MetadataState): Generator<Block> {
  const vhosts = new Map(head.vhosts.map((name, i) => [name, i]));
  const places = new Map(exchanges.map((exchange, i) => [exchange, i]));
  const declared = exchanges.map((exchange) => exchange.record).filter((record) => !record.predeclared);
  yield { kind: BlockKind.head, value: head };
  for (const few of chunksOf(declared)) yield { kind: BlockKind.exchanges, value: few };
  for (const few of chunksOf(queues))
    yield { kind: BlockKind.queues, value: few.map(({ record }) => queueRow(record, vhosts.get(record.vhost)!)) };
  for (const few of chunksOf(configured)) yield { kind: BlockKind.configured, value: few };
  for (const ofOne of bindings)
    for (const few of chunksOf(ofOne))
      yield { kind: BlockKind.bindings, value: few.map((binding) => bindingRow(binding, places)) };
  for (const { group, rows: ofOne } of rows)
    for (const few of chunksOf(ofOne)) yield { kind: BlockKind.rows, value: { group, rows: few } };
  yield { kind: BlockKind.end, value: null };
}

function* chunksOf<T>(records: readonly T[]): Generator<readonly T[]> {
  for (let from = 0; from < records.length; from += recordsPerBlock) yield records.slice(from, from + recordsPerBlock);
}

function fileHeader(): Buffer {
  const header = Buffer.alloc(fileHeaderBytes);
  header.writeUInt32LE(magic, 0);
  header.writeUInt32LE(snapshotVersion, 4);
  return header;
}

const blockHash = (before: number, kind: number, bytes: Buffer): number =>
  bytesHash(Math.imul(before ^ kind, 0x01000193) ^ bytes.length, bytes);

// Queues and bindings are many: their rows are lists, in which a field that is as usual at the end is left out.

type QueueRow = readonly [
  uid: number,
  vhost: number,
  name: string,
  shard: number,
  flags: number,
  arguments?: Arguments | null,
  node?: number,
  incarnation?: number,
  connection?: number,
];
const QueueFlag = { durable: 1, autoDelete: 2, exclusive: 4 } as const;

function queueRow(queue: QueueRecord, vhost: number): QueueRow {
  const { uid, name, shard, home, exclusive } = queue;
  const flags =
    (queue.durable ? QueueFlag.durable : 0) |
    (queue.autoDelete ? QueueFlag.autoDelete : 0) |
    (exclusive === null ? 0 : QueueFlag.exclusive);
  const table = queue.arguments === noArguments ? null : queue.arguments;
  if (home !== null) {
    const { node, incarnation } = home;
    return [uid, vhost, name, shard, flags, table, node, incarnation, exclusive?.connection ?? 0];
  }
  return table === null ? [uid, vhost, name, shard, flags] : [uid, vhost, name, shard, flags, table];
}

function queueOf(row: QueueRow, vhosts: readonly string[]): QueueRecord {
  const [uid, vhost, name, shard, flags, table, node, incarnation, connection] = row;
  const home = node === undefined ? null : { node, incarnation: incarnation! };
  return {
    uid,
    vhost: vhosts[vhost]!,
    name,
    shard,
    home,
    durable: (flags & QueueFlag.durable) !== 0,
    autoDelete: (flags & QueueFlag.autoDelete) !== 0,
    exclusive: home === null || (flags & QueueFlag.exclusive) === 0 ? null : { ...home, connection: connection! },
    arguments: table ?? noArguments,
  };
}

function bindingRow(binding: Binding, places: ReadonlyMap<ExchangeNode, number>): BindingRow {
  const { queue, exchange, routingKey } = binding;
  const source = places.get(binding.source)!;
  const destination = queue === undefined ? -places.get(exchange!)! : queue.record.uid;
  const table = binding.arguments;
  return table === noArguments ? [source, destination, routingKey] : [source, destination, routingKey, table];
}

// Reading.

/** Gives the blocks of a snapshot one by one, each when it was checked. Throws on bytes that are damaged, cut off, or of another kind or version. */
export function* readSnapshot(reader: ByteReader, take: (block: SnapshotBlock) => void): Steps {
  if (reader.u32() !== magic) throw new Error('not a metadata snapshot');
  const version = reader.u32();
  if (version !== snapshotVersion) throw new Error(`metadata snapshot version ${version} is not known`);
  let hash: number = snapshotVersion;
  let vhosts: readonly string[] = [];
  for (;;) {
    if (reader.isTired) yield;
    const [kind, bytes, expected] = [reader.u32(), reader.u32(), reader.u32()];
    yield* reader.until(bytes);
    const text = reader.take(bytes);
    hash = blockHash(hash, kind, text);
    if (hash !== expected) throw new Error('metadata snapshot is damaged: a hash does not fit');
    if (kind === BlockKind.end) break;
    const block = readBlock(kind, text, vhosts);
    if (block.kind === 'head') vhosts = block.head.vhosts;
    take(block);
  }
  yield* reader.end();
}

function readBlock(kind: number, text: Buffer, vhosts: readonly string[]): SnapshotBlock {
  const value = JSON.parse(text.toString('utf8'));
  switch (kind) {
    case BlockKind.head:
      return { kind: 'head', head: value as MetadataHead };
    case BlockKind.exchanges:
      return { kind: 'exchanges', exchanges: value as ExchangeRecord[] };
    case BlockKind.queues:
      return { kind: 'queues', queues: (value as QueueRow[]).map((row) => queueOf(row, vhosts)) };
    case BlockKind.configured:
      return { kind: 'configured', configured: value as ConfiguredRow[] };
    case BlockKind.bindings:
      return { kind: 'bindings', bindings: value as BindingRow[] };
    case BlockKind.rows: {
      const { group, rows } = value as { group: number; rows: ShardChange[] };
      return { kind: 'rows', group, rows };
    }
    default:
      throw new Error(`metadata snapshot has a block of unknown kind ${kind}`);
  }
}
