// Queues that come and go: declared, deleted and declared again through different nodes, while others publish to them, look at them and fetch
// from them. After a deletion whose outcome nobody knows a queue gets a new name, as nothing certain can be said of the old one any more.

import type { Answer } from '../../history.ts';
import type { Actor } from '../actor.ts';
import { Publisher, toQueue } from '../publisher.ts';
import type { Session } from '../session.ts';
import type { RunningWorkload, Workload } from '../workload.ts';

export const redeclaring: Workload = {
  name: 'redeclaring',
  start(context): RunningWorkload {
    let isPaused = false;
    const names = Array.from({ length: context.between(1, 3) }, (_, i) => `${context.name}-${i + 1}.1`);
    const used = new Set(names);
    const sessions = new Set<Session>();

    const renew = (name: string) => {
      const at = names.indexOf(name);
      if (at < 0) return;
      const dot = name.lastIndexOf('.');
      names[at] = `${name.slice(0, dot)}.${Number(name.slice(dot + 1)) + 1}`;
      used.add(names[at]);
    };
    const deleted = (name: string) => (answer: Answer) => {
      if (answer === 'unknown') renew(name);
    };

    const act = (session: Session) => {
      if (isPaused || !session.isOpen) return;
      context.operations++;
      const name = context.pick(names);
      switch (context.random.integer(8)) {
        case 0:
          return session.delete(name, deleted(name));
        case 1:
          return session.delete(name, deleted(name), true);
        case 2:
        case 3:
          return session.check(name);
        case 4:
          return session.get(name, true, () => {});
        default:
          return session.declare(name);
      }
    };
    const begin = (actor: Actor) => {
      const session = actor.openSession({
        ended: () => {
          sessions.delete(session);
          actor.after(context.between(10, 100), () => begin(actor));
        },
      });
      sessions.add(session);
      context.repeat(
        () => (session.isOpen && !isPaused ? context.between(20, 2_000) : null),
        () => act(session),
      );
    };
    for (let i = context.between(2, 3); i > 0; i--)
      context.actor('d', {
        opened: (actor) => {
          if (!isPaused) begin(actor);
        },
      });
    const publisher = new Publisher(context, {
      prepare: (_session, go) => go(),
      next: () => ({ ...toQueue(context.pick(names)), mandatory: context.oneIn(2) }),
      everyMilliseconds: 800,
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
      queues: () => [...used],
    };
  },
};
