// Turns what a group writes into records: gathered by the writer of one stream of files, noted in the file's index, the group and the cache.
// State owned: none of its own.

import { crc32 } from 'node:zlib';
import type { HardState } from 'raft-ts';
import type { CacheOrder } from './cache.ts';
import { EntryKind, RecordKind } from './codec.ts';
import { encodeConfiguration } from './configuration.ts';
import { assert } from './errors.ts';
import type { GroupLog } from './group.ts';
import type { LogEntry } from './types.ts';
import type { Writer } from './writer.ts';

const emptyPayloadChecksum = 0;

export class Recorder {
  readonly writer: Writer;
  readonly #cache: CacheOrder;

  constructor(writer: Writer, cache: CacheOrder) {
    this.writer = writer;
    this.#cache = cache;
  }

  entry(group: GroupLog, entry: LogEntry): void {
    const { index, term } = entry;
    assert(index === group.lastIndex + 1, `entry ${index} of group ${group.group} follows ${group.lastIndex}`);
    assert(term >= group.lastTerm, `entry ${index} of group ${group.group} has term ${term} after ${group.lastTerm}`);
    let kind: EntryKind = EntryKind.noop;
    let payload: Buffer | null = null;
    let checksum = emptyPayloadChecksum;
    let stamp = 0;
    let stateHash = 0;
    let machineVersion = 0;
    if (entry.kind === 'data') {
      ({ payload, checksum, stamp, stateHash, machineVersion } = entry.data);
      kind = EntryKind.data;
    } else if (entry.kind === 'configuration') {
      payload = encodeConfiguration(entry.configuration);
      checksum = crc32(payload);
      kind = EntryKind.configuration;
    }
    const length = payload === null ? 0 : payload.length;
    const { group: id, replica, lastTerm } = group;
    const { writer } = this;
    writer.reserve(length);
    const { active } = writer;
    const offset = writer.record(
      RecordKind.entry,
      kind,
      id,
      replica,
      index,
      term,
      lastTerm,
      stamp,
      stateHash,
      machineVersion,
      payload,
      checksum,
    );
    const run = active.index.add(id, replica, index, term, lastTerm, offset, length, false);
    if (entry.kind === 'configuration') active.index.group(id, replica).configurations.set(index, entry.configuration);
    const before = group.cachedBytes;
    group.appended(entry, run);
    this.#cache.bytes += group.cachedBytes - before;
    this.#cache.push(group);
  }

  truncate(group: GroupLog, from: number): void {
    this.control(RecordKind.truncation, group.group, group.replica, from, 0, 0, null);
    const { active } = this.writer;
    active.index.truncate(group.group, group.replica, from);
    const before = group.cachedBytes;
    group.truncate(from, active.sequence);
    this.#cache.bytes += group.cachedBytes - before;
  }

  hardState(group: GroupLog, hardState: HardState): void {
    const old = group.hardState;
    const sameVote = hardState.term > old.term || old.vote === 0 || hardState.vote === old.vote;
    assert(hardState.term >= old.term && sameVote, `hard state of group ${group.group} goes back`);
    const { term, vote, commit } = hardState;
    this.control(RecordKind.hardState, group.group, group.replica, commit, term, vote, null);
    this.writer.active.index.group(group.group, group.replica).hardState = hardState;
    group.hardState = hardState;
  }

  control(
    kind: RecordKind,
    group: number,
    replica: number,
    index: number,
    term: number,
    previous: number,
    payload: Buffer | null,
  ): void {
    const checksum = payload === null ? emptyPayloadChecksum : crc32(payload);
    this.writer.reserve(payload === null ? 0 : payload.length);
    this.writer.record(kind, EntryKind.none, group, replica, index, term, previous, 0, 0, 0, payload, checksum);
  }
}
