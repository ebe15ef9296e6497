// The museum itself: its edits still fit the code, it finds a mistake and says so, and it does not find what is not there. Needs a build.

import { describe, expect, test } from 'vitest';
import { applyEdit, compiledPath, editsOf, type Mutant } from './museum/mutant.ts';
import { misfitOf, runMuseum } from './museum.ts';
import { mutants, noMutants } from './mutants/all.ts';

const mutant: Mutant = {
  name: 'example',
  pitfall: '2',
  mistake: 'an example',
  file: 'cluster/raft-ts/src/replication.ts',
  find: "if (a === 'b') return [1, 2];",
  replace: 'X',
  prey: 'raft',
  seedsMax: 1,
};

describe('an edit', () => {
  const apply = (source: string) => applyEdit(source, mutant.name, mutant);

  test.each(["before; if (a === 'b') return [1, 2]; after", 'before; if (a === "b")\n\t\treturn [\n1,\n2,\n]; after'])(
    'fits whatever the layout: %j',
    (source) => {
      expect(apply(source)).toBe('before; X after');
    },
  );

  test('fits once or not at all', () => {
    expect(() => apply("if (a === 'c') return [1, 2];")).toThrow('0 places');
    expect(() => apply(`${mutant.find} ${mutant.find}`)).toThrow('2 places');
    expect(() => apply("if (ab === 'b') return [1, 2];")).toThrow('0 places');
  });

  test('comes with all others of its mutant', () => {
    const both = { ...mutants[0]!, also: [{ file: mutants[1]!.file, find: 'nothing like this', replace: '' }] };
    expect(misfitOf(mutants[0]!)).toBeNull();
    expect(misfitOf(both)).toContain('0 places like this');
    expect(editsOf(both).map(({ file }) => file)).toEqual([mutants[0]!.file, mutants[1]!.file]);
  });

  test('is of the compiled file', () => {
    expect(compiledPath('cluster/raft-ts/src/core.ts')).toBe('cluster/raft-ts/dist/core.js');
    expect(compiledPath('cluster/group/group.ts')).toBe('dist/cluster/group/group.js');
  });
});

describe('the museum', () => {
  test('has mistakes that still fit the code, each under a name of its own', () => {
    expect(mutants.map(misfitOf).filter((problem) => problem !== null)).toEqual([]);
    expect(new Set(mutants.map(({ name }) => name)).size).toBe(mutants.length);
    expect(mutants.length).toBeGreaterThanOrEqual(60);
  });

  test('has something to say of every pitfall', () => {
    const known = new Set([...mutants, ...noMutants].map(({ pitfall }) => pitfall));
    const missing = Array.from({ length: 37 }, (_, i) => String(i + 1)).filter((pitfall) => !known.has(pitfall));
    expect(missing).toEqual([]);
  });

  test('catches a mistake, lets a harmless change live, and says which', async () => {
    const lines: string[] = [];
    const caught = mutants.find(({ name }) => name === 'leader-counts-itself-at-once')!;
    const harmless: Mutant = {
      ...caught,
      name: 'harmless',
      find: 'id === core.id ? core.persisted :',
      replace: 'core.id === id ? core.persisted :',
      seedsMax: 2,
    };
    const options = { only: [], firstSeed: 1, jobs: 1, controlSeeds: 2, print: (line: string) => lines.push(line) };
    expect(await runMuseum({ ...options, mutants: [caught] })).toBe(true);
    expect(lines.join('\n')).toMatch(/1 mutants, 1 caught/);
    expect(await runMuseum({ ...options, mutants: [harmless] })).toBe(false);
    expect(lines.join('\n')).toMatch(/NOT CAUGHT: harmless/);
  }, 60_000);
});
