// Judges a history: what a broker promised, held against what its clients saw. Pure.
//
// Only what is certain counts: an operation without an answer may have happened, at any later time, or not; so may a publish. Whatever some
// correct broker could have shown is no fault. The rules, and where they are (names of `reliability`'s list in brackets):
//   here          what can be said of single events: answers that contradict what is there, returns, what was never answered, what is left
//   `fate.ts`     [Q1, Q3, Q11] every confirmed message comes to its end; [Q4, Q5] nobody gets what somebody else holds or has settled;
//                 [Q8] no more first deliveries than attempts; purge and delete take what they should, and no more
//   `order.ts`    [Q6] first deliveries come in the order of the queue
//   `copies.ts`   [Q2] nothing comes that nobody sent, nor changed

import type { HistoryEvent } from '../history.ts';
import { type Attempt, type Gathered, gatherCopies, isReached } from './copies.ts';
import { checkFates, countVanished } from './fate.ts';
import { type Invocation, type Lives, never, readLives } from './lives.ts';
import { checkOrder } from './order.ts';

export type FaultKind =
  /** Confirmed, and it never came to an end. */
  | 'lost'
  /** Came and was never sent, or not there. */
  | 'phantom'
  | 'corrupt'
  /** More first deliveries than attempts. */
  | 'duplicate'
  /** A delivery count without the redelivered flag. */
  | 'flag'
  /** Came though somebody else held it. */
  | 'two holders'
  /** Came though it had been settled, purged or deleted. */
  | 'back'
  | 'order'
  /** Returned though its queue was there; or came though it was returned. */
  | 'unroutable'
  /** Mandatory, confirmed without a return, though no queue was there. */
  | 'unreturned'
  /** The return came after the confirm. */
  | 'late return'
  /** "No such queue", and it was there; or the other way round. */
  | 'existence'
  /** A get found nothing, and something was there. */
  | 'hidden'
  /** A purge took more than it told. */
  | 'purge'
  /** No answer though the channel lived. */
  | 'unanswered'
  /** Messages were left after the drain, or nodes disagree on how many. */
  | 'leftover'
  | 'divergent'
  | 'nonsense';

export interface Fault {
  readonly kind: FaultKind;
  /** The event that shows it; the number of events, if the end does. */
  readonly place: number;
  /** The message or queue. */
  readonly subject: string;
  readonly text: string;
}

export interface Counts {
  readonly events: number;
  readonly published: number;
  readonly confirmed: number;
  readonly refused: number;
  /** Publishes without any answer. */
  readonly unknown: number;
  readonly returned: number;
  readonly deliveries: number;
  /** Different messages that came. */
  readonly delivered: number;
  readonly redelivered: number;
  /** Deliveries after an ack of the same message had been sent: allowed of channels that were given up. */
  readonly afterAck: number;
  readonly operations: number;
}

export interface Verdict {
  readonly ok: boolean;
  /** In the order of their places. */
  readonly faults: readonly Fault[];
  readonly counts: Counts;
}

/** `drained`: all queues were emptied at the end, so that what did not come is lost and what is left is too much. */
export function checkHistory(
  events: readonly HistoryEvent[],
  { drained = true }: { readonly drained?: boolean } = {},
): Verdict {
  const faults: Fault[] = [];
  const report = (kind: FaultKind, place: number, subject: string, text: string) =>
    faults.push({ kind, place, subject, text });
  const lives = readLives(events);
  const gathered = gatherCopies(events, lives, report);
  checkFates(gathered, lives, events, drained, report);
  if (drained) countVanished(gathered, lives, events.length, report);
  checkOrder(events, gathered, lives, report);
  for (const attempt of gathered.attempts.values()) checkAttempt(attempt, lives, drained, events.length, report);
  for (const invocation of lives.invocations) checkInvocation(invocation, lives, drained, events.length, report);
  checkWords(events, drained, report);
  faults.sort((left, right) => left.place - right.place);
  return { ok: faults.length === 0, faults, counts: countEvents(events, gathered) };
}

export type ReportFault = (kind: FaultKind, place: number, subject: string, text: string) => void;

function checkAttempt(attempt: Attempt, lives: Lives, drained: boolean, end: number, report: ReportFault): void {
  const { place, event, message, outcome, answered, returned } = attempt;
  const { id, targets, mandatory, confirms, channel } = event;
  if (returned !== never) {
    const reached = targets.find((target) => isReached(lives, target, place, returned));
    if (reached !== undefined) report('unroutable', returned, id, `was returned though ${reached.queue} was there`);
    if (answered < returned) report('late return', returned, id, 'was returned after it had been answered');
    const came = message.copies.find((copy) => copy.deliveries.length > 0);
    if (message.attempts === 1 && came !== undefined)
      report('unroutable', returned, id, `was returned, and came out of ${came.queue}`);
  } else if (outcome === 'confirmed' && mandatory) {
    const isGone = ({ queue, binding }: { queue: string; binding: string | null }) =>
      (binding === null ? lives.queues.get(queue)?.presence : lives.bindings.get(binding))?.isGone(place, answered) ??
      true;
    if (targets.every(isGone))
      report('unreturned', answered, id, 'was confirmed and not returned, though no queue was there');
  }
  if (drained && confirms && outcome === null && isOpen(lives, channel))
    report('unanswered', end, id, `was never answered on ${channel}, which lived`);
}

function checkInvocation(
  invocation: Invocation,
  lives: Lives,
  drained: boolean,
  end: number,
  report: ReportFault,
): void {
  const { operation, place, answer, answered, channel } = invocation;
  if (drained && answer === null && isOpen(lives, channel))
    report('unanswered', end, subjectOf(invocation), `was never answered on ${channel}, which lived`);
  if (answered === never || !('queue' in operation)) return;
  const presence = lives.queues.get(operation.queue)?.presence;
  if (presence === undefined) return;
  const subject = operation.queue;
  if (answer === 'missing' && presence.isThere(place, answered))
    report('existence', answered, subject, `${operation.kind}: "no such queue", and it was there`);
  const needsIt = operation.kind !== 'declare' && operation.kind !== 'delete' && operation.kind !== 'unbind';
  if (needsIt && (answer === 'ok' || answer === 'empty') && presence.isGone(place, answered))
    report('existence', answered, subject, `${operation.kind}: ok, and there was no such queue`);
}

/** It lived to the end: what was asked on it had time enough to be answered. */
function isOpen({ channels }: Lives, name: string): boolean {
  const channel = channels.get(name);
  return channel?.trusted === true && channel.end === never;
}

function subjectOf({ operation }: Invocation): string {
  if (operation.kind === 'other') return operation.name;
  return `${operation.kind} ${'queue' in operation ? operation.queue : operation.consumer}`;
}

/** What the events say by themselves. */
function checkWords(events: readonly HistoryEvent[], drained: boolean, report: ReportFault): void {
  const left = new Map<string, { node: number; messages: number }>();
  for (const [place, event] of events.entries()) {
    if (event.kind === 'nonsense') report('nonsense', place, event.channel, event.what);
    if (event.kind !== 'left' || !drained || event.messages === null) continue;
    const { queue, node, messages } = event;
    if (messages > 0) report('leftover', place, queue, `has ${messages} messages after the drain, says node ${node}`);
    const other = left.get(queue);
    if (other === undefined) left.set(queue, { node, messages });
    else if (other.messages !== messages)
      report('divergent', place, queue, `has ${messages} by node ${node}, and ${other.messages} by node ${other.node}`);
  }
}

function countEvents(events: readonly HistoryEvent[], { attempts, copyAt, messages }: Gathered): Counts {
  const outcomes = { confirmed: 0, refused: 0, unknown: 0 };
  let returned = 0;
  for (const attempt of attempts.values()) {
    outcomes[attempt.outcome ?? 'unknown']++;
    if (attempt.returned !== never) returned++;
  }
  let [deliveries, redelivered, afterAck, operations] = [0, 0, 0, 0];
  for (const [place, event] of events.entries()) {
    if (event.kind === 'invoke') operations++;
    if (event.kind !== 'deliver') continue;
    deliveries++;
    if (event.redelivered) redelivered++;
    const acked = copyAt
      .get(place)
      ?.deliveries.some(({ settlement, settled }) => settlement === 'ack' && settled < place);
    if (acked === true) afterAck++;
  }
  let delivered = 0;
  for (const { copies } of messages.values()) if (copies.some((copy) => copy.deliveries.length > 0)) delivered++;
  const sums = { deliveries, delivered, redelivered, afterAck, operations };
  return { events: events.length, published: attempts.size, ...outcomes, returned, ...sums };
}

const shownPerKind = 10;

/** For people: what was done, and every kind of fault with its first few cases. */
export function explain({ ok, faults, counts }: Verdict): string {
  const lines = [
    `${ok ? 'clean' : `${faults.length} faults`}: ${counts.published} publishes (${counts.confirmed} confirmed, ` +
      `${counts.refused} refused, ${counts.unknown} unknown, ${counts.returned} returned), ` +
      `${counts.delivered} messages delivered in ${counts.deliveries} deliveries ` +
      `(${counts.redelivered} flagged as redelivered, ${counts.afterAck} after an ack), ${counts.operations} other operations`,
  ];
  for (const kind of new Set(faults.map((fault) => fault.kind))) {
    const cases = faults.filter((fault) => fault.kind === kind);
    lines.push(`${kind}: ${cases.length}`);
    for (const { place, subject, text } of cases.slice(0, shownPerKind))
      lines.push(`  ${subject} ${text} (event ${place})`);
    if (cases.length > shownPerKind) lines.push(`  and ${cases.length - shownPerKind} more`);
  }
  return lines.join('\n');
}
