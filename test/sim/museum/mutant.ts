// What a mutant is: one exact edit of compiled production code, which puts a known mistake back in; several, where one guard stands behind another.
// Production itself has no switch for any of it.
//
// An edit is applied in memory while a child process loads the file (`loader.ts`). `find` is written as in the source, without types, and must
// occur exactly once; layout does not matter, nor do the kinds of quotes.

import type { Profile } from '../faults/target.ts';

/**
 * Where a mistake shows itself soonest. `raft`: one group of cores, nothing else: a hundred times as many elections a second. `log`: one log and its
 * disk: a hundred times as many crashes. `cluster`: the whole of it.
 */
export type Prey = 'raft' | 'log' | 'cluster';

export interface Edit {
  /** From the root of the repository, as in the source: `cluster/raft-ts/src/core.ts`. */
  readonly file: string;
  readonly find: string;
  readonly replace: string;
}

export interface Mutant extends Edit {
  readonly name: string;
  /** The number of the pitfall in the project's list (1 to 37), or the row of a scenario (A1 to C5). */
  readonly pitfall: string;
  /** The mistake, in a few words. */
  readonly mistake: string;
  /** Other guards against the same mistake, taken away too: as long as one of them stands nothing comes of it. */
  readonly also?: readonly Edit[];
  readonly prey: Prey;
  /** Within so many seeds it has to be caught. */
  readonly seedsMax: number;
  /** One that caught it (`mutants/seeds.ts`), tried before all others. */
  readonly seed?: number;
  /** What the seeds are drawn with; default: all faults. */
  readonly profile?: Profile;
  /** In every run; default: by the seed. */
  readonly nodes?: 1 | 3 | 5;
  /** Kinds of faults that every run has, besides those that its seed draws: what it takes to be seen at all. */
  readonly besides?: readonly string[];
  /** Seeds without any of these kinds of faults cannot show it, and are passed over. Default: all are run. */
  readonly faults?: readonly string[];
  /** The same of workloads. */
  readonly workloads?: readonly string[];
}

/** A pitfall that is no mutant, and why. */
export interface NoMutant {
  readonly pitfall: string;
  readonly mistake: string;
  readonly why: string;
}

/** Where the compiler puts a source file. */
export function compiledPath(file: string): string {
  const raft = 'cluster/raft-ts/src/';
  const compiled = file.replace(/\.ts$/, '.js');
  return compiled.startsWith(raft) ? `cluster/raft-ts/dist/${compiled.slice(raft.length)}` : `dist/${compiled}`;
}

/** All that a mutant changes, in order. */
export function editsOf({ file, find, replace, also = [] }: Mutant): readonly Edit[] {
  return [{ file, find, replace }, ...also];
}

/** The source with the mistake in it. Throws unless what is looked for is there exactly once. */
export function applyEdit(source: string, name: string, { file, find, replace }: Edit): string {
  const found = [...source.matchAll(patternOf(find))];
  if (found.length !== 1)
    throw new Error(`mutant '${name}': ${file} has ${found.length} places like this, not one: ${find}`);
  const [match] = found;
  const at = match!.index;
  return source.slice(0, at) + replace + source.slice(at + match![0].length);
}

const isWord = (token: string): boolean => /^[\w$#]/.test(token);

function patternOf(find: string): RegExp {
  const tokens = find.match(/'[^']*'|[\w$#]+|[^\s\w$#']/g)!;
  const parts = tokens.map((token, i) => {
    const quoted = token.startsWith("'") ? `['"]${escaped(token.slice(1, -1))}['"]` : escaped(token);
    const next = tokens[i + 1];
    if (next === undefined) return quoted;
    if (isWord(token) && isWord(next)) return `${quoted}\\s+`;
    // A list that is laid out line by line may end with a comma.
    return /[)\]}]/.test(next) && token !== ',' ? `${quoted}\\s*,?\\s*` : `${quoted}\\s*`;
  });
  return new RegExp(parts.join(''), 'g');
}

const escaped = (text: string): string => text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');
