// Queues that are used through every node as soon as one node has answered for them, and that are gone through every node as soon as one has said
// so. Each has a new name, and goes by one deletion that nobody else is about to ask for: so of every moment it is certain whether it is there.

import type { Answer } from '../../history.ts';
import { Listeners } from '../listeners.ts';
import type { Session } from '../session.ts';
import { Visitor } from '../visitor.ts';
import { type RunningWorkload, running, type Workload } from '../workload.ts';

/** So many at a time, or fewer. */
const queuesMax = 6;

export const declaring: Workload = {
  name: 'declaring',
  clocksAgree: true,
  start(context): RunningWorkload {
    // Of every channel: through every node, as each has a visitor of its own.
    const listeners = new Listeners(context, ({ name }) => name);
    /** Declared, and not known to be gone: there, or nobody knows. */
    const names = new Set<string>();
    /** There for certain, and nobody has asked for their deletion. */
    const open: string[] = [];
    let declared = 0;

    const declare = (session: Session) => {
      const name = `${context.name}-${++declared}`;
      names.add(name);
      session.declare(name, {}, {}, (answer: Answer) => {
        if (answer !== 'ok') return;
        open.push(name);
        listeners.declared(session, name);
      });
    };
    const remove = (session: Session, name: string) => {
      session.delete(name, (answer) => {
        if (answer !== 'ok') return;
        names.delete(name);
        // Who finds nothing loses his channel by that.
        if (context.oneIn(3)) listeners.deleted(session, name);
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
          prepare: (session) => listeners.add(session),
          act,
        }),
    );
    return running(context, [], visitors, () => [...names]);
  },
};
