// The life of every message in every queue, gathered from a history. Pure.
//
// A copy is one message in one queue. The attempts to publish a message under one id share its copies: as a client cannot tell which of
// them was stored, each may have been, once.

import type { HistoryEvent, Settlement } from '../history.ts';
import { type ConsumerLife, type Lives, never, type QueueLife } from './lives.ts';

export interface SeenDelivery {
  readonly place: number;
  readonly channel: string;
  readonly consumer: ConsumerLife | undefined;
  readonly redelivered: boolean;
  /** When it was asked for: by its get, or by the beginning of its consumer. */
  readonly asked: number;
  /** Null: not settled by the client. */
  settlement: Settlement | null;
  settled: number;
}

export interface Copy {
  readonly message: Message;
  readonly queue: string;
  /** It was not published to this queue, but may come as a dead letter from others of its queues. */
  readonly isDeadLetter: boolean;
  /** How many times it may have been stored here; infinite if dead letters may go in circles. */
  attempts: number;
  /** The last publish that was confirmed while the queue was there for certain all the time; -1: none. */
  surePublish: number;
  readonly deliveries: SeenDelivery[];
}

export interface Message {
  readonly id: string;
  readonly channel: string;
  readonly priority: number;
  expires: boolean;
  attempts: number;
  /** Place of the first attempt. */
  readonly published: number;
  /** Place of the first confirm; `never`: none. */
  confirmed: number;
  /** Place of the last confirm; -1: none. */
  lastConfirmed: number;
  /** Attempts without a confirm: they may still come to be stored. */
  open: number;
  readonly copies: Copy[];
}

/** One publish, with what the client heard of it. */
export interface Attempt {
  readonly place: number;
  readonly message: Message;
  readonly event: Extract<HistoryEvent, { kind: 'publish' }>;
  outcome: 'confirmed' | 'refused' | 'unknown' | null;
  answered: number;
  returned: number;
}

export interface Gathered {
  readonly messages: ReadonlyMap<string, Message>;
  readonly attempts: ReadonlyMap<number, Attempt>;
  /** By the place of the delivery. Not those of strangers. */
  readonly copyAt: ReadonlyMap<number, Copy>;
  readonly deliveryAt: ReadonlyMap<number, SeenDelivery>;
}

export type Report = (
  kind: 'phantom' | 'corrupt' | 'flag' | 'nonsense',
  place: number,
  id: string,
  text: string,
) => void;

export function gatherCopies(events: readonly HistoryEvent[], lives: Lives, report: Report): Gathered {
  const messages = new Map<string, Message>();
  const attempts = new Map<number, Attempt>();
  const copyAt = new Map<number, Copy>();
  const deliveryAt = new Map<number, SeenDelivery>();
  const asked = new Map<string, number>();
  for (let place = 0; place < events.length; place++) {
    const event = events[place]!;
    switch (event.kind) {
      case 'invoke': {
        const { operation } = event;
        if (operation.kind === 'get' || operation.kind === 'consume') asked.set(operation.consumer, place);
        break;
      }
      case 'publish':
        attempts.set(place, addAttempt(messages, event, place));
        break;
      case 'outcome': {
        const attempt = attempts.get(event.publish)!;
        if (attempt.outcome !== null) report('nonsense', place, attempt.message.id, 'was answered twice');
        attempt.outcome = event.outcome;
        attempt.answered = place;
        if (event.outcome === 'confirmed') addConfirm(attempt, lives, place);
        break;
      }
      case 'returned':
        attempts.get(event.publish)!.returned = place;
        break;
      case 'deliver': {
        const copy = findCopy(messages, lives, event.id, event.queue);
        if (!event.intact) report('corrupt', place, event.id, `came out of ${event.queue} with another body`);
        if (!event.redelivered && event.count > 0)
          report(
            'flag',
            place,
            event.id,
            `came with the delivery count ${event.count} and without the redelivered flag`,
          );
        if (copy === null) {
          const why = messages.has(event.id) ? 'was never sent there' : 'was never sent';
          report('phantom', place, event.id, `came out of ${event.queue} and ${why}`);
          break;
        }
        const { channel, redelivered } = event;
        const consumer = lives.consumers.get(event.consumer);
        const since = asked.get(event.consumer) ?? -1;
        const delivery = { place, channel, consumer, redelivered, asked: since, settlement: null, settled: never };
        copy.deliveries.push(delivery);
        copyAt.set(place, copy);
        deliveryAt.set(place, delivery);
        break;
      }
      case 'settle': {
        const delivery = deliveryAt.get(event.deliver);
        if (delivery === undefined || delivery.settlement !== null) break;
        delivery.settlement = event.settlement;
        delivery.settled = place;
        break;
      }
      default:
        break;
    }
  }
  // As often as they were published to where dead letters come from, also after the first of these came.
  for (const { copies } of messages.values())
    for (const copy of copies) if (copy.isDeadLetter) copy.attempts = deadLetterAttempts(copies, lives, copy.queue);
  return { messages, attempts, copyAt, deliveryAt };
}

function addAttempt(
  messages: Map<string, Message>,
  event: Extract<HistoryEvent, { kind: 'publish' }>,
  place: number,
): Attempt {
  let message = messages.get(event.id);
  if (message === undefined) {
    const { id, channel, priority = 0 } = event;
    const fresh = {
      attempts: 0,
      published: place,
      confirmed: never,
      lastConfirmed: -1,
      open: 0,
      expires: false,
      copies: [],
    };
    message = { id, channel, priority, ...fresh };
    messages.set(id, message);
  }
  message.attempts++;
  message.open++;
  if (event.expires === true) message.expires = true;
  for (let i = 0; i < event.targets.length; i++) {
    const { queue } = event.targets[i]!;
    // Two bindings of one queue make one copy.
    if (event.targets.findIndex((target) => target.queue === queue) < i) continue;
    let copy = message.copies.find((one) => one.queue === queue);
    if (copy === undefined) {
      copy = { message, queue, isDeadLetter: false, attempts: 0, surePublish: -1, deliveries: [] };
      message.copies.push(copy);
    }
    copy.attempts++;
  }
  return { place, message, event, outcome: null, answered: never, returned: never };
}

function addConfirm(attempt: Attempt, lives: Lives, place: number): void {
  const { message, event } = attempt;
  message.open--;
  message.confirmed = Math.min(message.confirmed, place);
  message.lastConfirmed = place;
  if (attempt.returned !== never) return;
  for (const copy of message.copies) {
    const isSure = event.targets.some(
      (target) => target.queue === copy.queue && isReached(lives, target, attempt.place, place),
    );
    if (isSure) copy.surePublish = Math.max(copy.surePublish, attempt.place);
  }
}

/** Was this target there for certain, from the publish to its answer? */
export function isReached(
  { queues, bindings }: Lives,
  { queue, binding }: { readonly queue: string; readonly binding: string | null },
  from: number,
  to: number,
): boolean {
  const presence = binding === null ? queues.get(queue)?.presence : bindings.get(binding);
  return presence?.isThere(from, to) === true;
}

/** Null: nothing of this id can be in that queue. */
function findCopy(messages: ReadonlyMap<string, Message>, lives: Lives, id: string, queue: string): Copy | null {
  const message = messages.get(id);
  if (message === undefined) return null;
  const known = message.copies.find((copy) => copy.queue === queue);
  if (known !== undefined) return known;
  const attempts = deadLetterAttempts(message.copies, lives, queue);
  if (attempts === 0) return null;
  const copy: Copy = { message, queue, isDeadLetter: true, attempts, surePublish: -1, deliveries: [] };
  message.copies.push(copy);
  return copy;
}

/** How many dead letters may come to a queue to which none of these was published. */
function deadLetterAttempts(copies: readonly Copy[], lives: Lives, queue: string): number {
  let attempts = 0;
  for (const copy of copies) {
    if (copy.isDeadLetter) continue;
    const { ends, isCircle } = deadLetterChain(lives, copy.queue);
    if (ends.includes(queue)) attempts += isCircle ? never : copy.attempts;
  }
  return attempts;
}

const chainMax = 16;

/** The queues that dead letters of a queue reach, one after another. */
export function deadLetterChain(
  { queues }: Lives,
  queue: string,
): { readonly ends: readonly string[]; readonly isCircle: boolean } {
  const ends: string[] = [];
  let at: QueueLife | undefined = queues.get(queue);
  for (let i = 0; i < chainMax; i++) {
    const to = at?.traits.deadLetterTo ?? null;
    if (to === null) return { ends, isCircle: false };
    if (to === queue || ends.includes(to)) return { ends: [...ends, to], isCircle: true };
    ends.push(to);
    at = queues.get(to);
  }
  return { ends, isCircle: true };
}
