// Request and reply: servers on a durable queue, clients with an exclusive queue for the answers, which ends with its connection; and queues that
// are not durable, which end with their node.

import type { Actor } from '../actor.ts';
import { messageId } from '../bodies.ts';
import { Publisher, toQueue } from '../publisher.ts';
import type { Session } from '../session.ts';
import type { RunningWorkload, Workload } from '../workload.ts';

export const replying: Workload = {
  name: 'replying',
  start(context): RunningWorkload {
    const requests = `${context.name}-requests`;
    const transient = `${context.name}-transient`;
    let isPaused = false;
    let inboxes = 0;
    let replies = 0;
    /** Queues for answers that are open, so that servers know one to answer to. */
    const open = new Set<string>();
    const sessions = new Set<Session>();

    const begin = (actor: Actor, work: (session: Session) => void, ended: () => void = () => {}) => {
      const session: Session = actor.openSession({
        received: (received) => {
          session.settle(received.deliveryTag, 'ack');
          if (received.queue === requests && open.size > 0 && !isPaused) {
            const inbox = context.pick([...open]);
            const id = messageId(session.name, ++replies, context.between(40, 2_000));
            context.operations++;
            session.publish(id, '', inbox, [{ queue: inbox, binding: null }]);
          }
        },
        ended: () => {
          sessions.delete(session);
          ended();
          actor.after(100, () => {
            if (!isPaused) begin(actor, work, ended);
          });
        },
      });
      sessions.add(session);
      work(session);
    };
    const serve = (session: Session) => {
      session.select();
      session.prefetch(10);
      session.declare(requests, {}, {}, (answer) => {
        if (answer === 'ok') session.consume(requests);
      });
    };
    const listen = (session: Session, inbox: string) => {
      session.declare(inbox, {}, { durable: false, exclusive: true }, (answer) => {
        if (answer !== 'ok') return;
        open.add(inbox);
        session.consume(inbox, { noAck: true });
      });
    };
    for (let i = context.between(1, 2); i > 0; i--)
      context.actor('s', { opened: (actor) => (isPaused ? undefined : begin(actor, serve)) });
    for (let i = context.between(1, 3); i > 0; i--) {
      context.actor('i', {
        opened: (actor) => {
          if (isPaused) return;
          const inbox = `${context.name}-inbox${++inboxes}`;
          const close = () => open.delete(inbox);
          begin(actor, (session) => listen(session, inbox), close);
        },
      });
    }
    const publisher = new Publisher(context, {
      prepare: (session, go) => session.declare(requests, {}, {}, (answer) => answer === 'ok' && go()),
      next: () => toQueue(requests),
      everyMilliseconds: 1_000,
    });
    const passing = new Publisher(context, {
      prepare: (session, go) => session.declare(transient, {}, { durable: false }, (answer) => answer === 'ok' && go()),
      next: () => toQueue(transient),
      everyMilliseconds: 1_500,
      confirms: context.oneIn(2),
    });

    return {
      pause() {
        isPaused = true;
        publisher.pause();
        passing.pause();
      },
      get isIdle() {
        return publisher.isIdle && passing.isIdle;
      },
      stop() {
        publisher.stop();
        passing.stop();
        for (const session of sessions) session.close();
        context.stopActors();
      },
      queues: () => [requests],
    };
  },
};
