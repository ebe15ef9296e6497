// Contents, whole and broken: messages of several channels, cut into frames and chunks anywhere, come out as they went in; all
// fourteen properties do; and what is broken gives errors with a code, never a throw.
//
// 20,000 inputs, and 100,000 in garbage.test.ts. A failure prints the seed that replays it.

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Arguments } from '../../node/amqp/backend.ts';
import { Content } from '../../node/amqp/content.ts';
import { encodeFrame, FrameReader, type FrameSink, FrameType, protocolHeader } from '../../node/amqp/frames.ts';
import { methodId } from '../../node/amqp/methods.ts';
import {
  PropertyScan,
  readHeaders,
  withDeliveryCount,
  withHeaders,
  withoutExpiration,
} from '../../node/amqp/properties.ts';
import { encodeShortString, encodeTable } from '../../node/amqp/table.ts';
import { FrameWriter } from '../../node/amqp/writer.ts';
import { BrokerError } from '../../node/errors.ts';
import { storedMessage } from './fake-backend.ts';
import { methodFrame } from './harness.ts';

const limit = 400;

// ---- messages, as their frames

interface Message {
  readonly exchange: string;
  readonly routingKey: string;
  readonly properties: Buffer;
  readonly body: Buffer;
  /** Where the body is cut into frames. */
  readonly cuts: readonly number[];
}

function framesOf(channel: number, { exchange, routingKey, properties, body, cuts }: Message): Buffer[] {
  const publish = { ticket: 0, exchange, routingKey, mandatory: false, immediate: false };
  const header = Buffer.alloc(12);
  header.writeUInt16BE(60, 0);
  header.writeBigUInt64BE(BigInt(body.length), 4);
  const frames = [
    methodFrame(channel, { kind: 'basic.publish', ...publish }),
    encodeFrame(FrameType.header, channel, Buffer.concat([header, properties])),
  ];
  const ends = [...cuts.filter((cut) => cut < body.length)].sort((a, b) => a - b);
  let from = 0;
  // Frames of no bytes between others are allowed.
  for (const end of body.length === 0 ? [] : [...ends, body.length]) {
    frames.push(encodeFrame(FrameType.body, channel, body.subarray(from, end)));
    from = end;
  }
  return frames;
}

/** Takes frames as a connection does, a content for each channel, and remembers what comes of them. */
class Taker implements FrameSink {
  readonly told: string[] = [];
  readonly #contents = new Map<number, Content>();

  contentOf(channel: number): Content {
    let content = this.#contents.get(channel);
    if (content === undefined) this.#contents.set(channel, (content = new Content('guest', limit)));
    return content;
  }
  protocolHeader(): void {}
  frame(type: number, channel: number, bytes: Buffer, start: number, end: number): void {
    const content = this.contentOf(channel);
    const isMethod = type === FrameType.method;
    const take = isMethod ? 'begin' : type === FrameType.header ? 'header' : 'piece';
    const isPublish = isMethod && end - start >= 4 && bytes.readUInt32BE(start) === methodId.basicPublish;
    if (isMethod && (!isPublish || content.isUnfinished)) return void this.told.push(`${channel} another method`);
    const error = content[take](bytes, start, end);
    if (error !== null) {
      if (!(error instanceof BrokerError)) throw new Error('an error without a code');
      this.told.push(`${channel} ${error.replyCode}`);
      content.reset();
    } else if (content.isComplete) {
      const { publication, properties, body } = content;
      const { exchange, routingKey } = publication!;
      this.told.push(
        [channel, exchange, routingKey, properties.toString('hex'), Buffer.concat(body).toString('hex')].join(' '),
      );
      content.reset();
    }
  }
  chunkDone(): void {
    for (const content of this.#contents.values()) if (content.isUnfinished) content.keep();
  }
  broken(error: Error): void {
    if (!(error instanceof BrokerError)) throw new Error('an error without a code');
    this.told.push(`broken ${error.replyCode}`);
  }
}

/** In chunks that are spoiled as soon as they were taken. */
function take(bytes: Buffer, chunks: readonly number[]): string[] {
  const taker = new Taker();
  const reader = new FrameReader(4096, taker);
  reader.push(protocolHeader);
  let from = 0;
  for (const cut of [...chunks.filter((cut) => cut < bytes.length).sort((a, b) => a - b), bytes.length]) {
    const chunk = Buffer.from(bytes.subarray(from, cut));
    reader.push(chunk);
    chunk.fill(0xee);
    from = cut;
  }
  return taker.told;
}

// ---- properties

const text = fc.oneof(fc.constantFrom('', 'a', 'ü', 'x'.repeat(255)), fc.string({ maxLength: 12 }));
const scalar = fc.oneof(
  fc.boolean(),
  fc.integer(),
  fc.string({ maxLength: 8 }),
  fc.constant(null),
  fc.maxSafeInteger(),
);
const headers = fc.dictionary(fc.string({ maxLength: 8 }), scalar, { maxKeys: 4, noNullPrototype: true });

/** In the order of their flags, from bit 15 down; `headers` is a table, three are numbers, the others short strings. */
const names = [
  ...['contentType', 'contentEncoding', 'headers', 'deliveryMode', 'priority', 'correlationId', 'replyTo'],
  ...['expiration', 'messageId', 'timestamp', 'type', 'userId', 'appId', 'clusterId'],
] as const;
type Name = (typeof names)[number];
type Properties = Partial<Record<Name, string | number | bigint | Arguments>>;

const arbitrary: Record<string, fc.Arbitrary<unknown>> = {
  headers,
  deliveryMode: fc.nat(255),
  priority: fc.nat(255),
  timestamp: fc.bigInt(0n, 2n ** 64n - 1n),
  expiration: fc.nat().map(String),
  userId: fc.constant('guest'),
};
const properties = fc.record(Object.fromEntries(names.map((name) => [name, arbitrary[name] ?? text])), {
  requiredKeys: [],
  noNullPrototype: true,
}) as fc.Arbitrary<Properties>;

function encode(given: Properties): Buffer {
  const pieces: Buffer[] = [Buffer.alloc(2)];
  let flags = 0;
  for (const [index, name] of names.entries()) {
    const value = given[name];
    if (value === undefined) continue;
    flags |= 1 << (15 - index);
    if (typeof value === 'string') pieces.push(encodeShortString(value));
    else if (typeof value === 'number') pieces.push(Buffer.from([value]));
    else if (typeof value === 'bigint') {
      const bytes = Buffer.alloc(8);
      bytes.writeBigUInt64BE(value);
      pieces.push(bytes);
    } else pieces.push(encodeTable(value));
  }
  pieces[0]!.writeUInt16BE(flags);
  return Buffer.concat(pieces);
}

// ---- what is asked of them

it('messages of several channels come out whole, whatever the frames, their order and the chunks', () => {
  const message: fc.Arbitrary<Message> = fc.record({
    exchange: fc.constantFrom('', 'amq.topic'),
    routingKey: fc.string({ maxLength: 6 }),
    properties: fc
      .constantFrom('0000', '1000 02', '1400 02 01 63')
      .map((hex) => Buffer.from(hex.replaceAll(' ', ''), 'hex')),
    body: fc.nat(limit).map((length) => Buffer.alloc(length, `${length} `)),
    cuts: fc.array(fc.nat(limit), { maxLength: 4 }),
  });
  const scene = fc.record({
    channels: fc.array(fc.array(message, { maxLength: 3 }), { minLength: 1, maxLength: 3 }),
    turns: fc.array(fc.nat(2), { maxLength: 24 }),
    chunks: fc.array(fc.nat(3000), { maxLength: 8 }),
  });
  fc.assert(
    fc.property(scene, ({ channels, turns, chunks }) => {
      const waiting = channels.map((messages, at) => messages.flatMap((each) => framesOf(at + 1, each)));
      const frames: Buffer[] = [];
      for (const turn of turns) frames.push(...(waiting[turn]?.splice(0, 1) ?? []));
      for (const rest of waiting) frames.push(...rest);
      const bytes = Buffer.concat(frames);
      const told = take(bytes, chunks);
      for (const [at, messages] of channels.entries()) {
        const mine = messages.map((each) =>
          [at + 1, each.exchange, each.routingKey, each.properties.toString('hex'), each.body.toString('hex')].join(
            ' ',
          ),
        );
        if (told.filter((line) => line.startsWith(`${at + 1} `)).join() !== mine.join())
          expect.fail('other messages came out');
      }
      if (told.join() !== take(bytes, []).join()) expect.fail('the chunks make a difference');
    }),
    { numRuns: 4_000 },
  );
});

describe('the fourteen properties', () => {
  const scan = new PropertyScan();
  const slice = (bytes: Buffer, start: number, end: number) =>
    start < 0 ? undefined : bytes.toString('utf8', start, end);

  it('are found where they are, and leave as they came', () => {
    fc.assert(
      fc.property(properties, (given) => {
        const bytes = encode(given);
        const around = Buffer.concat([Buffer.from([7, 7]), bytes, Buffer.from([7])]);
        if (!scan.scan(around, 2, 2 + bytes.length)) expect.fail('not well formed');
        const found = [
          [scan.deliveryMode, given.deliveryMode ?? -1],
          [scan.priority, given.priority ?? -1],
          [slice(around, scan.replyToStart, scan.replyToEnd), given.replyTo],
          [slice(around, scan.expirationStart, scan.expirationEnd), given.expiration],
          [slice(around, scan.userIdStart, scan.userIdEnd), given.userId],
        ];
        for (const [is, wanted] of found) if (is !== wanted) expect.fail(`${is} instead of ${wanted}`);
        expect({ ...readHeaders(bytes) }).toEqual(given.headers ?? {});
        const writer = new FrameWriter(() => {});
        const publication = {
          exchange: '',
          routingKey: 'k',
          key: Buffer.from([0, 1, 0x6b]),
          mandatory: false,
          route: null,
        };
        writer.deliver(1, encodeShortString('c'), 1, false, storedMessage(publication, bytes, []), null);
        if (!Buffer.concat(writer.take()).includes(bytes)) expect.fail('they leave otherwise');
      }),
      { numRuns: 3_000 },
    );
  });

  it('keep all others when one is changed', () => {
    const counted = (table: Arguments, more: Arguments) => ({ ...table, ...more });
    fc.assert(
      fc.property(properties, (given) => {
        const bytes = encode(given);
        const table = (given.headers ?? {}) as Arguments;
        const { 'x-delivery-count': _, ...others } = table;
        const withCount = withDeliveryCount(bytes, 7);
        expect({ ...readHeaders(withCount) }).toEqual(counted(others, { 'x-delivery-count': 7 }));
        // Everything but the headers as it was: without them both are the same.
        const { headers: _headers, ...rest } = given;
        const bare = withHeaders(withCount, [...Object.keys(table), 'x-delivery-count'], []);
        if (!bare.equals(encode({ ...rest, headers: {} }))) expect.fail('another property changed');
        const { expiration, rest: lasting } = withoutExpiration(bytes);
        const { expiration: wanted = null, ...without } = given;
        if (expiration !== wanted || !lasting.equals(encode(without))) expect.fail('expired otherwise');
      }),
      { numRuns: 3_000 },
    );
  });

  it('are refused with a code when they are broken, and harm nothing', () => {
    const bends = fc.array(fc.tuple(fc.nat(), fc.nat(255)), { maxLength: 3 });
    fc.assert(
      fc.property(properties, bends, fc.nat(), (given, places, length) => {
        const whole = encode(given);
        for (const [at, byte] of places) whole[at % whole.length] = byte;
        const bytes = length % 4 === 0 ? whole.subarray(0, length % (whole.length + 1)) : whole;
        const message: Message = {
          exchange: '',
          routingKey: '',
          properties: Buffer.from(bytes),
          body: Buffer.alloc(0),
          cuts: [],
        };
        const told = take(Buffer.concat(framesOf(1, message)), []);
        const verdict = told[0]?.split(' ')[1] ?? '';
        if (told.length !== 1 || !['', '406', '502'].includes(verdict)) expect.fail(`told ${told.join()}`);
        if (verdict !== '') return;
        // What was let through can be read, and changed.
        readHeaders(Buffer.from(bytes));
        withDeliveryCount(Buffer.from(bytes), 1);
        withoutExpiration(Buffer.from(bytes));
      }),
      { numRuns: 5_000 },
    );
  });
});

it('frames in any order, with some octets bent, give errors with a code and never a throw', () => {
  const message = {
    exchange: 'e',
    routingKey: 'k',
    properties: encode({ deliveryMode: 2, headers: { a: [1] } }),
    cuts: [3],
  };
  const parts = [
    ...framesOf(1, { ...message, body: Buffer.from('body') }),
    ...framesOf(2, { ...message, body: Buffer.alloc(0) }),
  ];
  const order = fc.array(fc.nat(parts.length - 1), { minLength: 1, maxLength: 6 });
  fc.assert(
    fc.property(
      order,
      fc.array(fc.tuple(fc.nat(), fc.nat(255)), { maxLength: 2 }),
      fc.nat(200),
      (indexes, places, cut) => {
        const bytes = Buffer.concat(indexes.map((index) => parts[index]!));
        for (const [at, byte] of places) bytes[at % bytes.length] = byte;
        if (take(bytes, [cut]).join() !== take(bytes, []).join()) expect.fail('the chunks make a difference');
      },
    ),
    { numRuns: 5_000 },
  );
});
