// The judge against histories that were made up: each broken promise must be found, and nothing else. Beside every history that breaks a rule
// stands one that barely does not.

import { describe, expect, test } from 'vitest';
import {
  type Answer,
  checkHistory,
  type Delivery,
  explain,
  type FaultKind,
  History,
  type Operation,
  type Outcome,
  type Publication,
  type QueueTraits,
} from './history.ts';

const quorum: QueueTraits = { lasting: true, drops: false, deadLetterTo: null };

/** A history in the making, with clients that mostly do the same. */
class Story {
  readonly history = new History(() => 0);
  readonly #channels = new Set<string>();

  constructor(...queues: string[]) {
    for (const queue of queues) this.declare(queue);
  }

  operate(
    operation: Operation,
    answer: Answer | null = 'ok',
    messages: number | null = null,
    channel = 'admin',
  ): number {
    this.#open(channel);
    const place = this.history.invoke(channel, operation);
    if (answer !== null) this.history.answer(place, answer, messages);
    return place;
  }
  declare(queue: string, traits: Partial<QueueTraits> = {}, answer: Answer | null = 'ok'): this {
    this.operate({ kind: 'declare', queue, ...quorum, ...traits }, answer);
    return this;
  }
  send(id: string, more: Partial<Publication> & { readonly queue?: string } = {}): number {
    const { queue = 'q', ...rest } = more;
    const targets = [{ queue, binding: null }];
    this.#open(rest.channel ?? 'p');
    return this.history.publish({ id, channel: 'p', targets, mandatory: false, confirms: true, ...rest });
  }
  /** Publishes and answers at once. */
  publish(id: string, outcome: Outcome | null = 'confirmed', more: Parameters<Story['send']>[1] = {}): number {
    const place = this.send(id, more);
    if (outcome !== null) this.history.outcome(place, outcome);
    return place;
  }
  consume(consumer: string, more: { queue?: string; noAck?: boolean; releases?: boolean } = {}): this {
    const operation = { kind: 'consume', queue: 'q', noAck: false, releases: false, consumer, ...more } as const;
    this.operate(operation, 'ok', null, consumer);
    return this;
  }
  deliver(id: string, more: Partial<Delivery> = {}): number {
    const consumer = more.consumer ?? 'c';
    const usual = { queue: 'q', channel: consumer, consumer, redelivered: false, count: 0, intact: true };
    return this.history.deliver({ id, ...usual, ...more });
  }
  /** Delivers and acks. */
  take(id: string, more: Partial<Delivery> = {}): this {
    this.history.settle(this.deliver(id, more), 'ack');
    return this;
  }
  #open(channel: string): void {
    if (this.#channels.has(channel)) return;
    this.#channels.add(channel);
    this.history.open(channel, 1);
  }
  faults(drained = true): { readonly kind: FaultKind; readonly subject: string }[] {
    const verdict = checkHistory(this.history.events, { drained });
    expect(verdict.ok).toBe(verdict.faults.length === 0);
    return verdict.faults.map(({ kind, subject }) => ({ kind, subject }));
  }
  kinds(): FaultKind[] {
    return this.faults().map(({ kind }) => kind);
  }
}

/** A queue with one consumer. */
const story = () => new Story('q').consume('c');

describe('what a correct broker may show', () => {
  test('everything confirmed, delivered once, in order', () => {
    const told = story();
    for (const id of ['a', 'b', 'c']) told.publish(id);
    for (const id of ['a', 'b', 'c']) told.take(id);
    told.history.left('q', 1, 0);
    told.history.left('q', 2, 0);
    expect(told.kinds()).toEqual([]);
    const { counts } = checkHistory(told.history.events);
    expect(counts).toMatchObject({ published: 3, confirmed: 3, delivered: 3, redelivered: 0, afterAck: 0 });
  });

  test('what was refused or not answered comes or not', () => {
    const told = story();
    for (const id of ['a', 'b']) told.publish(id, 'unknown');
    for (const id of ['d', 'e']) told.publish(id, 'refused');
    told.publish('f', null);
    told.take('a').take('d');
    expect(told.kinds()).toEqual([]);
  });

  test('what was sent again comes once for each time, anywhere', () => {
    const told = story();
    told.publish('a', 'unknown');
    told.publish('b', 'confirmed', { channel: 'p2' });
    told.publish('a', 'confirmed', { channel: 'p2' });
    told.take('b').take('a').take('a');
    expect(told.kinds()).toEqual([]);
  });

  test('of channels that were given up, what was acked comes again, late and often', () => {
    const told = story();
    for (const id of ['a', 'b']) told.publish(id);
    told.take('a').take('b');
    told.history.end('c', false);
    told.history.calm();
    told.take('a', { consumer: 'd', redelivered: true }).take('a', { consumer: 'e', redelivered: true });
    expect(told.kinds()).toEqual([]);
    expect(checkHistory(told.history.events).counts.afterAck).toBe(2);
  });

  test('competing consumers each see their part in order', () => {
    const told = story().consume('d');
    for (const id of ['a', 'b', 'c', 'e']) told.publish(id);
    told.take('b', { consumer: 'd' }).take('e', { consumer: 'd' }).take('a').take('c');
    expect(told.kinds()).toEqual([]);
  });
});

describe('a confirmed message', () => {
  test.each([
    ['first', ['b', 'c'], 'a'],
    ['middle', ['a', 'c'], 'b'],
    ['last', ['a', 'b'], 'c'],
  ])('is lost: the %s of its channel', (place, delivered, id) => {
    const told = story();
    for (const sent of ['a', 'b', 'c']) told.publish(sent);
    for (const came of delivered) told.take(came);
    expect(told.history.awaited).toBe(1);
    expect(told.faults()).toEqual([{ kind: 'lost', subject: id }]);
    expect(checkHistory(told.history.events).faults[0]!.text).toContain(`(${place} of`);
    expect(told.faults(false)).toEqual([]);
  });

  test('came, was given back, and never came again', () => {
    const told = story();
    told.publish('a');
    told.history.settle(told.deliver('a'), 'requeue');
    expect(told.kinds()).toEqual(['lost']);
    told.take('a', { redelivered: true });
    expect(told.kinds()).toEqual([]);
  });

  test('came to a channel that ended before it was settled, and never came again', () => {
    const told = story();
    told.publish('a');
    told.deliver('a');
    expect(told.kinds()).toEqual([]); // somebody has it
    told.history.end('c', false);
    expect(told.kinds()).toEqual(['lost']);
  });

  test('whose second attempt alone was confirmed is lost', () => {
    const told = story();
    told.publish('a', 'unknown');
    told.publish('a');
    expect(told.kinds()).toEqual(['lost']);
  });

  test('may be missing from a queue that was perhaps not there, or goes by itself', () => {
    const told = new Story().declare('q', {}, 'unknown').declare('r', { lasting: false }).declare('s', { drops: true });
    for (const queue of ['q', 'r', 's', 'never declared']) told.publish(queue, 'confirmed', { queue });
    expect(told.kinds()).toEqual([]);
    told.declare('q');
    told.publish('a');
    expect(told.kinds()).toEqual(['lost']);
  });

  test('is in every queue of a fan-out that was bound for certain', () => {
    const told = new Story('q', 'r', 's');
    for (const queue of ['q', 'r']) told.operate({ kind: 'bind', binding: `x-${queue}`, queue });
    told.operate({ kind: 'bind', binding: 'x-s', queue: 's' }, 'unknown');
    const targets = ['q', 'r', 's'].map((queue) => ({ queue, binding: `x-${queue}` }));
    told.publish('a', 'confirmed', { targets });
    told.take('a', { queue: 'q' });
    expect(told.faults()).toEqual([{ kind: 'lost', subject: 'a' }]);
    told.take('a', { queue: 'r', consumer: 'd' });
    expect(told.kinds()).toEqual([]);
    told.operate({ kind: 'unbind', binding: 'x-r', queue: 'r' });
    told.publish('b', 'confirmed', { targets });
    told.take('b', { queue: 'q' });
    expect(told.kinds()).toEqual([]);
  });

  test('may be gone with a consumer without acknowledgements that ended, and with no other', () => {
    const told = new Story('q').consume('c', { noAck: true });
    told.publish('a');
    expect(told.kinds()).toEqual(['lost']);
    told.history.end('c', false);
    expect(told.kinds()).toEqual([]);
    told.publish('b');
    expect(told.kinds()).toEqual([]); // the broker may have noticed late
  });

  test('that was rejected reaches the queue of dead letters', () => {
    const told = new Story('dead').declare('q', { deadLetterTo: 'dead' }).consume('c');
    told.publish('a');
    told.history.settle(told.deliver('a'), 'discard');
    expect(told.kinds()).toEqual(['lost']);
    told.take('a', { queue: 'dead', consumer: 'd' });
    expect(told.kinds()).toEqual([]);
    told.take('a', { queue: 'dead', consumer: 'd' });
    expect(told.kinds()).toEqual(['duplicate']);
  });

  test('that was published and rejected twice is two dead letters, also if the first came before the second was sent', () => {
    const told = new Story('dead').declare('q', { deadLetterTo: 'dead' }).consume('c');
    for (let time = 0; time < 2; time++) {
      told.publish('a');
      told.history.settle(told.deliver('a'), 'discard');
      told.take('a', { queue: 'dead', consumer: 'd' });
    }
    expect(told.kinds()).toEqual([]);
    told.take('a', { queue: 'dead', consumer: 'd' });
    expect(told.kinds()).toEqual(['duplicate']);
  });

  test('that expired reaches the queue of dead letters, if that was there all the time', () => {
    const told = new Story('dead').declare('q', { drops: true, deadLetterTo: 'dead' });
    told.publish('a');
    expect(told.kinds()).toEqual(['lost']);
    told.operate({ kind: 'delete', queue: 'dead' }, 'unknown');
    expect(told.kinds()).toEqual([]);
  });
});

describe('what was purged or deleted', () => {
  test('comes back from a queue whose declaration nobody had been told of when the deletion found nothing', () => {
    for (const isTold of [false, true]) {
      const told = new Story();
      const declared = told.operate({ kind: 'declare', queue: 'q', ...quorum }, isTold ? 'ok' : null);
      told.publish('a');
      told.operate({ kind: 'delete', queue: 'q' }, 'ok', 0);
      if (!isTold) told.history.answer(declared, 'ok', 0);
      told.declare('q').consume('c').take('a');
      expect(told.kinds()).toEqual(isTold ? ['back'] : []);
    }
  });

  test.each(['purge', 'delete'] as const)('before it was published is no excuse: %s', (kind) => {
    const told = story();
    told.operate({ kind, queue: 'q' }, 'ok', 0);
    if (kind === 'delete') told.declare('q');
    told.publish('a');
    expect(told.kinds()).toEqual(['lost']);
  });

  test.each(['purge', 'delete'] as const)('afterwards, or perhaps, may be gone: %s', (kind) => {
    for (const answer of ['ok', 'unknown', null] as const) {
      const told = story();
      if (answer === 'ok') told.publish('a');
      told.operate({ kind, queue: 'q' }, answer, answer === 'ok' ? 1 : null);
      if (answer !== 'ok') told.publish('a');
      expect(told.kinds()).toEqual([]);
    }
    const told = story();
    told.publish('a');
    told.operate({ kind, queue: 'q' }, 'refused');
    expect(told.kinds()).toEqual(['lost']);
  });

  test('a purge takes no more than it tells', () => {
    const told = story();
    for (const id of ['a', 'b', 'c']) told.publish(id);
    told.operate({ kind: 'purge', queue: 'q' }, 'ok', 2);
    expect(told.kinds()).toEqual(['purge']);
    told.take('c');
    expect(told.kinds()).toEqual([]);
  });

  test('does not come again out of a queue of the same name', () => {
    const told = story();
    told.publish('a');
    told.operate({ kind: 'delete', queue: 'q' }, 'ok', 1);
    told.declare('q');
    told.take('a'); // it was on its way
    expect(told.kinds()).toEqual([]);
    told.consume('d').take('a', { consumer: 'd', redelivered: true });
    expect(told.kinds()).toEqual(['back']);
  });

  test('by a purge before anybody consumed does not come again', () => {
    const told = new Story('q');
    told.publish('a');
    told.operate({ kind: 'purge', queue: 'q' }, 'ok', 1);
    told.consume('c').take('a');
    expect(told.kinds()).toEqual(['back']);
  });

  test('by a purge behind what was given back on the same channel does not come again', () => {
    for (const [channel, other, kinds] of [
      ['g', null, ['back']],
      ['h', null, []],
      ['g', 'h', []],
    ] as const) {
      const told = new Story('q');
      told.publish('a');
      const get = (consumer: string) => ({ kind: 'get', queue: 'q', consumer, noAck: false }) as const;
      told.operate(get('g.1'), 'ok', 0, 'g');
      const first = told.deliver('a', { channel: 'g', consumer: 'g.1' });
      told.history.settle(first, 'requeue');
      // Somebody else may have got it in between, and lost it again.
      if (other !== null) told.operate(get('h.1'), null, null, other);
      told.operate({ kind: 'purge', queue: 'q' }, 'ok', 1, channel);
      told.operate(get('g.2'), 'ok', 0, 'g');
      told.take('a', { channel: 'g', consumer: 'g.2', redelivered: true });
      told.history.calm();
      expect(told.faults(false).map(({ kind }) => kind)).toEqual(kinds);
    }
  });
});

describe('what comes', () => {
  test('was sent, and there', () => {
    const told = story().declare('r');
    told.deliver('ghost');
    told.publish('a');
    told.take('a').take('a', { queue: 'r', consumer: 'd' });
    expect(told.faults()).toEqual([
      { kind: 'phantom', subject: 'ghost' },
      { kind: 'phantom', subject: 'a' },
    ]);
  });

  test('is what was sent', () => {
    const told = story();
    told.publish('a');
    told.take('a', { intact: false });
    expect(told.kinds()).toEqual(['corrupt']);
  });

  test('comes no more often without the flag than it was sent', () => {
    const told = story();
    told.publish('a', 'unknown');
    told.publish('a');
    told.take('a').take('a');
    expect(told.kinds()).toEqual([]);
    told.take('a');
    expect(told.kinds()).toEqual(['duplicate']);
  });

  test('has no delivery count without the flag', () => {
    const told = story();
    told.publish('a');
    told.take('a', { count: 1 });
    expect(told.kinds()).toEqual(['flag']);
  });
});

describe('one holder', () => {
  /** `a` came to `c`, which lives to the end. */
  function held(settle: 'ack' | 'requeue' | null, order: 'before' | 'behind' = 'before'): Story {
    const told = story().consume('d');
    told.publish('a');
    const place = told.deliver('a');
    if (settle !== null && order === 'before') told.history.settle(place, settle);
    told.take('a', { consumer: 'd', redelivered: true });
    if (settle !== null && order === 'behind') told.history.settle(place, settle);
    return told;
  }

  test.each([
    ['two holders', null, 'before'],
    ['two holders', 'ack', 'behind'],
    ['back', 'ack', 'before'],
  ] as const)('%s, settled by %s %s it came again', (kind, settle, order) => {
    const told = held(settle, order);
    expect(told.kinds()).toEqual([]); // without a calm nobody knows
    told.history.calm();
    expect(told.kinds()).toEqual([kind]);
  });

  test('gives it back before others get it', () => {
    const told = held('requeue');
    told.history.calm();
    expect(told.kinds()).toEqual([]);
  });

  test('that ended, by whomever, may be followed by others', () => {
    for (const graceful of [true, false]) {
      const told = held(null);
      told.history.end('c', graceful);
      told.history.calm();
      expect(told.kinds()).toEqual([]);
    }
  });

  test('that ended after all was calm had settled what it settled', () => {
    const told = story().consume('d');
    told.publish('a');
    told.take('a');
    told.history.calm();
    told.history.end('c', true);
    told.take('a', { consumer: 'd', redelivered: true });
    expect(told.kinds()).toEqual(['back']);
  });
});

describe('order', () => {
  test('of one channel, also of what was not answered', () => {
    const told = story();
    for (const id of ['a', 'b']) told.publish(id, 'unknown');
    told.take('b').take('a');
    expect(told.faults()).toEqual([{ kind: 'order', subject: 'a' }]);
  });

  test('of one channel, but not between priorities', () => {
    const told = story();
    told.publish('a');
    told.publish('b', 'confirmed', { priority: 5 });
    told.take('b').take('a');
    expect(told.kinds()).toEqual([]);
  });

  test('of what was confirmed before another was sent', () => {
    const told = story();
    told.publish('a');
    told.publish('b', 'unknown', { channel: 'p2' });
    told.take('b').take('a');
    expect(told.faults()).toEqual([{ kind: 'order', subject: 'a' }]);
    const open = story();
    const [a, b] = [open.send('a'), open.send('b', { channel: 'p2' })];
    for (const place of [a, b]) open.history.outcome(place, 'confirmed');
    open.take('b').take('a');
    expect(open.kinds()).toEqual([]);
  });

  test('finds the overtaken one behind many in order', () => {
    const told = story();
    const ids = Array.from({ length: 20 }, (_, i) => `m${i}`);
    for (const id of ids) told.publish(id);
    for (const id of ids.filter((one) => one !== 'm3')) told.take(id);
    told.take('m3');
    expect(told.faults()).toEqual([{ kind: 'order', subject: 'm3' }]);
  });

  test('says nothing of what another consumer may have had unseen, and given back', () => {
    for (const end of ['none', 'cancel', 'end', 'lost', 'releases', 'over before'] as const) {
      const told = new Story('q').consume('c').consume('d', { releases: end === 'releases' });
      if (end === 'over before') told.operate({ kind: 'cancel', consumer: 'd' }, 'ok', null, 'd');
      for (const id of ['a', 'b']) told.publish(id);
      if (end === 'cancel') told.operate({ kind: 'cancel', consumer: 'd' }, 'ok', null, 'd');
      if (end === 'end') told.history.end('d', true);
      told.take('b').take('a');
      if (end === 'lost') told.history.end('d', false);
      expect(told.kinds(), end).toEqual(end === 'none' || end === 'over before' ? ['order'] : []);
    }
  });

  test('says nothing of what a get may have had that was not answered', () => {
    for (const answer of ['ok', 'unknown'] as const) {
      const told = story();
      for (const id of ['a', 'b', 'd']) told.publish(id);
      told.operate({ kind: 'get', queue: 'q', consumer: 'g', noAck: false }, answer, null, 'g');
      if (answer === 'ok') told.take('a', { consumer: 'g' });
      else told.take('a');
      told.take('d').take('b');
      expect(told.kinds()).toEqual(answer === 'ok' ? ['order'] : []);
    }
  });
});

describe('publishes and topology', () => {
  test('a return though the queue was there', () => {
    const told = story();
    const place = told.send('a', { mandatory: true });
    told.history.returned(place);
    told.history.outcome(place, 'confirmed');
    expect(told.history.awaited).toBe(0);
    expect(told.kinds()).toEqual(['unroutable']);
  });

  test('a return while the queue was declared or deleted', () => {
    const told = new Story();
    const declaring = told.operate({ kind: 'declare', queue: 'q', ...quorum }, null);
    const early = told.send('a', { mandatory: true });
    told.history.answer(declaring, 'ok');
    told.history.returned(early);
    told.history.outcome(early, 'confirmed');
    const deleting = told.operate({ kind: 'delete', queue: 'q' }, null);
    const late = told.send('b', { mandatory: true });
    told.history.returned(late);
    told.history.outcome(late, 'confirmed');
    told.history.answer(deleting, 'ok', 0);
    expect(told.kinds()).toEqual([]);
  });

  test('a return behind the confirm, and of what came', () => {
    const told = new Story();
    const place = told.send('a', { mandatory: true });
    told.history.outcome(place, 'confirmed');
    told.history.returned(place);
    expect(told.kinds()).toContain('late return');
    const other = new Story().declare('q', {}, 'unknown');
    other.history.returned(other.send('a', { mandatory: true }));
    other.take('a');
    expect(other.kinds()).toEqual(['unroutable']);
  });

  test('no return though no queue was there', () => {
    const told = new Story();
    told.publish('a', 'confirmed', { mandatory: true });
    expect(told.kinds()).toEqual(['unreturned']);
    const perhaps = new Story().declare('q', {}, 'unknown');
    perhaps.publish('a', 'confirmed', { mandatory: true });
    expect(perhaps.kinds()).toEqual([]);
  });

  test('what was declared by one is found by all, and what was deleted by none', () => {
    const told = new Story('q');
    told.operate({ kind: 'check', queue: 'q' }, 'missing');
    expect(told.kinds()).toEqual(['existence']);
    const gone = new Story('q');
    gone.operate({ kind: 'delete', queue: 'q' }, 'ok', 0);
    gone.operate({ kind: 'check', queue: 'q' }, 'missing');
    expect(gone.kinds()).toEqual([]);
    gone.operate({ kind: 'check', queue: 'q' }, 'ok');
    expect(gone.kinds()).toEqual(['existence']);
    gone.declare('q', {}, 'unknown');
    for (const answer of ['ok', 'missing'] as const) gone.operate({ kind: 'check', queue: 'q' }, answer);
    expect(gone.kinds()).toEqual(['existence']);
  });

  test('a get finds what is there, unless somebody else may have it', () => {
    for (const other of ['nobody', 'a consumer', 'a get', 'not confirmed'] as const) {
      const told = new Story('q');
      if (other === 'a consumer') told.consume('c');
      const get = (name: string, answer: Answer) =>
        told.operate({ kind: 'get', queue: 'q', consumer: name, noAck: false }, answer, null, name);
      if (other === 'a get') get('h', 'unknown');
      const place = told.send('a');
      if (other !== 'not confirmed') told.history.outcome(place, 'confirmed');
      get('g', 'empty');
      if (other === 'not confirmed') told.history.outcome(place, 'confirmed');
      get('g', 'ok');
      told.take('a', { consumer: 'g' });
      expect(told.kinds(), other).toEqual(other === 'nobody' ? ['hidden'] : []);
    }
  });

  test('a delete without an answer leaves everything open until for ever', () => {
    const told = new Story('q');
    told.operate({ kind: 'delete', queue: 'q' }, 'unknown');
    told.declare('q');
    told.publish('a');
    told.operate({ kind: 'check', queue: 'q' }, 'missing');
    expect(told.kinds()).toEqual([]);
  });

  test('no answer on a channel that lived', () => {
    const told = story();
    told.publish('a', null);
    told.operate({ kind: 'other', name: 'qos' }, null);
    expect(told.kinds()).toEqual([]);
    told.history.calm();
    expect(told.kinds()).toEqual(['unanswered', 'unanswered']);
    told.history.end('p', true);
    told.history.end('admin', false);
    expect(told.kinds()).toEqual([]);
  });

  test('what is left, what nodes tell apart, and what breaks the protocol', () => {
    const told = new Story('q');
    told.history.left('q', 1, 0);
    told.history.left('q', 2, 3);
    told.history.left('q', 3, null);
    told.history.nonsense('c', 'a confirm of 7, which was not sent');
    expect(told.kinds()).toEqual(['leftover', 'divergent', 'nonsense']);
    expect(told.faults(false).map(({ kind }) => kind)).toEqual(['nonsense']);
  });
});

test('the explanation names the cases and says how many more there are', () => {
  const told = story();
  for (let i = 0; i < 15; i++) told.publish(`m${i}`);
  const text = explain(checkHistory(told.history.events));
  expect(text).toContain('15 faults: 15 publishes (15 confirmed');
  expect(text).toContain("m0 was confirmed in q and never came (all of its channel's confirmed messages)");
  expect(text).toContain('and 5 more');
});

test('what belongs to nothing is a mistake of the recorder', () => {
  const { history } = story();
  expect(() => history.outcome(0, 'confirmed')).toThrow('no publish');
  expect(() => history.settle(0, 'ack')).toThrow('no delivery');
  expect(() => history.answer(0, 'ok')).toThrow('no invocation');
});

test('a hundred thousand events are judged in less than two seconds of one processor', () => {
  const told = story();
  const count = 25_000;
  for (let i = 0; i < count; i++) told.publish(`m${i}`);
  for (let i = 0; i < count; i++) told.take(`m${i}`);
  const before = process.cpuUsage();
  expect(told.kinds()).toEqual([]);
  const { user } = process.cpuUsage(before);
  expect(user).toBeLessThan(2_000_000);
});
