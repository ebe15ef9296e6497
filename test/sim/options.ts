// The simulator's command line.

import { parseArgs } from 'node:util';
import { type Profile, profiles } from './faults.ts';

export interface Options {
  /** Null: until `minutes` have passed. */
  readonly seeds: number | null;
  /** Null: drawn, and printed. */
  readonly first: number | null;
  /** One seed with its whole trace; null: many. */
  readonly seed: number | null;
  readonly minutes: number | null;
  readonly nodes: number | null;
  readonly profile: Profile;
  /** Kinds of faults that no run has. */
  readonly without: readonly string[];
  /** Kinds that every run has. */
  readonly besides: readonly string[];
  readonly twice: boolean;
  readonly frames: boolean;
  /** Null: no museum; else parts of names, none for all. */
  readonly museum: readonly string[] | null;
  readonly jobs: number;
}

export const seedMax = 2 ** 32 - 1;

export const usage = `warren sim: the whole cluster in one process, on simulated time, network and disk

  npm run sim -- --seeds 500               500 seeds from a random first one, which is printed
  npm run sim -- --seeds 500 --first 7     seeds 7 to 506
  npm run sim -- --seed 42                 one seed again, with its whole trace in a file
  npm run sim -- --museum [NAME...]        puts known mistakes into the code, one at a time, and says which seed finds each

Options
  --seeds N         how many seeds (default 100, or as many as --minutes allow)
  --first N         the first seed
  --seed N          one seed; the trace of the run is printed in part and written whole
  --minutes M       begins no seed after so many minutes of real time
  --nodes N         1, 3 or 5 nodes in every run; by the seed otherwise
  --profile P       which faults: ${profiles.join(', ')} (default all)
  --with KIND       faults of this kind in every run, besides what the seed draws; repeatable
  --without KIND    no faults of this kind; repeatable
  --twice           every seed twice: both runs must have the same trace
  --frames          with --seed: also what nodes send one another
  --jobs N          with many seeds, or --museum: processes at a time (default 1)

Exit status: 0 clean; 1 a rule was broken (it says how to see that again), or a mutant survived; 2 not understood.
`;

/** Null: help is wanted. Throws a sentence on what is not understood. */
export function parseOptions(args: readonly string[]): Options | null {
  const { values, positionals } = parseArgs({
    args: [...args],
    allowPositionals: true,
    options: {
      seeds: { type: 'string' },
      first: { type: 'string' },
      seed: { type: 'string' },
      minutes: { type: 'string' },
      nodes: { type: 'string' },
      profile: { type: 'string', default: 'all' },
      with: { type: 'string', multiple: true, default: [] },
      without: { type: 'string', multiple: true, default: [] },
      twice: { type: 'boolean', default: false },
      frames: { type: 'boolean', default: false },
      museum: { type: 'boolean', default: false },
      jobs: { type: 'string', default: '1' },
      help: { type: 'boolean', short: 'h', default: false },
    },
  });
  if (values.help) return null;
  if (positionals.length > 0 && !values.museum)
    throw new Error(`"${positionals[0]}" is not understood; --help says what is`);
  const profile = profiles.find((known) => known === values.profile);
  if (profile === undefined) throw new Error(`--profile wants one of ${profiles.join(', ')}, not "${values.profile}"`);
  const nodes = whole('nodes', values.nodes, 1, 5);
  if (nodes !== null && ![1, 3, 5].includes(nodes)) throw new Error('--nodes wants 1, 3 or 5');
  const minutes = values.minutes === undefined ? null : Number(values.minutes);
  if (minutes !== null && !(minutes > 0)) throw new Error(`--minutes wants a number above 0, not "${values.minutes}"`);
  const seeds = whole('seeds', values.seeds, 1, seedMax);
  return {
    seeds: seeds ?? (minutes === null ? 100 : null),
    first: whole('first', values.first, 0, seedMax),
    seed: whole('seed', values.seed, 0, seedMax),
    minutes,
    nodes,
    profile,
    without: values.without,
    besides: values.with,
    twice: values.twice,
    frames: values.frames,
    museum: values.museum ? positionals : null,
    jobs: whole('jobs', values.jobs, 1, 64)!,
  };
}

function whole(name: string, text: string | undefined, least: number, most: number): number | null {
  if (text === undefined) return null;
  const value = Number(text);
  if (text.trim() === '' || !Number.isInteger(value) || value < least || value > most)
    throw new Error(`--${name} wants a whole number from ${least} to ${most}, not "${text}"`);
  return value;
}
