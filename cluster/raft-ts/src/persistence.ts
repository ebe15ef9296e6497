// The log's tail and its way to disk: appending, truncating, handing out writes, taking their completions.
//
// Writes complete in order, so "durable up to" is one number. A write's claim on the log is lowered by a truncation that follows it: when it
// completes late, entries that replaced its own are not taken for durable (pitfall 3), even if index and term are the same again.

import { type Core, checkRepaired, hasUnwritten } from './core.ts';
import { invariant } from './invariant.ts';
import { syncPeers } from './membership.ts';
import type { Entry, HardState, LogIndex, OutgoingMessage, Write } from './types.ts';

const nothing: readonly never[] = Object.freeze([]);

/** Appends to the log in memory; the next write carries it. A configuration is in force from here on. */
export function appendEntry<D>(core: Core<D>, entry: Entry<D>): void {
  invariant(entry.index === core.log.lastIndex + 1, 'entries are appended without a gap');
  core.log.append(entry.term, entry.bytes);
  core.entries.push(entry);
  if (entry.kind === 'configuration') {
    core.configurations.append(entry.index, entry.configuration);
    syncPeers(core);
  }
}

/** Drops the entries from `first` on, which another leader's contradict. */
export function truncateLog<D>(core: Core<D>, first: LogIndex): void {
  invariant(first > core.commit, 'what is committed is never truncated');
  invariant(core.role !== 'leader', 'a leader never truncates its log');
  core.log.truncateFrom(first);
  core.configurations.truncateFrom(first);
  if (first <= core.handed) {
    core.entries = [];
    core.truncateFrom = core.truncateFrom === null ? first : Math.min(core.truncateFrom, first);
    core.handed = first - 1;
  } else core.entries.length = first - core.handed - 1;
  core.persisted = Math.min(core.persisted, first - 1);
  for (const write of core.outstanding) write.lastIndex = Math.min(write.lastIndex, first - 1);
}

/** Everything that is to be written, as the next write; null if there is nothing. The commit index rides along, it alone is no reason to write. */
export function takeWrite<D>(core: Core<D>): Write<D> | null {
  if (!hasUnwritten(core)) return null;
  const sequence = ++core.lastSequence;
  const { entries, truncateFrom } = core;
  const hardState: HardState | null =
    core.hardStateDirty || core.commit > core.writtenCommit
      ? { term: core.term, vote: core.vote, commit: core.commit }
      : null;
  if (core.hardStateDirty) core.hardStateSequence = sequence;
  core.hardStateDirty = false;
  core.writtenCommit = core.commit;
  core.entries = [];
  core.truncateFrom = null;
  core.handed = core.log.lastIndex;
  core.outstanding.push({ sequence, lastIndex: core.handed });
  return { sequence, truncateFrom, entries, hardState };
}

/** Every write up to `sequence` is durable. Returns what was said to itself (votes), to be stepped by the caller. */
export function completeWrites<D>(core: Core<D>, sequence: number): readonly OutgoingMessage[] {
  invariant(sequence <= core.lastSequence, 'only a write that was handed out completes');
  if (sequence <= core.persistedSequence) return nothing;
  core.persistedSequence = sequence;
  let done = 0;
  while (done < core.outstanding.length && core.outstanding[done]!.sequence <= sequence) {
    core.persisted = Math.max(core.persisted, core.outstanding[done]!.lastIndex);
    done++;
  }
  if (done === core.outstanding.length) core.outstanding = [];
  else core.outstanding.splice(0, done);
  checkRepaired(core);
  return releaseHeld(core);
}

function releaseHeld<D>(core: Core<D>): readonly OutgoingMessage[] {
  if (core.held.length === 0) return nothing;
  const own: OutgoingMessage[] = [];
  let kept = 0;
  for (const item of core.held) {
    if (item.sequence > core.persistedSequence) core.held[kept++] = item;
    else if (item.message.to === core.id) own.push(item.message);
    else core.messages.push(item.message);
  }
  if (kept === 0) core.held = [];
  else core.held.length = kept;
  return own;
}
