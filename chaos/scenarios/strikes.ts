// What can be done to a cluster, each thing with its end: the words that scenarios are made of.
//
// State: none. A strike's `end` sets right what its `begin` did, also when only a part of that was done.

import type { DiskFault, LinkFault, Scenario, Stage } from '../types.ts';

export interface Strike {
  /** As on the timeline. */
  readonly name: string;
  /** Those that are harmed: their own clients may wait. */
  readonly nodes: readonly number[];
  begin(): Promise<void>;
  end(): Promise<void>;
}

/** Carries a strike out, for so long. */
export function strike(stage: Stage, { name, nodes, begin, end }: Strike, milliseconds: number): Promise<void> {
  return stage.fault(name, nodes, milliseconds, begin, end);
}

/** Strikes, and calm between them, until the time is up. At least one. */
export async function rounds(
  stage: Stage,
  milliseconds: (round: number) => number,
  next: (round: number) => Strike | Promise<Strike>,
): Promise<void> {
  for (let round = 0; round === 0 || !stage.isOver; round++) {
    await strike(stage, await next(round), milliseconds(round));
    await stage.calm();
  }
}

/** What its strikes need, how long each lasts, and which comes next; the rest of it, where that is not usual. */
interface Strikes extends Pick<Scenario, 'needs'> {
  readonly least: number;
  readonly most: number;
  next(stage: Stage, round: number): Strike | Promise<Strike>;
}
export type More = Partial<Pick<Scenario, 'stallMillisecondsMax' | 'sparesFollower' | 'nodesMin' | 'needs'>>;

/** A scenario of one strike after another. */
export function striking(name: string, says: string, strikes: Strikes, more: More = {}): Scenario {
  const { needs, least, most, next } = strikes;
  return {
    name,
    says,
    needs,
    nodesMin: 3,
    stallMillisecondsMax: null,
    ...more,
    run: (stage) =>
      rounds(
        stage,
        () => between(stage, least, most),
        (round) => next(stage, round),
      ),
  };
}

/** For the death or the cutting off of a leader, and of a node that leads nothing. */
export const goals = { leaderKilled: 300, leaderSilent: 2500, follower: 100 } as const;
export const toFollower: More = { sparesFollower: true, stallMillisecondsMax: goals.follower };

export const anyNode = (stage: Stage): number => stage.pick(stage.nodes, 1)[0]!;

/** A time between these, and never more than half of what the scenario has. */
export function between(stage: Stage, least: number, most: number): number {
  const top = Math.min(most, stage.milliseconds / 2);
  return Math.round(Math.min(least, top) + stage.random(Math.max(1, Math.round(top - Math.min(least, top)))));
}

export function others(stage: Stage, nodes: readonly number[]): number[] {
  return stage.nodes.filter((node) => !nodes.includes(node));
}

/** The most that may fail while the rest still is a majority. */
export function minorityOf(stage: Stage): number {
  return Math.floor((stage.nodes.length - 1) / 2);
}

const each = async (nodes: readonly number[], act: (node: number) => Promise<void>): Promise<void> => {
  await Promise.all(nodes.map(act));
};

async function startMissing(stage: Stage, nodes: readonly number[]): Promise<void> {
  await each(nodes, async (node) => {
    if (!stage.target.isRunning(node)) await stage.target.start(node);
  });
}

// ---- processes

export function kill(stage: Stage, nodes: readonly number[]): Strike {
  const { target } = stage;
  return {
    name: 'kill -9',
    nodes,
    begin: () => each(nodes, (node) => target.kill(node)),
    end: () => startMissing(stage, nodes),
  };
}

export function stop(stage: Stage, nodes: readonly number[]): Strike {
  const { target } = stage;
  return {
    name: 'stop',
    nodes,
    begin: () => each(nodes, (node) => target.stop(node)),
    end: () => startMissing(stage, nodes),
  };
}

export function pause(stage: Stage, nodes: readonly number[]): Strike {
  const { target } = stage;
  return {
    name: 'pause',
    nodes,
    begin: () => each(nodes, (node) => target.pause(node)),
    end: () => each(nodes, (node) => target.resume(node)),
  };
}

// ---- links between nodes

type Way = readonly [from: number, to: number];

export function links(
  stage: Stage,
  name: string,
  nodes: readonly number[],
  ways: readonly Way[],
  fault: LinkFault,
): Strike {
  const set = async (wanted: LinkFault | null) => {
    await Promise.all(ways.map(([from, to]) => stage.target.link(from, to, wanted)));
  };
  return { name, nodes, begin: () => set(fault), end: () => set(null) };
}

export const cut: LinkFault = { kind: 'cut' };

/** What one side sends to the other. */
export function oneWay(from: readonly number[], to: readonly number[]): Way[] {
  return from.flatMap((one) => to.filter((other) => other !== one).map((other): Way => [one, other]));
}

export function bothWays(left: readonly number[], right: readonly number[]): Way[] {
  return [...oneWay(left, right), ...oneWay(right, left)];
}

/** These nodes hear nobody else, and nobody else hears them. */
export function isolate(stage: Stage, nodes: readonly number[]): Strike {
  return links(stage, 'partition', nodes, bothWays(nodes, others(stage, nodes)), cut);
}

/** All links from and to a node. */
export function linksOf(stage: Stage, name: string, node: number, fault: LinkFault): Strike {
  return links(stage, name, [node], bothWays([node], others(stage, [node])), fault);
}

// ---- links of clients

export function clientLink(stage: Stage, name: string, node: number, toNode: boolean, fault: LinkFault): Strike {
  const set = (wanted: LinkFault | null) => stage.target.clientLink(node, toNode, wanted);
  return { name, nodes: [node], begin: () => set(fault), end: () => set(null) };
}

// ---- disks and clocks

/** A node may end itself because of its disk; then it is started again. */
export function disk(stage: Stage, node: number, fault: DiskFault): Strike {
  const end = async () => {
    await stage.target.disk(node, null);
    await startMissing(stage, [node]);
  };
  return { name: `${fault.kind} disk`, nodes: [node], begin: () => stage.target.disk(node, fault), end };
}

export function clock(stage: Stage, node: number, milliseconds: number): Strike {
  const seconds = Math.round(milliseconds / 1000);
  return {
    name: `clock ${seconds < 0 ? '' : '+'}${seconds} s`,
    nodes: [node],
    begin: () => stage.target.clock(node, milliseconds),
    end: () => stage.target.clock(node, 0),
  };
}
