// Receiving a snapshot: the stream goes to a temporary file as it comes; `install` checks all of it, and only then changes anything.
//
//   received ──► checked ──► kept files durable ──► snapshot file durable ──► one checkpoint record durable ──► manifest
//                                                                             (the step that counts)
// A crash before the checkpoint record leaves the old state and some garbage files; after it the new state.

import type { SnapshotMeta } from 'raft-ts';
import type { Disk, DiskFile } from '../ports.ts';
import { LogError } from './errors.ts';
import type { KeptWriter } from './kept-writer.ts';
import { checkSnapshot, copySnapshotFile, readSnapshotInfo, snapshotPath, type TakeState } from './snapshot-file.ts';
import { readKeptRecords, readStreamHeader, type StreamHeader, streamHeaderBytes } from './snapshot-stream.ts';
import type { SnapshotStaging, StateSink } from './types.ts';
import { removeIfPresent } from './whole-files.ts';

export interface StagingEvents {
  keptWriter(): KeptWriter;
  replica(): number;
  /** Has the state that comes worked off by `into`, a step in a turn. */
  feeding(into: StateSink): TakeState;
  /** Fails if the snapshot must not be installed (any more). */
  check(header: StreamHeader): void;
  /** No removal of an older file takes this name away from now on. */
  claim(path: string): Promise<void>;
  /** Runs while no other snapshot of the group is written. */
  inTurn(work: () => Promise<void>): Promise<void>;
  /** Makes it count: gathers the checkpoint record, waits for it, writes the manifest. */
  commit(meta: SnapshotMeta, liveAbove: number, kept: KeptWriter): Promise<void>;
  /** The caller learns of it in this turn. */
  installed(kept: KeptWriter): void;
}

export class Staging implements SnapshotStaging {
  readonly #disk: Disk;
  readonly #group: number;
  readonly #meta: SnapshotMeta;
  readonly #path: string;
  readonly #file: DiskFile;
  readonly #events: StagingEvents;
  #received = 0;
  #state: 'receiving' | 'installing' | 'ended' = 'receiving';

  constructor(disk: Disk, group: number, meta: SnapshotMeta, path: string, file: DiskFile, events: StagingEvents) {
    this.#disk = disk;
    this.#group = group;
    this.#meta = meta;
    this.#path = path;
    this.#file = file;
    this.#events = events;
  }

  write(offset: number, bytes: Uint8Array, done: (error: Error | null) => void): void {
    if (this.#state !== 'receiving') return done(new LogError('aborted', 'snapshot is not being received'));
    if (offset !== this.#received)
      return done(new LogError('invalid', `snapshot bytes at ${offset}, expected ${this.#received}`));
    this.#received += bytes.length;
    this.#file.write([bytes], offset, done);
  }

  async install(into: StateSink): Promise<void> {
    if (this.#state !== 'receiving') throw new LogError('aborted', 'snapshot is not being received');
    this.#state = 'installing';
    const kept = this.#events.keptWriter();
    let committed = false;
    try {
      const header = await this.#check();
      const replica = this.#events.replica();
      await readKeptRecords(this.#file, this.#path, header, (entry) => kept.add(this.#group, replica, entry));
      const base = streamHeaderBytes + header.recordsBytes;
      await checkSnapshot(this.#file, base, header.snapshotBytes, this.#path, this.#events.feeding(into));
      await kept.finish();
      const path = snapshotPath(this.#group, this.#meta.index, this.#meta.term);
      await this.#events.inTurn(async () => {
        this.#events.check(header);
        await this.#events.claim(path);
        await copySnapshotFile(this.#disk, this.#file, base, header.snapshotBytes, path);
        try {
          this.#events.check(header);
        } catch (error) {
          await removeIfPresent(this.#disk, path);
          throw error;
        }
        committed = true;
        await this.#events.commit(this.#meta, header.liveAbove, kept);
      });
    } finally {
      if (!committed) await kept.abort().catch(() => {});
      await this.#end();
      if (committed) this.#events.installed(kept);
    }
  }

  async abort(): Promise<void> {
    if (this.#state === 'receiving') await this.#end();
  }

  async #check(): Promise<StreamHeader> {
    const header = await readStreamHeader(this.#file, this.#path);
    const { index, term } = this.#meta;
    if (header.group !== this.#group || header.index !== index || header.term !== term)
      throw new LogError('invalid', 'snapshot stream is that of another snapshot', this.#path, 0);
    const base = streamHeaderBytes + header.recordsBytes;
    if (base + header.snapshotBytes !== this.#received)
      throw new LogError('invalid', 'snapshot stream has another length than it says', this.#path, this.#received);
    const info = await readSnapshotInfo(this.#file, base, header.snapshotBytes, this.#path);
    const fits = info.group === this.#group && info.meta.index === index && info.meta.term === term;
    if (!fits) throw new LogError('invalid', 'snapshot in the stream is another one', this.#path, base);
    this.#events.check(header);
    return header;
  }

  async #end(): Promise<void> {
    this.#state = 'ended';
    await this.#file.close().catch(() => {});
    await removeIfPresent(this.#disk, this.#path).catch(() => {});
  }
}
