// The follower's side of a snapshot: chunks in order into the host's staging file, then one atomic installation.
//
// From the arrival of the last chunk until the installation the log stands still: no appends are taken and no campaign begins, and the
// chunk is handed to the host only when every earlier write is durable. So the core and the disk agree on what of the log is kept. A
// snapshot of what is known already is acknowledged and not applied (pitfall 25).

import { type Core, hasUnwritten, type Received, raiseCommit, sendAfterHardState, sendAfterWrites } from './core.ts';
import { invariant } from './invariant.ts';
import type { LogIndex, SnapshotMeta } from './types.ts';

/** The last chunk of a snapshot is here and not installed yet. */
export function isInstalling<D>(core: Core<D>): boolean {
  return core.staging?.last != null;
}

export function handleSnapshotChunk<D>(core: Core<D>, chunk: Received<D, 'snapshotChunk'>): void {
  if (isInstalling(core)) return;
  const { snapshot, session, from, offset } = chunk;
  const known = snapshot.index <= core.commit || core.log.termAt(snapshot.index) === snapshot.term;
  if (known) {
    raiseCommit(core, snapshot.index);
    core.staging = null;
    acknowledge(core, from, session, core.commit);
    return;
  }
  let { staging } = core;
  const same =
    staging !== null &&
    staging.from === from &&
    staging.session === session &&
    staging.term === chunk.term &&
    staging.snapshot.index === snapshot.index;
  if (!same || staging === null) {
    if (offset !== 0) return reply(core, chunk, 0, false);
    const { term } = chunk;
    staging = { from, session, term, snapshot, offset: 0, writing: false, length: 0, last: null };
    core.staging = staging;
  }
  if (staging.writing) return;
  if (offset !== staging.offset) return reply(core, chunk, staging.offset, true);
  staging.writing = true;
  staging.length = chunk.bytes.length;
  if (chunk.done) staging.last = { bytes: chunk.bytes, handed: false };
  else core.snapshotWrites.push({ snapshot, offset, bytes: chunk.bytes, done: false });
}

/** True if `handLastChunk` would hand it out. */
export function isLastChunkDue<D>(core: Core<D>): boolean {
  const last = core.staging?.last;
  return last != null && !last.handed && core.outstanding.length === 0 && !hasUnwritten(core);
}

export function handLastChunk<D>(core: Core<D>): void {
  const { snapshot, offset, last } = core.staging!;
  last!.handed = true;
  core.snapshotWrites.push({ snapshot, offset, bytes: last!.bytes, done: true });
}

/** The host wrote a chunk, or could not write or install it. */
export function chunkWritten<D>(core: Core<D>, snapshot: SnapshotMeta, offset: number, ok: boolean): void {
  const { staging } = core;
  if (staging === null || staging.snapshot.index !== snapshot.index) return;
  if (!staging.writing || staging.offset !== offset) return;
  if (!ok) core.staging = null;
  else if (staging.last === null) {
    staging.writing = false;
    staging.offset += staging.length;
  } else return; // installation follows
  if (staging.term === core.term) reply(core, { ...staging }, ok ? staging.offset : 0, ok);
}

/** The host's log, manifest and machine are at the snapshot now. */
export function installed<D>(core: Core<D>, snapshot: SnapshotMeta): void {
  const { staging, log } = core;
  invariant(staging?.last?.handed === true, 'a snapshot is installed only after its last chunk');
  invariant(staging.snapshot.index === snapshot.index, 'the snapshot that was received is installed');
  invariant(core.entries.length === 0 && core.truncateFrom === null, 'the log stands still during an installation');
  const { index, term, configuration } = snapshot;
  core.staging = null;
  if (log.termAt(index) === term) log.compactTo(index);
  else {
    log.reset(index, term);
    core.handed = index;
    core.persisted = index;
    for (const write of core.outstanding) write.lastIndex = 0;
    core.configurations.reset(index, configuration);
  }
  core.configurations.compactTo(index);
  core.snapshot = snapshot;
  raiseCommit(core, index);
  core.applied = Math.max(core.applied, index);
  if (staging.term === core.term) acknowledge(core, staging.from, staging.session, index);
}

function reply<D>(
  core: Core<D>,
  chunk: { from: number; session: number; snapshot: SnapshotMeta },
  offset: number,
  ok: boolean,
): void {
  const { from, session, snapshot } = chunk;
  sendAfterHardState(core, from, { kind: 'snapshotReply', session, index: snapshot.index, offset, ok });
}

function acknowledge<D>(core: Core<D>, to: number, session: number, index: LogIndex): void {
  sendAfterWrites(core, to, { kind: 'appendReply', session, success: true, index, hintIndex: 0, hintTerm: 0 });
}
