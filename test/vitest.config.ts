import { fileURLToPath } from 'node:url';
import { defineConfig } from 'vitest/config';

const root = fileURLToPath(new URL('..', import.meta.url));
const raft = fileURLToPath(new URL('../cluster/raft-ts/src/index.ts', import.meta.url));

/** The pure parts and the parts over in-memory ports run in parallel; what starts processes runs one file at a time. */
const project = (name: string, include: string[], options: object = {}) => ({
  resolve: { alias: { 'raft-ts': raft } },
  test: { name, root, include, environment: 'node', ...options },
});

export default defineConfig({
  test: {
    root,
    projects: [
      project('style', ['test/style.test.ts']),
      project(
        'unit',
        [
          'test/history.test.ts',
          'test/raft-ts/**/*.test.ts',
          'test/machine/**/*.test.ts',
          'test/golden/**/*.test.ts',
          'test/sim/faults.test.ts',
          'test/sim/invariants.test.ts',
          'test/sim/membership.test.ts',
          'test/sim/museum.test.ts',
          'test/amqp/**/*.test.ts',
          'test/cluster/**/*.test.ts',
          'test/node/**/*.test.ts',
        ],
        { testTimeout: 90_000 },
      ),
      // The whole cluster under a few dozen seeds: minutes of one core.
      project('sim', ['test/sim/sim.test.ts'], { testTimeout: 240_000 }),
      project('contract', ['test/contract/**/*.test.ts'], { testTimeout: 60_000 }),
      project('interop', ['test/interop/**/*.test.ts'], {
        testTimeout: 120_000,
        hookTimeout: 60_000,
        fileParallelism: false,
      }),
      project('long', ['test/long/**/*.test.ts'], {
        testTimeout: 1_800_000,
        hookTimeout: 60_000,
        fileParallelism: false,
      }),
      project('chaos', ['test/chaos/**/*.test.ts'], {
        testTimeout: 120_000,
        hookTimeout: 60_000,
        fileParallelism: false,
      }),
      project('cluster', ['test/processes/**/*.test.ts'], {
        testTimeout: 180_000,
        hookTimeout: 60_000,
        fileParallelism: false,
      }),
    ],
  },
});
