// The command line of the chaos suite: what it understands, and what it says of what it does not.

import { describe, expect, test } from 'vitest';
import { chaosMain } from '../../chaos/main.ts';
import { parseChaosFlags, replayOf, withoutPassword } from '../../chaos/options.ts';
import { scenarios } from '../../chaos/scenarios/index.ts';

const optionsOf = (...flags: string[]) => {
  const parsed = parseChaosFlags(flags);
  if (!parsed.ok || parsed.command.kind !== 'run') throw new Error(`not a run: ${JSON.stringify(parsed)}`);
  return parsed.command.options;
};

test('nothing said: all scenarios on a local cluster of three', () => {
  expect(optionsOf()).toMatchObject({
    target: 'local',
    nodes: 3,
    rate: 600,
    seed: null,
    features: [],
    toxiproxy: null,
  });
  expect(optionsOf().scenarios).toEqual(scenarios);
});

test('everything said', () => {
  const options = optionsOf(
    ...['--scenario', 'kill-one,pause', '--scenario', 'pause', '--duration', '30', '--seed', '7', '--nodes', '5'],
    ...['--rate', 'full', '--features', 'dlx,ttl', '--toxiproxy', 'http://127.0.0.1:8474', '--out', 'x', '--strict'],
  );
  expect(options.scenarios.map(({ name }) => name)).toEqual(['kill-one', 'pause']);
  expect(options).toMatchObject({ seconds: 30, seed: 7, nodes: 5, rate: Number.POSITIVE_INFINITY, strict: true });
  expect(options).toMatchObject({ features: ['dlx', 'ttl'], toxiproxy: 'http://127.0.0.1:8474', out: 'x' });
  expect(optionsOf('--target', 'amqp://a:b@h:1,amqp://h:2').target).toEqual(['amqp://a:b@h:1', 'amqp://h:2']);
});

test.each([
  [['--scenario', 'nonsense'], /--scenario = "nonsense".*--list/],
  [['--duration', '0'], /--duration = "0": must be a whole number from 1/],
  [['--seed', '-1'], /--seed/],
  [['--seed=1.5'], /--seed = "1.5"/],
  [['--nodes', '2'], /--nodes = "2": must be one of 1, 3, 5/],
  [['--rate', 'fast'], /--rate = "fast".*or full/],
  [['--features', 'dedup'], /the ledger counts them/],
  [['--features', 'magic'], /there is none of that name; it may be dlx, ttl, delay, priorities/],
  [['--target', 'http://h'], /--target = "http:\/\/h": must be local, compose, or AMQP URLs/],
  [['--toxiproxy', 'any'], /--toxiproxy = "any"/],
  [['--judge', ''], /--judge/],
  [['--speed', '1'], /--speed.*--help/],
  [['all'], /--help/],
])('%s is refused with what to do', async (flags, words) => {
  const parsed = parseChaosFlags(flags);
  expect(parsed.ok).toBe(false);
  const errors: string[] = [];
  const io = {
    out: process.stdout,
    print: () => {},
    printError: (line: string) => void errors.push(line),
    open: () => Promise.reject(new Error('not to be opened')),
    signal: new AbortController().signal,
  };
  expect(await chaosMain(flags, io)).toBe(64);
  expect(errors.join('\n')).toMatch(words);
});

describe('the replay command', () => {
  test('does the same again', () => {
    const flags = [
      '--scenario',
      'pause,monsoon',
      '--duration',
      '9',
      '--rate',
      '50',
      '--features',
      'ttl',
      '--nodes',
      '5',
    ];
    const replay = replayOf(optionsOf(...flags), 42);
    expect(replay).toMatch(/^npm run chaos -- /);
    const again = optionsOf(...replay.split(' ').slice(4));
    expect(again).toEqual({ ...optionsOf(...flags), seed: 42 });
    expect(replayOf(optionsOf(), 1)).toBe('npm run chaos -- --scenario all --duration 240 --seed 1 --nodes 3');
  });

  test('names no passwords', () => {
    expect(replayOf(optionsOf('--target', 'amqp://me:hush@h:1/v'), 1)).not.toContain('hush');
    expect(withoutPassword('amqp://me:hush@h:1/v')).toBe('amqp://me:PASSWORD@h:1/v');
  });
});

test('--list explains every scenario', async () => {
  const lines: string[] = [];
  const io = {
    out: process.stdout,
    print: (text: string) => void lines.push(text),
    printError: () => {},
    open: () => Promise.reject(new Error('not to be opened')),
    signal: new AbortController().signal,
  };
  expect(await chaosMain(['--list'], io)).toBe(0);
  for (const { name, says } of scenarios) expect(lines.join('\n')).toContain(says.slice(0, 20) && name);
});
