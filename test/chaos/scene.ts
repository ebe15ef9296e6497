// A target that does nothing and remembers everything, a stage on time that only passes when it is slept through, and made-up histories.

import { Meter } from '../../chaos/measure.ts';
import { createRandom, pickFrom } from '../../chaos/stage.ts';
import { type Ability, abilities, type Observer, type Stage, type Target } from '../../chaos/types.ts';
import type { HistoryEvent, Outcome } from '../history.ts';

/** What was done, in order; and what is wrong at the moment. */
export class RecordingTarget implements Target {
  readonly kind = 'local';
  readonly abilities: ReadonlySet<Ability>;
  readonly nodes: Target['nodes'];
  readonly pids = [];
  readonly done: string[] = [];
  readonly wrong = new Set<string>();
  readonly #down = new Set<number>();
  #members: number;

  constructor(nodes: number, offered: readonly Ability[] = abilities) {
    this.nodes = Array.from({ length: nodes }, (_, i) => ({ number: i + 1, name: `n${i + 1}`, url: 'amqp://nowhere' }));
    this.abilities = new Set(offered);
    this.#members = nodes;
  }

  #note(what: string, isWrong: boolean | null = null): Promise<void> {
    this.done.push(what);
    const thing = what.split(':', 1)[0]!;
    if (isWrong === true) this.wrong.add(thing);
    else if (isWrong === false) this.wrong.delete(thing);
    return Promise.resolve();
  }

  describe = () => Promise.resolve({ broker: 'none' });
  leader = (except = 0) => Promise.resolve(except === 1 ? 2 : 1);
  followers = () => Promise.resolve(this.nodes.slice(1).map(({ number }) => number));
  waitReady = () => Promise.resolve();
  heal = () => this.#note('heal');
  close = () => this.#note('close');
  kill = (node: number) => this.#end('kill', node);
  stop = (node: number) => this.#end('stop', node);
  isRunning = (node: number) => !this.#down.has(node);
  pause = (node: number) => this.#note(`pause ${node}: on`, true);
  resume = (node: number) => this.#note(`pause ${node}: off`, false);
  link = (from: number, to: number, fault: object | null) =>
    this.#note(`link ${from}-${to}: ${JSON.stringify(fault)}`, fault !== null);
  clientLink = (node: number, toNode: boolean, fault: object | null) =>
    this.#note(`client ${node} ${toNode}: ${JSON.stringify(fault)}`, fault !== null);
  disk = (node: number, fault: object | null) => this.#note(`disk ${node}: ${JSON.stringify(fault)}`, fault !== null);
  clock = (node: number, milliseconds: number) => this.#note(`clock ${node}: ${milliseconds}`, milliseconds !== 0);

  start(node: number): Promise<void> {
    this.#down.delete(node);
    return this.#note(`process ${node}: start`, false);
  }
  async join(): Promise<number> {
    const node = ++this.#members;
    await this.#note(`member ${node}: join`, true);
    return node;
  }
  leave = (node: number) => this.#note(`member ${node}: leave`, false);

  #end(how: string, node: number): Promise<void> {
    this.#down.add(node);
    return this.#note(`process ${node}: ${how}`, true);
  }
}

export class QuickStage implements Stage {
  readonly target: RecordingTarget;
  readonly follower: number;
  readonly milliseconds: number;
  readonly random: (bound: number) => number;
  readonly faults: string[] = [];
  storms = 0;
  #now = 0;

  constructor(target: RecordingTarget, seed: number, name: string, milliseconds: number, follower: number) {
    this.target = target;
    this.follower = follower;
    this.milliseconds = milliseconds;
    this.random = createRandom(seed, name);
  }

  get nodes(): number[] {
    const joined = [...this.target.wrong].flatMap((thing) =>
      thing.startsWith('member ') ? [Number(thing.slice('member '.length))] : [],
    );
    return [...this.target.nodes.map(({ number }) => number), ...joined];
  }
  get isOver(): boolean {
    return this.#now >= this.milliseconds;
  }
  pick<T>(from: readonly T[], count: number): T[] {
    return pickFrom(this.random, from, count);
  }
  sleep = async (milliseconds: number) => {
    this.#now += milliseconds;
  };
  calm = () => this.sleep(1000);
  fault: Stage['fault'] = async (name, nodes, milliseconds, begin, end) => {
    this.faults.push(`${name} ${nodes}`);
    await begin();
    await this.sleep(milliseconds);
    await end();
  };
  reconnectStorm = async () => {
    this.storms++;
  };
  join = () => this.target.join();
  leave = (node: number) => this.target.leave(node);
}

export const quietObserver: Observer = {
  scenarioBegins: () => {},
  phase: () => {},
  sample: () => {},
  faultBegins: () => {},
  faultEnds: () => {},
  scenarioEnds: () => {},
};

/** Tells a meter of events. */
export class Tape {
  readonly meter: Meter;
  #place = 0;

  constructor(meter = new Meter()) {
    this.meter = meter;
  }

  #note(event: HistoryEvent): number {
    this.meter.note(event, this.#place);
    return this.#place++;
  }
  open(channel: string, node: number, at = 0): void {
    this.#note({ kind: 'open', at, channel, node });
  }
  end(channel: string, at: number, graceful = false): void {
    this.#note({ kind: 'end', at, channel, graceful });
  }
  publish(channel: string, queue: string, at: number, id = `m/${this.#place}`): number {
    const targets = [{ queue, binding: null }];
    return this.#note({ kind: 'publish', at, id, channel, targets, mandatory: true, confirms: true });
  }
  answer(publish: number, at: number, outcome: Outcome = 'confirmed'): void {
    this.#note({ kind: 'outcome', at, publish, outcome });
  }
  deliver(id: string, at: number): void {
    const names = { queue: 'q', channel: 'consumer-0.0', consumer: 'c' };
    this.#note({ kind: 'deliver', at, id, ...names, redelivered: false, count: 0, intact: true });
  }
  /** Messages of a publisher that are served at once. */
  serve(channel: string, queue: string, from: number, to: number, every = 10): void {
    for (let at = from; at < to; at += every) this.answer(this.publish(channel, queue, at), at + 1);
  }
}
