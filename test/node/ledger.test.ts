// The checker of the chaos runs against histories that were made up: each broken promise must be found, and nothing else.

import { describe, expect, test } from 'vitest';
import { type Counts, explain, type Fault, Ledger, type Outcome, verify } from '../../chaos/ledger.ts';

/** Publishes and answers at once. */
function publish(ledger: Ledger, id: string, outcome: Outcome | null = 'confirmed', session = 'p.0'): number {
  const attempt = ledger.attempt(id, session);
  if (outcome) ledger.outcome(attempt, outcome);
  return attempt;
}

function deliver(ledger: Ledger, id: string, { session = 'c.0', redelivered = false, intact = true } = {}): number {
  return ledger.delivery(id, session, redelivered, intact);
}

function faultsOf(ledger: Ledger): readonly Fault[] {
  const verdict = verify(ledger.events);
  expect(verdict.ok).toBe(verdict.faults.length === 0);
  return verdict.faults;
}

function countsOf(ledger: Ledger): Counts {
  return verify(ledger.events).counts;
}

describe('histories that a correct broker produces', () => {
  test('everything confirmed, delivered once, in order', () => {
    const ledger = new Ledger();
    for (const id of ['a', 'b', 'c']) publish(ledger, id);
    for (const id of ['a', 'b', 'c']) ledger.ack(deliver(ledger, id));
    expect(verify(ledger.events)).toMatchObject({ ok: true, counts: { confirmed: 3, delivered: 3, redelivered: 0 } });
  });

  test('an unanswered or refused message may arrive or not', () => {
    const ledger = new Ledger();
    publish(ledger, 'a', 'unknown');
    publish(ledger, 'b', 'unknown');
    publish(ledger, 'c', 'refused');
    publish(ledger, 'd', 'refused');
    publish(ledger, 'e', null);
    deliver(ledger, 'a');
    deliver(ledger, 'c');
    expect(faultsOf(ledger)).toEqual([]);
    expect(countsOf(ledger)).toMatchObject({ unknown: 2, refused: 2, open: 1, delivered: 2 });
  });

  test('a retried message may arrive once for each attempt, anywhere', () => {
    const ledger = new Ledger();
    publish(ledger, 'a', 'unknown');
    publish(ledger, 'b', 'confirmed', 'p.1');
    publish(ledger, 'a', 'confirmed', 'p.1');
    for (const id of ['b', 'a', 'a']) deliver(ledger, id);
    expect(faultsOf(ledger)).toEqual([]);
  });

  test('a redelivered message may come late and often', () => {
    const ledger = new Ledger();
    for (const id of ['a', 'b']) publish(ledger, id);
    ledger.ack(deliver(ledger, 'a'));
    deliver(ledger, 'b');
    deliver(ledger, 'a', { redelivered: true });
    deliver(ledger, 'a', { redelivered: true, session: 'c.1' });
    expect(faultsOf(ledger)).toEqual([]);
    expect(countsOf(ledger)).toMatchObject({ redelivered: 2, afterAck: 2 });
  });

  test('competing consumers each see their part in order, whoever is faster', () => {
    const ledger = new Ledger();
    for (const id of ['a', 'b', 'c', 'd']) publish(ledger, id);
    for (const id of ['b', 'd']) deliver(ledger, id, { session: 'c.1' });
    for (const id of ['a', 'c']) deliver(ledger, id, { session: 'c.2' });
    expect(faultsOf(ledger)).toEqual([]);
  });

  test('an unconfirmed message of a broken connection may be stored behind a later one', () => {
    const ledger = new Ledger();
    publish(ledger, 'a', 'unknown', 'p.0');
    publish(ledger, 'b', 'confirmed', 'p.1');
    for (const id of ['b', 'a']) deliver(ledger, id);
    expect(faultsOf(ledger)).toEqual([]);
  });

  test('two publishers at the same time have no order between them', () => {
    const ledger = new Ledger();
    const a = publish(ledger, 'a', null, 'p.0');
    const b = publish(ledger, 'b', null, 'q.0');
    ledger.outcome(a, 'confirmed');
    ledger.outcome(b, 'confirmed');
    for (const id of ['b', 'a']) deliver(ledger, id);
    expect(faultsOf(ledger)).toEqual([]);
  });
});

describe('histories that must fail', () => {
  test.each([
    ['first', ['b', 'c'], 'a'],
    ['middle', ['a', 'c'], 'b'],
    ['last', ['a', 'b'], 'c'],
  ])('a confirmed message is lost: the %s of its channel', (place, delivered, id) => {
    const ledger = new Ledger();
    for (const sent of ['a', 'b', 'c']) publish(ledger, sent);
    for (const arrived of delivered) deliver(ledger, arrived);
    expect(ledger.awaited).toBe(1);
    expect(faultsOf(ledger)).toEqual([{ kind: 'lost', id, place }]);
    expect(verify(ledger.events, { drained: false }).ok).toBe(true);
  });

  test('all is lost', () => {
    const ledger = new Ledger();
    for (const id of ['a', 'b']) publish(ledger, id);
    expect(faultsOf(ledger)).toEqual([
      { kind: 'lost', id: 'a', place: 'all' },
      { kind: 'lost', id: 'b', place: 'all' },
    ]);
  });

  test('a retried message whose second attempt was confirmed is lost', () => {
    const ledger = new Ledger();
    publish(ledger, 'a', 'unknown');
    publish(ledger, 'a', 'confirmed', 'p.1');
    expect(faultsOf(ledger)).toMatchObject([{ kind: 'lost', id: 'a' }]);
  });

  test('something arrives that nobody sent', () => {
    const ledger = new Ledger();
    deliver(ledger, 'ghost');
    expect(faultsOf(ledger)).toEqual([{ kind: 'phantom', id: 'ghost' }]);
  });

  test('a body changes on its way', () => {
    const ledger = new Ledger();
    publish(ledger, 'a');
    deliver(ledger, 'a', { intact: false });
    expect(faultsOf(ledger)).toEqual([{ kind: 'corrupt', id: 'a' }]);
  });

  test('a message comes twice without the flag', () => {
    const ledger = new Ledger();
    publish(ledger, 'a');
    deliver(ledger, 'a');
    deliver(ledger, 'a', { session: 'c.1' });
    expect(faultsOf(ledger)).toEqual([{ kind: 'duplicate', id: 'a', deliveries: 2, attempts: 1 }]);
  });

  test('an unanswered message comes twice though sent once', () => {
    const ledger = new Ledger();
    publish(ledger, 'a', 'unknown');
    deliver(ledger, 'a');
    deliver(ledger, 'a');
    expect(faultsOf(ledger)).toMatchObject([{ kind: 'duplicate' }]);
  });

  test('a retried message comes more often than it was sent', () => {
    const ledger = new Ledger();
    publish(ledger, 'a', 'unknown');
    publish(ledger, 'a');
    for (let i = 0; i < 3; i++) deliver(ledger, 'a');
    expect(faultsOf(ledger)).toEqual([{ kind: 'duplicate', id: 'a', deliveries: 3, attempts: 2 }]);
  });

  test('one channel is delivered out of order, also among unanswered messages', () => {
    const ledger = new Ledger();
    publish(ledger, 'a', 'unknown');
    publish(ledger, 'b', 'unknown');
    for (const id of ['b', 'a']) deliver(ledger, id);
    expect(faultsOf(ledger)).toEqual([{ kind: 'order', id: 'a', overtaker: 'b', session: 'c.0', rule: 'channel' }]);
  });

  test('a message that was confirmed before another was sent comes behind it', () => {
    const ledger = new Ledger();
    publish(ledger, 'a', 'confirmed', 'p.0');
    publish(ledger, 'b', 'unknown', 'q.0');
    for (const id of ['b', 'a']) deliver(ledger, id);
    expect(faultsOf(ledger)).toEqual([
      { kind: 'order', id: 'a', overtaker: 'b', session: 'c.0', rule: 'confirmed first' },
    ]);
  });

  test('the overtaken one is found behind many that are in order', () => {
    const ledger = new Ledger();
    const ids = Array.from({ length: 20 }, (_, i) => `m${i}`);
    for (const id of ids) publish(ledger, id);
    for (const id of ids.filter((one) => one !== 'm3')) deliver(ledger, id);
    deliver(ledger, 'm3');
    expect(faultsOf(ledger)).toMatchObject([{ kind: 'order', id: 'm3', overtaker: 'm19' }]);
  });
});

test('the explanation names the cases and says how many more there are', () => {
  const ledger = new Ledger();
  for (let i = 0; i < 15; i++) publish(ledger, `m${i}`);
  const text = explain(verify(ledger.events));
  expect(text).toContain('15 faults: 15 attempts (15 confirmed');
  expect(text).toContain("m0 was confirmed and never delivered (all of its channel's confirmed messages)");
  expect(text).toContain('and 5 more');
});

test('an outcome without its attempt is a mistake of the caller', () => {
  const ledger = new Ledger();
  deliver(ledger, 'a');
  expect(() => ledger.outcome(0, 'confirmed')).toThrow('no attempt');
});
