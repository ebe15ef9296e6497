// The simulated world: machines with a disk, a clock and a place in the network, and on each the production cluster, broker and AMQP front-end,
// joined as `node/parts.ts` joins them; places for clients; the history that they write.
//
// State owned: the one time (and the clock of everybody but the nodes, which runs slower: `stretch`), the network, and per machine its disk, its clocks and its process. Everything is decided by the seed: whatever
// draws numbers has a stream of its own, so that one part can draw more without changing what the others do.
// It must never reach into a process but through its ports, and never run a line of production code that a real node would not run.

import { crc32 } from 'node:zlib';
import {
  type Cluster,
  type ClusterLimits,
  type ClusterOptions,
  type Connection,
  FormationError,
  joinCluster,
  type Membership as MembershipOf,
  type Net,
  openCluster,
  type Ports,
} from '../../cluster/index.ts';
import { metadataGroup } from '../../cluster/machine/groups.ts';
import type { MachineVersions } from '../../cluster/machine/versions.ts';
import type { Random } from '../../cluster/ports.ts';
import { withDeath } from '../../node/amqp/deaths.ts';
import { readHeaders } from '../../node/amqp/properties.ts';
import { type AmqpServer, createAmqpServer } from '../../node/amqp/server.ts';
import { Broker } from '../../node/broker/broker.ts';
import { History } from '../history.ts';
import { createMemoryClock } from '../support/memory-clock.ts';
import { createMemoryDisk, type MemoryDisk } from '../support/memory-disk.ts';
import { createMemoryNetwork } from '../support/memory-net.ts';
import { createMemoryRandom } from '../support/memory-random.ts';
import { createNodeClock, type NodeClock } from '../support/node-clock.ts';
import { amqpPort, type ClientWorld, hostOf } from './actor.ts';
import type { FaultTarget, NodeState } from './faults/target.ts';
import { Invariants } from './invariants.ts';
import { Marks, markLog } from './marks.ts';
import { Membership } from './membership.ts';
import { slowed, stretch } from './pace.ts';
import type { Trace } from './trace.ts';

export interface WorldOptions {
  readonly seed: number;
  readonly nodes: number;
  readonly limits: ClusterLimits;
  readonly versions: MachineVersions;
  /** See `FaultTarget`. Default: false. */
  readonly clocksAgree?: boolean;
  readonly trace: Trace;
  readonly watcher: Watcher;
}

/** Who judges what nodes say and do. It must change nothing. */
export interface Watcher {
  logged(node: number, event: string, details: Readonly<Record<string, unknown>>): void;
  exited(node: number, error: Error): void;
}

/** One run of one node's process. */
export interface NodeProcess {
  /** Null until the data folder is open. */
  cluster: Cluster | null;
  amqp: AmqpServer | null;
  /** Clients are accepted. */
  isServing: boolean;
}

export interface Machine {
  readonly node: number;
  readonly disk: MemoryDisk;
  readonly clock: NodeClock;
  /** Null: nothing runs on it. */
  process: NodeProcess | null;
  /** As the data folder would know it: it grows at every start, and survives what the disk does not. */
  incarnation: number;
  /** Of one that was not there from the beginning: whose place it takes, and what it was told when it was let in. */
  readonly joining: { readonly replaces: number | null; membership: MembershipOf | null } | null;
  /** It was there from the beginning, or was let in. */
  readonly isMember: boolean;
}

const clusterName = 'simulated';
const clusterId = 'c'.repeat(32);
const secret = 'a secret of the simulation';
const uuidOf = (node: number) => `uuid-${node}`;
const addressOf = (node: number) => ({ host: hostOf(node), port: 25_672 });
const diskLatency = { leastMilliseconds: 0.1, mostMilliseconds: 0.4, bytesPerMillisecond: 500_000 };

export class World implements FaultTarget, ClientWorld {
  readonly time = createMemoryClock();
  /** For clients, faults, network and disks. */
  readonly clock = slowed(this.time);
  readonly network;
  readonly history = new History(() => this.time.now());
  readonly random: Random;
  readonly trace: Trace;
  readonly limits: ClusterLimits;
  readonly marks = new Marks();
  readonly invariants = new Invariants(this.marks);
  readonly membership: Membership;
  readonly #options: WorldOptions;
  readonly #machines = new Map<number, Machine>();
  /** Machines that are no more: faults that hit them may still come to their end. */
  readonly #removed = new Map<number, Machine>();
  readonly #clients: string[] = [];
  readonly #nodeRandom: Random;

  constructor(options: WorldOptions) {
    this.#options = options;
    this.limits = options.limits;
    this.trace = options.trace;
    this.trace.now = () => this.time.now();
    this.random = this.stream('clients');
    this.#nodeRandom = this.stream('nodes');
    this.network = createMemoryNetwork(this.clock, this.stream('network'));
    for (let node = 1; node <= options.nodes; node++) this.#addMachine(node, null);
    this.membership = new Membership(
      {
        trace: this.trace,
        marks: this.marks,
        machines: () => this.#machines.values(),
        add: (node, replaces) => {
          this.#addMachine(node, { replaces, membership: null });
          this.restart(node);
        },
        remove: (node) => this.#removeMachine(node),
      },
      options.nodes,
    );
  }

  /** Numbers for one purpose. What is drawn counts in the trace: two runs part where they first draw differently. */
  stream(purpose: string): Random {
    const random = createMemoryRandom(this.#options.seed ^ crc32(purpose));
    const { trace } = this;
    return {
      integer(bound) {
        const drawn = random.integer(bound);
        trace.number(drawn);
        return drawn;
      },
      bytes: (length) => random.bytes(length),
    };
  }

  machine(node: number): Machine {
    return this.#machines.get(node) ?? this.#removed.get(node)!;
  }
  machines(): Iterable<Machine> {
    return this.#machines.values();
  }

  /** Starts every machine that has no process, and lets those go on that stand still. */
  startAll(): void {
    for (const { node, clock, process } of this.#machines.values()) {
      if (process === null) this.restart(node);
      else if (clock.isPaused) this.resume(node);
    }
  }

  /** Ends all processes. */
  end(): void {
    for (const { node, process } of this.#machines.values()) if (process !== null) this.kill(node);
  }

  // ---- for clients ----

  nodesToTry(): readonly number[] {
    return this.nodes();
  }
  clientNet(name: string): Net {
    this.#clients.push(name);
    return this.network.endpoint(name, name);
  }

  // ---- FaultTarget ----

  nodes(): readonly number[] {
    return [...this.#machines.keys()].filter((node) => !this.membership.isGone(node));
  }
  place(node: number): string {
    return hostOf(node);
  }
  clientPlaces(): readonly string[] {
    return this.#clients;
  }
  disk(node: number): MemoryDisk {
    return this.machine(node).disk;
  }
  nodeClock(node: number): NodeClock {
    return this.machine(node).clock;
  }
  get clocksAgree(): boolean {
    return this.#options.clocksAgree === true;
  }
  /** By `clock`. */
  get electionMilliseconds(): number {
    const { electionTicks, tickMilliseconds } = this.limits;
    return (2 * electionTicks * tickMilliseconds) / stretch;
  }

  state(node: number): NodeState {
    const { process, clock } = this.machine(node);
    if (process === null) return 'down';
    if (clock.isPaused) return 'paused';
    return process.cluster === null ? 'starting' : 'up';
  }

  groups(): readonly number[] {
    return Array.from({ length: this.limits.shards + 1 }, (_, group) => group);
  }

  leaderOf(group: number): number | null {
    for (const { node, process } of this.#machines.values()) {
      const cluster = process?.cluster;
      if (!cluster) continue;
      const leads =
        group === metadataGroup
          ? cluster.status().groups.some((status) => status.group === group && status.role === 'leader')
          : cluster.ledShards().includes(group);
      if (leads) return node;
    }
    return null;
  }

  replicasOf(group: number): readonly number[] {
    const nodes = new Set(this.membership.replicasOf(group));
    for (const { node, process } of this.#machines.values())
      if (process?.cluster?.status().groups.some((status) => status.group === group)) nodes.add(node);
    return [...nodes];
  }

  kill(node: number): void {
    this.#endProcess(node, 'killed');
    this.disk(node).kill(this.#nodeRandom);
  }

  crash(node: number): void {
    this.#endProcess(node, 'lost its power');
    this.disk(node).crash(this.#nodeRandom);
  }

  pause(node: number): void {
    this.machine(node).clock.pause();
    this.network.pause(hostOf(node));
  }

  resume(node: number, clockStood = false): void {
    this.machine(node).clock.resume(clockStood);
    this.network.resume(hostOf(node));
  }

  restart(node: number): void {
    const machine = this.#machines.get(node);
    if (machine === undefined || machine.process !== null) return;
    const process: NodeProcess = { cluster: null, amqp: null, isServing: false };
    machine.process = process;
    this.trace.line(hostOf(node), 'starts');
    this.#run(machine, process).catch((error: Error) => this.#exited(machine, process, error));
  }

  // ---- processes ----

  #addMachine(node: number, joining: Machine['joining']): void {
    const clock = createNodeClock(this.time);
    const disk = createMemoryDisk({
      schedule: (task, _operation, _path, _bytes, milliseconds) =>
        this.clock.after(milliseconds, () => clock.run(task)),
      random: this.stream(`disk ${node}`),
      latency: diskLatency,
    });
    this.#machines.set(node, {
      node,
      disk,
      clock,
      process: null,
      incarnation: 0,
      joining,
      get isMember() {
        return joining === null || joining.membership !== null;
      },
    });
  }

  #removeMachine(node: number): void {
    const machine = this.machine(node);
    this.kill(node);
    this.#machines.delete(node);
    this.#removed.set(node, machine);
  }

  /** What `node/parts.ts` does, over simulated ports. */
  async #run(machine: Machine, process: NodeProcess): Promise<void> {
    const ports = this.#ports(machine);
    if (!machine.isMember) await this.#join(machine, ports);
    if (machine.process !== process) return;
    const cluster = await openCluster(this.#clusterOptions(machine), ports, {
      log: (level, event, details) => this.#logged(machine.node, level, event, details),
      fatal: (error) => this.#exited(machine, process, error),
      opened: (replicas, log) => {
        if (machine.process === process) this.invariants.opened(machine.node, replicas, log);
      },
    });
    // Of a process that was ended meanwhile nothing goes on.
    if (machine.process !== process) return;
    process.cluster = cluster;
    const broker = new Broker(cluster, ports, {
      defaultUser: 'guest',
      defaultPassword: 'guest',
      loopbackUsers: [],
      consumerWindow: 50,
      parkedMilliseconds: 100 * stretch,
      lettersMilliseconds: 100,
    });
    const log = { debug: () => {}, info: () => {}, warn: () => {} };
    process.amqp = createAmqpServer({}, ports, broker, log);
    await cluster.start();
    if (machine.process !== process) return;
    await process.amqp.listen([{ host: hostOf(machine.node), port: amqpPort }]);
    process.isServing = true;
    this.trace.line(hostOf(machine.node), 'serves clients');
  }

  /** The new machine asks until somebody lets it in, or the cluster refuses. */
  async #join(machine: Machine, ports: Ports): Promise<void> {
    const { node, joining } = machine;
    const others = this.nodes().filter((other) => other !== node);
    const { transport } = this.limits;
    const membership = await joinCluster(
      {
        clusterName,
        nodeName: hostOf(node),
        uuid: uuidOf(node),
        address: addressOf(node),
        replaces: joining!.replaces === null ? null : String(joining!.replaces),
        contacts: others.map(addressOf),
        secret,
        ...transport,
        report: (level, event, details) => this.#logged(node, level, event, details),
      },
      ports,
    ).done;
    if (membership.node !== node)
      throw new Error(`${hostOf(node)} was let in as node ${membership.node}, and should be the next one`);
    joining!.membership = membership;
  }

  #endProcess(node: number, how: string): void {
    const machine = this.machine(node);
    this.trace.line(hostOf(node), how);
    if (machine.process === null) return;
    machine.process = null;
    this.invariants.ended(node);
    machine.clock.end();
    this.network.resume(hostOf(node));
    this.network.crash(hostOf(node));
  }

  /** The process ended itself: as an exit does, in the middle of whatever it did. */
  #exited(machine: Machine, process: NodeProcess, error: Error): void {
    if (machine.process !== process) return;
    const { node } = machine;
    this.trace.comment(hostOf(node), error.stack ?? error.message);
    // It may be the first to know, and the only one yet.
    const isGone = this.membership.isGone(node);
    this.#endProcess(node, `exits: ${error.message}`);
    this.disk(node).kill(this.#nodeRandom);
    if (isGone) this.membership.sync();
    // One that is refused is started again, and asks again.
    else if (!(error instanceof FormationError)) this.#options.watcher.exited(node, error);
  }

  #logged(node: number, level: string, event: string, details: Record<string, unknown>): void {
    const { stack, ...told } = details;
    this.trace.line(hostOf(node), `${level} ${event} ${JSON.stringify(told)}`);
    if (stack !== undefined) this.trace.comment(hostOf(node), String(stack));
    markLog(this.marks, event);
    this.#options.watcher.logged(node, event, details);
  }

  #ports(machine: Machine): Ports {
    return {
      clock: machine.clock.begin(),
      disk: machine.disk.mount(),
      net: this.#traced(hostOf(machine.node), this.network.endpoint(hostOf(machine.node), hostOf(machine.node))),
      random: this.#nodeRandom,
    };
  }

  /** What a node sends counts in the trace: how much it is, and byte for byte where two runs are compared. */
  #traced(from: string, net: Net): Net {
    const { trace } = this;
    const follow = (connection: Connection): Connection => {
      const write = connection.write.bind(connection);
      connection.write = (buffers) => {
        let checksum = 0;
        let bytes = 0;
        for (const buffer of buffers) {
          if (trace.withBytes) checksum = crc32(buffer, checksum);
          bytes += buffer.length;
        }
        trace.number(bytes);
        if (trace.withBytes) trace.number(checksum);
        if (trace.withFrames) trace.comment(from, `→ ${connection.remoteAddress} ${bytes} bytes`);
        return write(buffers);
      };
      return connection;
    };
    return {
      listen: (address, onConnection) => net.listen(address, (connection) => onConnection(follow(connection))),
      connect: (address, done) =>
        net.connect(address, (error, connection) => done(error, connection === null ? null : follow(connection))),
    };
  }

  #clusterOptions(machine: Machine): ClusterOptions {
    const { node, joining } = machine;
    const original = Array.from({ length: this.#options.nodes }, (_, place) => place + 1);
    const nodes = original.map((of) => ({ node: of, name: hostOf(of), uuid: uuidOf(of), address: addressOf(of) }));
    return {
      clusterName,
      clusterId,
      node,
      nodeName: hostOf(node),
      nodeUuid: uuidOf(node),
      contact: { pid: node, amqp: '', http: '' },
      nextIncarnation: async () => ++machine.incarnation,
      ...(joining === null ? { nodes } : joinedAs(joining.membership!)),
      peerListen: addressOf(node),
      address: addressOf(node),
      secret,
      readHeaders,
      withDeath,
      limits: this.limits,
      machineVersions: this.#options.versions,
    };
  }
}

/** As `node/parts.ts` opens a node that joined: its own settings say nothing of the original ones. */
function joinedAs({ format, contacts }: MembershipOf): Pick<ClusterOptions, 'nodes' | 'contacts'> {
  return { nodes: format.nodes.map((known) => ({ ...known, address: { host: '', port: 0 } })), contacts };
}
