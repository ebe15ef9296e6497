// Python's clients, each doing the whole round. What they need is in `requirements.txt`, installed by `.ci/toolchains`.

import { join } from 'node:path';
import { describe, test } from 'vitest';
import { cacheFolder, isMissing, source, useHarness } from '../programs.ts';

const python = join(cacheFolder, 'python', 'bin', 'python');
const imports = { command: python, args: ['-c', 'import pika, aio_pika, kombu, celery'] };

describe.skipIf(isMissing('Python', imports))('Python', () => {
  const harness = useHarness();

  test.each(['pika', 'aio_pika', 'kombu'])('%s does the whole round', async (client) => {
    await harness().round({ command: python, args: [source(`python/${client}_round.py`)] });
  });
});
