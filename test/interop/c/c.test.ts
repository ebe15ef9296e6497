// C's client: the library doing the whole round, and the command-line tools made with it. Both from the system's packages.

import { execFileSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, test } from 'vitest';
import { uniqueName } from '../brokers.ts';
import { cacheFolder, isMissing, source, useHarness } from '../programs.ts';

const compiler = { command: 'gcc', args: ['-fsyntax-only', source('c/round.c')] };

describe.skipIf(isMissing('C', compiler) || isMissing('amqp-tools', { command: 'amqp-publish', args: ['--help'] }))(
  'C',
  () => {
    const program = join(cacheFolder, 'c-round');
    const harness = useHarness();

    beforeAll(() => {
      mkdirSync(cacheFolder, { recursive: true });
      execFileSync('gcc', ['-o', program, source('c/round.c'), '-lrabbitmq']);
    });

    test('librabbitmq does the whole round', async () => {
      await harness().round({ command: program, args: [] });
    });

    test('its tools declare, publish, get, consume and delete', () => {
      const queue = uniqueName('tools');
      const run = (node: number, tool: string, ...args: string[]) =>
        execFileSync(tool, ['-u', harness().urls[node]!, ...args], { encoding: 'utf8', timeout: 20_000 });
      expect(run(0, 'amqp-declare-queue', '-d', '-q', queue)).toBe(`${queue}\n`);
      for (const text of ['one', 'two', 'three']) run(1, 'amqp-publish', '-p', '-r', queue, '-b', text);
      expect(run(2, 'amqp-get', '-q', queue)).toBe('one');
      expect(run(2, 'amqp-consume', '-q', queue, '-c', '2', '-p', '1', 'cat')).toBe('twothree');
      expect(run(0, 'amqp-delete-queue', '-e', '-q', queue)).toContain('0');
    });
  },
);
