// A network inside one test. State owned: links between named endpoints, listeners, and the bytes under way.
//
// Deterministic: given the same clock, seed and calls, the same bytes arrive in the same pieces at the same times. Like TCP it never loses,
// repeats or reorders bytes within a connection: a link that drops packets holds the bytes until it heals (they are sent again then), and a
// connection that is reset delivers a prefix of what was under way, so that frames arrive half. Written buffers are copied at once.

import type { Address, Clock, Connection, Net, Random } from '../../cluster/ports.ts';

export interface MemoryNetwork {
  /** The network as one process sees it. Asked for again after `crash`, it is a new process at the same place. */
  endpoint(name: string, host?: string): Net;
  /** Milliseconds from one endpoint to another, one way. Default 0.1. */
  setDelay(from: string, to: string, milliseconds: number): void;
  /** One direction: `drop` loses packets in silence; `reset` also breaks what is open and refuses new connections. */
  cut(from: string, to: string, how: 'drop' | 'reset'): void;
  /** Both directions. */
  partition(a: string, b: string, how: 'drop' | 'reset'): void;
  /** Ends cuts in both directions; all of them without arguments. */
  heal(a?: string, b?: string): void;
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

interface Process {
  readonly name: string;
  readonly host: string;
  alive: boolean;
}
interface Listener {
  readonly process: Process;
  readonly onConnection: (connection: Connection) => void;
}
type Arrival = { kind: 'data'; bytes: Buffer; due: number } | { kind: 'open' | 'end' | 'reset'; due: number };

const failure = (code: string) => Object.assign(new Error(code), { code });

export function createMemoryNetwork(clock: Clock, random: Random, options: MemoryNetworkOptions = {}): MemoryNetwork {
  const { connectMilliseconds = 3_000, highWaterBytes = 256 * 1024, windowBytes = 256 * 1024 } = options;
  const processes = new Map<string, Process>();
  const listeners = new Map<string, Listener>();
  /** Which endpoint listened last at an address: cuts apply to it also while it is down. */
  const placeOf = new Map<string, string>();
  const delays = new Map<string, number>();
  const cuts = new Map<string, 'drop' | 'reset'>();
  const paused = new Set<string>();
  const open = new Set<End>();
  let nextPort = 40_000;

  const link = (from: string, to: string) => `${from}>${to}`;
  const delayOf = (from: string, to: string) => delays.get(link(from, to)) ?? 0.1;
  const isHeld = (from: string, to: string) =>
    cuts.get(link(from, to)) === 'drop' || paused.has(from) || paused.has(to);
  const isReset = (a: string, b: string) => cuts.get(link(a, b)) === 'reset' || cuts.get(link(b, a)) === 'reset';

  /** One side of a connection, with what is under way to it. */
  class End implements Connection {
    onData: (chunk: Buffer) => void = () => {};
    onDrain: () => void = () => {};
    onClose: (error: Error | null) => void = () => {};
    onOpen: () => void = () => {};
    peer!: End;
    readonly process: Process;
    readonly localAddress: string;
    readonly remoteAddress: string;
    readonly #arrivals: Arrival[] = [];
    #arrivingBytes = 0;
    #scheduled = false;
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

    write(buffers: readonly Uint8Array[]): boolean {
      if (this.#closed) return false;
      const bytes = Buffer.concat(buffers);
      for (let start = 0; start < bytes.length; ) {
        const end = Math.min(bytes.length, start + 1 + random.integer(128 * 1024));
        this.peer.#arrive({ kind: 'data', bytes: bytes.subarray(start, end), due: this.#due() });
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
      this.peer.#arrive({ kind, due: this.#due() });
    }
    /** The other side is gone: a prefix of what is under way still arrives. */
    breakOff(): void {
      const kept = random.integer(this.#arrivals.length + 1);
      const rest = this.#arrivals.splice(kept);
      for (const arrival of rest) if (arrival.kind === 'data') this.#arrivingBytes -= arrival.bytes.length;
      this.#arrive({ kind: 'reset', due: clock.now() });
    }

    #due(): number {
      return clock.now() + delayOf(this.process.name, this.peer.process.name);
    }
    #arrive(arrival: Arrival): void {
      if (arrival.kind === 'data') this.#arrivingBytes += arrival.bytes.length;
      this.#arrivals.push(arrival);
      this.pump();
    }
    /** Plans the next arrival, if one may come. */
    pump(): void {
      const next = this.#arrivals[0];
      if (next === undefined || this.#scheduled) return;
      if (!this.#reading && next.kind === 'data') return;
      if (isHeld(this.peer.process.name, this.process.name)) return;
      this.#scheduled = true;
      clock.after(next.due - clock.now(), () => {
        this.#scheduled = false;
        const held = isHeld(this.peer.process.name, this.process.name) || (!this.#reading && next.kind === 'data');
        if (!held && this.#arrivals[0] === next) this.#take(this.#arrivals.shift()!);
        this.pump();
      });
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
    const place = placeOf.get(key) ?? '';
    clock.after(delayOf(from.name, place), () => {
      if (isReset(from.name, place)) return answer(failure('ECONNREFUSED'), null);
      if (isHeld(from.name, place) || !from.alive) return;
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
  const between = (end: End, a: string, b: string) =>
    (end.process.name === a && end.peer.process.name === b) || (end.process.name === b && end.peer.process.name === a);

  const network: MemoryNetwork = {
    endpoint(name, host = '127.0.0.1') {
      const process: Process = { name, host, alive: true };
      processes.set(name, process);
      return {
        async listen(address, onConnection) {
          const port = address.port === 0 ? nextPort++ : address.port;
          const key = `${address.host}:${port}`;
          if (listeners.has(key)) throw failure('EADDRINUSE');
          const listener: Listener = { process, onConnection };
          listeners.set(key, listener);
          placeOf.set(key, name);
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
    setDelay(from, to, milliseconds) {
      delays.set(link(from, to), milliseconds);
    },
    cut(from, to, how) {
      cuts.set(link(from, to), how);
      if (how === 'reset') network.reset(from, to);
    },
    partition(a, b, how) {
      network.cut(a, b, how);
      network.cut(b, a, how);
    },
    heal(a, b) {
      if (a === undefined || b === undefined) cuts.clear();
      else for (const key of [link(a, b), link(b, a)]) cuts.delete(key);
      pumpAll();
    },
    reset(a, b) {
      resetWhere((end) => between(end, a, b));
    },
    pause: (name) => void paused.add(name),
    resume(name) {
      paused.delete(name);
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
