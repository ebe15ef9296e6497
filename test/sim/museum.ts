// The bug museum: every known mistake that our code could have, put back in one at a time, and hunted by the simulator. A mistake that is not found
// within its seeds means that the simulator is too weak.
//
// State owned: the children that hunt. Each has one mistake in its code (`museum/`), the mistakes are in `mutants/`. The code as it is runs
// first, and every seed that caught a mutant: what it shows itself is no mutant's.

import { spawn } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Hunt, Seen } from './museum/hunt.ts';
import { applyEdit, compiledPath, editsOf, type Mutant, type NoMutant, type Prey } from './museum/mutant.ts';
import { mutants as all, noMutants } from './mutants/all.ts';

export interface MuseumOptions {
  /** Parts of names, or pitfalls: only these mutants. None: all. */
  readonly only: readonly string[];
  /** Null: each mutant's own, then from 1. */
  readonly firstSeed: number | null;
  /** Children at a time. */
  readonly jobs: number;
  readonly print: (line: string) => void;
  /** Default: all that there are. For tests, like `controlSeeds`. */
  readonly mutants?: readonly Mutant[];
  /** How many seeds of the code as it is run before. */
  readonly controlSeeds?: number;
}

export interface Hunted {
  readonly mutant: Mutant;
  /** Null: it survived. */
  readonly invariant: string | null;
  readonly text: string;
  /** How many seeds it took. */
  readonly seeds: number;
  readonly seed: number;
  readonly milliseconds: number;
}

/** Longer than any seed takes: what a mutant hangs in. Looked at now and then, so that a machine that stood still counts once. */
const silentLooksMax = 24;
const lookMilliseconds = 5_000;
const controlSeeds: Record<Prey, number> = { raft: 40, log: 40, cluster: 4 };

const root = fileURLToPath(new URL(import.meta.url.includes('/dist/') ? '../../../' : '../../', import.meta.url));

/** True if every mutant was caught, and nothing was found in the code as it is. */
export async function runMuseum(options: MuseumOptions): Promise<boolean> {
  const { print, only, jobs } = options;
  const museumBegan = performance.now();
  const chosen = (options.mutants ?? all).filter(
    ({ name, pitfall }) => only.length === 0 || only.some((part) => name.includes(part) || pitfall === part),
  );
  if (chosen.length === 0) {
    print(`no mutant is called ${only.join(' or ')}`);
    return false;
  }
  const misfits = chosen.map(misfitOf).filter((problem) => problem !== null);
  for (const problem of misfits) print(problem);
  if (misfits.length > 0) return false;
  for (const prey of new Set(chosen.map((mutant) => mutant.prey))) {
    const seeds = options.controlSeeds ?? controlSeeds[prey];
    const control = await huntWith({ ...orderOf(null, options.firstSeed ?? 1), prey, seeds });
    if (control.invariant !== null) {
      print(`the code as it is fails (${prey}, seed ${control.seed}): ${control.invariant}: ${control.text}`);
      return false;
    }
    print(`the code as it is: ${seeds} seeds clean (${prey})`);
  }
  const hunted: Hunted[] = [];
  const control = new Control(print);
  const waiting = [...chosen];
  const worker = async () => {
    for (let mutant = waiting.shift(); mutant !== undefined; mutant = waiting.shift()) {
      const begun = performance.now();
      const row = {
        mutant,
        ...(await hunt(mutant, options.firstSeed, control)),
        milliseconds: performance.now() - begun,
      };
      hunted.push(row);
      print(`${String(hunted.length).padStart(3)}/${chosen.length} ${rowOf(row)}`);
    }
  };
  await Promise.all(Array.from({ length: jobs }, worker));
  hunted.sort((left, right) => chosen.indexOf(left.mutant) - chosen.indexOf(right.mutant));
  for (const line of tableOf(hunted, only.length === 0 ? noMutants : [])) print(line);
  for (const line of newSeeds(hunted)) print(line);
  print(`${((performance.now() - museumBegan) / 60_000).toFixed(1)} minutes, ${jobs} at a time`);
  return control.isClean && hunted.every(({ invariant }) => invariant !== null);
}

/** The code as it is, under every seed that caught a mutant: what it shows itself is no mutant's. */
class Control {
  isClean = true;
  readonly #print: MuseumOptions['print'];
  readonly #known = new Map<string, Promise<Seen>>();

  constructor(print: MuseumOptions['print']) {
    this.#print = print;
  }

  /** False, and said: it fails, too. */
  async passes({ prey, profile, nodes, besides }: Hunt, seed: number): Promise<boolean> {
    const key = [prey, profile, nodes, besides, seed].join(' ');
    const known = this.#known.get(key);
    const seen = known ?? huntWith({ ...orderOf(null, seed), prey, profile, nodes, besides });
    this.#known.set(key, seen);
    const { invariant, text } = await seen;
    if (invariant === null) return true;
    this.isClean = false;
    if (known === undefined)
      this.#print(`the code as it is fails (${prey}, profile ${profile}, seed ${seed}): ${invariant}: ${text}`);
    return false;
  }
}

/** The mutant's own seed first, unless others are asked for. */
async function hunt(mutant: Mutant, firstSeed: number | null, control: Control): Promise<Seen & { seeds: number }> {
  const isKnown = mutant.seed !== undefined && firstSeed === null;
  if (isKnown) {
    const found = await catchOne({ ...orderOf(mutant, mutant.seed), seeds: 1 }, control);
    if (found.invariant !== null) return { ...found, seeds: 1 };
  }
  const first = firstSeed ?? 1;
  const found = await catchOne(orderOf(mutant, first), control);
  return { ...found, seeds: found.seed - first + (isKnown ? 2 : 1) };
}

/** The first of these seeds that shows the mutant, past those under which the code as it is fails, too. */
async function catchOne(order: Hunt, control: Control): Promise<Seen> {
  const end = order.first + order.seeds;
  let found = await huntWith(order);
  while (found.invariant !== null) {
    const { seed } = found;
    if (await control.passes(order, seed)) return found;
    found = { seed, invariant: null, text: '' };
    if (seed + 1 < end) found = await huntWith({ ...order, first: seed + 1, seeds: end - seed - 1 });
  }
  return found;
}

/** What is wrong if the code has changed under a mutant; null: it fits. */
export function misfitOf(mutant: Mutant): string | null {
  const { name } = mutant;
  const edited = new Map<string, string>();
  for (const edit of editsOf(mutant)) {
    const path = join(root, compiledPath(edit.file));
    if (!existsSync(path)) return `mutant '${name}': there is no ${path}; build first`;
    try {
      edited.set(path, applyEdit(edited.get(path) ?? readFileSync(path, 'utf8'), name, edit));
    } catch (error) {
      return (error as Error).message;
    }
  }
  return null;
}

function orderOf(mutant: Mutant | null, first: number): Hunt {
  return {
    mutant,
    paths: mutant === null ? [] : editsOf(mutant).map(({ file }) => join(root, compiledPath(file))),
    prey: mutant?.prey ?? 'raft',
    profile: mutant?.profile ?? 'all',
    nodes: mutant?.nodes ?? null,
    besides: mutant?.besides ?? [],
    first,
    seeds: mutant?.seedsMax ?? 1,
  };
}

function huntWith(order: Hunt): Promise<Seen> {
  return new Promise((resolve, reject) => {
    const script = join(root, 'dist/test/sim/museum/hunt.js');
    const child = spawn(process.execPath, [script, JSON.stringify(order)], { stdio: ['ignore', 'pipe', 'pipe'] });
    let last: Seen = { seed: order.first - 1, invariant: null, text: '' };
    let [text, errors] = ['', ''];
    let silentLooks = 0;
    const timer = setInterval(() => {
      if (++silentLooks < silentLooksMax) return;
      clearInterval(timer);
      last = { seed: last.seed + 1, invariant: 'hang', text: 'the run does not end' };
      child.kill('SIGKILL');
    }, lookMilliseconds);
    child.stdout.on('data', (chunk: Buffer) => {
      silentLooks = 0;
      text += chunk.toString();
      const lines = text.split('\n');
      text = lines.pop()!;
      for (const line of lines) if (line.startsWith('{')) last = JSON.parse(line) as Seen;
    });
    child.stderr.on('data', (chunk: Buffer) => {
      errors += chunk.toString();
    });
    child.on('error', reject);
    child.on('close', (code) => {
      clearInterval(timer);
      // A mistake that ends the whole process, before its seed was over, is found as well.
      if (code !== 0 && last.invariant === null)
        last = { seed: last.seed + 1, invariant: 'crash', text: errors.slice(0, 2000) };
      resolve(last);
    });
  });
}

function rowOf({ mutant, invariant, seeds, seed, milliseconds }: Hunted): string {
  const found =
    invariant === null ? `SURVIVED ${seeds} seeds` : `${String(seeds).padStart(4)} seeds  ${invariant} (seed ${seed})`;
  return `${mutant.pitfall.padStart(4)}  ${mutant.name.padEnd(44)} ${found} (${(milliseconds / 1000).toFixed(1)} s)`;
}

/** For `mutants/seeds.ts`. */
function newSeeds(hunted: readonly Hunted[]): string[] {
  const found = hunted.filter(({ mutant, invariant, seed }) => invariant !== null && seed !== mutant.seed);
  if (found.length === 0) return [];
  return [
    '',
    'seeds that mutants/seeds.ts does not have:',
    ...found.map(({ mutant, seed }) => `  '${mutant.name}': ${seed},`),
  ];
}

function tableOf(hunted: readonly Hunted[], none: readonly NoMutant[]): string[] {
  const survivors = hunted.filter(({ invariant }) => invariant === null);
  return [
    '',
    '| pitfall | mutant | seeds needed | of at most | caught by |',
    '|---|---|---|---|---|',
    ...hunted.map(
      ({ mutant: { pitfall, mistake, seedsMax }, invariant, seeds, seed }) =>
        `| ${pitfall} | ${mistake} | ${invariant === null ? `**none of ${seeds}**` : `${seeds} (seed ${seed})`} | ${seedsMax} | ${invariant ?? '**survived**'} |`,
    ),
    ...none.map(({ pitfall, mistake, why }) => `| ${pitfall} | ${mistake} | – | – | no mutant: ${why} |`),
    '',
    `${hunted.length} mutants, ${hunted.length - survivors.length} caught${survivors.length === 0 ? '' : `; NOT CAUGHT: ${survivors.map(({ mutant }) => mutant.name).join(', ')}`}`,
  ];
}
