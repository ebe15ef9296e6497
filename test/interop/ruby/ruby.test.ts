// Ruby's client, doing the whole round; from the system's packages.

import { describe, test } from 'vitest';
import { isMissing, source, useHarness } from '../programs.ts';

describe.skipIf(isMissing('Ruby', { command: 'ruby', args: ['-e', "require 'bunny'"] }))('Ruby', () => {
  const harness = useHarness();

  test('bunny does the whole round', async () => {
    await harness().round({ command: 'ruby', args: [source('ruby/round.rb')] });
  });
});
