// A network inside one test. State owned: links between named endpoints, listeners, and the bytes under way.
//
// Deterministic: given the same clock, seed and calls, the same bytes arrive in the same pieces at the same times. Like TCP it never loses,
// repeats or reorders bytes within a connection: a link that drops packets holds the bytes until it heals (they are sent again then), and a
// connection that is reset delivers a prefix of what was under way, so that frames arrive half. Written buffers are copied at once.
//
// What happens to packets below TCP is seen above it as time or as a broken connection, and so it is here: a lost one is sent again and holds
// up what follows it (`setLoss`), one that overtakes or comes twice is put right by the receiver (`setDelay` with a range), too many lost in
// a row are a reset. All faults are off by default, and each is set for one direction.

import type { Address, Clock, Connection, Net, Random, Timer } from '../../cluster/ports.ts';

export interface MemoryNetwork {
  /** The network as one process sees it. Asked for again after `crash`, it is a new process at the same place. */
  endpoint(name: string, host?: string): Net;
  /** Milliseconds from one endpoint to another, one way: this, or from this to `most`. Default 0.1. */
  setDelay(from: string, to: string, milliseconds: number, most?: number): void;
  /** The share of pieces that are lost and sent again, each time later. Default 0. */
  setLoss(from: string, to: string, share: number): void;
  /** Default: Infinity; as soon as it is that, what waits arrives. */
  setBandwidth(from: string, to: string, bytesPerMillisecond: number): void;
  /** Nothing arrives for so long; then all of it. */
  clog(from: string, to: string, milliseconds: number): void;
  /** Whether new connections to this endpoint are refused. Those that are open go on. */
  refuse(name: string, isRefused: boolean): void;
  /** One direction: `drop` loses packets in silence; `reset` also breaks what is open and refuses new connections. */
  cut(from: string, to: string, how: 'drop' | 'reset'): void;
  /** Both directions. */
  partition(a: string, b: string, how: 'drop' | 'reset'): void;
  /** Ends cuts in both directions; all of them without arguments. */
  heal(a?: string, b?: string): void;
  /** Ends every fault of links and endpoints; who is paused or gone stays so. */
  calm(): void;
  /** Breaks the open connections between two endpoints. */
  reset(a: string, b: string): void;
  /** Nothing reaches or leaves this endpoint until `resume`, as if its process were stopped. */
  pause(name: string): void;
  resume(name: string): void;
  /** The process is gone: its connections are reset, its listeners closed, and it is never called again. */
  crash(name: string): void;
}

export interface MemoryNetworkOptions {
  readonly connectMilliseconds?: number;
  /** `write` answers false above this many buffered bytes. */
  readonly highWaterBytes?: number;
  /** Bytes that are under way without counting as buffered, like the buffers of two kernels. */
  readonly windowBytes?: number;
}

/** Where processes of one name live, one after the other. */
interface Place {
  readonly name: string;
  isPaused: boolean;
  refuses: boolean;
}
/** One direction between two places. */
interface Link {
  least: number;
  most: number;
  cut: 'drop' | 'reset' | null;
  cloggedUntil: number;
  loss: number;
  bytesPerMillisecond: number;
  /** When what was sent so far has left, at that many bytes per millisecond. */
  freeAt: number;
}
interface Process {
  readonly place: Place;
  readonly host: string;
  alive: boolean;
}
interface Listener {
  readonly process: Process;
  readonly onConnection: (connection: Connection) => void;
}
type Arrival = { kind: 'data'; bytes: Buffer; due: number } | { kind: 'open' | 'end' | 'reset'; due: number };

const failure = (code: string) => Object.assign(new Error(code), { code });
const defaultDelayMilliseconds = 0.1;
/** A lost piece is sent again after this time and the way there and back; each time after twice as long. */
const resendMilliseconds = 20;
const resendsMax = 6;

export function createMemoryNetwork(clock: Clock, random: Random, options: MemoryNetworkOptions = {}): MemoryNetwork {
  const { connectMilliseconds = 3_000, highWaterBytes = 256 * 1024, windowBytes = 256 * 1024 } = options;
  const processes = new Map<string, Process>();
  const listeners = new Map<string, Listener>();
  const places = new Map<string, Place>();
  /** Who listened last at an address: cuts apply to it also while it is down. */
  const placeOf = new Map<string, Place>();
  const links = new Map<string, Link>();
  const open = new Set<End>();
  let nextPort = 40_000;

  function placeNamed(name: string): Place {
    let place = places.get(name);
    if (place === undefined) places.set(name, (place = { name, isPaused: false, refuses: false }));
    return place;
  }
  function linkOf(from: string, to: string): Link {
    const key = `${from}>${to}`;
    let link = links.get(key);
    if (link === undefined) links.set(key, (link = { ...untroubled }));
    return link;
  }
  const untroubled: Link = {
    least: defaultDelayMilliseconds,
    most: defaultDelayMilliseconds,
    cut: null,
    cloggedUntil: 0,
    loss: 0,
    bytesPerMillisecond: Infinity,
    freeAt: 0,
  };
  const isHeld = (from: Place, to: Place, link: Link) =>
    link.cut === 'drop' || link.cloggedUntil > clock.now() || from.isPaused || to.isPaused;
  const isReset = (a: string, b: string) => linkOf(a, b).cut === 'reset' || linkOf(b, a).cut === 'reset';

  /** How long so many bytes take that are sent now. */
  function delayOf(link: Link, bytes: number): number {
    const { least, most, loss, bytesPerMillisecond } = link;
    const chance = () => random.integer(1024) / 1024;
    let delay = most > least ? least + chance() * (most - least) : least;
    if (bytesPerMillisecond !== Infinity) {
      link.freeAt = Math.max(link.freeAt, clock.now()) + bytes / bytesPerMillisecond;
      delay += link.freeAt - clock.now();
    }
    if (loss > 0)
      for (let resends = 0; resends < resendsMax && chance() < loss; resends++)
        delay += (resendMilliseconds + 2 * least) * 2 ** resends;
    return delay;
  }

  /** One side of a connection, with what is under way to it. */
  class End implements Connection {
    onData: (chunk: Buffer) => void = () => {};
    onDrain: () => void = () => {};
    onClose: (error: Error | null) => void = () => {};
    onOpen: () => void = () => {};
    peer!: End;
    /** From here to the peer. */
    link!: Link;
    readonly process: Process;
    readonly localAddress: string;
    readonly remoteAddress: string;
    readonly #arrivals: Arrival[] = [];
    #arrivingBytes = 0;
    #writtenBytes = 0;
    /** For the next arrival. */
    #timer: Timer | null = null;
    #reading = true;
    #closed = false;
    #wantsDrain = false;

    constructor(process: Process, localAddress: string, remoteAddress: string) {
      this.process = process;
      this.localAddress = localAddress;
      this.remoteAddress = remoteAddress;
      open.add(this);
    }

    get bufferedBytes(): number {
      return Math.max(0, this.peer.#arrivingBytes - windowBytes);
    }
    get progress(): number {
      return this.#writtenBytes - this.peer.#arrivingBytes;
    }

    write(buffers: readonly Uint8Array[]): boolean {
      if (this.#closed) return false;
      const bytes = Buffer.concat(buffers);
      this.#writtenBytes += bytes.length;
      for (let start = 0; start < bytes.length; ) {
        const end = Math.min(bytes.length, start + 1 + random.integer(128 * 1024));
        this.peer.#arrive({ kind: 'data', bytes: bytes.subarray(start, end), due: this.#due(end - start) });
        start = end;
      }
      const below = this.bufferedBytes <= highWaterBytes;
      if (!below) this.#wantsDrain = true;
      return below;
    }
    pause(): void {
      this.#reading = false;
    }
    resume(): void {
      this.#reading = true;
      this.pump();
    }
    close(): void {
      if (this.#closed) return;
      this.send('end');
      this.#finish(null);
    }
    send(kind: 'open' | 'end' | 'reset'): void {
      this.peer.#arrive({ kind, due: this.#due(0) });
    }
    /** The other side is gone: a prefix of what is under way still arrives. */
    breakOff(): void {
      const kept = random.integer(this.#arrivals.length + 1);
      const rest = this.#arrivals.splice(kept);
      for (const arrival of rest) if (arrival.kind === 'data') this.#arrivingBytes -= arrival.bytes.length;
      this.#arrive({ kind: 'reset', due: clock.now() });
    }

    #due(bytes: number): number {
      return clock.now() + delayOf(this.link, bytes);
    }
    /** Nothing may come from the peer now. */
    #isHeld(): boolean {
      return isHeld(this.peer.process.place, this.process.place, this.peer.link);
    }
    #arrive(arrival: Arrival): void {
      if (arrival.kind === 'data') this.#arrivingBytes += arrival.bytes.length;
      this.#arrivals.push(arrival);
      this.pump();
    }
    /** Plans the next arrival, if one may come. */
    pump(): void {
      const next = this.#arrivals[0];
      if (next === undefined || this.#timer !== null) return;
      if (!this.#reading && next.kind === 'data') return;
      if (this.#isHeld()) return;
      this.#timer = clock.after(next.due - clock.now(), () => {
        this.#timer = null;
        const held = this.#isHeld() || (!this.#reading && next.kind === 'data');
        if (!held && this.#arrivals[0] === next) this.#take(this.#arrivals.shift()!);
        this.pump();
      });
    }
    /** The link that narrowed the way here is wide again: what is under way arrives now, in order. */
    hurry(): void {
      const due = clock.now() + this.peer.link.least;
      for (const arrival of this.#arrivals) arrival.due = Math.min(arrival.due, due);
      this.#timer?.cancel();
      this.#timer = null;
      this.pump();
    }
    #take(arrival: Arrival): void {
      if (arrival.kind === 'data') {
        this.#arrivingBytes -= arrival.bytes.length;
        if (!this.#closed && this.process.alive) this.onData(arrival.bytes);
        this.peer.#drained();
      } else if (arrival.kind === 'open') this.onOpen();
      else this.#finish(arrival.kind === 'end' ? null : failure('ECONNRESET'));
    }
    #drained(): void {
      if (!this.#wantsDrain || this.#closed || this.bufferedBytes > 0) return;
      this.#wantsDrain = false;
      if (this.process.alive) this.onDrain();
    }
    #finish(error: Error | null): void {
      if (this.#closed) return;
      this.#closed = true;
      open.delete(this);
      clock.soon(() => {
        if (this.process.alive) this.onClose(error);
      });
    }
  }

  function establish(from: Process, listener: Listener, address: Address): End {
    const caller = `${from.host}:${nextPort++}`;
    const called = `${address.host}:${address.port}`;
    const near = new End(from, caller, called);
    const far = new End(listener.process, called, caller);
    near.peer = far;
    far.peer = near;
    near.link = linkOf(from.place.name, listener.process.place.name);
    far.link = linkOf(listener.process.place.name, from.place.name);
    listener.onConnection(far);
    far.send('open');
    return near;
  }

  function connect(
    from: Process,
    address: Address,
    done: (error: Error | null, connection: Connection | null) => void,
  ): void {
    const key = `${address.host}:${address.port}`;
    let answered = false;
    const answer = (error: Error | null, connection: Connection | null) => {
      if (answered || !from.alive) return;
      answered = true;
      timeout.cancel();
      done(error, connection);
    };
    const timeout = clock.after(connectMilliseconds, () => answer(failure('ETIMEDOUT'), null));
    const place = placeOf.get(key) ?? placeNamed('');
    const link = linkOf(from.place.name, place.name);
    clock.after(delayOf(link, 0), () => {
      if (place.refuses || isReset(from.place.name, place.name)) return answer(failure('ECONNREFUSED'), null);
      if (isHeld(from.place, place, link) || !from.alive) return;
      const listener = listeners.get(key);
      if (listener === undefined) return answer(failure('ECONNREFUSED'), null);
      const near = establish(from, listener, address);
      near.onOpen = () => (answered ? near.close() : answer(null, near));
      near.onClose = (error) => answer(error ?? failure('ECONNRESET'), null);
    });
  }

  function pumpAll(): void {
    for (const end of [...open]) end.pump();
  }
  function resetWhere(matches: (end: End) => boolean): void {
    for (const end of [...open]) if (matches(end)) end.breakOff();
  }
  const between = (end: End, a: string, b: string) => {
    const near = end.process.place.name;
    const far = end.peer.process.place.name;
    return (near === a && far === b) || (near === b && far === a);
  };

  const network: MemoryNetwork = {
    endpoint(name, host = '127.0.0.1') {
      const process: Process = { place: placeNamed(name), host, alive: true };
      processes.set(name, process);
      return {
        async listen(address, onConnection) {
          const port = address.port === 0 ? nextPort++ : address.port;
          const key = `${address.host}:${port}`;
          if (listeners.has(key)) throw failure('EADDRINUSE');
          const listener: Listener = { process, onConnection };
          listeners.set(key, listener);
          placeOf.set(key, process.place);
          return {
            port,
            async close() {
              if (listeners.get(key) === listener) listeners.delete(key);
            },
          };
        },
        connect: (address, done) => connect(process, address, done),
      };
    },
    setDelay(from, to, milliseconds, most = milliseconds) {
      Object.assign(linkOf(from, to), { least: milliseconds, most });
    },
    setLoss(from, to, share) {
      linkOf(from, to).loss = share;
    },
    setBandwidth(from, to, bytesPerMillisecond) {
      const link = linkOf(from, to);
      Object.assign(link, { bytesPerMillisecond, freeAt: 0 });
      if (bytesPerMillisecond === Infinity) for (const end of [...open]) if (end.peer.link === link) end.hurry();
    },
    clog(from, to, milliseconds) {
      const link = linkOf(from, to);
      link.cloggedUntil = Math.max(link.cloggedUntil, clock.now() + milliseconds);
      clock.after(milliseconds, pumpAll);
    },
    refuse(name, isRefused) {
      placeNamed(name).refuses = isRefused;
    },
    cut(from, to, how) {
      linkOf(from, to).cut = how;
      if (how === 'reset') network.reset(from, to);
    },
    partition(a, b, how) {
      network.cut(a, b, how);
      network.cut(b, a, how);
    },
    heal(a, b) {
      if (a === undefined || b === undefined) for (const link of links.values()) link.cut = null;
      else for (const link of [linkOf(a, b), linkOf(b, a)]) link.cut = null;
      pumpAll();
    },
    calm() {
      for (const link of links.values()) Object.assign(link, untroubled);
      for (const place of places.values()) place.refuses = false;
      for (const end of [...open]) end.hurry();
    },
    reset(a, b) {
      resetWhere((end) => between(end, a, b));
    },
    pause(name) {
      placeNamed(name).isPaused = true;
    },
    resume(name) {
      placeNamed(name).isPaused = false;
      pumpAll();
    },
    crash(name) {
      const process = processes.get(name);
      if (process === undefined) return;
      process.alive = false;
      for (const [key, listener] of listeners) if (listener.process === process) listeners.delete(key);
      resetWhere((end) => end.peer.process === process && end.process !== process);
      for (const end of [...open]) if (end.process === process) open.delete(end);
    },
  };
  return network;
}
