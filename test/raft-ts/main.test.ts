// The scripts of scripts/*.txt: readable runs of a whole group with every message and write that comes of each command. They are the
// documentation of what raft-ts does. `RAFT_SCRIPTS=write` writes the output anew; read the difference before you keep it.

import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import { runScript } from './script.ts';

const folder = fileURLToPath(new URL('scripts/', import.meta.url));
const rewrites = process.env.RAFT_SCRIPTS === 'write';

for (const name of readdirSync(folder).sort()) {
  test(`script ${name}`, () => {
    const text = readFileSync(folder + name, 'utf8');
    const actual = runScript(text);
    if (rewrites) writeFileSync(folder + name, actual);
    else expect(actual).toBe(text);
  });
}
