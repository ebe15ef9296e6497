// A cluster of real processes on this machine, every link of which runs through Toxiproxy, and whose disks and clocks can be made to go wrong.
//
// Each node dials every other one itself, and its frames travel on what it dialled. So there is a proxy for each direction of each pair, named
// `link-I-J`, and the settings of node I name that proxy as the address of node J; its own address is the true one. A node that joins later
// has no such settings, and learns addresses from others. From then on the shim (`../shim`) has each process dial its own proxies, whatever
// address of another node it has heard. Clients reach node K through `client-K`, both streams of which count.
//
// State owned: the processes, the proxies, and what each node suffers; a fault of disk or clock stays when its process is started anew.
// Ends only what it started. Invariant: no process ends by itself unnoticed, unless its disk failed: `waitReady` rejects once.

import os from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { askHealth, askLeave, askViews, busiestLeader, followersAtRest } from '../ask.ts';
import { freePorts, LocalCluster, type LocalNode } from '../local-cluster.ts';
import { giveOrders, shimEnvironment, shimFlags } from '../shim/give.ts';
import type { Orders } from '../shim/orders.ts';
import { Links } from '../toxiproxy/links.ts';
import { openToxiproxy, type ToxiproxyHandle } from '../toxiproxy/open.ts';
import { abilities, type DiskFault, type LinkFault, type Target, type TargetNode } from '../types.ts';
import { giveWay } from './give-way.ts';
import { type TargetOptions, thisMachine, warrenVersion } from './options.ts';

const host = '127.0.0.1';
const startMillisecondsMax = 60_000;
const attemptsMax = 3;
/** A busy machine may need so long to load the shim into a process. */
const orderMillisecondsMax = 60_000;
const joinMillisecondsMax = 120_000;
const leaveMillisecondsMax = 120_000;
/** Of one that left, and may not have heard of it. */
const leftMillisecondsMax = 10_000;
const pollMilliseconds = 100;
/** A node that serves again compiles for as long what it has to do now. */
const settledMilliseconds = 2_000;
/** A process whose disk is well again may still be about to end because it was not. */
const excuseMilliseconds = 15_000;

/** Resolves when all its nodes serve. */
export async function startLocalTarget(options: TargetOptions = {}): Promise<Target> {
  for (let attempt = 1; ; attempt++) {
    const target = new LocalTarget(await openToxiproxy({ use: options.toxiproxy ?? null }));
    try {
      await target.begin(options.nodes ?? 3, options);
      return target;
    } catch (error) {
      await target.close();
      // Somebody took a port between our look and our start.
      if (attempt === attemptsMax || !/EADDRINUSE|address already in use/.test((error as Error).message)) throw error;
    }
  }
}

/** What is known of a node beside its process. */
interface Member {
  readonly node: LocalNode;
  /** Ports of its own proxies, by the node to which each leads. */
  readonly links: Map<number, number>;
  disk: DiskFault | null;
  /** Until when its end is an answer to what its disk did. */
  excusedUntil: number;
  clockMilliseconds: number;
  isPaused: boolean;
  /** It is meant to run: if it ends all the same it has crashed. */
  isWanted: boolean;
  /** It has left the cluster, or is about to. */
  hasLeft: boolean;
}

class LocalTarget implements Target {
  readonly kind = 'local';
  readonly abilities = new Set(abilities);
  nodes: readonly TargetNode[] = [];
  readonly #toxiproxy: ToxiproxyHandle;
  readonly #links: Links;
  readonly #members = new Map<number, Member>();
  #cluster: LocalCluster | null = null;
  /** What ended by itself, and nobody was told yet. */
  #crashes: string[] = [];
  #joins: Promise<unknown> = Promise.resolve();

  constructor(toxiproxy: ToxiproxyHandle) {
    this.#toxiproxy = toxiproxy;
    this.#links = new Links(toxiproxy.api);
  }

  // ---- life ----

  async begin(count: number, options: TargetOptions): Promise<void> {
    const numbers = Array.from({ length: count }, (_, i) => i + 1);
    const free = await freePorts(3 * count + count * (count - 1) + count);
    const own = free.splice(0, 3 * count);
    const peerPorts = new Map(numbers.map((number) => [number, own[3 * number - 1]!]));
    const links = new Map<number, Map<number, number>>();
    const nodes: TargetNode[] = [];
    for (const number of numbers) {
      const to = new Map<number, number>();
      for (const other of numbers) {
        if (other === number) continue;
        to.set(other, free.pop()!);
        await this.#links.add(linkName(number, other), host, to.get(other)!, `${host}:${peerPorts.get(other)}`);
      }
      links.set(number, to);
      const clientPort = free.pop()!;
      await this.#links.add(clientName(number), host, clientPort, `${host}:${own[3 * number - 3]}`);
      nodes.push({ number, name: `n${number}`, url: `amqp://guest:guest@${host}:${clientPort}` });
    }
    this.nodes = nodes;
    const addressOf = (by: number, of: number) =>
      `${of}=n${of}@${host}:${by === of ? peerPorts.get(of) : links.get(by)!.get(of)}`;
    const cluster = await LocalCluster.create({
      nodes: count,
      ports: own,
      ...(options.settings === undefined ? {} : { settings: options.settings }),
      keep: options.keep ?? false,
      settingsOf: (by) => ({ 'cluster.nodes': numbers.map((of) => addressOf(by, of)).join(',') }),
      launchOf: ({ number }) => ({ flags: shimFlags(), environment: shimEnvironment(this.#ordersOf(number)) }),
    });
    this.#cluster = cluster;
    for (const node of cluster.nodes) this.#enter(node, links.get(node.number)!);
    for (const number of numbers) await this.start(number);
    await this.waitReady(startMillisecondsMax).catch((error: Error) => {
      throw new Error(`the cluster did not start: ${error.message}\n${cluster.output()}`);
    });
  }

  #enter(node: LocalNode, links: Map<number, number>): Member {
    const member: Member = {
      node,
      links,
      disk: null,
      excusedUntil: 0,
      clockMilliseconds: 0,
      isPaused: false,
      isWanted: false,
      hasLeft: false,
    };
    node.onEnd = () => this.#ended(member);
    this.#members.set(node.number, member);
    return member;
  }

  #ended(member: Member): void {
    member.isPaused = false;
    if (!member.isWanted || isExcused(member)) return;
    member.isWanted = false;
    const { name, lastExit } = member.node;
    this.#crashes.push(`${name} ended by itself (${lastExit}):\n${member.node.output(10)}`);
  }

  async close(): Promise<void> {
    for (const member of this.#members.values()) member.isWanted = false;
    await this.#cluster?.stop('SIGKILL');
    await this.#links.close();
    await this.#toxiproxy.close();
  }

  async describe(): Promise<Readonly<Record<string, string>>> {
    const { kind, version } = this.#toxiproxy;
    return {
      warren: warrenVersion(),
      nodes: `${this.#members.size} processes on one machine`,
      ...thisMachine(),
      folder: this.#cluster?.folder ?? '',
      processors: `${os.cpus().length} × ${os.cpus()[0]?.model ?? 'unknown'}`,
      toxiproxy: `${version} (${kind})`,
    };
  }

  // ---- questions ----

  get pids(): readonly number[] {
    return this.#cluster?.pids ?? [];
  }

  async leader(except = 0): Promise<number> {
    const views = await askViews(this.#reachable(except).map(({ node }) => node.http));
    const leader = busiestLeader(views, except);
    if (leader === 0) throw new Error('no node knows of a leader');
    return leader;
  }

  followers(milliseconds: number): Promise<readonly number[]> {
    const numbers = this.nodes.map(({ number }) => number);
    return followersAtRest(numbers, () => askViews(this.#reachable(0).map(({ node }) => node.http)), milliseconds);
  }

  async waitReady(milliseconds: number): Promise<void> {
    const deadline = performance.now() + milliseconds;
    for (;;) {
      const crashes = this.#crashes;
      this.#crashes = [];
      if (crashes.length > 0) throw new Error(crashes.join('\n'));
      const expected = this.#present().filter(({ isWanted }) => isWanted);
      for (const { node, disk } of expected) if (!node.isRunning && !endsProcess(disk)) this.#startNode(node);
      const healthy = await Promise.all(expected.map(({ node }) => askHealth(node.http)));
      const missing = expected.filter((_, i) => !healthy[i]);
      if (missing.length === 0) return;
      if (performance.now() > deadline) {
        const names = missing.map(({ node, isPaused }) => `${node.name}${isPaused ? ' (paused)' : ''}`);
        throw new Error(`not healthy after ${milliseconds / 1000} s: ${names.join(', ')}`);
      }
      await sleep(pollMilliseconds);
    }
  }

  isRunning(node: number): boolean {
    return this.#member(node).node.isRunning;
  }

  // ---- processes ----

  async kill(node: number): Promise<void> {
    const member = this.#member(node);
    member.isWanted = false;
    await member.node.kill();
  }

  async stop(node: number): Promise<void> {
    const member = this.#member(node);
    member.isWanted = false;
    member.isPaused = false;
    await member.node.stop();
  }

  async start(node: number): Promise<void> {
    const member = this.#member(node);
    if (member.hasLeft) throw new Error(`${member.node.name} has left the cluster for good`);
    member.isWanted = true;
    if (!member.node.isRunning) this.#startNode(member.node);
  }

  #startNode(node: LocalNode): void {
    node.start();
    const { child } = node;
    const lift = giveWay(child!.pid!);
    const until = performance.now() + startMillisecondsMax;
    const wait = async () => {
      while (node.child === child && performance.now() < until && !(await node.isHealthy()))
        await sleep(pollMilliseconds);
      await sleep(settledMilliseconds);
      lift();
    };
    void wait();
  }

  async pause(node: number): Promise<void> {
    const member = this.#member(node);
    member.node.pause();
    member.isPaused = member.node.isRunning;
  }

  async resume(node: number): Promise<void> {
    const member = this.#member(node);
    member.node.resume();
    member.isPaused = false;
  }

  // ---- links, disks, clocks ----

  async link(from: number, to: number, fault: LinkFault | null): Promise<void> {
    if (!this.#member(from).links.has(to)) throw new Error(`there is no link from node ${from} to node ${to}`);
    await this.#links.set(linkName(from, to), fault, 'upstream');
  }

  async clientLink(node: number, toNode: boolean, fault: LinkFault | null): Promise<void> {
    if (!this.nodes.some(({ number }) => number === node)) throw new Error(`no client knows node ${node}`);
    await this.#links.set(clientName(node), fault, toNode ? 'upstream' : 'downstream');
  }

  async disk(node: number, fault: DiskFault | null): Promise<void> {
    const member = this.#member(node);
    setDisk(member, fault);
    await this.#tell(member);
  }

  async clock(node: number, milliseconds: number): Promise<void> {
    const member = this.#member(node);
    member.clockMilliseconds = milliseconds;
    await this.#tell(member);
  }

  /** Paused nodes go on first: a Toxiproxy server may wait for those who receive. */
  async heal(): Promise<void> {
    for (const { node, isPaused } of this.#present()) if (isPaused) await this.resume(node.number);
    const links = this.#links.healAll();
    for (const member of this.#present()) {
      setDisk(member, null);
      member.clockMilliseconds = 0;
    }
    await Promise.all([links, ...this.#present().map((member) => this.#tell(member))]);
    for (const { node } of this.#present()) await this.start(node.number);
  }

  #ordersOf(number: number): Orders {
    const { node, disk, clockMilliseconds } = this.#member(number);
    return { folder: node.folder, disk, clockMilliseconds, redirects: this.#redirectsOf(number) };
  }

  /** A paused process obeys when it goes on. */
  async #tell({ node, isPaused }: Member): Promise<void> {
    if (node.child === null) return;
    const obeyed = giveOrders(node.child, this.#ordersOf(node.number), orderMillisecondsMax);
    if (isPaused) obeyed.catch(() => {});
    else await obeyed;
  }

  // ---- membership ----

  /** One at a time: the cluster gives out numbers in order, and proxies need them before. */
  join(): Promise<number> {
    const joined = this.#joins.then(() => this.#join());
    this.#joins = joined.catch(() => {});
    return joined;
  }

  async #join(): Promise<number> {
    const number = Math.max(...this.#members.keys()) + 1;
    const others = this.#present();
    const free = await freePorts(3 + 2 * others.length);
    const own = free.splice(0, 3);
    const links = new Map<number, number>();
    for (const { node, links: back } of others) {
      links.set(node.number, free.pop()!);
      back.set(number, free.pop()!);
      await this.#links.add(linkName(number, node.number), host, links.get(node.number)!, `${host}:${node.peerPort}`);
      await this.#links.add(linkName(node.number, number), host, back.get(number)!, `${host}:${own[2]}`);
    }
    const contacts = [...links.values()].map((port) => `${host}:${port}`).join(',');
    const node = this.#cluster!.add(number, own, { 'cluster.join': contacts });
    const member = this.#enter(node, links);
    await Promise.all(others.map((other) => this.#tell(other)));
    await this.start(number);
    await this.#until(`${node.name} is no member`, joinMillisecondsMax, async () => {
      if (!member.isWanted) throw new Error(this.#crashes.splice(0).join('\n') || `${node.name} was ended`);
      const found = await this.#find(node.name, number);
      if (found !== undefined && found.node !== number)
        throw new Error(`${node.name} was given number ${found.node}, and its proxies are those of ${number}`);
      return found?.state === 'member';
    });
    return number;
  }

  async leave(node: number): Promise<void> {
    const member = this.#member(node);
    const { name } = member.node;
    let refusal = 'nobody can be asked';
    // It may have ended before the answer is here.
    const wasWanted = member.isWanted;
    member.isWanted = false;
    for (const other of this.#reachable(node)) {
      const answer = await askLeave(other.node.http, node).catch((error: Error) => error.message);
      if (answer === null) {
        member.hasLeft = true;
        break;
      }
      refusal = answer;
    }
    if (!member.hasLeft) {
      member.isWanted = wasWanted;
      throw new Error(`${name} cannot leave: ${refusal}`);
    }
    await this.#until(`${name} has not left`, leaveMillisecondsMax, async () => {
      const views = await askViews(this.#reachable(node).map((other) => other.node.http));
      return views.some(({ nodes }) => nodes.every((known) => known.name !== name));
    });
    // It ends by itself when it hears of it, which it may not.
    const deadline = performance.now() + leftMillisecondsMax;
    while (member.node.isRunning && performance.now() < deadline) await sleep(pollMilliseconds);
    await member.node.kill();
  }

  /** How another node than it knows a member. */
  async #find(name: string, except: number) {
    const views = await askViews(this.#reachable(except).map(({ node }) => node.http));
    const found = views.map(({ nodes }) => nodes.find((known) => known.name === name));
    return found.find((known) => known?.state === 'member') ?? found.find((known) => known !== undefined);
  }

  /** From every port at which a node may hear that another listens, to its own proxy. Those that formed the cluster need none among themselves. */
  #redirectsOf(number: number): Record<number, number> {
    const redirects: Record<number, number> = {};
    if (this.#members.size === this.nodes.length) return redirects;
    for (const [to, port] of this.#member(number).links) {
      redirects[this.#member(to).node.peerPort] = port;
      for (const [by, { links }] of this.#members) {
        const heard = by === number ? undefined : links.get(to);
        if (heard !== undefined) redirects[heard] = port;
      }
    }
    return redirects;
  }

  async #until(otherwise: string, milliseconds: number, check: () => Promise<boolean>): Promise<void> {
    const deadline = performance.now() + milliseconds;
    while (!(await check())) {
      if (performance.now() > deadline) throw new Error(`${otherwise} after ${milliseconds / 1000} s`);
      await sleep(pollMilliseconds);
    }
  }

  #member(number: number): Member {
    const member = this.#members.get(number);
    if (member === undefined) throw new Error(`there is no node ${number}`);
    return member;
  }

  #present(): Member[] {
    return [...this.#members.values()].filter(({ hasLeft }) => !hasLeft);
  }

  /** Those that can answer, but one. */
  #reachable(except: number): Member[] {
    return this.#present().filter(({ node, isPaused }) => node.isRunning && !isPaused && node.number !== except);
  }
}

const linkName = (from: number, to: number): string => `link-${from}-${to}`;
const clientName = (node: number): string => `client-${node}`;

/** A disk on which syncs or writes fail ends its process: nothing else can be done that is safe. */
const endsProcess = (fault: DiskFault | null): boolean => fault?.kind === 'failing' || fault?.kind === 'full';

/** It ended because its disk failed, and says so. */
function isExcused({ node, disk, excusedUntil }: Member): boolean {
  return (endsProcess(disk) || performance.now() < excusedUntil) && /EIO|ENOSPC/.test(node.output(10));
}

function setDisk(member: Member, fault: DiskFault | null): void {
  if (endsProcess(member.disk)) member.excusedUntil = performance.now() + excuseMilliseconds;
  member.disk = fault;
}
