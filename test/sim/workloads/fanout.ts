// One exchange, several queues: what is published reaches each queue that is bound, while bindings come and go.

import { Consumer } from '../consumer.ts';
import { Publisher } from '../publisher.ts';
import type { Session } from '../session.ts';
import { Visitor } from '../visitor.ts';
import { type RunningWorkload, running, type Workload } from '../workload.ts';

export const fanout: Workload = {
  name: 'fanout',
  clocksAgree: true,
  start(context): RunningWorkload {
    const exchange = `${context.name}-x`;
    const type = context.pick(['fanout', 'direct', 'topic']);
    const key = type === 'topic' ? 'a.b' : 'a';
    const pattern = type === 'topic' ? 'a.#' : 'a';
    const queues = Array.from({ length: context.between(2, 4) }, (_, i) => `${context.name}-q${i + 1}`);
    const targets = queues.map((queue) => ({ queue, binding: `${exchange}/${queue}` }));
    /** This one's binding comes and goes. */
    const loose = queues.at(-1)!;

    const prepare = (session: Session, go: () => void) => {
      session.declareExchange(exchange, type);
      for (const queue of queues) session.declare(queue);
      let missing = queues.length;
      for (const { queue, binding } of targets)
        session.bind(binding, queue, exchange, pattern, (answer) => {
          if (answer === 'ok' && --missing === 0) go();
        });
    };
    const publishers = Array.from({ length: context.between(1, 2) }, () => {
      const mandatory = context.oneIn(3);
      return new Publisher(context, {
        prepare,
        next: () => ({ exchange, routingKey: key, targets, mandatory }),
        everyMilliseconds: 1_000,
        burstMax: 4,
      });
    });
    const consumers = queues.slice(1).map(
      (queue) =>
        new Consumer(context, {
          queue,
          prefetch: 20,
          prepare: (session, go) => session.declare(queue, {}, {}, (answer) => answer === 'ok' && go()),
        }),
    );
    const visitor = new Visitor(context, {
      role: 'b',
      again: () => 100,
      wait: () => context.between(200, 4_000),
      prepare: (session) => prepare(session, () => {}),
      act: (session) => {
        const binding = `${exchange}/${loose}`;
        if (context.oneIn(2)) session.unbind(binding, loose, exchange, pattern);
        else session.bind(binding, loose, exchange, pattern);
      },
    });

    return running(context, publishers, [...consumers, visitor], () => queues);
  },
};
