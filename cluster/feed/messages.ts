// Reads messages of the groups that have a replica here: from memory or disk, with the parts that a large one is made of.
//
// State owned: none; the log bounds how many reads run at once. It never says that a message is gone because this replica is behind: then,
// or when the replica here is no use, it says that it cannot know.

import { LogError } from '../log/index.ts';
import type { Log } from '../log/types.ts';
import { CommandKind, findCommand, type MessageView, PublishFlag, readPart, viewMessage } from '../machine/commands.ts';
import type { Machine } from '../machine/machine.ts';
import type { LargeOptions } from '../options.ts';
import type { Clock } from '../ports.ts';

/** Where a piece of a message lies. */
interface Place {
  readonly index: number;
  readonly ordinal: number;
}

export interface MessagesContext {
  readonly log: Log;
  readonly clock: Pick<Clock, 'after'>;
  readonly limits: LargeOptions;
  /** Others wait for what this node does. */
  isBusy(): boolean;
  /** The machine of a replica here that is not halted. */
  machine(group: number): (Machine & { partsOf?(index: number, ordinal: number): readonly Place[] }) | undefined;
  /** An entry could not be read though it must be there. */
  damaged(group: number, error: Error): void;
}

/** In the order asked for: null where a message is gone. At least one, maybe fewer than were asked for. */
export type MessageViews = readonly (MessageView | null)[];

export class Messages {
  readonly #context: MessagesContext;

  constructor(context: MessagesContext) {
    this.#context = context;
  }

  /** The payload of an entry if it is in memory, and was applied here: one that was not may yet be replaced by another. */
  cached(group: number, entry: number): Buffer | null {
    const machine = this.#context.machine(group);
    if (machine === undefined || machine.appliedIndex < entry) return null;
    return this.#context.log.cachedPayload(group, entry) ?? null;
  }

  /**
   * Messages of one entry, by their ordinals; no more of them once they have `bytesMax` together. `null`: this node cannot know. `done` may
   * be called before this returns. `givesWay`: large messages are read with rests while others are busy.
   */
  read(
    group: number,
    entry: number,
    ordinals: readonly number[],
    bytesMax: number,
    givesWay: boolean,
    done: (views: MessageViews | null) => void,
  ): void {
    const machine = this.#context.machine(group);
    if (machine === undefined || machine.appliedIndex < entry) return done(null);
    this.#payload(group, entry, (payload, isGone) => {
      if (payload === null) return done(isGone ? ordinals.map(() => null) : null);
      const views: (MessageView | null)[] = [];
      let bytes = 0;
      const next = () => {
        while (views.length < ordinals.length && bytes < bytesMax) {
          const ordinal = ordinals[views.length]!;
          const view = viewIfMessage(payload, ordinal);
          if (view === null || (view.flags & PublishFlag.parts) === 0) {
            views.push(view);
            bytes += view === null ? 0 : view.bodyEnd - view.keyStart;
            continue;
          }
          const places = machine.partsOf?.(entry, ordinal) ?? [];
          return this.#pieces(group, places, givesWay, (before) => {
            views.push(before === null ? null : { ...view, before });
            bytes += view.bodyEnd - view.keyStart;
            for (const piece of before ?? []) bytes += piece.length;
            next();
          });
        }
        done(views);
      };
      next();
    });
  }

  /** The pieces at these places; null: the message was settled meanwhile, and they are gone. */
  #pieces(group: number, places: readonly Place[], givesWay: boolean, done: (pieces: Buffer[] | null) => void): void {
    const { clock, limits, isBusy } = this.#context;
    const pieces: Buffer[] = [];
    let left = limits.bytesAtOnce;
    const next = () => {
      const place = places[pieces.length];
      // A message that says it has parts, and of which none are known, is nobody's any more.
      if (place === undefined) return done(pieces.length > 0 ? pieces : null);
      this.#payload(group, place.index, (payload) => {
        const at = payload === null ? -1 : findCommand(payload, place.ordinal);
        if (payload === null || payload[at] !== CommandKind.part) return done(null);
        const { bytes } = readPart(payload, at);
        pieces.push(bytes);
        left -= bytes.length;
        if (!givesWay || left > 0 || limits.restMilliseconds === 0 || !isBusy()) return next();
        left = limits.bytesAtOnce;
        clock.after(limits.restMilliseconds, next);
      });
    };
    next();
  }

  #payload(group: number, entry: number, done: (payload: Buffer | null, isGone: boolean) => void): void {
    const { log, damaged } = this.#context;
    if (!log.has(group, entry)) return done(null, true);
    log.readLive(group, entry, (error, found) => {
      // Missing: settled and collected since. Anything else is damage, but for the end of this process.
      const code = error instanceof LogError ? error.code : null;
      const isMissing = code === 'missing';
      if (error !== null && !isMissing && code !== 'closed') damaged(group, error);
      const payload = error === null && found?.kind === 'data' ? found.data.payload : null;
      done(payload, error === null || isMissing);
    });
  }
}

/** Null: there is no message of this ordinal. Who asks may be another node. */
function viewIfMessage(payload: Buffer, ordinal: number): MessageView | null {
  const at = findCommand(payload, ordinal);
  const kind = at < 0 ? undefined : payload[at];
  return kind === CommandKind.publish || kind === CommandKind.transfer ? viewMessage(payload, ordinal) : null;
}
