// Room on the disks: this node's own, looked at now and then, and what the others say of theirs.
//
//   ok ──► low: publishers of the whole cluster wait ──► full: groups with a replica there take no messages any more
//
// Everything else goes on: acknowledgements, deletions, declarations, logins. A write that finds no room all the same ends the process, as any
// write that fails: nothing of it was confirmed, and the node comes back when there is room again.
//
// State owned: the last look at this node's disk, and whom publishers wait for. Both bounds shrink with a small disk, so that it is of use at all.
// A node that is silent for so long that it counts as dead holds nobody up.

import type { ClusterLimits, ReportEvent } from '../options.ts';
import type { Clock, Disk } from '../ports.ts';
import type { Peers } from './peers.ts';
import type { DiskRoom } from './wire.ts';

/** Parts of a disk that the bounds are at most. */
const lowShareMax = 10;
const fullShareMax = 50;
/** It has to be so much better than a bound, in parts of it, before it is over. */
const hysteresis = 8;

export interface RoomContext {
  readonly node: number;
  readonly disk: Pick<Disk, 'space'>;
  readonly clock: Pick<Clock, 'now'>;
  readonly limits: Pick<ClusterLimits, 'disk' | 'nodeDeadMilliseconds'>;
  readonly peers: Peers;
  readonly report: ReportEvent;
  /** This node has another kind of room than before. */
  changed(): void;
  /** Publishers are to wait from now on, or may go on. */
  alarmChanged(): void;
}

export interface Space {
  readonly free: number;
  readonly total: number;
}

export class Room {
  readonly #context: RoomContext;
  #own: DiskRoom = 'ok';
  #space: Space | null = null;
  #looking = false;
  #lookAt = 0;
  #failed = '';
  /** Nodes that publishers wait for, ascending. */
  #low: readonly number[] = [];

  constructor(context: RoomContext) {
    this.#context = context;
  }

  get own(): DiskRoom {
    return this.#own;
  }
  /** As it was seen last; null: not yet. */
  get space(): Space | null {
    return this.#space;
  }
  /** Nodes whose disks are low: publishers wait for them. */
  get low(): readonly number[] {
    return this.#low;
  }

  /** Has one of these nodes no room for messages? */
  isFull(nodes: readonly number[]): boolean {
    if (this.#low.length === 0) return false;
    return nodes.some((node) => this.#roomOf(node) === 'full');
  }

  tick(): void {
    const { clock, limits } = this.#context;
    const now = clock.now();
    if (!this.#looking && now >= this.#lookAt) {
      this.#lookAt = now + limits.disk.checkMilliseconds;
      this.#look();
    }
    this.#judge();
  }

  #look(): void {
    this.#looking = true;
    this.#context.disk.space().then(
      (space) => {
        this.#looking = false;
        this.#failed = '';
        this.#seen(space);
      },
      (error: Error) => {
        this.#looking = false;
        // What cannot be seen is taken to be as it was: a disk that is broken shows itself in its writes.
        if (error.message !== this.#failed)
          this.#context.report('warn', 'disk space unknown', { error: error.message });
        this.#failed = error.message;
      },
    );
  }

  #seen(space: Space): void {
    const { limits, report, changed } = this.#context;
    const before = this.#own;
    this.#space = space;
    this.#own = roomOf(space, limits.disk, before);
    if (this.#own === before) return;
    const { free, total } = space;
    if (this.#own === 'ok') report('info', 'there is room on the disk again', { free, total });
    else if (this.#own === 'low') report('warn', 'disk is low: publishers wait', { free, total });
    else report('error', 'disk is full: no more messages are taken', { free, total });
    changed();
    this.#judge();
  }

  #judge(): void {
    const { node, peers, alarmChanged } = this.#context;
    const wasOn = this.#low.length > 0;
    const all = [node, ...Array.from(peers.all(), (peer) => peer.node)];
    const low = all.filter((other) => this.#roomOf(other) !== 'ok').sort((a, b) => a - b);
    // The same list stays the same object: this runs at every tick.
    if (low.length > 0 || wasOn) this.#low = low;
    if (low.length > 0 !== wasOn) alarmChanged();
  }

  #roomOf(node: number): DiskRoom {
    const { node: self, peers, limits } = this.#context;
    if (node === self) return this.#own;
    if (peers.silentMilliseconds(node) >= limits.nodeDeadMilliseconds) return 'ok';
    return peers.get(node)?.status?.disk ?? 'ok';
  }
}

/** What this much space is, coming from `before`. */
export function roomOf({ free, total }: Space, limits: ClusterLimits['disk'], before: DiskRoom): DiskRoom {
  const low = Math.min(limits.freeBytesMin, total / lowShareMax);
  const full = Math.min(limits.reserveBytes, total / fullShareMax);
  const more = (bound: number, isOn: boolean) => (isOn ? bound + bound / hysteresis : bound);
  if (free < more(full, before === 'full')) return 'full';
  return free < more(low, before !== 'ok') ? 'low' : 'ok';
}
