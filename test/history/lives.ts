// What a history says of queues, bindings, consumers and channels: when they were there for certain, when certainly not. Pure.
//
// An operation took effect at some moment between its invocation and its answer; one without an answer at some moment from then on, or never;
// one that was refused not at all. Whatever follows from that in every case is certain, everything else is left open.
//
// Places are those of events in the history; `never` stands for a moment that does not come.

import type { Answer, HistoryEvent, Operation, QueueTraits } from '../history.ts';

export const never = Number.POSITIVE_INFINITY;

/** Something that may have happened between two moments. */
interface Chance {
  readonly from: number;
  /** `never`: it was not answered. */
  readonly to: number;
  readonly messages: number | null;
  /** On which it was asked for. */
  readonly channel: string;
}

export interface QueueLife {
  readonly name: string;
  /** Of all its declarations together: what any of them allows is allowed. */
  traits: QueueTraits;
  readonly declares: Chance[];
  readonly deletes: Chance[];
  readonly purges: Chance[];
  readonly consumers: ConsumerLife[];
  presence: Presence;
}

export interface ConsumerLife {
  readonly name: string;
  readonly queue: string;
  readonly channel: string;
  readonly noAck: boolean;
  readonly releases: boolean;
  /** Place of its invocation; of a getter, of the first. */
  readonly begin: number;
  /** From here on it may have given back what it was not shown. */
  stopping: number;
  /** Its cancel was answered: it has nothing more but what it was shown. */
  over: number;
}

export interface ChannelLife {
  readonly node: number;
  end: number;
  graceful: boolean;
  /** The broker never gave it up: it lived when all faults had long ended, and no one but the client ended it. */
  trusted: boolean;
}

export interface Invocation {
  readonly operation: Operation;
  readonly channel: string;
  readonly place: number;
  answer: Answer | null;
  answered: number;
}

export interface Lives {
  readonly queues: ReadonlyMap<string, QueueLife>;
  readonly bindings: ReadonlyMap<string, Presence>;
  readonly consumers: ReadonlyMap<string, ConsumerLife>;
  readonly channels: ReadonlyMap<string, ChannelLife>;
  readonly invocations: readonly Invocation[];
}

/** Spans of time, apart and in order. */
class Spans {
  readonly #from: number[] = [];
  readonly #to: number[] = [];

  constructor(spans: readonly { readonly from: number; readonly to: number }[]) {
    for (const { from, to } of [...spans].sort((a, b) => a.from - b.from)) {
      if (to <= from) continue;
      const last = this.#to.length - 1;
      if (last >= 0 && from <= this.#to[last]!) this.#to[last] = Math.max(this.#to[last]!, to);
      else {
        this.#from.push(from);
        this.#to.push(to);
      }
    }
  }

  /** Is all of [from, to] within one span? */
  covers(from: number, to: number): boolean {
    let low = 0;
    let high = this.#from.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#from[middle]! <= from) low = middle + 1;
      else high = middle;
    }
    return low > 0 && to <= this.#to[low - 1]!;
  }
}

/** When a thing was there for certain, and when certainly not, by what may have made and ended it. */
export class Presence {
  readonly #there: Spans;
  readonly #gone: Spans;

  /** `lasts`: it goes only by those endings. */
  constructor(makings: readonly Chance[], endings: readonly Chance[], lasts: boolean) {
    this.#there = new Spans(lasts ? lasting(makings, endings) : []);
    const first = Math.min(never, ...makings.map(({ from }) => from));
    this.#gone = new Spans([{ from: -1, to: first }, ...lasting(endings, makings)]);
  }

  isThere(from: number, to: number): boolean {
    return this.#there.covers(from, to);
  }
  isGone(from: number, to: number): boolean {
    return this.#gone.covers(from, to);
  }
}

/** From the answer of each cause until something to the contrary may have happened that was not over before the cause began. */
function lasting(causes: readonly Chance[], contraries: readonly Chance[]): { from: number; to: number }[] {
  return causes
    .filter(({ to }) => to !== never)
    .map((cause) => {
      let to = never;
      for (const contrary of contraries) if (contrary.to > cause.from) to = Math.min(to, contrary.from);
      return { from: cause.to, to };
    });
}

const nothingKnown = new Presence([], [], false);

export function readLives(events: readonly HistoryEvent[]): Lives {
  const invocations = new Map<number, Invocation>();
  const channels = new Map<string, ChannelLife>();
  const cancelledAt = new Map<string, number>();
  let calm = never;
  for (const [place, event] of events.entries()) {
    if (event.kind === 'invoke') {
      const { operation, channel } = event;
      invocations.set(place, { operation, channel, place, answer: null, answered: never });
    } else if (event.kind === 'answer') {
      const invocation = invocations.get(event.invoke);
      if (invocation === undefined) throw new Error(`answer ${place} of no invocation`);
      invocation.answer = event.answer;
      if (event.answer !== 'unknown') invocation.answered = place;
    } else if (event.kind === 'open') {
      channels.set(event.channel, { node: event.node, end: never, graceful: false, trusted: false });
    } else if (event.kind === 'end') {
      const channel = channels.get(event.channel);
      if (channel !== undefined && channel.end === never) {
        channel.end = place;
        channel.graceful = event.graceful;
      }
    } else if (event.kind === 'cancelled') cancelledAt.set(event.consumer, place);
    else if (event.kind === 'calm' && calm === never) calm = place;
  }
  for (const channel of channels.values())
    channel.trusted = calm !== never && channel.end > calm && (channel.end === never || channel.graceful);
  const all = [...invocations.values()];
  const consumers = readConsumers(all, channels, cancelledAt);
  const { queues, bindings } = readQueues(all, events, consumers);
  return { queues, bindings, consumers, channels, invocations: all };
}

function readConsumers(
  invocations: readonly Invocation[],
  channels: ReadonlyMap<string, ChannelLife>,
  cancelledAt: ReadonlyMap<string, number>,
): Map<string, ConsumerLife> {
  const consumers = new Map<string, ConsumerLife>();
  for (const { operation, channel, place, answer, answered } of invocations) {
    if (operation.kind === 'consume') {
      if (answer === 'refused' || answer === 'missing') continue;
      const { consumer: name, queue, noAck, releases } = operation;
      const life = channels.get(channel);
      const ended = life?.end ?? never;
      // Of a channel that the other side ended, nobody knows since when.
      const isVague = ended !== never && life?.graceful === false;
      const stopping = isVague ? place : Math.min(ended, cancelledAt.get(name) ?? never);
      consumers.set(name, { name, queue, channel, noAck, releases, begin: place, stopping, over: never });
    } else if (operation.kind === 'get') {
      const { consumer: name, queue, noAck } = operation;
      // What a get found is shown at once, or the get is not answered and it goes back at some time.
      const over = answer === 'ok' || answer === 'empty' || answer === 'missing' ? -1 : never;
      const known = consumers.get(name);
      if (known !== undefined) known.over = Math.max(known.over, over);
      else consumers.set(name, { name, queue, channel, noAck, releases: false, begin: place, stopping: place, over });
    } else if (operation.kind === 'cancel') {
      const consumer = consumers.get(operation.consumer);
      if (consumer === undefined) continue;
      consumer.stopping = Math.min(consumer.stopping, place);
      if (answer === 'ok') consumer.over = answered;
    }
  }
  return consumers;
}

function readQueues(
  invocations: readonly Invocation[],
  events: readonly HistoryEvent[],
  consumers: ReadonlyMap<string, ConsumerLife>,
) {
  const queues = new Map<string, QueueLife>();
  const bindings = new Map<string, { makings: Chance[]; endings: Chance[]; queue: string }>();
  for (const { operation, place, answer, answered, channel } of invocations) {
    if (answer === 'refused' || answer === 'missing') continue;
    const answerEvent = answered === never ? undefined : events[answered];
    const messages = answerEvent?.kind === 'answer' ? answerEvent.messages : null;
    const chance: Chance = { from: place, to: answered, messages, channel };
    switch (operation.kind) {
      case 'declare': {
        const queue = queueOf(queues, operation.queue, operation);
        queue.traits = together(queue.traits, operation);
        queue.declares.push(chance);
        break;
      }
      case 'delete':
        queueOf(queues, operation.queue, null).deletes.push(chance);
        break;
      case 'purge':
        queueOf(queues, operation.queue, null).purges.push(chance);
        break;
      case 'bind':
      case 'unbind': {
        const binding = bindings.get(operation.binding) ?? { makings: [], endings: [], queue: operation.queue };
        bindings.set(operation.binding, binding);
        (operation.kind === 'bind' ? binding.makings : binding.endings).push(chance);
        break;
      }
      default:
        break;
    }
  }
  for (const queue of queues.values())
    queue.presence = new Presence(queue.declares, queue.deletes, queue.traits.lasting);
  for (const consumer of consumers.values()) queueOf(queues, consumer.queue, null).consumers.push(consumer);
  const presences = new Map<string, Presence>();
  for (const [name, { makings, endings, queue }] of bindings) {
    const life = queues.get(queue);
    const all = [...endings, ...(life?.deletes ?? [])];
    presences.set(name, new Presence(makings, all, life?.traits.lasting === true));
  }
  return { queues, bindings: presences };
}

const unknownTraits: QueueTraits = { lasting: false, drops: true, deadLetterTo: null };

function queueOf(queues: Map<string, QueueLife>, name: string, traits: QueueTraits | null): QueueLife {
  let queue = queues.get(name);
  if (queue === undefined) {
    queue = {
      name,
      traits: traits ?? unknownTraits,
      declares: [],
      deletes: [],
      purges: [],
      consumers: [],
      presence: nothingKnown,
    };
    queues.set(name, queue);
  } else if (queue.declares.length === 0 && traits !== null) queue.traits = traits;
  return queue;
}

function together(left: QueueTraits, right: QueueTraits): QueueTraits {
  const sameTarget = left.deadLetterTo === right.deadLetterTo;
  return {
    lasting: left.lasting && right.lasting,
    drops: left.drops || right.drops || !sameTarget,
    deadLetterTo: sameTarget ? left.deadLetterTo : null,
  };
}
