// Codecs against bytes from the specification (written out by hand), and against another implementation's tables.

import { createRequire } from 'node:module';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Arguments, ArgumentValue } from '../../node/amqp/backend.ts';
import { ByteReader, copyBytes, readU64, writeU64 } from '../../node/amqp/bytes.ts';
import { readCredentials } from '../../node/amqp/credentials.ts';
import { encodeMethod, idOf, type Method, methodId, methodNames, nameOf, readMethod } from '../../node/amqp/methods.ts';
import { PropertyScan, parseExpiration, readHeaders, withDeliveryCount } from '../../node/amqp/properties.ts';
import { encodeShortString, encodeTable, readTable, skipTable, tableDepthMax } from '../../node/amqp/table.ts';
import { FrameWriter } from '../../node/amqp/writer.ts';
import { storedMessage } from './fake-backend.ts';

const hex = (text: string) => Buffer.from(text.replace(/[\s|]/g, ''), 'hex');
const read = (bytes: Buffer) => readMethod(bytes, 0, bytes.length);
const shortString = (text: string) => encodeShortString(text).toString('hex');

describe('methods', () => {
  const golden: readonly [string, Method][] = [
    ['000a 001e | 07ff 00020000 003c', { kind: 'connection.tune', channelMax: 2047, frameMax: 131_072, heartbeat: 60 }],
    ['000a 0028 | 012f 00 01', { kind: 'connection.open', virtualHost: '/', reserved1: '', reserved2: true }],
    [
      '000a 0032 | 0140 05 41204241 44 003c 0028',
      { kind: 'connection.close', replyCode: 320, replyText: 'A BAD', classId: 60, methodId: 40 },
    ],
    ['0014 000a | 00', { kind: 'channel.open', reserved1: '' }],
    ['0014 000b | 00000000', { kind: 'channel.open-ok', reserved1: Buffer.alloc(0) }],
    [
      // passive 1, durable 2, exclusive 4, auto-delete 8, nowait 16
      '0032 000a | 0000 0171 1a 00000000',
      {
        kind: 'queue.declare',
        ticket: 0,
        queue: 'q',
        passive: false,
        durable: true,
        exclusive: false,
        autoDelete: true,
        nowait: true,
        arguments: {},
      },
    ],
    [
      // internal 8, nowait 16; a table: t boolean, I integer, S text
      '0028 000a | 0000 0178 05 746f706963 0b 0000001b 0161 74 01 0162 49 ffffffff 0163 53 00000003 616263 0164 56 016556',
      {
        kind: 'exchange.declare',
        ticket: 0,
        exchange: 'x',
        type: 'topic',
        passive: true,
        durable: true,
        autoDelete: false,
        internal: true,
        nowait: false,
        arguments: { a: true, b: -1, c: 'abc', d: null, e: null },
      },
    ],
    ['003c 000a | 00000000 000a 01', { kind: 'basic.qos', prefetchSize: 0, prefetchCount: 10, global: true }],
    [
      '003c 0028 | 0000 0165 026b31 01',
      { kind: 'basic.publish', ticket: 0, exchange: 'e', routingKey: 'k1', mandatory: true, immediate: false },
    ],
    [
      '003c 003c | 0163 0000000100000002 01 0165 016b',
      {
        kind: 'basic.deliver',
        consumerTag: 'c',
        deliveryTag: 0x1_0000_0002,
        redelivered: true,
        exchange: 'e',
        routingKey: 'k',
      },
    ],
    ['003c 0078 | 0000000000000007 02', { kind: 'basic.nack', deliveryTag: 7, multiple: false, requeue: true }],
    ['0055 000a | 01', { kind: 'confirm.select', nowait: true }],
    ['0028 0033 |', { kind: 'exchange.unbind-ok' }],
  ];

  it.each(golden)('%s', (bytes, method) => {
    expect(encodeMethod(method).toString('hex')).toBe(hex(bytes).toString('hex'));
    expect(read(hex(bytes))).toEqual(method);
  });

  it('have the ids that others know them by', () => {
    expect(idOf('basic.publish')).toBe(methodId.basicPublish);
    for (const [name, id] of Object.entries(methodId))
      expect(nameOf(id)?.replace(/[.-](.)/g, (_, letter: string) => letter.toUpperCase())).toBe(name);
  });

  it('agree with another implementation, byte for byte', () => {
    // Its generated tables, which have no types and are not for users.
    const other = createRequire(import.meta.url)('../../node_modules/amqplib/lib/defs.js') as {
      info(id: number): { args: { name: string; type: string }[] };
      decode(id: number, bytes: Buffer): Record<string, unknown>;
      encodeMethod(id: number, channel: number, fields: object): Buffer;
    };
    let compared = 0;
    for (const name of methodNames) {
      const id = idOf(name);
      const { args } = other.info(id);
      // Every bit by itself, so that none can stand in another's place.
      const bits = args.filter((arg) => arg.type === 'bit').length;
      for (let bit = 0; bit <= bits; bit++) {
        const values = args.map((arg, index) => sample(arg.type, index, args, bit));
        const theirs = Object.fromEntries(args.map((arg, index) => [arg.name, values[index]]));
        const frame = other.encodeMethod(id, 3, theirs);
        const payload = frame.subarray(7, -1);
        const method = read(payload);
        if (typeof method === 'string') throw new Error(`${name} is ${method}`);
        const [kind, ...ours] = Object.values(method);
        expect(kind).toBe(name);
        expect(ours).toEqual(values);
        expect(encodeMethod(method)).toEqual(payload);
        compared++;
      }
    }
    expect(compared).toBeGreaterThan(100);
  });

  function sample(type: string, index: number, args: { type: string }[], bit: number): unknown {
    if (type === 'bit') return args.slice(0, index + 1).filter((arg) => arg.type === 'bit').length === bit;
    if (type === 'shortstr') return `text ${index} ü`;
    if (type === 'longstr') return Buffer.from(`long ${index}`);
    if (type === 'table') return { name: 'value', flag: true };
    return { octet: 200, short: 50_000, long: 4_000_000_000, longlong: 2 ** 40 + index }[type];
  }

  it('are malformed when cut off or too long, unknown when nobody knows them', () => {
    for (const [bytes] of golden) {
      const whole = hex(bytes);
      for (let length = 0; length < whole.length; length++) expect(read(whole.subarray(0, length))).toBe('malformed');
      expect(read(Buffer.concat([whole, Buffer.alloc(1)]))).toBe('malformed');
    }
    expect(read(hex('003c 0099'))).toBe('unknown');
    expect(read(hex('00ff 000a'))).toBe('unknown');
  });

  it('cut short strings at a whole character', () => {
    const cut = encodeShortString(`${'a'.repeat(254)}ü`);
    expect(cut).toEqual(Buffer.concat([Buffer.from([254]), Buffer.alloc(254, 'a')]));
  });
});

describe('field tables', () => {
  const values: readonly [string, ArgumentValue, boolean?][] = [
    ['74 01', true],
    ['74 00', false],
    ['62 ff', -1, false],
    ['42 ff', 255, false],
    ['73 8000', -32_768, false],
    ['75 8000', 32_768, false],
    ['49 80000000', -2_147_483_648],
    ['69 80000000', 2_147_483_648, false],
    ['6c 0000000080000000', 2_147_483_648],
    ['6c 0020000000000001', { int64: '9007199254740993' }],
    ['6c 8000000000000000', { int64: '-9223372036854775808' }],
    ['4c 8000000000000000', { int64: '-9223372036854775808' }, false],
    ['66 3fc00000', 1.5, false],
    ['64 3ff8000000000000', 1.5],
    ['44 02 0000007b', { decimal: [2, 123] }],
    ['53 00000002 c3bc', 'ü'],
    ['53 00000002 fffe', { bytes: '//4=' }, false],
    ['78 00000002 fffe', { bytes: '//4=' }],
    ['54 0000000065920080', { timestamp: 1_704_067_200 }],
    ['41 00000007 7401 49 00000002', [true, 2]],
    ['46 00000004 0161 7401', { table: { a: true } }],
    ['56', null],
  ];

  it.each(values)('%s', (bytes, value, canonical = true) => {
    const body = Buffer.concat([hex('0176'), hex(bytes)]);
    const table = Buffer.concat([hex('0000'), Buffer.from([body.length >>> 8, body.length & 255]), body]);
    const reader = new ByteReader(table);
    expect({ ...readTable(reader) }).toEqual({ v: value });
    expect(reader.isDone).toBe(true);
    const skipper = new ByteReader(table);
    skipTable(skipper);
    expect(skipper.isDone).toBe(true);
    if (canonical) expect(encodeTable({ v: value }).toString('hex')).toBe(table.toString('hex'));
  });

  it('mean nothing by their names', () => {
    const evil = encodeTable(JSON.parse('{"__proto__":{"table":{"x":1}},"constructor":1}') as Arguments);
    const table = readTable(new ByteReader(evil));
    expect(Object.keys(table)).toEqual(['__proto__', 'constructor']);
    expect(Object.getPrototypeOf(table)).toBeNull();
  });

  it('are bounded in depth, and fail without a throw wherever they are cut or bent', () => {
    const nested = (depth: number): Arguments => (depth === 1 ? {} : { n: { table: nested(depth - 1) } });
    for (const [depth, fails] of [
      [tableDepthMax, false],
      [tableDepthMax + 1, true],
    ] as const) {
      const bytes = encodeTable(nested(depth));
      const reader = new ByteReader(bytes);
      readTable(reader);
      expect(reader.failed).toBe(fails);
      const skipper = new ByteReader(bytes);
      skipTable(skipper);
      expect(skipper.failed).toBe(fails);
    }
    const whole = encodeTable({ a: [1, 'two', { table: { three: 3.5 } }], b: { bytes: 'AAAA' } });
    fc.assert(
      fc.property(fc.nat(whole.length - 1), fc.integer({ min: 0, max: 255 }), fc.nat(whole.length), (at, byte, end) => {
        const bent = Buffer.from(whole);
        bent[at] = byte;
        const reader = new ByteReader(bent, 0, end);
        const skipper = new ByteReader(bent, 0, end);
        readTable(reader);
        skipTable(skipper);
        expect(skipper.failed).toBe(reader.failed);
        expect(reader.at).toBeLessThanOrEqual(end);
      }),
      { numRuns: 2000 },
    );
  });

  it('tell a whole double from an integer', () => {
    // a: float 5, b: double 5, c: double 5.5, d: i32 5
    const bytes = hex(
      '0000002a' + '0161 66 40a00000' + '0162 64 4014000000000000' + '0163 64 4016000000000000' + '0164 49 00000005',
    );
    bytes.writeUInt32BE(bytes.length - 4, 0);
    const table = { a: { double: 5 }, b: { double: 5 }, c: 5.5, d: 5 };
    expect(readTable(new ByteReader(bytes))).toEqual(table);
    expect(readTable(new ByteReader(encodeTable(table)))).toEqual(table);
  });

  it('are the same after a round', () => {
    const value: fc.Arbitrary<ArgumentValue> = fc.oneof(
      fc.boolean(),
      fc.maxSafeInteger(),
      fc.double({ noNaN: true, noDefaultInfinity: true, noInteger: true }),
      fc.string({ unit: 'grapheme' }),
      fc.constant(null),
      fc.array(fc.string(), { maxLength: 3 }),
    );
    const table = fc.dictionary(fc.string({ maxLength: 20 }), value, { maxKeys: 5, noNullPrototype: true });
    fc.assert(
      fc.property(table, (args) => {
        expect(readTable(new ByteReader(encodeTable(args)))).toEqual(args);
      }),
      { numRuns: 300 },
    );
  });
});

describe('content properties', () => {
  // content-type "a/b", headers {k: true}, delivery-mode 2, priority 5, expiration "250", timestamp, user-id "guest"
  const all = hex(`b950 03612f62 00000004016b7401 02 05 03323530 0000000000000001 ${shortString('guest')}`);

  it('are found where they are', () => {
    const scan = new PropertyScan();
    expect(scan.scan(all, 0, all.length)).toBe(true);
    expect(scan.deliveryMode).toBe(2);
    expect(scan.priority).toBe(5);
    expect(all.toString('utf8', scan.userIdStart, scan.userIdEnd)).toBe('guest');
    expect(parseExpiration(all, scan.expirationStart, scan.expirationEnd)).toBe(250);
    expect({ ...readHeaders(all) }).toEqual({ k: true });
    for (let end = 0; end < all.length; end++) expect(scan.scan(all, 0, end)).toBe(false);
    expect(scan.scan(hex('0001'), 0, 2)).toBe(false);
    expect(scan.scan(hex('0000'), 0, 2)).toBe(true);
    expect(scan.headersStart).toBe(-1);
  });

  it('take only numbers of 32 bits for an expiration', () => {
    const parse = (text: string) => parseExpiration(Buffer.from(text), 0, text.length);
    expect(['0', '4294967295', '4294967296', '', '-1', '1.5', '1s', ' 1'].map(parse)).toEqual([
      0, 4_294_967_295, -1, -1, -1, -1, -1, -1,
    ]);
  });

  it('take up a delivery count, beside other headers and instead of an older count', () => {
    const counted = withDeliveryCount(all, 3);
    expect({ ...readHeaders(counted) }).toEqual({ k: true, 'x-delivery-count': 3 });
    expect({ ...readHeaders(withDeliveryCount(counted, 4)) }).toEqual({ k: true, 'x-delivery-count': 4 });
    const bare = withDeliveryCount(hex('9000 03612f62 02'), 1);
    expect(bare.toString('hex')).toBe(
      hex(`b000 03612f62 0000001a ${shortString('x-delivery-count')} 6c 0000000000000001 02`).toString('hex'),
    );
  });
});

describe('credentials', () => {
  const plain = (text: string) => readCredentials('PLAIN', Buffer.from(text));
  it('follow their mechanism', () => {
    expect(plain('\0user\0secret')).toEqual({ user: 'user', password: 'secret' });
    expect(plain('other\0user\0')).toEqual({ user: 'user', password: '' });
    for (const bad of ['', 'user', '\0user', '\0a\0b\0c']) expect(plain(bad)).toBeNull();
    const fields = encodeTable({ LOGIN: 'user', PASSWORD: 'secret' }).subarray(4);
    expect(readCredentials('AMQPLAIN', fields)).toEqual({ user: 'user', password: 'secret' });
    expect(readCredentials('AMQPLAIN', fields.subarray(0, 20))).toBeNull();
    expect(readCredentials('AMQPLAIN', encodeTable({ LOGIN: 'user' }).subarray(4))).toBeNull();
  });
});

describe('the writer', () => {
  const publication = { exchange: 'e', routingKey: 'k', key: hex('0165 016b'), mandatory: false, route: null };

  it('writes by hand what the method table says', () => {
    const writer = new FrameWriter(() => {});
    writer.frameBytesMax = 4096;
    const message = storedMessage(publication, hex('1000 02'), [Buffer.from('body')]);
    const content = hex('02 0001 0000000f 003c 0000 0000000000000004 1000 02 ce | 03 0001 00000004 626f6479 ce');
    const frame = (method: Method) => {
      const payload = encodeMethod(method);
      return Buffer.concat([hex('01 0001 000000'), Buffer.from([payload.length]), payload, hex('ce')]);
    };
    const check = (method: Method, withContent: boolean) =>
      expect(Buffer.concat(writer.take())).toEqual(
        withContent ? Buffer.concat([frame(method), content]) : frame(method),
      );
    const deliveryTag = 2 ** 33 + 5;
    const where = { exchange: 'e', routingKey: 'k' };
    writer.deliver(1, encodeShortString('tag'), deliveryTag, true, message, null);
    check({ kind: 'basic.deliver', consumerTag: 'tag', deliveryTag, redelivered: true, ...where }, true);
    writer.getOk(1, deliveryTag, false, 77, message, null);
    check({ kind: 'basic.get-ok', deliveryTag, redelivered: false, ...where, messageCount: 77 }, true);
    writer.returned(1, publication.key, hex('1000 02'), [Buffer.from('body')], 4);
    check({ kind: 'basic.return', replyCode: 312, replyText: 'NO_ROUTE', ...where }, true);
    writer.confirm(1, deliveryTag, true, false);
    check({ kind: 'basic.ack', deliveryTag, multiple: true }, false);
    writer.confirm(1, deliveryTag, true, true);
    check({ kind: 'basic.nack', deliveryTag, multiple: true, requeue: false }, false);
    expect(writer.bytes).toBe(0);
  });

  it('never touches what was taken, whatever follows', () => {
    const taken: [Buffer, Buffer][] = [];
    const writer = new FrameWriter(() => {});
    fc.assert(
      fc.property(fc.array(fc.nat(3000), { maxLength: 20 }), (sizes) => {
        for (const size of sizes) {
          const message = storedMessage(publication, hex('0000'), [Buffer.alloc(size, size)]);
          writer.deliver(1, encodeShortString('tag'), size, false, message, null);
          if (size % 7 === 0) writer.release();
        }
        const expected = writer.bytes;
        const buffers = writer.take();
        expect(buffers.reduce((sum, buffer) => sum + buffer.length, 0)).toBe(expected);
        for (const buffer of buffers) taken.push([buffer, Buffer.from(buffer)]);
      }),
      { numRuns: 100 },
    );
    for (const [buffer, copy] of taken) expect(buffer.equals(copy)).toBe(true);
  });
});

describe('bytes', () => {
  it('carry 64-bit numbers and copies of any length', () => {
    const bytes = Buffer.alloc(8);
    for (const value of [0, 1, 2 ** 32 - 1, 2 ** 32, Number.MAX_SAFE_INTEGER]) {
      writeU64(bytes, value, 0);
      expect(bytes.readBigUInt64BE()).toBe(BigInt(value));
      expect(readU64(bytes, 0)).toBe(value);
    }
    const source = Buffer.from(Array.from({ length: 300 }, (_, index) => index & 255));
    for (let length = 0; length <= 200; length++) {
      const target = Buffer.alloc(210);
      expect(copyBytes(target, 5, source, 50, 50 + length)).toBe(5 + length);
      expect(target.subarray(5, 5 + length).equals(source.subarray(50, 50 + length))).toBe(true);
      expect(target[5 + length]).toBe(0);
    }
  });
});
