// The language of conversations/*.txt: what a client says, octet for octet, and what a broker answers.
//
//   ## name                    a conversation: connections of its own
//   > 01 0001 ...   # words    a client's octets, in hexadecimal or as "text"; lines that begin with blanks go on with them
//   < 01 0001 .. ..*22         the broker's answer, of which .. is any octet; exactly this, and in this order
//   < closed                   the broker ended the connection
//   * hello | connect | open   the usual beginnings: up to connection.start; the whole handshake; and channel 1 with it
//   ! a disk is low            what happens to the broker meanwhile: see `happens`; `! seconds 5` lets time pass
//   2> 2< 2*                   the same, of a second connection
//
// The broker is the real one, over a cluster in memory; or any other, over TCP, which then skips what only `!` can bring about.

import { createConnection, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Connection } from '../../cluster/index.ts';
import { type MethodName, readMethod } from '../../node/amqp/methods.ts';
import type { AmqpOptions } from '../../node/amqp/options.ts';
import type { Broker } from '../../node/broker/broker.ts';
import { createBroker } from '../support/broker-client.ts';
import { MemoryCluster } from '../support/memory-cluster.ts';
import { type Harness, type MemorySocket, serve } from './harness.ts';

/** An octet, or null for any. */
type Pattern = readonly (number | null)[];
type Doing =
  | { readonly kind: 'says'; readonly bytes: Buffer }
  | { readonly kind: 'hears'; readonly pattern: Pattern }
  | { readonly kind: 'closed' }
  | { readonly kind: 'begins'; readonly how: string }
  | { readonly kind: 'happens'; readonly what: string };
type Step = Doing & { readonly connection: number; readonly line: number };
export interface Conversation {
  readonly name: string;
  readonly steps: readonly Step[];
}

// ---- reading

export function parseConversations(text: string): Conversation[] {
  const conversations: { name: string; steps: Step[] }[] = [];
  let open: { mark: string; connection: number; line: number; tokens: string } | null = null;
  const finish = () => {
    if (open !== null) conversations.at(-1)!.steps.push(stepOf(open.mark, open));
    open = null;
  };
  for (const [index, raw] of text.split('\n').entries()) {
    const line = raw.startsWith('## ') ? raw : raw.replace(/#.*$/, '').trimEnd();
    const head = /^(2?)([><*!]) (.*)$/.exec(line);
    if (line.startsWith('## ')) {
      finish();
      conversations.push({ name: line.slice(3), steps: [] });
    } else if (head !== null) {
      finish();
      open = { mark: head[2]!, connection: head[1] === '2' ? 2 : 1, line: index + 1, tokens: head[3]! };
    } else if (line.trim() !== '') {
      if (open === null || !line.startsWith(' ')) throw new Error(`line ${index + 1} says nothing: ${raw}`);
      open.tokens += ` ${line.trim()}`;
    }
  }
  finish();
  return conversations;
}

function stepOf(
  mark: string,
  { connection, line, tokens }: { connection: number; line: number; tokens: string },
): Step {
  const words = tokens.trim();
  const at = { connection, line };
  if (mark === '*') return { ...at, kind: 'begins', how: words };
  if (mark === '!') return { ...at, kind: 'happens', what: words };
  if (mark === '<' && words === 'closed') return { ...at, kind: 'closed' };
  const pattern = patternOf(words, line);
  if (mark === '<') return { ...at, kind: 'hears', pattern };
  return { ...at, kind: 'says', bytes: Buffer.from(pattern.map((octet) => octet ?? 0)) };
}

function patternOf(tokens: string, line: number): Pattern {
  const pattern: (number | null)[] = [];
  for (const [token] of tokens.matchAll(/"[^"]*"|\S+/g)) {
    const wild = /^\.\.(?:\*(\d+))?$/.exec(token);
    if (token.startsWith('"')) pattern.push(...Buffer.from(token.slice(1, -1)));
    else if (wild !== null) pattern.push(...new Array<null>(Number(wild[1] ?? 1)).fill(null));
    else if (/^([0-9a-f]{2})+$/.test(token)) pattern.push(...Buffer.from(token, 'hex'));
    else throw new Error(`line ${line}: '${token}' is neither octets nor text`);
  }
  return pattern;
}

// ---- brokers

/** One connection of a client, as octets. */
interface Wire {
  send(bytes: Buffer): void;
  /** All that came so far. */
  received(): Buffer;
  isClosed(): boolean;
  end(): void;
}

export interface Partner {
  connect(): Wire;
  /** Lets answers come. */
  wait(): Promise<void>;
  /** False: this cannot be had here. */
  happens(what: string): Promise<boolean>;
}

const answerMilliseconds = 5;
const diskBytes = 64 * 1024 * 1024;

/** A node of this broker, in memory. `remarks`: the `!` lines that have to be known from the start. */
export class MemoryPartner implements Partner {
  readonly #cluster: MemoryCluster;
  readonly #harness: Harness<Broker>;

  private constructor(cluster: MemoryCluster, server: Harness<Broker>) {
    this.#cluster = cluster;
    this.#harness = server;
  }

  static async start(remarks: readonly string[] = []): Promise<MemoryPartner> {
    const numberOf = (word: string) =>
      Number(remarks.find((remark) => remark.startsWith(word))?.slice(word.length) ?? 0);
    const disk = { freeBytesMin: 1 << 20, reserveBytes: 1 << 18, checkMilliseconds: 200 };
    const cluster = new MemoryCluster(numberOf('nodes ') || 1, 7, { shards: 1, disk });
    await cluster.start();
    const options: Partial<AmqpOptions> = {};
    const [messages, assembly] = [numberOf('messages '), numberOf('assembly ')];
    if (messages + assembly > 0) Object.assign(options, { messageBytesMax: messages || assembly });
    if (assembly > 0) Object.assign(options, { assemblyBytesMax: assembly });
    return new MemoryPartner(cluster, await serve(createBroker(cluster.node(1), cluster), options));
  }

  connect(): Wire {
    const client = this.#harness.connect();
    const socket: MemorySocket & Connection = client.socket;
    socket.onWrite = () => {};
    return {
      send: (bytes) => void client.bytes(bytes),
      received: () => Buffer.concat(socket.writes),
      isClosed: () => socket.isClosed,
      end: () => socket.close(),
    };
  }

  async wait(): Promise<void> {
    await this.#cluster.clock.run(answerMilliseconds);
    this.#harness.clock.turn();
  }

  async happens(what: string): Promise<boolean> {
    const cluster = this.#cluster;
    const { disk } = cluster.node(1);
    const seconds = /^(\d+) seconds$/.exec(what);
    if (seconds !== null) {
      this.#harness.clock.advance(Number(seconds[1]) * 1000);
      await cluster.clock.run(Number(seconds[1]) * 1000);
    } else if (what === 'a disk is low') {
      disk.capacity = diskBytes;
      disk.put('filler', Buffer.alloc(diskBytes - disk.usedBytes() - (1 << 19)));
      await cluster.clock.run(1000);
    } else if (what === 'the disk has room') {
      disk.put('filler', null);
      await cluster.clock.run(1000);
    } else if (what === 'the server closes') {
      void this.#harness.server.close();
    } else if (what === 'the others are gone') {
      for (const { node } of cluster.nodes) if (node !== 1) cluster.kill(node);
    } else if (!/^(nodes|messages|assembly) \d+$/.test(what)) throw new Error(`nothing is known of: ${what}`);
    return true;
  }
}

/** Any broker, over TCP. */
export class TcpPartner implements Partner {
  readonly #host: string;
  readonly #port: number;

  constructor(host: string, port: number) {
    this.#host = host;
    this.#port = port;
  }

  connect(): Wire {
    const socket: Socket = createConnection({ host: this.#host, port: this.#port, noDelay: true });
    const chunks: Buffer[] = [];
    let closed = false;
    socket.on('data', (chunk) => chunks.push(chunk));
    socket.on('error', () => {});
    socket.on('end', () => {
      closed = true;
    });
    socket.on('close', () => {
      closed = true;
    });
    return {
      send: (bytes) => void socket.write(bytes),
      received: () => Buffer.concat(chunks),
      isClosed: () => closed,
      end: () => socket.destroy(),
    };
  }
  async wait(): Promise<void> {
    await sleep(20);
  }
  async happens(): Promise<boolean> {
    return false;
  }
}

// ---- talking

/** Waits for an answer, in turns of `Partner.wait`. */
const turnsMax = 400;
/** Turns without anything after which nothing more is expected. */
const quietTurns = 3;

interface Side {
  readonly wire: Wire;
  /** How much of what came has been looked at. */
  seen: number;
}

/** Method frames that were said and heard. */
export type Exchanged = (from: 'client' | 'server', name: MethodName) => void;

/** Throws at the first difference. `skipped`: what this broker cannot be made to do stands in the way. */
export async function converse(
  partner: Partner,
  { steps }: Conversation,
  exchanged: Exchanged,
): Promise<'done' | 'skipped'> {
  const sides = new Map<number, Side>();
  const sideOf = (connection: number): Side => {
    let side = sides.get(connection);
    if (side === undefined) sides.set(connection, (side = { wire: partner.connect(), seen: 0 }));
    return side;
  };
  try {
    for (const step of steps) {
      if (step.kind === 'happens') {
        if (!(await partner.happens(step.what))) return 'skipped';
      } else if (step.kind === 'says') {
        eachMethod(step.bytes, (name) => exchanged('client', name));
        sideOf(step.connection).wire.send(step.bytes);
      } else if (step.kind === 'begins') await begin(partner, sideOf(step.connection), step.how);
      else await hear(partner, sideOf(step.connection), step, exchanged);
    }
    for (const side of sides.values()) await nothingMore(partner, side);
    return 'done';
  } finally {
    for (const { wire } of sides.values()) if (!wire.isClosed()) wire.end();
    await partner.wait();
  }
}

async function hear(partner: Partner, side: Side, step: Step, exchanged: Exchanged): Promise<void> {
  const isThere = () =>
    step.kind === 'hears' ? side.wire.received().length >= side.seen + step.pattern.length : side.wire.isClosed();
  for (let turn = 0; turn < turnsMax && !isThere(); turn++) await partner.wait();
  const came = side.wire.received().subarray(side.seen);
  if (step.kind !== 'hears') {
    if (!side.wire.isClosed() || came.length > 0)
      throw new Error(`line ${step.line}: not closed, and ${shown(came)} came`);
    return;
  }
  const { pattern } = step;
  const same = came.length >= pattern.length && pattern.every((octet, at) => octet === null || octet === came[at]);
  if (!same) {
    const wanted = pattern.map((octet) => (octet === null ? '..' : octet.toString(16).padStart(2, '0'))).join('');
    throw new Error(
      `line ${step.line}: another answer came\n  wanted ${wanted}\n  came   ${shown(came)}\n  ${printable(came)}`,
    );
  }
  side.seen += pattern.length;
  eachMethod(came.subarray(0, pattern.length), (name) => exchanged('server', name));
}

async function nothingMore(partner: Partner, side: Side): Promise<void> {
  for (let turn = 0; turn < quietTurns; turn++) await partner.wait();
  const more = side.wire.received().subarray(side.seen);
  if (more.length > 0) throw new Error(`more came at the end: ${shown(more)}\n  ${printable(more)}`);
}

const shown = (bytes: Buffer): string => (bytes.length === 0 ? 'nothing' : bytes.toString('hex'));
const printable = (bytes: Buffer): string => bytes.toString('latin1').replace(/[^ -~]/g, '·');

const openings = {
  header: Buffer.from('414d515000000901', 'hex'),
  // start-ok: consumer_cancel_notify, connection.blocked and authentication_failure_close; PLAIN, guest, guest; en_US
  startOk: patternOf(
    '01 0000 00000083 000a000b 0000005f 0c "capabilities" 46 0000004d 1c "authentication_failure_close" 7401 ' +
      '16 "consumer_cancel_notify" 7401 12 "connection.blocked" 7401 05 "PLAIN" 0000000c 00 "guest" 00 "guest" 05 "en_US" ce',
    0,
  ),
  // tune-ok: channel-max 2047, frame-max 131072, no heartbeat
  tuneOk: patternOf('01 0000 0000000c 000a001f 07ff 00020000 0000 ce', 0),
  // open: virtual host /
  open: patternOf('01 0000 00000008 000a0028 01 "/" 00 00 ce', 0),
  channel: patternOf('01 0001 00000005 0014000a 00 ce', 0),
};

/** Says the usual beginning and passes over its answers, a frame each. */
async function begin(partner: Partner, side: Side, how: string): Promise<void> {
  const said: Buffer[] = [openings.header];
  if (how === 'connect' || how === 'open')
    said.push(...[openings.startOk, openings.tuneOk].map(octets), octets(openings.open));
  if (how === 'open') said.push(octets(openings.channel));
  else if (how !== 'connect' && how !== 'hello') throw new Error(`nothing begins with '${how}'`);
  for (const bytes of said) {
    side.wire.send(bytes);
    // tune-ok has no answer.
    if (bytes.equals(octets(openings.tuneOk))) continue;
    const frameEnd = () => {
      const came = side.wire.received().subarray(side.seen);
      return came.length < 7 ? Number.POSITIVE_INFINITY : 8 + came.readUInt32BE(3);
    };
    for (let turn = 0; turn < turnsMax && side.wire.received().length - side.seen < frameEnd(); turn++)
      await partner.wait();
    if (frameEnd() === Number.POSITIVE_INFINITY) throw new Error(`no answer at the beginning: ${how}`);
    side.seen += frameEnd();
  }
}

const octets = (pattern: Pattern): Buffer => Buffer.from(pattern.map((octet) => octet ?? 0));

/** Names the whole and well-formed method frames. */
function eachMethod(bytes: Buffer, tell: (name: MethodName) => void): void {
  for (let at = 0; at + 8 <= bytes.length; ) {
    const end = at + 8 + bytes.readUInt32BE(at + 3);
    const isMethod = bytes[at] === 1 && end <= bytes.length;
    const method = isMethod ? readMethod(bytes, at + 7, end - 1) : 'unknown';
    if (typeof method !== 'string') tell(method.kind);
    at = end;
  }
}
