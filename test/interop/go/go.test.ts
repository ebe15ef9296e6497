// Go's client, doing the whole round. The module comes from Go's cache; `.ci/toolchains` puts it there.

import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { beforeAll, describe, test } from 'vitest';
import { cacheFolder, isMissing, source, useHarness } from '../programs.ts';

const folder = source('go');
const offline = { GOPROXY: 'off', GOFLAGS: '-mod=readonly' };
const modules = { command: 'go', args: ['-C', folder, 'mod', 'download'], environment: offline };

describe.skipIf(isMissing('Go', modules))('Go', () => {
  const program = join(cacheFolder, 'go-round');
  const harness = useHarness();

  beforeAll(() => {
    execFileSync('go', ['-C', folder, 'build', '-o', program, '.'], { env: { ...process.env, ...offline } });
  }, 120_000);

  test('amqp091-go does the whole round', async () => {
    await harness().round({ command: program, args: [] });
  });
});
