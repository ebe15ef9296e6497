// docker-compose.yml on a real engine. The work is test/compose.sh's, which prints what it measures; here it is counted.
// Only in CI by itself: on a user's machine it would build an image and start containers that nobody asked for.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';

const script = fileURLToPath(new URL('../compose.sh', import.meta.url));
const secondsMax = 1200;

it(
  'the docker compose cluster starts, stops and survives',
  async (context) => {
    if (!process.env.CI) context.skip('only in CI; test/compose.sh runs it anywhere');
    const child = spawn(script, { stdio: ['ignore', 'pipe', 'inherit'], signal: context.signal });
    const closed = once(child, 'close');
    let skipped = '';
    const lines: string[] = [];
    for await (const line of createInterface(child.stdout)) {
      lines.push(line);
      if (line.startsWith('compose: ')) console.log(line);
      skipped = /^compose: skipped: (.*)/.exec(line)?.[1] ?? skipped;
    }
    const [code] = await closed;
    expect(code, lines.slice(-200).join('\n')).toBe(0);
    if (skipped !== '') context.skip(skipped);
  },
  secondsMax * 1000,
);
