// What a shard's own leader tells it: what the metadata say, who is suspected, where dead letters go, what other groups have taken. PURE.
//
// These batches come from no pipe: the log has them in their order, and each command has no effect when it comes again. Nobody reads a
// result, so a command that makes no sense is left out, as a whole, and counted.
//
// State owned: the version of the metadata that was reached, and how many commands were left out.

import { CommandKind, readChangesVersion, readDone, readJson, readSuspect, SuspectFlag } from './commands.ts';
import { isEndedVolatileGroup, isVolatileGroup, nodeOfVolatileGroup } from './groups.ts';
import type { ShardChange } from './metadata-types.ts';
import type { PipeTable } from './pipes.ts';
import { keptArguments, parseChanges } from './queue/changes.ts';
import type { QueueStore } from './queue/store.ts';

/** Queues of one group that a dead letter goes to. */
export type Destination = readonly [group: number, uids: readonly number[]];

/** The JSON of a `route` command. */
export interface LetterRoutes {
  /** Number of the first letter that is meant, by `Letters.routed`. */
  readonly first: number;
  /** The version of the metadata that they were routed by. */
  readonly version: number;
  /** Per letter its destinations, in the order of the letters. */
  readonly letters: readonly (readonly Destination[])[];
}

export class LeaderCommands {
  metadataVersion = 0;
  /** Commands that made no sense. */
  ignored = 0;

  apply(store: QueueStore, pipes: PipeTable, payload: Buffer, at: number): void {
    if (!this.#apply(store, pipes, payload, at)) this.ignored++;
  }

  /** False: it makes no sense. */
  #apply(store: QueueStore, pipes: PipeTable, payload: Buffer, at: number): boolean {
    switch (payload[at] as CommandKind) {
      case CommandKind.changes:
        return this.#changes(store, pipes, payload, at);
      case CommandKind.suspect: {
        const { flags, node, incarnation } = readSuspect(payload, at);
        if (!pipes.isFenced({ node, incarnation }))
          store.suspect(node, incarnation, (flags & SuspectFlag.suspected) !== 0);
        return true;
      }
      case CommandKind.done: {
        const { target, row } = readDone(payload, at);
        store.fold(row);
        return store.outbox.done(target, row);
      }
      case CommandKind.route: {
        const routes = parseRoutes(readJson(payload, at));
        return routes !== null && routeLetters(store, pipes, routes);
      }
      default:
        return false;
    }
  }

  /** Rows up to the version that was reached before are repeats, and are skipped. */
  #changes(store: QueueStore, pipes: PipeTable, payload: Buffer, at: number): boolean {
    const version = readChangesVersion(payload, at);
    const reached = this.metadataVersion;
    if (version <= reached) return true;
    const changes = parseChanges(readJson(payload, at));
    if (changes === null || version > Number.MAX_SAFE_INTEGER) return false;
    for (const change of changes) if (change.version > reached) applyChange(store, pipes, change);
    this.metadataVersion = version;
    store.fold(version);
    return true;
  }
}

function applyChange(store: QueueStore, pipes: PipeTable, change: ShardChange): void {
  if (change.kind === 'fence') {
    pipes.fence(change.node, change.incarnation);
    // Also what is known of an incarnation that never sent anything.
    store.endIncarnations(change.node, change.incarnation);
    return;
  }
  const queue = store.queues.get(change.uid);
  switch (change.kind) {
    case 'create':
      if (queue === undefined) store.expiry.begin(store.create(change, keptArguments(change.arguments)));
      return;
    case 'configure':
      if (queue !== undefined && !queue.sealed) store.configure(queue, keptArguments(change.arguments));
      return;
    case 'delete':
      if (queue !== undefined) store.delete(queue);
      return;
    default:
      change satisfies never;
  }
}

/** Each letter becomes a row per group that it goes to. False: the letters before are not routed yet, or there are not as many. */
function routeLetters(store: QueueStore, pipes: PipeTable, { first, version, letters: routes }: LetterRoutes): boolean {
  const { letters, outbox } = store;
  if (first > letters.routed || first + routes.length > letters.routed + letters.length) return false;
  letters.routedBy = Math.max(letters.routedBy, version);
  for (let i = letters.routed - first; i < routes.length; i++) {
    const { index, ordinal, mark } = letters;
    for (const [group, uids] of routes[i]!) {
      if (isGone(pipes, group)) continue;
      store.retain(index, ordinal);
      letters.retain(mark);
      store.fold(outbox.push(group, index, ordinal, mark, uids));
    }
    letters.shift();
    store.release(index, ordinal);
  }
  return true;
}

/** A volatile group, ended with its incarnation: nobody would ever say that its rows are done. */
function isGone(pipes: PipeTable, group: number): boolean {
  if (!isVolatileGroup(group)) return false;
  const node = nodeOfVolatileGroup(group);
  return isEndedVolatileGroup(group, node, pipes.fencedTo(node));
}

/** Null: not the text of a `route` command that this machine knows. */
function parseRoutes(json: string): LetterRoutes | null {
  let value: unknown;
  try {
    value = JSON.parse(json);
  } catch {
    return null;
  }
  if (typeof value !== 'object' || value === null) return null;
  const { first, version, letters } = value as Record<keyof LetterRoutes, unknown>;
  const areCounts = [first, version].every((count) => isCount(count, Number.MAX_SAFE_INTEGER));
  const isWhole = areCounts && isListOf(letters, (to) => isListOf(to, isDestination));
  return isWhole ? (value as LetterRoutes) : null;
}

/** A publish has room for 65,535 queues. */
const uidsMax = 0xffff;

function isDestination(value: unknown): value is Destination {
  if (!Array.isArray(value) || value.length !== 2 || !isCount(value[0], 0xffff_ffff)) return false;
  const uids: unknown = value[1];
  return isListOf(uids, (uid) => isCount(uid, 0xffff_ffff)) && uids.length > 0 && uids.length <= uidsMax;
}

const isListOf = (value: unknown, isItem: (item: unknown) => boolean): value is readonly unknown[] =>
  Array.isArray(value) && value.every(isItem);

const isCount = (value: unknown, max: number): value is number =>
  Number.isSafeInteger(value) && (value as number) >= 0 && (value as number) <= max;
