// Java's client, doing the whole round. Its archives are copied by `.ci/toolchains`; the program is compiled as it starts.

import { join } from 'node:path';
import { describe, test } from 'vitest';
import { cacheFolder, isMissing, source, useHarness } from '../programs.ts';

const classPath = ['-cp', join(cacheFolder, 'java', '*')];
const library = { command: 'javap', args: [...classPath, 'com.rabbitmq.client.Connection'] };

describe.skipIf(isMissing('Java', library))('Java', () => {
  const harness = useHarness();

  test('the Java client does the whole round', async () => {
    await harness().round({ command: 'java', args: [...classPath, source('java/Round.java')] });
  });
});
