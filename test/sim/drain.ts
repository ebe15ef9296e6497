// The end of a run: every queue is emptied through every node, and every node is asked what is left.
//
// Nothing publishes any more and no fault is left, so that whatever does not arrive now, or stays, is a fault of the broker.

import { Actor, type ClientWorld } from './actor.ts';
import type { Session } from './session.ts';

/** Runs the world until the condition holds; false if it does not in time. */
export type Until = (condition: () => boolean, milliseconds: number) => Promise<boolean>;

const prefetch = 50;
/** A queue is taken to be empty when nothing has come from it for so long, and it says so itself. */
const quietMilliseconds = 300;

/** Null, or what did not come to its end in time. */
export async function drain(
  world: ClientWorld,
  queues: readonly string[],
  until: Until,
  milliseconds: number,
): Promise<string | null> {
  const nodes = world.nodesToTry();
  const drainers = nodes.map((node) => new Drainer(world, node));
  if (!(await until(() => drainers.every(({ isOpen }) => isOpen), milliseconds)))
    return `no connection through ${drainers.filter(({ isOpen }) => !isOpen).map(({ name }) => name)}`;
  const present: string[] = [];
  for (const queue of queues) {
    const found = await drainers[0]!.count(queue, until, milliseconds);
    if (found === undefined) return `no answer about ${queue} in time`;
    if (found !== null) present.push(queue);
  }
  for (const drainer of drainers) for (const queue of present) drainer.consume(queue);
  const isQuiet = () => drainers.every(({ lastHeard }) => world.clock.now() - lastHeard >= quietMilliseconds);
  const end = world.clock.now() + milliseconds;
  for (;;) {
    if (!(await until(isQuiet, end - world.clock.now()))) return 'deliveries do not end';
    let left = 0;
    for (const queue of present) left += (await drainers[0]!.count(queue, until, milliseconds)) ?? 0;
    if (left === 0) break;
    if (world.clock.now() >= end) return `${left} messages are ready in ${present} and are not delivered`;
    await until(() => false, quietMilliseconds);
  }
  for (const drainer of drainers) drainer.settleAll();
  await until(() => false, quietMilliseconds);
  for (const [i, drainer] of drainers.entries())
    for (const queue of present)
      world.history.left(queue, nodes[i]!, (await drainer.count(queue, until, milliseconds)) ?? null);
  for (const drainer of drainers) drainer.stop();
  await until(() => false, quietMilliseconds);
  return null;
}

class Drainer {
  readonly name: string;
  lastHeard: number;
  readonly #world: ClientWorld;
  readonly #actor: Actor;
  #session: Session | null = null;

  constructor(world: ClientWorld, node: number) {
    this.name = `drain${node}`;
    this.#world = world;
    this.lastHeard = world.clock.now();
    this.#actor = new Actor(this.name, world, { home: node, opened: () => this.#begin() });
  }

  get isOpen(): boolean {
    return this.#session !== null;
  }

  #begin(): void {
    const { clock } = this.#world;
    const session: Session = this.#actor.openSession({
      received: ({ deliveryTag }) => {
        this.lastHeard = clock.now();
        session.settle(deliveryTag, 'ack');
      },
    });
    session.prefetch(prefetch);
    this.#session = session;
  }

  consume(queue: string): void {
    this.lastHeard = this.#world.clock.now();
    this.#session!.consume(queue);
  }

  settleAll(): void {
    const last = this.#session!.unsettled.at(-1);
    if (last !== undefined) this.#session!.settle(last, 'ack', true);
  }

  /** How many messages are ready; null: there is no such queue; undefined: no answer. */
  async count(queue: string, until: Until, milliseconds: number): Promise<number | null | undefined> {
    let answer: number | null | undefined;
    if (!this.#actor.isOpen) return undefined;
    const session = this.#actor.openSession();
    session.check(queue, (result, messages) => {
      if (result === 'ok') answer = messages;
      else if (result === 'missing') answer = null;
    });
    await until(() => answer !== undefined || !session.isOpen, milliseconds);
    session.close();
    return answer;
  }

  stop(): void {
    this.#session?.close();
    this.#actor.stop();
  }
}
