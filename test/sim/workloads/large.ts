// Large messages, which travel in parts, among small ones of the same channel.

import { Consumer } from '../consumer.ts';
import { Publisher, toQueue } from '../publisher.ts';
import type { Session } from '../session.ts';
import { type RunningWorkload, running, type Workload } from '../workload.ts';

export const large: Workload = {
  name: 'large',
  start(context): RunningWorkload {
    const queue = `${context.name}-q`;
    const prepare = (session: Session, go: () => void) =>
      session.declare(queue, {}, {}, (answer) => answer === 'ok' && go());
    const publisher = new Publisher(context, {
      prepare,
      next: () => toQueue(queue),
      everyMilliseconds: 3_000,
      burstMax: 3,
      bytes: () => (context.oneIn(3) ? context.between(260_000, 700_000) : context.between(50, 60_000)),
    });
    const consumer = new Consumer(context, { queue, prefetch: context.pick([1, 10]), prepare });
    return running(context, [publisher], [consumer], () => [queue]);
  },
};
