// Messages that nobody wants: rejected for good, or older than their queue or they themselves allow, they go on to another queue.

import { Consumer } from '../consumer.ts';
import { stretch } from '../pace.ts';
import { Publisher, toQueue } from '../publisher.ts';
import type { Session } from '../session.ts';
import { type RunningWorkload, running, type Workload } from '../workload.ts';

export const letters: Workload = {
  name: 'letters',
  start(context): RunningWorkload {
    const source = `${context.name}-source`;
    const target = `${context.name}-dead`;
    const ages = context.oneIn(2);
    const options = {
      arguments: {
        'x-dead-letter-exchange': '',
        'x-dead-letter-routing-key': target,
        ...(ages ? { 'x-message-ttl': stretch * context.between(50, 3_000) } : {}),
      },
    };
    const expires = !ages && context.oneIn(2);
    const drops = ages || expires;
    const prepare = (session: Session, go: () => void) => {
      session.declare(target);
      session.declare(source, { drops, deadLetterTo: target }, options, (answer) => answer === 'ok' && go());
    };
    const publisher = new Publisher(context, {
      prepare,
      next: () => ({
        ...toQueue(source),
        expiration: expires && context.oneIn(3) ? stretch * context.between(0, 2_000) : null,
      }),
      everyMilliseconds: 900,
    });
    const rejecting = new Consumer(context, {
      queue: source,
      prefetch: 5,
      holdMilliseconds: 300,
      discardsOneIn: 2,
      prepare,
    });
    const burying = new Consumer(context, {
      queue: target,
      prefetch: 20,
      prepare: (session, go) => session.declare(target, {}, {}, (answer) => answer === 'ok' && go()),
    });
    return running(context, [publisher], [rejecting, burying], () => [source, target]);
  },
};
