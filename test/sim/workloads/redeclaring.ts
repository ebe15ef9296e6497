// Queues that come and go: declared, deleted and declared again through different nodes, while others publish to them, look at them and fetch
// from them. Whoever hears that it was done tells the others, who act on it at once: through every node the queue is there, or gone. After a
// deletion whose outcome nobody knows a queue gets a new name, as nothing certain can be said of the old one any more.

import type { Answer } from '../../history.ts';
import { Listeners } from '../listeners.ts';
import { Publisher, toQueue } from '../publisher.ts';
import type { Session } from '../session.ts';
import { Visitor } from '../visitor.ts';
import { type RunningWorkload, running, type Workload } from '../workload.ts';

export const redeclaring: Workload = {
  name: 'redeclaring',
  clocksAgree: true,
  start(context): RunningWorkload {
    const names = Array.from({ length: context.between(1, 3) }, (_, i) => `${context.name}-${i + 1}.1`);
    const used = new Set(names);

    const renew = (name: string) => {
      const at = names.indexOf(name);
      if (at < 0) return;
      const dot = name.lastIndexOf('.');
      names[at] = `${name.slice(0, dot)}.${Number(name.slice(dot + 1)) + 1}`;
      used.add(names[at]);
    };
    const listeners = new Listeners(context, ({ name }) => `${name}-told`);
    const declared = (from: Session, name: string) => (answer: Answer) => {
      if (answer === 'ok') listeners.declared(from, name);
    };
    const deleted = (from: Session, name: string) => (answer: Answer) => {
      if (answer === 'unknown') renew(name);
      else if (answer === 'ok' && context.oneIn(4)) listeners.deleted(from, name);
    };

    const act = (session: Session) => {
      const name = context.pick(names);
      switch (context.random.integer(8)) {
        case 0:
          return session.delete(name, deleted(session, name));
        case 1:
          return session.delete(name, deleted(session, name), true);
        case 2:
        case 3:
          return session.check(name);
        case 4:
          return session.get(name, true, () => {});
        default:
          return session.declare(name, {}, {}, declared(session, name));
      }
    };
    const visitors = Array.from(
      { length: context.between(2, 3) },
      () =>
        new Visitor(context, {
          role: 'd',
          again: () => context.between(10, 100),
          wait: () => context.between(20, 2_000),
          prepare: (session) => listeners.add(session),
          act,
        }),
    );
    const publisher = new Publisher(context, {
      prepare: (_session, go) => go(),
      next: () => ({ ...toQueue(context.pick(names)), mandatory: context.oneIn(2) }),
      everyMilliseconds: 800,
    });
    return running(context, [publisher], visitors, () => [...used]);
  },
};
