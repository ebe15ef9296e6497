// A socket that sends whatever a test wants, right or wrong, and shows the frames that come back.

import net from 'node:net';
import {
  frameHeaderBytes,
  frameType,
  longString,
  method,
  methodFrame,
  octet,
  shortString,
  table,
  uint16,
  uint32,
} from '../bench/wire.ts';

export interface ReceivedFrame {
  readonly type: number;
  readonly channel: number;
  readonly payload: Buffer;
}

const answerMillisecondsMax = 5000;
export const protocolHeader = Buffer.from('AMQP\x00\x00\x09\x01', 'latin1');

export class RawConnection {
  readonly socket: net.Socket;
  #received = Buffer.alloc(0);
  #ended = false;
  #wake: () => void = () => {};

  static async connect(url: string): Promise<RawConnection> {
    const { hostname, port } = new URL(url);
    const socket = net.connect({ host: hostname, port: Number(port), noDelay: true });
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve);
      socket.once('error', reject);
    });
    return new RawConnection(socket);
  }

  /** Logged in, with channel 1 open. */
  static async opened(url: string): Promise<RawConnection> {
    const connection = await RawConnection.connect(url);
    await connection.logIn('guest', 'guest');
    connection.write(openFrames('/'));
    await connection.expectMethod(method.connectionOpenOk);
    connection.write(methodFrame(1, method.channelOpen, shortString('')));
    await connection.expectMethod(method.channelOpenOk);
    return connection;
  }

  private constructor(socket: net.Socket) {
    this.socket = socket;
    socket.on('data', (chunk) => {
      this.#received = Buffer.concat([this.#received, chunk]);
      this.#wake();
    });
    socket.on('error', () => {});
    socket.on('close', () => {
      this.#ended = true;
      this.#wake();
    });
  }

  write(bytes: Buffer): void {
    this.socket.write(bytes);
  }

  /** Protocol header, start-ok. What comes after that is the test's matter. */
  async logIn(user: string, password: string, capabilities = {}): Promise<void> {
    this.write(protocolHeader);
    await this.expectMethod(method.connectionStart);
    this.write(startOkFrame(user, password, capabilities));
  }

  /** The next frame that is no heartbeat, or null if the connection ended instead. */
  async nextFrame(milliseconds = answerMillisecondsMax): Promise<ReceivedFrame | null> {
    const deadline = performance.now() + milliseconds;
    for (;;) {
      const bytes = this.#received;
      const length = bytes.length < frameHeaderBytes ? Number.POSITIVE_INFINITY : bytes.readUInt32BE(3);
      if (bytes.length > length + frameHeaderBytes) {
        this.#received = bytes.subarray(length + frameHeaderBytes + 1);
        if (bytes[0] === frameType.heartbeat) continue;
        const payload = bytes.subarray(frameHeaderBytes, frameHeaderBytes + length);
        return { type: bytes[0]!, channel: bytes.readUInt16BE(1), payload };
      }
      if (this.#ended) return null;
      await this.#change(deadline);
    }
  }

  /** Skips other methods. Returns the fields behind the method's id. */
  async expectMethod(id: number): Promise<Buffer> {
    for (;;) {
      const frame = await this.nextFrame();
      if (frame === null) throw new Error(`the connection ended before method ${id.toString(16)}`);
      if (frame.type === frameType.method && frame.payload.readUInt32BE(0) === id) return frame.payload.subarray(4);
      if (frame.type === frameType.method && frame.payload.readUInt32BE(0) === method.connectionClose) {
        throw new Error(`closed: ${frame.payload.toString('latin1', 7)}`);
      }
    }
  }

  /** How the server ends the connection: the reply code of its connection.close, or `closed` without one. */
  async ending(milliseconds = answerMillisecondsMax): Promise<number | 'closed'> {
    for (;;) {
      const frame = await this.nextFrame(milliseconds);
      if (frame === null) return 'closed';
      if (frame.type !== frameType.method || frame.payload.readUInt32BE(0) !== method.connectionClose) continue;
      this.write(methodFrame(0, method.connectionCloseOk));
      return frame.payload.readUInt16BE(4);
    }
  }

  /** All bytes until the server closes. */
  async rest(milliseconds = answerMillisecondsMax): Promise<Buffer> {
    const deadline = performance.now() + milliseconds;
    while (!this.#ended) await this.#change(deadline);
    return this.#received;
  }

  destroy(): void {
    this.socket.destroy();
  }

  #change(deadline: number): Promise<void> {
    return new Promise((resolve, reject) => {
      const left = deadline - performance.now();
      const timer = setTimeout(() => reject(new Error('no answer and no close in time')), Math.max(0, left));
      this.#wake = () => {
        clearTimeout(timer);
        this.#wake = () => {};
        resolve();
      };
    });
  }
}

export function startOkFrame(user: string, password: string, capabilities = {}): Buffer {
  const properties = table({ product: 'test', capabilities });
  const response = longString(`\0${user}\0${password}`);
  return methodFrame(0, method.connectionStartOk, properties, shortString('PLAIN'), response, shortString('en_US'));
}

/** tune-ok (frame-max 131072, no heartbeats) and open. */
export function openFrames(vhost: string, frameMax = 131_072): Buffer {
  return Buffer.concat([
    methodFrame(0, method.connectionTuneOk, uint16(100), uint32(frameMax), uint16(0)),
    methodFrame(0, method.connectionOpen, shortString(vhost), shortString(''), octet(0)),
  ]);
}
