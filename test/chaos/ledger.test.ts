// The ledger: what a history saw is in the file, event by event, and can be judged again; what happens to files in a crash is noticed.

import { appendFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { judgeLedger, Ledger, openLedger, readContent, readLedger } from '../../chaos/ledger.ts';
import { History } from '../history.ts';

const folder = mkdtempSync(join(tmpdir(), 'warren-ledger-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

let files = 0;
const fresh = () => join(folder, `${files++}.jsonl`);

/** A short run in which everything happens once; `loses` a confirmed message on request. */
function tell(history: History, { loses = false, drains = true } = {}): void {
  history.open('setup', 1);
  const declared = { kind: 'declare', queue: 'q', lasting: true, drops: false, deadLetterTo: null } as const;
  history.answer(history.invoke('setup', declared), 'ok', 0);
  history.end('setup', true);
  history.open('p', 1);
  history.open('c', 2);
  history.answer(
    history.invoke('c', { kind: 'consume', queue: 'q', consumer: 'c', noAck: false, releases: false }),
    'ok',
  );
  const message = { channel: 'p', targets: [{ queue: 'q', binding: null }], mandatory: true, confirms: true };
  const first = history.publish({ ...message, id: 'run/p0/0 "\n ü' });
  history.outcome(first, 'confirmed');
  const delivery = { queue: 'q', channel: 'c', consumer: 'c', redelivered: false, count: 0, intact: true };
  history.settle(history.deliver({ ...delivery, id: 'run/p0/0 "\n ü' }), 'ack');
  const second = history.publish({ ...message, id: 'run/p0/1', expires: false, priority: 3 });
  history.outcome(second, 'confirmed');
  if (!loses) history.settle(history.deliver({ ...delivery, id: 'run/p0/1' }), 'ack');
  history.outcome(history.publish({ ...message, id: 'run/p0/2' }), 'unknown');
  history.calm();
  history.end('p', true);
  history.end('c', true);
  if (drains) history.left('q', 1, 0);
}

async function write(path: string, options: Parameters<typeof tell>[1] = {}): Promise<History> {
  const ledger = await openLedger(path, { scenario: 'kill-one', seed: 7 });
  let now = 0;
  const history = new History(() => (now += 1.25), ledger.append);
  tell(history, options);
  const summary = await ledger.close();
  expect(summary).toEqual({ events: history.events.length, bytes: readFileSync(path).length, failure: null });
  return history;
}

function judge(path: string): { code: number; text: string } {
  const said: string[] = [];
  const code = judgeLedger(path, (text) => said.push(text));
  return { code, text: said.join('\n') };
}

test('a ledger gives back the events of its history, each in the line of its place', async () => {
  const path = fresh();
  const { events } = await write(path);
  expect(readLedger(path)).toEqual(events);
  expect(readContent(path)).toMatchObject({ about: { scenario: 'kill-one', seed: 7 }, isClosed: true, isTorn: false });
  const lines = readFileSync(path, 'utf8').split('\n');
  expect(JSON.parse(lines[3 + 1]!)).toEqual(events[3]);
  expect(lines.at(-2)).toBe(`{"kind":"closed","events":${events.length}}`);
  expect(judge(path)).toEqual({
    code: 0,
    text: expect.stringMatching(/scenario kill-one, seed 7.*\nclean: 3 publishes/),
  });
});

test('a lost message is found again in the file', async () => {
  const path = fresh();
  await write(path, { loses: true });
  const { code, text } = judge(path);
  expect(code).toBe(1);
  expect(text).toContain('lost: 1\n  run/p0/1');
});

test('a run that was broken off is inconclusive, even if its last line is torn', async () => {
  const path = fresh();
  await write(path, { loses: true });
  const whole = readFileSync(path);
  const cut = whole.subarray(0, whole.indexOf('{"kind":"left"') + 9);
  writeFileSync(path, cut);
  const { events, isClosed, isTorn } = readContent(path);
  expect([events.at(-1)?.kind, isClosed, isTorn]).toEqual(['end', false, true]);
  expect(judge(path)).toEqual({ code: 2, text: expect.stringMatching(/torn.*\n(.*\n)*inconclusive/) });
  const undrained = fresh();
  await write(undrained, { drains: false });
  expect(judge(undrained).code).toBe(2);
});

test('a violation counts also in a run that was broken off', async () => {
  const path = fresh();
  await write(path, { drains: false });
  const lines = readFileSync(path, 'utf8').trimEnd().split('\n').slice(0, -1);
  const phantom = { kind: 'deliver', at: 9, id: 'nobody', queue: 'q', channel: 'c', consumer: 'c' };
  lines.push(JSON.stringify({ ...phantom, redelivered: false, count: 0, intact: true }));
  writeFileSync(path, `${lines.join('\n')}\n{"kind":`);
  expect(judge(path)).toEqual({ code: 1, text: expect.stringContaining('phantom: 1') });
});

test.each([
  ['{"kind":"outcome","at":1,"publish":0,"outcome":"confirmed"}', 'line 5 (outcome) belongs to no publish'],
  ['{"kind":"outcome","at":1,"publish":900,"outcome":"confirmed"}', 'line 5 (outcome) belongs to no publish'],
  ['{"kind":"open","at":1,"channel":7,"node":1}', 'line 5 (open) has no channel'],
  [
    '{"kind":"publish","at":1,"id":"a","channel":"c","targets":null,"mandatory":true}',
    'line 5 (publish) has no targets',
  ],
  ['{"kind":"calm"}', 'line 5 (calm) has no time'],
  ['{"kind":"toString","at":1}', 'line 5 is of no kind that is known'],
  ['[1]', 'line 5 is no JSON object'],
  ['{"kind":"op', 'line 5 is no JSON object'],
  ['{"kind":"closed","events":99}', 'line 5 counts 99 events, and 3 are here'],
  ['{"kind":"closed","events":3}', 'line 6 stands behind the end'],
])('the damaged line is named: %s', async (line, expected) => {
  const path = fresh();
  await write(path);
  const lines = readFileSync(path, 'utf8').split('\n');
  lines[4] = line;
  writeFileSync(path, lines.join('\n'));
  expect(() => readLedger(path)).toThrow(`${path} is damaged: ${expected}`);
  expect(judge(path)).toEqual({ code: 2, text: expect.stringContaining(expected) });
});

test('what is no ledger is refused in words', () => {
  const path = fresh();
  expect(judge(path)).toEqual({ code: 2, text: expect.stringContaining('ENOENT') });
  writeFileSync(path, '');
  expect(judge(path).text).toContain('is empty');
  appendFileSync(path, 'hello\n');
  expect(judge(path).text).toContain('is no ledger that this version can read');
});

test('many batches pass through in order', async () => {
  const path = fresh();
  const ledger = await openLedger(path);
  const history = new History(() => performance.now(), ledger.append);
  for (let i = 0; i < 30_000; i++) history.nonsense(`channel-${i}`, 'x'.repeat(i % 50));
  expect(await ledger.close()).toMatchObject({ events: 30_000, failure: null });
  expect(readLedger(path)).toEqual(history.events);
}, 20_000);

test('a disk that refuses is told at the end, not before', async () => {
  const file = await open(fresh(), 'w');
  await file.close();
  const ledger = new Ledger(file, {});
  const history = new History(() => 0, ledger.append);
  tell(history);
  const summary = await ledger.close();
  expect(summary.failure).toMatch(/closed|EBADF/);
  expect(summary.events).toBe(history.events.length);
});
