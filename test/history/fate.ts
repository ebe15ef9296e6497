// What became of every message in every queue: did it come to its end, and to one only? Pure.
//
// A message is at its end once a consumer acked it, or rejected it where there is no queue for dead letters, or it was handed out without
// acknowledgements. AMQP does not answer an ack: of a channel that the broker gave up nobody knows what was applied. Of a channel that was
// never given up (`trusted`) it was, and what such a channel holds nobody else may get.

import type { HistoryEvent } from '../history.ts';
import type { ReportFault } from './check.ts';
import { type Copy, deadLetterChain, type Gathered, type SeenDelivery } from './copies.ts';
import { type Lives, never, type QueueLife } from './lives.ts';

export function checkFates(
  { messages }: Gathered,
  lives: Lives,
  events: readonly HistoryEvent[],
  drained: boolean,
  report: ReportFault,
): void {
  const emptiness = emptyGets(lives);
  for (const { copies } of messages.values()) {
    for (const copy of copies) {
      checkHidden(copy, lives, emptiness.get(copy.queue) ?? [], report);
      checkHolders(copy, lives, report);
      checkReturnFromTheDead(copy, lives, report);
    }
  }
  if (!drained) return;
  const lost = new Map<string, { readonly copy: Copy; readonly isLost: boolean }[]>();
  for (const { copies } of messages.values()) {
    for (const copy of copies) {
      if (copy.surePublish < 0) continue;
      const key = `${copy.queue} ${copy.message.channel}`;
      const row = lost.get(key);
      const one = { copy, isLost: isLost(copy, lives, events.length) };
      if (row === undefined) lost.set(key, [one]);
      else row.push(one);
    }
  }
  for (const row of lost.values()) reportLost(row, events.length, report);
}

/** Losing the newest of a channel's messages hints at replication, the oldest at recovery. */
function reportLost(
  row: readonly { readonly copy: Copy; readonly isLost: boolean }[],
  end: number,
  report: ReportFault,
): void {
  const firstKept = row.findIndex(({ isLost }) => !isLost);
  const lastKept = row.findLastIndex(({ isLost }) => !isLost);
  for (const [i, { copy, isLost }] of row.entries()) {
    if (!isLost) continue;
    const place = firstKept < 0 ? 'all' : i < firstKept ? 'first' : i > lastKept ? 'last' : 'middle';
    const { message, queue, deliveries } = copy;
    const how = deliveries.length > 0 ? 'came, was not settled, and never came again' : 'never came';
    const text = `was confirmed in ${queue} and ${how} (${place} of its channel's confirmed messages)`;
    report('lost', end, message.id, text);
  }
}

function isLost(copy: Copy, lives: Lives, end: number): boolean {
  const { queue, message, surePublish, deliveries } = copy;
  const life = lives.queues.get(queue);
  if (life === undefined || !life.traits.lasting) return false;
  if (deliveries.some(isEnd) || isHeld(copy, lives)) return false;
  if (isTaken(life, surePublish)) return false;
  const isDiscarded = deliveries.some(({ settlement }) => settlement === 'discard');
  const mayGo = isDiscarded || life.traits.drops || message.expires;
  if (!mayGo) return !mayHaveGoneUnseen(life, surePublish);
  const to = life.traits.deadLetterTo;
  if (to === null || lives.queues.get(to)?.presence.isThere(surePublish, end) !== true) return false;
  return !isDeadLetterSafe(copy, to, lives);
}

/** It is where dead letters go, or was lawfully dropped there. */
function isDeadLetterSafe({ message, queue }: Copy, to: string, lives: Lives): boolean {
  const letter = message.copies.find((copy) => copy.queue === to);
  if (deadLetterChain(lives, queue).isCircle) return true;
  const life = lives.queues.get(to)!;
  // What is dropped there, or goes on from there, is not followed any further.
  if (life.traits.drops || life.traits.deadLetterTo !== null || isTaken(life, message.published)) return true;
  if (mayHaveGoneUnseen(life, message.published)) return true;
  if (letter === undefined) return false;
  return isHeld(letter, lives) || letter.deliveries.some((one) => isEnd(one) || one.settlement === 'discard');
}

const isEnd = ({ settlement, consumer }: SeenDelivery): boolean => settlement === 'ack' || consumer?.noAck === true;

/** Somebody has it now, and lives. */
function isHeld({ deliveries }: Copy, lives: Lives): boolean {
  const last = deliveries.at(-1);
  return last !== undefined && last.settlement === null && lives.channels.get(last.channel)?.end === never;
}

/** May a purge, or the deletion of the queue, have taken what was published at `place`? */
function isTaken({ purges, deletes }: QueueLife, place: number): boolean {
  return purges.some(({ to }) => to > place) || deletes.some(({ to }) => to > place);
}

/** It may have been handed to a consumer without acknowledgements that was gone when it arrived. */
function mayHaveGoneUnseen({ consumers }: QueueLife, place: number): boolean {
  return consumers.some(({ noAck, stopping, over }) => noAck && stopping !== never && over > place);
}

/** Q4, Q5 and Q8. Of messages that were sent twice only the number of first deliveries is known. */
function checkHolders({ queue, message, attempts, deliveries }: Copy, lives: Lives, report: ReportFault): void {
  let first = 0;
  for (const [i, delivery] of deliveries.entries()) {
    if (!delivery.redelivered && ++first === attempts + 1) {
      const text = `was sent to ${queue} ${attempts} times and came ${first} times without the redelivered flag`;
      report('duplicate', delivery.place, message.id, text);
    }
    const before = deliveries[i - 1];
    if (before === undefined || attempts > 1) continue;
    const channel = lives.channels.get(before.channel);
    if (channel?.trusted !== true) continue;
    // It may have been on its way for long, from a node that was given up: sent before the other one.
    if (lives.channels.get(delivery.channel)?.trusted !== true && delivery.asked < before.place) continue;
    const settlement = before.settled < delivery.place ? before.settlement : null;
    if (settlement === 'requeue' || settlement === 'reject') continue;
    if (settlement !== null || before.consumer?.noAck === true)
      report('back', delivery.place, message.id, `came out of ${queue} though ${before.channel} had settled it`);
    else if (delivery.place < channel.end)
      report('two holders', delivery.place, message.id, `came to ${delivery.channel} though ${before.channel} held it`);
  }
}

/** Gets that found nothing, per queue from which nothing goes unseen; in the order of their invocations. */
function emptyGets({
  queues,
  invocations,
}: Lives): Map<string, { readonly place: number; readonly answered: number }[]> {
  const gets = new Map<string, { readonly place: number; readonly answered: number }[]>();
  for (const { operation, place, answer, answered } of invocations) {
    if (operation.kind !== 'get' || answer !== 'empty') continue;
    const life = queues.get(operation.queue);
    if (life?.traits.lasting !== true || life.traits.drops || life.purges.length > 0 || life.deletes.length > 0)
      continue;
    const known = gets.get(operation.queue);
    if (known === undefined) gets.set(operation.queue, [{ place, answered }]);
    else known.push({ place, answered });
  }
  return gets;
}

/** A get finds something, if something was confirmed before it was asked for, and came to nobody before it was answered. */
function checkHidden(
  { queue, message, surePublish, isDeadLetter, deliveries }: Copy,
  lives: Lives,
  gets: readonly { readonly place: number; readonly answered: number }[],
  report: ReportFault,
): void {
  const [first] = deliveries;
  if (gets.length === 0 || first === undefined || first.redelivered || isDeadLetter || message.expires) return;
  if (surePublish < 0 || message.attempts > 1) return;
  const late = firstBehind(gets, message.confirmed);
  if (late === undefined || late.answered >= first.asked) return;
  const mayHold = lives.queues
    .get(queue)!
    .consumers.some(
      ({ name, begin, over }) => name !== first.consumer?.name && begin < late.answered && over > message.published,
    );
  if (!mayHold) report('hidden', late.answered, message.id, `was in ${queue}, and a get found nothing there`);
}

function firstBehind<T extends { readonly place: number }>(rows: readonly T[], place: number): T | undefined {
  let low = 0;
  let high = rows.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (rows[middle]!.place <= place) low = middle + 1;
    else high = middle;
  }
  return rows[low];
}

/** What was in a queue before it was deleted, or purged with nobody else there who could have it, never comes again. */
function checkReturnFromTheDead({ queue, message, isDeadLetter, deliveries }: Copy, lives: Lives, report: ReportFault) {
  const life = lives.queues.get(queue);
  if (life === undefined || isDeadLetter || message.open > 0) return;
  for (const { from, to } of life.deletes) {
    if (to === never || message.lastConfirmed > from) continue;
    // "Ok" is also the answer of a node that does not know the queue yet, because nobody has been told yet that it is declared.
    if (!life.presence.isThere(message.lastConfirmed, from)) continue;
    const late = deliveries.find(({ consumer }) => consumer !== undefined && consumer.begin > to);
    if (late === undefined) continue;
    report('back', late.place, message.id, `came out of ${queue}, which had been deleted with it`);
    return;
  }
  const firstConsumed = Math.min(never, ...life.consumers.map(({ begin }) => begin));
  for (const { from, to } of life.purges) {
    if (to === never || message.lastConfirmed > from || firstConsumed < to || deliveries.length === 0) continue;
    report('back', deliveries[0]!.place, message.id, `came out of ${queue} after it had been purged`);
    return;
  }
  const late = deliveries.find((delivery, i) => i > 0 && wasPurgedBetween(deliveries[i - 1]!, delivery, life));
  if (late !== undefined && message.attempts === 1)
    report('back', late.place, message.id, `came out of ${queue} though it had been given back and then purged`);
}

/** Given back, and purged on the same channel behind that, before the next one asked for it, while nobody could have it unseen. */
function wasPurgedBetween(before: SeenDelivery, after: SeenDelivery, { purges, consumers }: QueueLife): boolean {
  if (before.settlement !== 'requeue' && before.settlement !== 'reject') return false;
  return purges.some(
    ({ from, to, channel }) =>
      channel === before.channel &&
      from > before.settled &&
      to < after.asked &&
      !consumers.some(({ begin, over }) => begin < to && over > before.settled),
  );
}

/** A purge takes as many messages as it tells: no more of what was confirmed may be missing. */
export function countVanished({ messages }: Gathered, lives: Lives, end: number, report: ReportFault): void {
  const vanished = new Map<string, number>();
  for (const { copies, expires } of messages.values()) {
    for (const { queue, surePublish, deliveries } of copies) {
      if (expires || surePublish < 0 || deliveries.length > 0) continue;
      const life = lives.queues.get(queue);
      if (life !== undefined && isTaken(life, surePublish)) vanished.set(queue, (vanished.get(queue) ?? 0) + 1);
    }
  }
  for (const { name, traits, purges, deletes, consumers } of lives.queues.values()) {
    if (!traits.lasting || traits.drops || purges.length === 0 || deletes.length > 0) continue;
    if (purges.some(({ messages: told }) => told === null) || consumers.some(({ noAck }) => noAck)) continue;
    const told = purges.reduce((sum, purge) => sum + purge.messages!, 0);
    const missing = vanished.get(name) ?? 0;
    if (missing > told) report('purge', end, name, `was purged of ${told} messages, and ${missing} are missing`);
  }
}
