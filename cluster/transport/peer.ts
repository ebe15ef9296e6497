// One peer: two lanes that we dial, two that it dials, and whether it is up.
//
// State owned: the lanes, the newest incarnation that proved itself, and when to dial again.
// Invariants:
//   - every lane here belongs to that newest incarnation;
//   - up means: both outgoing lanes are open. `up` and `down` are told in turn;
//   - on the way down both outgoing lanes are closed and dialled anew, so that between one `up` and its `down` frames were lost at the end
//     only, or not at all. The peer sees its side of them break, and renews its own two;
//   - an incoming lane from before the last `down` is stale: it still delivers, but its end causes no further `down`. Otherwise two nodes
//     could reset one another for ever.

import type { Connection, Ports, Timer } from '../ports.ts';
import type { Lane, PeerAddress, TransportEvents, TransportOptions } from '../transport-types.ts';
import type { Handshake, Identity } from './handshake.ts';
import { IncomingLane, OutgoingLane } from './lanes.ts';
import { type Negotiation, negotiate } from './negotiate.ts';

/** What a peer needs of the transport around it. */
export interface PeerContext {
  readonly ports: Pick<Ports, 'net' | 'clock' | 'random'>;
  readonly options: TransportOptions;
  readonly events: TransportEvents;
  dialHandshake(address: PeerAddress, lane: Lane): Handshake;
  refused(address: string, reason: string): void;
  flushSoon(lane: OutgoingLane): void;
  /** Nobody is to be dialled, until `dial` is called. */
  isIsolated(): boolean;
}

const lanes: readonly Lane[] = ['control', 'bulk'];

interface Attempt {
  isOver: boolean;
  timer: Timer | null;
  negotiation: Negotiation | null;
}

export class Peer {
  #address: PeerAddress;
  readonly #context: PeerContext;
  readonly #outgoing: Record<Lane, OutgoingLane | null> = { control: null, bulk: null };
  readonly #incoming: Record<Lane, IncomingLane | null> = { control: null, bulk: null };
  readonly #attempts: Record<Lane, Attempt | null> = { control: null, bulk: null };
  #incarnation = 0;
  #isUp = false;
  #upSince = 0;
  #redialTimer: Timer | null = null;
  #redialWait: number;
  #closed = false;

  constructor(address: PeerAddress, context: PeerContext) {
    this.#address = address;
    this.#context = context;
    this.#redialWait = context.options.redialMilliseconds;
  }

  get address(): PeerAddress {
    return this.#address;
  }
  /** It is to be found elsewhere: what is open stays, and is dialled there when it breaks. */
  set address(address: PeerAddress) {
    this.#address = address;
  }
  get isUp(): boolean {
    return this.#isUp;
  }
  get incarnation(): number {
    return this.#incarnation;
  }

  /** The lane that frames to this peer travel on, or null while it is not up. */
  outgoing(lane: Lane): OutgoingLane | null {
    return this.#isUp ? this.#outgoing[lane] : null;
  }

  /** Dials every lane that is neither open nor being dialled, at once. */
  dial(): void {
    this.#redialTimer?.cancel();
    this.#redialTimer = null;
    if (this.#closed || this.#context.isIsolated()) return;
    for (const lane of lanes) if (this.#outgoing[lane] === null && this.#attempts[lane] === null) this.#dialLane(lane);
  }

  /** The peer dialled us and proved who it is. */
  addIncoming(connection: Connection, lane: Lane, identity: Identity): void {
    if (!this.#meet(identity)) return connection.close();
    const older = this.#incoming[lane];
    this.#incoming[lane] = null;
    older?.close();
    // It would not have dialled again if this lane, or any of those from the same time, still worked at its end.
    if (older !== null && !older.isStale) this.#goDown();
    if (this.#closed) return connection.close();
    const { events, options } = this.#context;
    const { node } = this.address;
    const incoming = new IncomingLane(connection, lane, options.frameBytesMax, {
      broke: (reason) => this.#incomingBroke(incoming, reason),
      frame: (kind, body) => events.frame(node, identity.incarnation, lane, kind, body),
    });
    this.#incoming[lane] = incoming;
    // Whoever can dial us can probably be dialled.
    if (!this.#isUp) this.dial();
  }

  tick(): void {
    for (const lane of lanes) {
      this.#outgoing[lane]?.tick();
      this.#incoming[lane]?.tick();
    }
  }

  /** Ends every lane, open or being dialled: this node is isolated. */
  drop(): void {
    this.#redialTimer?.cancel();
    this.#redialTimer = null;
    for (const lane of lanes) this.#endAttempt(lane);
    this.#closeLanes();
    this.#goDown();
  }

  close(): void {
    this.#closed = true;
    this.#isUp = false;
    this.#redialTimer?.cancel();
    for (const lane of lanes) {
      this.#outgoing[lane]?.flush();
      this.#endAttempt(lane);
    }
    this.#closeLanes();
  }

  #dialLane(lane: Lane): void {
    const { ports, options, refused } = this.#context;
    const attempt: Attempt = { isOver: false, timer: null, negotiation: null };
    this.#attempts[lane] = attempt;
    const failed = () => {
      this.#endAttempt(lane);
      this.#redial();
    };
    attempt.timer = ports.clock.after(options.handshakeMilliseconds, failed);
    ports.net.connect(this.address.address, (_error, connection) => {
      if (attempt.isOver) return connection?.close();
      if (connection === null) return failed();
      attempt.timer?.cancel();
      const handshake = this.#context.dialHandshake(this.address, lane);
      attempt.negotiation = negotiate(connection, handshake, ports.clock, options.handshakeMilliseconds, (outcome) => {
        attempt.negotiation = null;
        if (outcome.kind === 'failed') {
          if (outcome.reason !== null) refused(connection.remoteAddress, outcome.reason);
          failed();
          if (outcome.isGone) this.#context.events.gone(outcome.reason ?? '');
          return;
        }
        this.#endAttempt(lane);
        this.#addOutgoing(connection, lane, outcome.peer);
      });
    });
  }

  #endAttempt(lane: Lane): void {
    const attempt = this.#attempts[lane];
    if (attempt === null) return;
    this.#attempts[lane] = null;
    attempt.isOver = true;
    attempt.timer?.cancel();
    attempt.negotiation?.cancel();
  }

  #addOutgoing(connection: Connection, lane: Lane, identity: Identity): void {
    if (!this.#meet(identity)) {
      connection.close();
      return this.#redial();
    }
    const { events, options, ports } = this.#context;
    const { node } = this.address;
    const outgoing = new OutgoingLane(connection, options.frameBytesMax, {
      broke: (reason) => this.#outgoingBroke(lane, connection.remoteAddress, reason),
      drained: () => events.drained(node, lane),
      flushSoon: this.#context.flushSoon,
    });
    this.#outgoing[lane] = outgoing;
    if (this.#outgoing.control === null || this.#outgoing.bulk === null) return this.#redial();
    this.#isUp = true;
    this.#upSince = ports.clock.now();
    events.up(node, this.#incarnation);
  }

  /** Takes note of an identity that was proved. False: it is older than one seen. */
  #meet(identity: Identity): boolean {
    if (identity.incarnation < this.#incarnation) return false;
    if (identity.incarnation === this.#incarnation) return true;
    this.#incarnation = identity.incarnation;
    // What is open was dialled by or to a process that is no more.
    this.#closeLanes();
    this.#goDown();
    return !this.#closed;
  }

  #outgoingBroke(lane: Lane, address: string, reason: string | null): void {
    this.#outgoing[lane] = null;
    if (reason !== null) this.#context.refused(address, reason);
    if (this.#isUp) this.#goDown();
    else this.#redial();
  }

  #incomingBroke(incoming: IncomingLane, reason: string | null): void {
    this.#incoming[incoming.lane] = null;
    if (reason !== null) this.#context.refused(incoming.address, reason);
    if (!incoming.isStale) this.#goDown();
  }

  #goDown(): void {
    if (!this.#isUp) return;
    this.#isUp = false;
    for (const lane of lanes) {
      this.#outgoing[lane]?.close();
      this.#outgoing[lane] = null;
      const incoming = this.#incoming[lane];
      if (incoming !== null) incoming.isStale = true;
    }
    const { clock } = this.#context.ports;
    const { redialMilliseconds, redialMillisecondsMax } = this.#context.options;
    // A peer that breaks as soon as it is up goes on being dialled ever more rarely.
    if (clock.now() - this.#upSince >= redialMillisecondsMax) this.#redialWait = redialMilliseconds;
    this.#redial();
    this.#context.events.down(this.address.node);
  }

  /** Plans to dial what is not open. */
  #redial(): void {
    if (this.#closed || this.#redialTimer !== null || this.#context.isIsolated()) return;
    if (lanes.every((lane) => this.#outgoing[lane] !== null || this.#attempts[lane] !== null)) return;
    const { clock, random } = this.#context.ports;
    const wait = this.#redialWait;
    this.#redialWait = Math.min(2 * wait, this.#context.options.redialMillisecondsMax);
    this.#redialTimer = clock.after(wait + random.integer(Math.floor(wait / 2) + 1), () => this.dial());
  }

  #closeLanes(): void {
    for (const lane of lanes) {
      this.#outgoing[lane]?.close();
      this.#incoming[lane]?.close();
      this.#outgoing[lane] = null;
      this.#incoming[lane] = null;
    }
  }
}
