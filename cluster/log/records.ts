// Turns what a group writes into records: gathered by the writer of one stream of files, noted in the file's index, the group and the cache, in
// one turn. State owned: none of its own.

import { crc32 } from 'node:zlib';
import type { HardState, SnapshotMeta } from 'raft-ts';
import type { CacheOrder } from './cache.ts';
import { EntryKind, RecordKind } from './codec.ts';
import { encodeCheckpoint, encodeConfiguration } from './configuration.ts';
import { assert } from './errors.ts';
import type { Reset } from './file-index.ts';
import type { LogFile } from './files.ts';
import { GroupLog } from './group.ts';
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
    this.#control(RecordKind.truncation, group.group, group.replica, from, 0, 0, null);
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
    this.#control(RecordKind.hardState, group.group, group.replica, commit, term, vote, null);
    this.writer.active.index.group(group.group, group.replica).hardState = hardState;
    group.hardState = hardState;
  }

  /** Entries up to here are committed, unless the group has begun anew since. */
  committed(group: GroupLog, index: number): void {
    const { term, vote, commit } = group.hardState;
    if (index > commit && index <= group.lastIndex) this.hardState(group, { term, vote, commit: index });
  }

  /** The group begins, or another replica of it, at this position. */
  create(id: number, replica: number, snapshot: SnapshotMeta): GroupLog {
    const { configuration, index, term } = snapshot;
    const payload = encodeCheckpoint({ configuration, truncateFrom: 0, keptFiles: [] });
    this.#control(RecordKind.checkpoint, id, replica, index, term, 0, payload);
    this.writer.active.index.create(id, replica, snapshot);
    return new GroupLog(id, replica, snapshot);
  }

  /** The group begins anew, under this name: returns what takes its place, with nothing but its term and vote. */
  reset(group: GroupLog, repairTo: number, { configuration, keptFrom }: Reset): GroupLog {
    const { group: id, replica, hardState, truncations } = group;
    this.#control(RecordKind.reset, id, replica, repairTo, keptFrom, 0, encodeConfiguration(configuration));
    const { active } = this.writer;
    active.index.reset(id, replica, repairTo, { configuration, keptFrom });
    group.kill(1, active.sequence);
    const anew = new GroupLog(id, replica, { index: 0, term: 0, configuration });
    anew.hardState = hardState;
    anew.truncations = truncations;
    anew.repairTo = repairTo;
    anew.restart({ configuration, keptFrom });
    anew.settle();
    return anew;
  }

  repaired(group: GroupLog): void {
    this.#control(RecordKind.repaired, group.group, group.replica, 0, 0, 0, null);
    this.writer.active.index.group(group.group, group.replica).repairTo = 0;
    group.repairTo = 0;
  }

  /** The group goes on behind a snapshot from elsewhere, whose live entries are in `kept`. `truncateFrom` 0: what follows it stays. */
  install(group: GroupLog, meta: SnapshotMeta, truncateFrom: number, kept: readonly LogFile[]): void {
    const { group: id, replica } = group;
    const { configuration, index, term } = meta;
    const keptFiles = kept.map(({ sequence }) => sequence);
    const payload = encodeCheckpoint({ configuration, truncateFrom, keptFiles });
    this.#control(RecordKind.checkpoint, id, replica, index, term, 1, payload);
    const { active } = this.writer;
    active.index.install(id, replica, { index, term, configuration, keptFiles }, truncateFrom);
    for (const file of kept) {
      file.committedIn = active.sequence;
      active.committedBytes += file.bytes;
    }
    const runs = kept.flatMap((file) => file.index.groups.get(id)?.runs ?? []);
    const before = group.cachedBytes;
    group.installed(meta, truncateFrom, active.sequence, runs);
    this.#cache.bytes += group.cachedBytes - before;
  }

  #control(
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
