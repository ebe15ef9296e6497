// Queues that are used through every node as soon as one node has answered for them, and that are gone through every node as soon as one has said
// so. Each has a new name, and goes by one deletion that nobody else is about to ask for: so of every moment it is certain whether it is there.

import type { Answer } from '../../history.ts';
import { messageId } from '../bodies.ts';
import { toQueue } from '../publisher.ts';
import type { Session } from '../session.ts';
import { Visitor } from '../visitor.ts';
import { type RunningWorkload, running, type Workload } from '../workload.ts';

/** So many at a time, or fewer. */
const queuesMax = 6;

export const declaring: Workload = {
  name: 'declaring',
  clocksAgree: true,
  start(context): RunningWorkload {
    const sessions = new Set<Session>();
    /** Declared, and not known to be gone: there, or nobody knows. */
    const names = new Set<string>();
    /** There for certain, and nobody has asked for their deletion. */
    const open: string[] = [];
    let declared = 0;
    let told = 0;

    /** Of everybody but the one who knows already: through every node, as each has a visitor of its own. */
    const tell = (from: Session, use: (session: Session) => void) => {
      for (const session of sessions) {
        if (!session.isOpen) sessions.delete(session);
        else if (session !== from)
          context.world.clock.after(context.between(0, 2), () => {
            if (session.isOpen) use(session);
          });
      }
    };
    const use = (name: string) => (session: Session) => {
      if (context.oneIn(4)) return session.check(name);
      const id = messageId(session.name, ++told, context.between(40, 100));
      session.publish(id, '', name, toQueue(name).targets, { mandatory: true });
    };
    const declare = (session: Session) => {
      const name = `${context.name}-${++declared}`;
      names.add(name);
      session.declare(name, {}, {}, (answer: Answer) => {
        if (answer !== 'ok') return;
        open.push(name);
        tell(session, use(name));
      });
    };
    const remove = (session: Session, name: string) => {
      session.delete(name, (answer) => {
        if (answer !== 'ok') return;
        names.delete(name);
        // Who finds nothing loses his channel by that.
        if (context.oneIn(3)) tell(session, (other) => other.check(name));
      });
    };
    const act = (session: Session) => {
      if (open.length >= queuesMax || (open.length > 0 && context.oneIn(4))) remove(session, open.shift()!);
      else declare(session);
    };

    const visitors = context.world.nodesToTry().map(
      (home) =>
        new Visitor(context, {
          role: 'v',
          home,
          again: () => context.between(10, 100),
          wait: () => context.between(20, 1_500),
          prepare: (session) => void sessions.add(session),
          act,
        }),
    );
    return running(context, [], visitors, () => [...names]);
  },
};
