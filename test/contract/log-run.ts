// A log under random use on the disk in memory, beside a model that knows every state it may be found in after a crash. State owned: one
// disk, the log open on it now, and the model.
//
// The model is the list of changes in the order of their records. After a crash the durable groups must be what some prefix of it gives
// that holds all that was confirmed: so a change is there whole or not at all, and nothing that was dropped comes back. Of volatile groups
// nothing may be left.

import { openLog } from '../../cluster/log/index.ts';
import type { GroupWrite, Liveness, Log, LogEntry, LogOptions, RecoveredGroup } from '../../cluster/log/types.ts';
import { piecesOf } from '../../cluster/machine/snapshot-pieces.ts';
import type { Random } from '../../cluster/ports.ts';
import { createMemoryDisk } from '../support/memory-disk.ts';
import { createMemoryRandom } from '../support/memory-random.ts';
import { receive, type Sent, streamOf } from './log-install.ts';
import { configuration, createRestlessClock, entry, living, options, origin, read, write } from './log-support.ts';

type Change =
  | { readonly kind: 'create'; readonly group: number }
  | { readonly kind: 'entry'; readonly group: number; readonly entry: LogEntry }
  | { readonly kind: 'truncate'; readonly group: number; readonly from: number }
  | { readonly kind: 'reset'; readonly group: number; readonly repairTo: number }
  | { readonly kind: 'repaired'; readonly group: number }
  | ({ readonly kind: 'install' } & Sent)
  | {
      readonly kind: 'hardState';
      readonly group: number;
      readonly term: number;
      readonly vote: number;
      readonly commit: number;
    };

interface GroupModel {
  terms: number[];
  bytes: number[];
  hardState: { term: number; vote: number; commit: number };
  repairTo: number;
  /** How often it was reset. What lives, and its snapshots, are those since the last time. */
  resets: number;
}

const era = (group: number, { resets }: GroupModel) => `${group}/${resets}`;

/** What the log must be: the changes in the order of their records, and how many of them were confirmed. */
class Model {
  changes: Change[] = [];
  confirmed = 0;
  groups = new Map<number, GroupModel>();
  /** Entries up to here are never truncated, as if a majority had them. */
  committed = new Map<number, number>();
  /** Something is about to be added: what the log did by itself comes before it. */
  adding: () => void = () => {};

  apply(change: Change, groups = this.groups): void {
    if (change.kind === 'create') {
      const hardState = { term: 0, vote: 0, commit: 0 };
      groups.set(change.group, { terms: [0], bytes: [0], hardState, repairTo: 0, resets: 0 });
      return;
    }
    const group = groups.get(change.group)!;
    switch (change.kind) {
      case 'entry':
        group.terms.push(change.entry.term);
        group.bytes.push(change.entry.bytes);
        return;
      case 'truncate':
        group.terms.length = change.from;
        group.bytes.length = change.from;
        return;
      case 'hardState':
        group.hardState = { term: change.term, vote: change.vote, commit: change.commit };
        return;
      case 'reset':
        group.terms.length = 1;
        group.bytes.length = 1;
        group.hardState = { ...group.hardState, commit: 0 };
        group.repairTo = Math.max(group.repairTo, change.repairTo);
        group.resets++;
        return;
      case 'repaired':
        group.repairTo = 0;
        return;
      case 'install': {
        const { liveAbove, lengths, term } = change;
        group.terms.length = liveAbove + 1;
        group.bytes.length = liveAbove + 1;
        for (const bytes of lengths) {
          group.terms.push(term);
          group.bytes.push(bytes);
        }
      }
    }
  }

  add(change: Change): void {
    this.adding();
    this.changes.push(change);
    this.apply(change);
  }

  /** Everything so far is confirmed as soon as the result is called. */
  confirms(): () => void {
    const reached = this.changes.length;
    return () => {
      this.confirmed = Math.max(this.confirmed, reached);
    };
  }

  /**
   * Finds the point at which the recovered groups stopped, confirmed or later; throws if there is none. Goes on from there. Groups that are
   * told to be damaged may be anything.
   */
  adopt(recovered: readonly RecoveredGroup[], snapshots: ReadonlyMap<string, number>): void {
    const groups: Model['groups'] = new Map();
    for (let i = 0; i < this.confirmed; i++) this.apply(this.changes[i]!, groups);
    for (let i = this.confirmed; ; i++) {
      if (matches(groups, recovered, snapshots)) {
        this.changes.length = i;
        this.confirmed = i;
        this.groups = groups;
        return;
      }
      if (i === this.changes.length)
        throw new Error('what was recovered is no state that the log was ever in since the last confirmed one');
      this.apply(this.changes[i]!, groups);
    }
  }
}

function matches(
  groups: Model['groups'],
  recovered: readonly RecoveredGroup[],
  snapshots: ReadonlyMap<string, number>,
): boolean {
  if (groups.size !== recovered.length) return false;
  for (const found of recovered) {
    if (found.damage.length > 0) continue;
    const group = groups.get(found.group);
    if (group === undefined || found.compacted.index > found.snapshot.index) return false;
    const { hardState, terms, bytes, repairTo } = group;
    if (found.hardState.term !== hardState.term || found.hardState.vote !== hardState.vote) return false;
    if (found.hardState.commit !== hardState.commit || found.repairTo !== repairTo) return false;
    if (found.snapshot.index < (snapshots.get(era(found.group, group)) ?? 0)) return false;
    if (terms[found.compacted.index] !== found.compacted.term) return false;
    if (found.entries.length !== terms.length - 1 - found.compacted.index) return false;
    for (const { index, term, bytes: length } of found.entries)
      if (terms[index] !== term || bytes[index] !== length) return false;
  }
  return true;
}

interface VolatileModel {
  /** Bytes of each entry; the first has index 1. */
  readonly bytes: number[];
  applied: number;
  readonly live: Set<number>;
}

/** A snapshot from elsewhere on its way into the log. */
interface Installing {
  readonly sent: Sent;
  /** An entry that comes with it, or goes: by it everybody sees whether it counts. */
  readonly witness: number;
  /** Called once it is durable; null: its record was not gathered yet. */
  confirm: (() => void) | null;
  ended: Promise<void>;
}

const volatileFrom = 1000;

function later(task: () => void, turns: number): void {
  queueMicrotask(turns === 0 ? task : () => later(task, turns - 1));
}

export class Run {
  readonly random: Random;
  readonly #clock = createRestlessClock();
  /** So many turns of the microtask queue writes to log files take longer than all else: whoever depends on them has to wait for them. */
  lateWrites = 0;
  readonly disk = createMemoryDisk({
    schedule: (task, operation, path) =>
      later(task, operation === 'write' && path.endsWith('.log') ? this.lateWrites : 0),
  });
  readonly model = new Model();
  /** Indices that stay live; and the newest snapshot whose saving was confirmed. By era. */
  readonly live = new Map<string, Set<number>>();
  readonly snapshots = new Map<string, number>();
  readonly volatiles = new Map<number, VolatileModel>();
  /** No index above this one was ever used. */
  #highest = 0;
  log!: Log;
  readonly limits: Partial<LogOptions>;
  /** Faults are injected: what fails is no news. */
  isFaulty = false;
  /** What the log of now ended with. */
  failure: Error | null = null;
  /** Groups that were found damaged. */
  #damaged = new Set<number>();
  #installing: Installing | null = null;

  constructor(seed: number) {
    this.random = createMemoryRandom(seed);
    this.model.adding = () => this.noteInstall();
    this.limits = {
      fileBytesMax: 1500 + this.random.integer(4000),
      cacheBytesMax: this.random.integer(3) * 2000,
      keptBytesMax: this.random.integer(3) * 1000,
      pressureBytes: 4000 + this.random.integer(20_000),
      compactionSlackBytes: this.random.integer(3) * 2000,
      volatileWaitingBytesMax: 500 + this.random.integer(4000),
    };
  }

  /** Opens the log as it is found, and compares it. What was found of each group. */
  async open(): Promise<readonly RecoveredGroup[]> {
    this.volatiles.clear();
    this.#installing = null;
    for (;;) {
      // Now and then the opening itself is cut short.
      const cut = this.random.integer(4) === 0 ? this.random.integer(12) : -1;
      const opening = openLog(this.disk.mount(), this.#clock, options(this.limits));
      if (cut >= 0) {
        for (let i = 0; i < cut * 3; i++) await Promise.resolve();
        const early = await Promise.race([opening, Promise.resolve(null)]);
        if (early === null) {
          this.disk.crash(this.random);
          continue;
        }
      }
      const { log, groups } = await opening;
      this.model.adopt(groups, this.snapshots);
      this.#damaged = new Set(groups.filter(({ damage }) => damage.length > 0).map(({ group }) => group));
      for (const { group, snapshot } of groups)
        if (!this.#damaged.has(group))
          this.model.committed.set(group, Math.max(snapshot.index, this.model.groups.get(group)!.hardState.commit));
      if (this.disk.paths().some(({ path }) => path.endsWith('.volatile'))) throw new Error('a volatile file is left');
      this.log = log;
      this.failure = null;
      log.onFatal = (error) => {
        if (!this.isFaulty) throw error;
        this.failure = error;
      };
      return groups;
    }
  }

  /** Every entry that must be there is there, with its bytes; `unread` is told of those that cannot be read. */
  async verify(unread?: (error: Error) => void): Promise<void> {
    for (const [id, group] of this.model.groups) {
      if (this.#damaged.has(id)) continue;
      const { terms, bytes } = group;
      const live = this.live.get(era(id, group))!;
      for (let index = 1; index < terms.length; index++) {
        if (live.has(index) && !this.log.has(id, index)) throw new Error(`live entry ${index} of group ${id} is gone`);
        if (!this.log.has(id, index)) continue;
        const compared = this.#verifyEntry(id, entry(id, index, terms[index]!, bytes[index]!));
        await (unread === undefined ? compared : compared.catch(unread));
      }
      for (let index = terms.length; index <= this.#highest; index++)
        if (this.log.has(id, index)) throw new Error(`entry ${index} of group ${id} came back`);
    }
  }

  /** All that volatile groups must have, from memory or disk. */
  async verifyVolatile(): Promise<void> {
    for (const [id, { bytes, applied, live }] of this.volatiles)
      for (let index = 1; index <= bytes.length; index++)
        if (index > applied || live.has(index)) await this.#verifyEntry(id, entry(id, index, 1, bytes[index - 1]!));
  }

  async #verifyEntry(group: number, expected: LogEntry): Promise<void> {
    const { index } = expected;
    const [found] = await read(this.log, group, index, index);
    if (JSON.stringify(found) === JSON.stringify(expected)) return;
    const seen = JSON.stringify([found, expected].map((item) => ({ ...item, data: null })));
    throw new Error(`entry ${index} of group ${group} differs: ${seen}`);
  }

  step(): void {
    const { random } = this;
    const choice = random.integer(24);
    if (choice < 13) this.append();
    else if (choice < 16) this.snapshot();
    else if (choice < 18) this.collect();
    else if (choice < 22) this.writeVolatile();
    else if (choice < 23) this.endVolatile();
    else if (random.integer(2) === 0) this.reset();
    else this.repair();
  }

  append(): void {
    const writes: GroupWrite[] = [];
    const groups = [...this.model.groups.keys()].filter(() => this.random.integer(2) === 0);
    for (const id of groups) if (!this.#isInstalling(id)) writes.push(this.writeOf(id));
    if (this.model.groups.size < 3 && this.random.integer(4) === 0) {
      const id = this.model.groups.size + 1;
      this.log.createGroup(id, id, origin);
      this.model.add({ kind: 'create', group: id });
      this.#beginEra(id);
    }
    for (const { group, truncateFrom, entries: added, hardState } of writes) {
      if (truncateFrom !== null) this.model.add({ kind: 'truncate', group, from: truncateFrom });
      for (const item of added) this.model.add({ kind: 'entry', group, entry: item });
      if (hardState !== null) this.model.add({ kind: 'hardState', group, ...hardState });
    }
    this.log.append(writes, this.#confirms());
  }

  writeOf(id: number): GroupWrite {
    const { random, model } = this;
    const group = model.groups.get(id)!;
    const live = this.live.get(era(id, group))!;
    let last = group.terms.length - 1;
    const committed = model.committed.get(id)!;
    let { term } = group.hardState;
    let truncateFrom: number | null = null;
    if (last > committed && random.integer(4) === 0) {
      truncateFrom = committed + 1 + random.integer(last - committed);
      last = truncateFrom - 1;
      term++;
      for (const index of live) if (index > last) live.delete(index);
    }
    term = Math.max(term, group.terms[last]!);
    const added: LogEntry[] = [];
    for (let count = random.integer(5); count > 0; count--) {
      last++;
      added.push(entry(id, last, term, random.integer(400)));
      if (random.integer(6) === 0) live.add(last);
    }
    this.#highest = Math.max(this.#highest, last);
    const commit = committed + random.integer(last - committed + 1);
    model.committed.set(id, commit);
    const vote = term === group.hardState.term ? group.hardState.vote : random.integer(4);
    const hardState = random.integer(2) === 0 || term > group.hardState.term ? { term, vote, commit } : null;
    if (hardState === null) model.committed.set(id, committed);
    return write(id, { truncateFrom, entries: added, hardState });
  }

  snapshot(): void {
    for (const [id, group] of this.model.groups) {
      const index = this.model.committed.get(id)!;
      const now = era(id, group);
      if (index <= (this.snapshots.get(now) ?? 0) || this.random.integer(2) === 0) continue;
      const meta = { index, term: group.terms[index]!, configuration };
      const { log } = this;
      const pieces = Array.from({ length: this.random.integer(4) }, () =>
        Buffer.alloc(this.random.integer(1000), index),
      );
      log.saveSnapshot(id, meta, piecesOf(pieces)).then(() => {
        // Of a group that was reset meanwhile nothing was saved.
        if (log === this.log && this.failure === null && era(id, this.model.groups.get(id)!) === now)
          this.snapshots.set(now, Math.max(this.snapshots.get(now) ?? 0, index));
      }, this.#ignore);
    }
  }

  collect(): void {
    this.noteInstall();
    for (const id of this.model.groups.keys()) if (!this.#isInstalling(id)) this.log.compactionPoint(id);
    for (const [id, group] of this.volatiles) {
      group.applied += this.random.integer(group.bytes.length - group.applied + 1);
      this.log.volatileApplied(id, group.applied);
    }
    for (const live of this.live.values())
      for (const index of live) if (this.random.integer(8) === 0) live.delete(index);
    this.log.collect(this.#living).catch(this.#ignore);
    if (this.random.integer(2) === 0) this.compact();
  }

  compact(): void {
    const isLost = this.random.integer(8) === 0;
    const live: Liveness = {
      ...this.#living,
      count: (id, first, last) => this.#count(id, first, last),
      references: (id) => {
        let left: Buffer | null = Buffer.alloc(12 * this.#count(id, 1, Number.POSITIVE_INFINITY));
        for (const [i, index] of [...this.#liveOf(id)].entries()) left.writeUInt32LE(index, 12 * i);
        const next = () => {
          const piece = left;
          left = null;
          return piece;
        };
        return this.random.integer(8) === 0 ? null : { next, isLost, close() {} };
      },
      remains: (payload) => payload,
    };
    this.log.compact(live).catch(this.#ignore);
  }

  readonly #living = living((id, first, last) => this.#count(id, first, last) > 0);

  #liveOf(id: number): ReadonlySet<number> {
    const group = this.model.groups.get(id);
    return group === undefined ? (this.volatiles.get(id)?.live ?? new Set()) : this.live.get(era(id, group))!;
  }

  #count(id: number, first: number, last: number): number {
    let count = 0;
    for (const index of this.#liveOf(id)) if (index >= first && index <= last) count++;
    return count;
  }

  // ---- groups that are built anew ----

  reset(): void {
    const groups = [...this.model.groups.keys()].filter((id) => !this.#isInstalling(id));
    if (groups.length === 0) return;
    const id = groups[this.random.integer(groups.length)]!;
    const repairTo = this.random.integer(this.#highest + 1);
    // It would be refused: what lives is what lived.
    if (this.failure !== null) return;
    const reset = this.log.resetGroup(id, repairTo, origin.configuration);
    this.model.add({ kind: 'reset', group: id, repairTo });
    this.#beginEra(id);
    reset.then(this.#confirms(), this.#ignore);
  }

  // ---- snapshots from elsewhere ----

  #isInstalling(id: number): boolean {
    return this.#installing?.sent.group === id;
  }

  /** Begins to install one, unless one is under way. Until that has ended its group takes no entries. */
  async install(): Promise<void> {
    const { random, model, log } = this;
    const ids = [...model.groups.keys()];
    if (this.#installing !== null || ids.length === 0) return;
    const id = ids[random.integer(ids.length)]!;
    const group = model.groups.get(id)!;
    const last = group.terms.length - 1;
    const liveAbove = model.committed.get(id)!;
    const lengths = Array.from({ length: 1 + random.integer(8) }, () => random.integer(400));
    const index = liveAbove + lengths.length;
    if (index === last) return;
    const live = lengths.map((_, i) => liveAbove + 1 + i).filter((one) => one === index || random.integer(3) === 0);
    const term = Math.max(group.hardState.term, group.terms[last]!) + 1;
    const sent = { group: id, index, term, liveAbove, lengths, live };
    const installing = { sent, witness: Math.max(index, last), confirm: null, ended: Promise.resolve() };
    this.#installing = installing;
    const hardState = { term, vote: 0, commit: group.hardState.commit };
    model.add({ kind: 'hardState', group: id, ...hardState });
    log.append([write(id, { hardState })], this.#confirms());
    const stream = await streamOf(sent, this.#clock);
    installing.ended = receive(log, sent, stream).then(
      () => this.#installEnded(installing, true),
      (error: { code?: string }) => {
        this.#installEnded(installing, false);
        this.#ignore(error);
      },
    );
  }

  /** Its record is gathered somewhere between two steps: from then on the group is another one. */
  noteInstall(): void {
    const installing = this.#installing;
    if (installing === null || installing.confirm !== null) return;
    const { sent, witness } = installing;
    const { group: id, index, live } = sent;
    if (this.log.has(id, witness) !== (witness === index)) return;
    // Said first: what is added now is this itself.
    installing.confirm = () => {};
    this.model.add({ kind: 'install', ...sent });
    installing.confirm = this.#confirms();
    this.model.committed.set(id, index);
    this.#highest = Math.max(this.#highest, index);
    const living = this.live.get(era(id, this.model.groups.get(id)!))!;
    for (const one of living) if (one > sent.liveAbove) living.delete(one);
    for (const one of live) living.add(one);
  }

  /** What fails may have been gathered before, and be durable. */
  #installEnded(installing: Installing, isDone: boolean): void {
    if (this.#installing !== installing) return;
    this.noteInstall();
    this.#installing = null;
    if (!isDone) return;
    const { sent, confirm } = installing;
    if (confirm === null) throw new Error(`what was installed at ${sent.index} of group ${sent.group} is not there`);
    confirm();
    this.snapshots.set(era(sent.group, this.model.groups.get(sent.group)!), sent.index);
  }

  /** Nothing is being installed any more. */
  async installsEnded(): Promise<void> {
    await this.#installing?.ended;
    this.noteInstall();
  }

  repair(): void {
    for (const [id, { repairTo }] of this.model.groups) {
      if (repairTo === 0) continue;
      const repaired = this.log.repaired(id);
      this.model.add({ kind: 'repaired', group: id });
      repaired.then(this.#confirms(), this.#ignore);
      return;
    }
  }

  #beginEra(id: number): void {
    this.live.set(era(id, this.model.groups.get(id)!), new Set());
    this.snapshots.delete(era(id, this.model.groups.get(id)!));
    this.model.committed.set(id, 0);
  }

  #confirms(): () => void {
    const { log } = this;
    const confirm = this.model.confirms();
    return () => {
      if (log === this.log) confirm();
    };
  }

  // ---- volatile groups ----

  writeVolatile(): void {
    const { random, volatiles, log } = this;
    if (volatiles.size < 2 && random.integer(3) === 0) {
      const id = volatileFrom + random.integer(4);
      if (!volatiles.has(id)) {
        log.createVolatileGroup(id, 1);
        volatiles.set(id, { bytes: [], applied: 0, live: new Set() });
      }
    }
    const writes: GroupWrite[] = [];
    for (const [id, { bytes, live }] of volatiles) {
      const added: LogEntry[] = [];
      for (let count = random.integer(6); count > 0; count--) {
        const item = entry(id, bytes.length + 1, 1, random.integer(400));
        bytes.push(item.bytes);
        added.push(item);
        if (random.integer(6) === 0) live.add(item.index);
      }
      writes.push(write(id, { entries: added, hardState: { term: 1, vote: 1, commit: bytes.length } }));
    }
    if (writes.length > 0) log.append(writes, () => {});
  }

  endVolatile(): void {
    const [id] = this.volatiles.keys();
    if (id === undefined) return;
    this.volatiles.delete(id);
    this.log.dropVolatileGroup(id);
  }

  readonly #ignore = (error: { code?: string }): void => {
    if (error.code !== 'closed' && !this.isFaulty) throw error;
  };
}
