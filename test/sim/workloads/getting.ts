// Messages fetched one by one, with and without acknowledgement, and purges in between.

import type { Actor } from '../actor.ts';
import { Publisher, toQueue } from '../publisher.ts';
import type { Received, Session } from '../session.ts';
import type { RunningWorkload, Workload } from '../workload.ts';

export const getting: Workload = {
  name: 'getting',
  start(context): RunningWorkload {
    const queue = `${context.name}-q`;
    let isPaused = false;
    const publisher = new Publisher(context, {
      prepare: (session, go) => session.declare(queue, {}, {}, (answer) => answer === 'ok' && go()),
      next: () => toQueue(queue),
      everyMilliseconds: 800,
    });
    const sessions = new Set<Session>();

    const fetch = (session: Session) => {
      if (isPaused || !session.isOpen) return;
      context.operations++;
      if (context.oneIn(60)) session.purge(queue);
      session.get(queue, context.oneIn(4), (_answer, received) => {
        if (received !== null) context.world.clock.after(context.between(0, 60), () => settle(session, received));
      });
    };
    const settle = (session: Session, { deliveryTag }: Received) =>
      session.settle(deliveryTag, context.oneIn(10) ? 'requeue' : context.oneIn(20) ? 'discard' : 'ack');
    const begin = (actor: Actor) => {
      const session = actor.openSession({
        ended: () => {
          sessions.delete(session);
          actor.after(100, () => begin(actor));
        },
      });
      sessions.add(session);
      session.declare(queue);
      context.repeat(
        () => (session.isOpen && !isPaused ? context.between(5, 1_000) : null),
        () => fetch(session),
      );
    };
    for (let i = context.between(1, 2); i > 0; i--)
      context.actor('g', {
        opened: (actor) => {
          if (!isPaused) begin(actor);
        },
      });

    return {
      pause() {
        isPaused = true;
        publisher.pause();
      },
      get isIdle() {
        return publisher.isIdle;
      },
      stop() {
        publisher.stop();
        for (const session of sessions) session.close();
        context.stopActors();
      },
      queues: () => [queue],
    };
  },
};
