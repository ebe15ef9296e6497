// Publishers with confirms, and consumers that compete for what they send, under a limit each or one of the whole channel.

import { Consumer } from '../consumer.ts';
import { Publisher, toQueue } from '../publisher.ts';
import type { Session } from '../session.ts';
import { type RunningWorkload, running, type Workload } from '../workload.ts';

export const competing: Workload = {
  name: 'competing',
  start(context): RunningWorkload {
    const queues = Array.from({ length: context.between(1, 3) }, (_, i) => `${context.name}-q${i + 1}`);
    const declare = (queue: string) => (session: Session, go: () => void) =>
      session.declare(queue, {}, { arguments: { 'x-queue-type': 'quorum' } }, (answer) => {
        if (answer === 'ok') go();
      });
    const publishers = Array.from({ length: context.between(1, 3) }, () => {
      const queue = context.pick(queues);
      return new Publisher(context, { prepare: declare(queue), next: () => toQueue(queue) });
    });
    const consumers = Array.from({ length: context.between(1, 4) }, () => {
      const queue = context.pick(queues);
      return new Consumer(context, {
        queue,
        prefetch: context.pick([0, 1, 3, 10, 50]),
        wholeChannel: context.oneIn(4),
        noAck: context.oneIn(8),
        diesOften: context.oneIn(3),
        prepare: declare(queue),
      });
    });
    return running(context, publishers, consumers, () => queues);
  },
};
