// All I/O of the cluster passes these four interfaces; `os.ts` holds the real ones, tests and the simulator bring their own.
// Callbacks instead of promises on the hot paths: their order is then the order of the events themselves.

/** An open file. Offsets and lengths in bytes. Errors are passed on as they are; nothing is retried. */
export interface DiskFile {
  /** Appends the buffers at `offset` with one gathered write. The buffers must not change until `done`. */
  write(buffers: readonly Uint8Array[], offset: number, done: (error: Error | null) => void): void;
  /** Like `write`, and durable when `done` is called: one operation where the system has it. Earlier plain writes are not covered. */
  writeDurably(buffers: readonly Uint8Array[], offset: number, done: (error: Error | null) => void): void;
  /** Makes every completed write of this file durable (fdatasync). */
  sync(done: (error: Error | null) => void): void;
  /** Reads up to `length` bytes; fewer only at the end of the file. */
  read(offset: number, length: number, done: (error: Error | null, bytes: Buffer) => void): void;
  truncate(length: number): Promise<void>;
  close(): Promise<void>;
  readonly size: number;
}

/** One folder tree. Paths are relative to it, with `/`. Metadata changes are durable only after `syncFolder` of the parent. */
export interface Disk {
  makeFolder(path: string): Promise<void>;
  /** Names in a folder, sorted. */
  list(path: string): Promise<string[]>;
  /** `create`: must not exist yet (fails with code EEXIST). */
  open(path: string, mode: 'read' | 'write' | 'create'): Promise<DiskFile>;
  /** A whole small file, or null if there is none. */
  readFile(path: string): Promise<Buffer | null>;
  rename(from: string, to: string): Promise<void>;
  remove(path: string): Promise<void>;
  syncFolder(path: string): Promise<void>;
  /** Bytes that are free for this process, and bytes in all, of what the tree lies on. */
  space(): Promise<{ readonly free: number; readonly total: number }>;
}

/**
 * One connection, a stream of bytes. After `close`, an error, or when the other side ends, `onClose` is called exactly once, never from
 * within a call to `close`, and no other handler after it. `close` still sends what is buffered, for a bounded time.
 * Handlers are set in the turn in which the connection is handed out.
 */
export interface Connection {
  /**
   * Returns false when more than the high-water mark is buffered; `onDrain` follows. The buffers must not change until `bufferedBytes`
   * is 0. After `close` it does nothing and returns false.
   */
  write(buffers: readonly Uint8Array[]): boolean;
  readonly bufferedBytes: number;
  /** Changes whenever the system takes some of what was written, if only a part of one buffer. */
  readonly progress: number;
  /** `address:port` of the other side, for people and for the loopback rule. */
  readonly remoteAddress: string;
  readonly localAddress: string;
  /** Stops and restarts reading: backpressure towards the sender. */
  pause(): void;
  resume(): void;
  close(): void;
  onData: (chunk: Buffer) => void;
  onDrain: () => void;
  onClose: (error: Error | null) => void;
}

export interface Address {
  readonly host: string;
  readonly port: number;
}

export interface Net {
  listen(
    address: Address,
    onConnection: (connection: Connection) => void,
  ): Promise<{ readonly port: number; close(): Promise<void> }>;
  /** `done` with a connection, or with the error. */
  connect(address: Address, done: (error: Error | null, connection: Connection | null) => void): void;
}

export interface Timer {
  cancel(): void;
}

export interface Clock {
  /** Milliseconds, monotonic, with fractions. */
  now(): number;
  /** Milliseconds since 1970. May jump. */
  wall(): number;
  /** Runs `task` once, not before `milliseconds` have passed. */
  after(milliseconds: number, task: () => void): Timer;
  /** Runs `task` at the end of this turn of the event loop, after the sockets that are readable now were read. */
  soon(task: () => void): void;
  /** Runs `task` at the end of the next turn: what has come in meanwhile is read first. For whoever has done enough in this one. */
  nextTurn(task: () => void): void;
}

export interface Random {
  /** An integer in [0, bound). */
  integer(bound: number): number;
  /** Unpredictable bytes, for nonces and ids. */
  bytes(length: number): Buffer;
}

export interface Ports {
  readonly disk: Disk;
  readonly net: Net;
  readonly clock: Clock;
  readonly random: Random;
}
