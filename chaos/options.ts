// The command line of the chaos suite. Touches nothing.

import { parseArgs } from 'node:util';
import { scenarios } from './scenarios/index.ts';
import type { Scenario } from './types.ts';
import { type Feature, features } from './workload.ts';

export interface ChaosOptions {
  readonly scenarios: readonly Scenario[];
  readonly seconds: number;
  /** Null: drawn, and printed. */
  readonly seed: number | null;
  readonly target: 'local' | 'compose' | readonly string[];
  readonly nodes: number;
  /** Messages a second; infinite: as fast as it goes. */
  readonly rate: number;
  readonly features: readonly Feature[];
  /** Null: the best there is. */
  readonly toxiproxy: string | null;
  readonly out: string;
  readonly plain: boolean;
  readonly strict: boolean;
}

export type Command =
  | { readonly kind: 'run'; readonly options: ChaosOptions }
  | { readonly kind: 'list' }
  | { readonly kind: 'help' }
  | { readonly kind: 'judge'; readonly ledger: string };

export type CommandResult =
  | { readonly ok: true; readonly command: Command }
  | { readonly ok: false; readonly error: string };

export const seedMax = 2 ** 32 - 1;
const secondsMax = 7 * 24 * 3600;
const rateMax = 100_000;
const defaults = { scenario: 'all', duration: '240', nodes: '3', rate: '600', out: 'data/chaos' };

export const chaosHelp = `usage: warren chaos [--scenario NAME,…|all] [--duration S] [--seed N] [--target local|compose|URL,URL…]
       npm run chaos -- [the same]

Does harm to a running cluster while clients publish and consume through all its nodes, then empties every queue through every node and
judges what the clients saw: lost, invented, doubled, out of order, come back. Prints how it goes and writes a report.

  --scenario NAME    what harm; several separated by commas; default all. --list explains each
  --duration SECONDS how long it is done, in all: the scenarios share it; default ${defaults.duration}
  --seed N           the choices that scenarios make; default: drawn and printed
  --target TARGET    local: a cluster of processes of its own, started anew for each scenario (default)
                     compose: the cluster of docker-compose.yml, which runs with its profile chaos
                     amqp://…,amqp://…: the nodes of any broker, by faults of the connections to it
  --nodes 1|3|5      of a local cluster; default ${defaults.nodes}
  --rate N|full      messages a second, over all publishers; default ${defaults.rate}. Fewer where a scenario would come to more
                     than two million events: all of them are kept in memory for the judge
  --features LIST    what queues do beside keeping: ${features.join(', ')}
  --toxiproxy WHICH  what breaks the links: embedded, path (toxiproxy-server on the PATH), /the/program, or the URL of one
                     that runs; default: TOXIPROXY_URL, else the one on the PATH, else embedded
  --out FOLDER       for report.html, report.json, junit.xml and the ledgers; default ${defaults.out}
  --strict           a stall beyond its scenario's goal is a failure too
  --plain            plain lines, also on a terminal
  --list             explains the scenarios
  --judge LEDGER     judges the ledger of an earlier run again

Exit status: 0 passed; 1 a violation; 2 nothing certain can be said; 64 not understood. Ctrl-C heals, and reports what there is.`;

export function parseChaosFlags(flags: readonly string[]): CommandResult {
  const fail = (error: string): CommandResult => ({ ok: false, error });
  const done = (command: Command): CommandResult => ({ ok: true, command });
  let values: ReturnType<typeof parseFlags>;
  try {
    values = parseFlags(flags);
  } catch (error) {
    return fail(`${(error as Error).message.split('. ', 1)[0]}: --help lists the flags`);
  }
  if (values.help) return done({ kind: 'help' });
  if (values.list) return done({ kind: 'list' });
  if (values.judge !== undefined) {
    return values.judge === ''
      ? fail('--judge = "": must be the path of a ledger')
      : done({ kind: 'judge', ledger: values.judge });
  }
  try {
    return done({ kind: 'run', options: readOptions(values) });
  } catch (error) {
    return fail((error as Error).message);
  }
}

type Values = ReturnType<typeof parseFlags>;

function parseFlags(flags: readonly string[]) {
  return parseArgs({
    args: [...flags],
    options: {
      scenario: { type: 'string', multiple: true, default: [defaults.scenario] },
      duration: { type: 'string', default: defaults.duration },
      seed: { type: 'string' },
      target: { type: 'string', default: 'local' },
      nodes: { type: 'string', default: defaults.nodes },
      rate: { type: 'string', default: defaults.rate },
      features: { type: 'string', default: '' },
      toxiproxy: { type: 'string' },
      out: { type: 'string', default: defaults.out },
      strict: { type: 'boolean', default: false },
      plain: { type: 'boolean', default: false },
      list: { type: 'boolean', default: false },
      judge: { type: 'string' },
      help: { type: 'boolean', short: 'h', default: false },
    },
  }).values;
}

/** Throws a sentence on what is not understood. */
function readOptions(values: Values): ChaosOptions {
  const { nodes, rate, out, strict, plain, toxiproxy = null } = values;
  if (!['1', '3', '5'].includes(nodes)) throw new Error(`--nodes = "${nodes}": must be one of 1, 3, 5`);
  if (out === '') throw new Error('--out = "": must be a path');
  if (toxiproxy !== null && !/^(embedded|path|[./].+|https?:\/\/.+)$/.test(toxiproxy))
    throw new Error(
      `--toxiproxy = "${toxiproxy}": must be embedded, path, a program, or a URL as http://127.0.0.1:8474`,
    );
  return {
    scenarios: readScenarios(values.scenario.flatMap((names) => names.split(','))),
    seconds: whole('duration', values.duration, 1, secondsMax),
    seed: values.seed === undefined ? null : whole('seed', values.seed, 0, seedMax),
    target: readTarget(values.target),
    nodes: Number(nodes),
    rate: rate === 'full' ? Number.POSITIVE_INFINITY : whole('rate', rate, 1, rateMax, ', or full'),
    features: readFeatures(values.features),
    toxiproxy,
    out,
    strict,
    plain,
  };
}

function readScenarios(names: readonly string[]): Scenario[] {
  const chosen = new Set<Scenario>();
  for (const name of names) {
    const found = name === 'all' ? scenarios : scenarios.filter((scenario) => scenario.name === name);
    if (found.length === 0) throw new Error(`--scenario = "${name}": there is none of that name; --list explains all`);
    for (const scenario of found) chosen.add(scenario);
  }
  return [...chosen];
}

function readTarget(text: string): ChaosOptions['target'] {
  if (text === 'local' || text === 'compose') return text;
  const urls = text.split(',');
  if (urls.every((url) => /^amqps?:\/\/[^\s/]/.test(url) && URL.canParse(url))) return urls;
  throw new Error(`--target = "${text}": must be local, compose, or AMQP URLs separated by commas`);
}

function readFeatures(text: string): Feature[] {
  const wanted = text.split(',').filter((name) => name !== '');
  return wanted.map((name) => {
    const feature = features.find((known) => known === name);
    if (feature !== undefined) return feature;
    const hint =
      name === 'dedup' ? 'no broker drops repeats by itself, the ledger counts them' : 'there is none of that name';
    throw new Error(`--features = "${name}": ${hint}; it may be ${features.join(', ')}`);
  });
}

function whole(name: string, text: string, least: number, most: number, more = ''): number {
  const value = Number(text);
  if (text.trim() !== '' && Number.isInteger(value) && value >= least && value <= most) return value;
  throw new Error(`--${name} = "${text}": must be a whole number from ${least} to ${most}${more}`);
}

/** The flags that do the same again. */
export function replayOf(options: ChaosOptions, seed: number): string {
  const { target, nodes, rate, toxiproxy } = options;
  const isAll = options.scenarios.length === scenarios.length;
  const names = isAll ? 'all' : options.scenarios.map(({ name }) => name).join(',');
  const flags = [`--scenario ${names}`, `--duration ${options.seconds}`, `--seed ${seed}`];
  if (target === 'local') flags.push(`--nodes ${nodes}`);
  else flags.push(`--target ${target === 'compose' ? target : target.map(withoutPassword).join(',')}`);
  if (rate !== Number(defaults.rate)) flags.push(`--rate ${Number.isFinite(rate) ? rate : 'full'}`);
  if (options.features.length > 0) flags.push(`--features ${options.features.join(',')}`);
  if (toxiproxy !== null) flags.push(`--toxiproxy ${toxiproxy}`);
  if (options.strict) flags.push('--strict');
  return `npm run chaos -- ${flags.join(' ')}`;
}

/** Reports are shown around. */
export function withoutPassword(url: string): string {
  const address = new URL(url);
  if (address.password !== '') address.password = 'PASSWORD';
  return address.href;
}
