// NestJS's transport over RabbitMQ. Its packages are too many for everybody's install; `.ci/toolchains` puts them into the tests' cache.

import { join } from 'node:path';
import process from 'node:process';
import { describe, expect, test } from 'vitest';
import { uniqueName } from '../brokers.ts';
import { cacheFolder, isMissing, source, useHarness } from '../programs.ts';

const folder = join(cacheFolder, 'nestjs');
const loading = `require('node:module').createRequire(${JSON.stringify(join(folder, 'x.js'))})('@nestjs/microservices')`;

describe.skipIf(isMissing('NestJS', { command: process.execPath, args: ['-e', loading] }))('NestJS', () => {
  const harness = useHarness();

  test('its microservices answer, get events, give messages back, and outlive their node', async () => {
    const args = [source('nestjs/round.mjs'), folder, harness().urls.join(','), uniqueName('nestjs')];
    expect(await harness().start({ command: process.execPath, args }).finished()).toEqual([
      'answered 6',
      'answered 100 at once',
      'failed as it should',
      '20 events',
      'redelivered',
      'answered 42',
    ]);
  });
});
