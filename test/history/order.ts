// Q6: what one consumer gets first-hand comes in the order of the queue. Pure.
//
// Messages of one publishing channel (and priority) come in the order in which they were sent; and one that was confirmed before another was
// sent comes before it. Messages that were sent twice, came before, or come as dead letters have no fixed place. What one consumer was
// given and not shown goes back to its old place, without a trace, when it stops: others may have got later messages meanwhile.

import type { HistoryEvent } from '../history.ts';
import type { ReportFault } from './check.ts';
import type { Copy, Gathered, Message } from './copies.ts';
import type { ConsumerLife, Lives } from './lives.ts';

interface Reached {
  /** The message sent last of all that came so far, per priority, and of each channel. */
  readonly latest: Map<number, Message>;
  readonly ofChannel: Map<string, Message>;
}

export function checkOrder(
  events: readonly HistoryEvent[],
  { copyAt }: Gathered,
  lives: Lives,
  report: ReportFault,
): void {
  const consumers = new Map<string, Reached>();
  for (const [place, copy] of copyAt) {
    const event = events[place]!;
    if (event.kind !== 'deliver' || event.redelivered || !hasPlace(copy, place)) continue;
    let reached = consumers.get(event.consumer);
    if (reached === undefined) {
      reached = { latest: new Map(), ofChannel: new Map() };
      consumers.set(event.consumer, reached);
    }
    const { message } = copy;
    const channelKey = `${message.priority} ${message.channel}`;
    const before = reached.ofChannel.get(channelKey);
    const latest = reached.latest.get(message.priority);
    const isBehind = before !== undefined && before.published > message.published;
    const isOvertaken = latest !== undefined && message.confirmed < latest.published;
    if ((isBehind || isOvertaken) && !mayHaveComeBack(lives, copy, event.consumer, place)) {
      const [overtaker, why] = isBehind
        ? [before, 'sent before it on the same channel']
        : [latest!, 'confirmed before that one was sent'];
      report('order', place, message.id, `came after ${overtaker.id} at ${event.consumer}, though ${why}`);
    }
    if (before === undefined || before.published < message.published) reached.ofChannel.set(channelKey, message);
    if (latest === undefined || latest.published < message.published) reached.latest.set(message.priority, message);
  }
}

function hasPlace({ message, isDeadLetter, deliveries }: Copy, place: number): boolean {
  return message.attempts === 1 && !isDeadLetter && deliveries[0]?.place === place;
}

/** May another consumer have had it, unseen, and stopped or given it back? */
function mayHaveComeBack(lives: Lives, { message, queue }: Copy, consumer: string, place: number): boolean {
  const had = (other: ConsumerLife) =>
    other.name !== consumer &&
    other.begin < place &&
    other.over > message.published &&
    (other.releases || other.stopping < place);
  return lives.queues.get(queue)?.consumers.some(had) === true;
}
