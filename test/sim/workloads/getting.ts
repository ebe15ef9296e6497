// Messages fetched one by one, with and without acknowledgement, and purges in between, some of them right behind what was given back.

import { Publisher, toQueue } from '../publisher.ts';
import type { Received, Session } from '../session.ts';
import { Visitor } from '../visitor.ts';
import { type RunningWorkload, running, type Workload } from '../workload.ts';

export const getting: Workload = {
  name: 'getting',
  start(context): RunningWorkload {
    const queue = `${context.name}-q`;
    const publisher = new Publisher(context, {
      prepare: (session, go) => session.declare(queue, {}, {}, (answer) => answer === 'ok' && go()),
      next: () => toQueue(queue),
      everyMilliseconds: 800,
    });

    const fetch = (session: Session) => {
      if (context.oneIn(60)) session.purge(queue);
      session.get(queue, context.oneIn(4), (_answer, received) => {
        if (received !== null) context.world.clock.after(context.between(0, 60), () => settle(session, received));
      });
    };
    const settle = (session: Session, { deliveryTag }: Received) => {
      if (!context.oneIn(10)) return session.settle(deliveryTag, context.oneIn(20) ? 'discard' : 'ack');
      session.settle(deliveryTag, 'requeue');
      if (session.isOpen && context.oneIn(6)) session.purge(queue);
    };
    const visitors = Array.from(
      { length: context.between(1, 2) },
      () =>
        new Visitor(context, {
          role: 'g',
          again: () => 100,
          wait: () => context.between(5, 1_000),
          prepare: (session) => session.declare(queue),
          act: fetch,
        }),
    );
    return running(context, [publisher], visitors, () => [queue]);
  },
};
