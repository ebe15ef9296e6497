// One client of a broker: a connection that is opened, and opened anew whenever it ends, until the client is told to stop.
//
// State owned: the connection of the moment. What is done with it is the caller's session; that ends by itself, or by throwing, when the
// connection does. A connection is left whatever happens, politely if the other side answers in time.

import type { Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { type ChannelModel, connect } from 'amqplib';

const reconnectMilliseconds = 150;
const connectMillisecondsMax = 4000;
const leaveMillisecondsMax = 1000;

/** `heartbeatSeconds`: a peer that says nothing for two to three times as long is given up. */
export async function openConnection(url: string, heartbeatSeconds: number): Promise<ChannelModel> {
  const address = new URL(url);
  address.searchParams.set('heartbeat', String(heartbeatSeconds));
  const connection = await connect(address.href, { timeout: connectMillisecondsMax, noDelay: true });
  // What went wrong shows in the channels and in `close`.
  connection.on('error', () => {});
  return connection;
}

/** Ends a connection that may have ended already, or whose other side may be paused. */
export async function leaveConnection(connection: ChannelModel): Promise<void> {
  const isClosed = connection.close().then(
    () => true,
    () => true,
  );
  if (!(await Promise.race([isClosed, sleep(leaveMillisecondsMax, false, { ref: false })]))) dropConnection(connection);
}

/** Ends it as a broken network does; both sides find out by themselves. */
function dropConnection({ connection }: ChannelModel): void {
  const { stream } = connection as unknown as { readonly stream: Socket };
  // Without an error the client library would not notice.
  stream.destroy(new Error('dropped'));
}

export class Client {
  readonly #url: () => string;
  readonly #heartbeatSeconds: number;
  readonly #session: (connection: ChannelModel) => Promise<void>;
  readonly #running: Promise<void>;
  #connection: ChannelModel | null = null;
  #isStopping = false;
  #opened = 0;

  /** `url` is asked before each connection. */
  constructor(url: () => string, heartbeatSeconds: number, session: (connection: ChannelModel) => Promise<void>) {
    this.#url = url;
    this.#heartbeatSeconds = heartbeatSeconds;
    this.#session = session;
    this.#running = this.#run();
  }

  get isStopping(): boolean {
    return this.#isStopping;
  }

  /** Connections after the first. */
  get reconnects(): number {
    return Math.max(0, this.#opened - 1);
  }

  drop(): void {
    if (this.#connection !== null) dropConnection(this.#connection);
  }

  /** Resolves when the session of the moment has come to its end. */
  async stop(): Promise<void> {
    this.#isStopping = true;
    await this.#running;
  }

  async #run(): Promise<void> {
    while (!this.#isStopping) {
      try {
        const connection = await openConnection(this.#url(), this.#heartbeatSeconds);
        this.#connection = connection;
        this.#opened++;
        try {
          await this.#session(connection);
        } finally {
          this.#connection = null;
          await leaveConnection(connection);
        }
      } catch {
        // Not reachable, or not able to do what the session asks: the loop tries again.
      }
      if (!this.#isStopping) await sleep(reconnectMilliseconds);
    }
  }
}
