// Some messages are kept for long, while many others pass by: what they were written with has to go without them.

import { Consumer } from '../consumer.ts';
import { Publisher, toQueue } from '../publisher.ts';
import type { Session } from '../session.ts';
import { type RunningWorkload, running, type Workload } from '../workload.ts';

export const keeping: Workload = {
  name: 'keeping',
  start(context): RunningWorkload {
    const queue = `${context.name}-q`;
    const prepare = (session: Session, go: () => void) =>
      session.declare(queue, {}, {}, (answer) => answer === 'ok' && go());
    const publisher = new Publisher(context, {
      prepare,
      next: () => toQueue(queue),
      everyMilliseconds: 500,
      bytes: () => context.between(500, 4_000),
    });
    const passing = new Consumer(context, { queue, prefetch: 50, prepare });
    const kept = Array.from(
      { length: context.between(1, 2) },
      () => new Consumer(context, { queue, prefetch: 2, holdMilliseconds: 15_000, prepare }),
    );
    return running(context, [publisher], [passing, ...kept], () => [queue]);
  },
};
