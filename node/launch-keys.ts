// Keys at the terminal of `warren start`: harm the cluster and watch what becomes of it.
//
//   k: kill -9 the node that leads most    p: cut it off from the other nodes    r: heal    q, Ctrl-C: stop    h, ?: this
//
// State owned: the terminal's raw mode, and the order in which keys are worked off. It acts through the launcher alone, which starts a node again
// that died, as always. Invariants: after `end`, and at the end of the process, the terminal is as it was; keys are worked off one after the other,
// each by what the nodes say then, but those that end everything at once.

import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { askNode } from './ask.ts';
import type { NodeConfig } from './config.ts';

/** A terminal; `process.stdin` where it is one. */
export type KeyInput = NodeJS.ReadableStream & { setRawMode(on: boolean): unknown };

/** A node whose process runs. */
export interface KeyNode {
  readonly config: NodeConfig;
  /** Cut off from the other nodes, by a key. */
  readonly isolated: boolean;
}

/** What keys may do. */
export interface KeyTarget {
  /** How many nodes there are to be. */
  readonly nodesCount: number;
  running(): readonly KeyNode[];
  kill(node: KeyNode): void;
  isolate(node: KeyNode, on: boolean): void;
  stop(): void;
  print(line: string): void;
}

export const keysHelp = 'keys: k kill the leader  p partition it  r heal  q quit';

/** As bytes of a terminal in raw mode. */
const ctrlC = '\u0003';

export class LaunchKeys {
  readonly #input: KeyInput;
  readonly #target: KeyTarget;
  readonly #onData = (chunk: Buffer | string) => this.#pressed(chunk.toString());
  readonly #onExit = () => this.end();
  #working: Promise<void> = Promise.resolve();
  #ended = false;

  /** Takes keys from here on. */
  constructor(input: KeyInput, target: KeyTarget) {
    this.#input = input;
    this.#target = target;
    input.setRawMode(true);
    input.on('data', this.#onData);
    input.resume();
    process.on('exit', this.#onExit);
  }

  end(): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#input.off('data', this.#onData);
    this.#input.pause();
    this.#input.setRawMode(false);
    process.off('exit', this.#onExit);
  }

  #pressed(text: string): void {
    for (const key of text) {
      if (this.#ended) return;
      switch (key) {
        case ctrlC:
        case 'q':
          this.#target.stop();
          break;
        case 'h':
        case '?':
          this.#target.print(keysHelp);
          break;
        case 'k':
          this.#work(() => this.#kill());
          break;
        case 'p':
          this.#work(() => this.#partition());
          break;
        case 'r':
          this.#work(async () => this.#heal());
          break;
        default:
      }
    }
  }

  #work(task: () => Promise<void>): void {
    this.#working = this.#working.then(() => (this.#ended ? undefined : task()));
  }

  async #kill(): Promise<void> {
    const leader = await findLeader(this.#target.running());
    if (this.#ended) return;
    if (leader === null) return this.#target.print('k: no node leads now');
    this.#target.print(`k: kill -9 ${describe(leader)}`);
    this.#target.kill(leader.node);
  }

  async #partition(): Promise<void> {
    const { nodesCount } = this.#target;
    if (nodesCount === 1) return this.#target.print('p: there is but one node');
    const reachable = this.#target.running().filter(({ isolated }) => !isolated);
    const leader = await findLeader(reachable);
    if (this.#ended) return;
    if (leader === null) return this.#target.print('p: no node leads now');
    const left = reachable.length - 1;
    const quorum = 2 * left > nodesCount ? '' : ` ${left} of ${nodesCount} are no majority: nothing is confirmed.`;
    this.#target.print(
      `p: ${describe(leader)}, is cut off from the other nodes, and keeps its clients.${quorum} r heals`,
    );
    this.#target.isolate(leader.node, true);
  }

  #heal(): void {
    const isolated = this.#target.running().filter((node) => node.isolated);
    const names = isolated.map(({ config }) => config.name).join(', ');
    this.#target.print(names === '' ? 'r: no node is cut off' : `r: ${names} can reach the others again`);
    for (const node of isolated) this.#target.isolate(node, false);
  }
}

interface Leader {
  readonly node: KeyNode;
  readonly leads: number;
  readonly of: number;
}

const describe = ({ node, leads, of }: Leader): string => `${node.config.name}, which leads ${leads} of ${of}`;

/** The node that leads most groups, by what each says of itself: one that was cut off may not know yet that others lead, and its terms are older. */
async function findLeader(nodes: readonly KeyNode[]): Promise<Leader | null> {
  const answers = await Promise.all(nodes.map(({ config }) => askNode(config, '/cluster')));
  const leaders = new Map<number, { readonly node: KeyNode; readonly term: number }>();
  const groups = new Set<number>();
  for (const [at, node] of nodes.entries())
    for (const { group, role, term, halted } of groupsIn(answers[at]?.value)) {
      groups.add(group);
      if (role === 'leader' && halted === null && term > (leaders.get(group)?.term ?? -1))
        leaders.set(group, { node, term });
    }
  const counts = nodes.map((node) => ({
    node,
    leads: [...leaders.values()].filter((leader) => leader.node === node).length,
    of: groups.size,
  }));
  const most = counts.reduce<Leader | null>((a, b) => (a === null || b.leads > a.leads ? b : a), null);
  return most === null || most.leads === 0 ? null : most;
}

interface GroupSaid {
  readonly group: number;
  readonly role: string;
  readonly term: number;
  readonly halted: string | null;
}

function groupsIn(value: unknown): readonly GroupSaid[] {
  const { groups } = Object(value) as { groups?: unknown };
  return Array.isArray(groups) ? groups : [];
}

/** The terminal, if this process may take its keys: one in the background would be stopped by trying. */
export function terminalInput(): KeyInput | null {
  return process.stdin.isTTY === true && isInForeground() ? process.stdin : null;
}

/** Its process group is the one that the terminal belongs to now. Where that cannot be seen it is not. */
function isInForeground(): boolean {
  const [own, terminals] = processGroups();
  return own !== undefined && own > 0 && own === terminals;
}

function processGroups(): readonly (number | undefined)[] {
  try {
    // pid (name, in parentheses, whatever is in it) state ppid pgrp session tty tpgid …
    const fields = readFileSync('/proc/self/stat', 'utf8')
      .replace(/^.*\) /s, '')
      .split(' ');
    return [Number(fields[2]), Number(fields[5])];
  } catch {
    const { stdout } = spawnSync('ps', ['-o', 'pgid=,tpgid=', '-p', String(process.pid)], { encoding: 'utf8' });
    return (stdout ?? '').trim().split(/\s+/).map(Number);
  }
}
