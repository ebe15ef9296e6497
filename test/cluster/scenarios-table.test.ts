// The table of scenarios in `cluster/README.md` names tests; they must exist.

import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';

const root = new URL('../../', import.meta.url);
const read = (path: string) => readFileSync(new URL(path, root), 'utf8');

/** Row → what it says of its tests: file, and the beginnings of their names. */
function table(): Map<string, [file: string, names: string[]][]> {
  const rows = new Map<string, [file: string, names: string[]][]>();
  for (const line of read('cluster/README.md').split('\n')) {
    const [, row, tests] = /^\| ([ABC]\d+) \| [^|]+ \| ([^|]+) \|$/.exec(line) ?? [];
    if (row === undefined || tests === undefined) continue;
    const parts = tests.split(/`(test\/[^`]+)`: /).slice(1);
    const files: [file: string, names: string[]][] = [];
    for (let i = 0; i < parts.length; i += 2)
      files.push([parts[i]!, parts[i + 1]!.trim().replace(/\.$/, '').split('; ')]);
    rows.set(row, files);
  }
  return rows;
}

describe('the table of scenarios', () => {
  const rows = table();

  test('has every row that must have a test', () => {
    const expected = [
      ...Array.from({ length: 12 }, (_, i) => `A${i + 1}`),
      ...Array.from({ length: 14 }, (_, i) => `B${i + 1}`),
    ];
    expect([...rows.keys()].filter((row) => !row.startsWith('C'))).toEqual(expected);
    for (const [row, files] of rows) expect(files.length, row).toBeGreaterThan(0);
  });

  test.each([...rows])('%s: its tests are there', (_row, files) => {
    for (const [file, names] of files) {
      const text = read(file);
      for (const name of names) expect(text.includes(name), `${file}: ${name}`).toBe(true);
    }
  });
});
