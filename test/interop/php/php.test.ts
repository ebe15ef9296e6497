// PHP's client, doing the whole round; from the system's packages. It logs in with AMQPLAIN.

import { describe, test } from 'vitest';
import { isMissing, source, useHarness } from '../programs.ts';

const library = { command: 'php', args: ['-r', "require 'PhpAmqpLib/autoload.php';"] };

describe.skipIf(isMissing('PHP', library))('PHP', () => {
  const harness = useHarness();

  test('php-amqplib does the whole round', async () => {
    await harness().round({ command: 'php', args: [source('php/round.php')] });
  });
});
