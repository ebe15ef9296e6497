// Python's clients, each doing the whole round, and Celery as people run it. What they need is in `requirements.txt`, installed by
// `.ci/toolchains`.

import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { uniqueName } from '../brokers.ts';
import { cacheFolder, isMissing, source, useHarness } from '../programs.ts';

const python = join(cacheFolder, 'python', 'bin', 'python');
const imports = { command: python, args: ['-c', 'import pika, aio_pika, kombu, celery'] };

describe.skipIf(isMissing('Python', imports))('Python', () => {
  const harness = useHarness();

  test.each(['pika', 'aio_pika', 'kombu'])('%s does the whole round', async (client) => {
    await harness().round({ command: python, args: [source(`python/${client}_round.py`)] });
  });

  test.each(['classic', 'quorum'])(
    'a Celery worker with %s queues retries, answers, and outlives its node',
    async (type) => {
      const environment = {
        BROKERS: harness().urls.join(';'),
        NAME: uniqueName('celery'),
        QUEUE_TYPE: type,
        PYTHONPATH: source('python'),
        PYTHONDONTWRITEBYTECODE: '1',
      };
      const flags = ['--pool=threads', '--concurrency=4', '--loglevel=INFO'];
      const worker = harness().start({
        command: python,
        args: ['-m', 'celery', '--app=celery_tasks', 'worker', ...flags],
        environment,
      });
      const client = harness().start({ command: python, args: [source('python/celery_round.py')], environment });
      expect(await client.finished()).toEqual([
        'result 5',
        'group of 50',
        'chain',
        'after 2 retries',
        'failed as it should',
        'ping',
        'result 42',
      ]);
      expect(worker.isRunning).toBe(true);
    },
  );
});
