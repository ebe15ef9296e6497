// What became of a channel's publishes, on its way from the pipes to the channel. A message that went to several shards is confirmed when
// the last of them has it, and refused when one of them refused.

import type { ConfirmTarget, MessageView } from '../../cluster/index.ts';
import { PublishFlag } from '../../cluster/index.ts';
import type { ChannelEvents } from '../amqp/backend.ts';

export class Confirms {
  /** For messages that go to one shard. */
  readonly one: ConfirmTarget;
  readonly #several: ConfirmTarget;
  readonly #events: ChannelEvents;
  /** By tag: shards that have not answered, and whether all so far took it. */
  readonly #waiting = new Map<number, { shards: number; ok: boolean }>();
  /** Refused here and now; told at the end of the turn. */
  #refused: { readonly target: ConfirmTarget; readonly tag: number }[] = [];

  constructor(events: ChannelEvents) {
    this.#events = events;
    this.one = {
      confirmed: (first, last, ok) => {
        if (first > 0) events.confirmed(first, last, ok);
      },
      unroutable: (_tag, message) => this.#return(message),
    };
    this.#several = {
      confirmed: (first, last, ok) => {
        for (let tag = first; tag <= last; tag++) this.#part(tag, ok);
      },
      // It found a queue in another shard, or will be counted as routed: the queues went while it was under way.
      unroutable: () => {},
    };
  }

  /** For one message that goes to several shards. */
  several(tag: number, shards: number): ConfirmTarget {
    if (tag > 0) this.#waiting.set(tag, { shards, ok: true });
    return this.#several;
  }

  refuse(target: ConfirmTarget, tag: number): void {
    this.#refused.push({ target, tag });
  }

  /** Tells of refusals. */
  flush(): void {
    if (this.#refused.length === 0) return;
    const refused = this.#refused;
    this.#refused = [];
    for (const { target, tag } of refused) target.confirmed(tag, tag, false);
  }

  #part(tag: number, ok: boolean): void {
    const waiting = this.#waiting.get(tag);
    if (waiting === undefined) return;
    waiting.ok &&= ok;
    if (--waiting.shards > 0) return;
    this.#waiting.delete(tag);
    this.#events.confirmed(tag, tag, waiting.ok);
  }

  #return(message: MessageView): void {
    if ((message.flags & PublishFlag.mandatory) !== 0) this.#events.returned(message);
  }
}
