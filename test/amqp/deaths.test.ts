// The headers of dead letters, byte for byte.

import { describe, expect, it } from 'vitest';
import { withDeath } from '../../node/amqp/deaths.ts';
import { readHeaders } from '../../node/amqp/properties.ts';

const hex = (text: string) => Buffer.from(text.replace(/\s/g, ''), 'hex');
const ascii = (text: string) => Buffer.from(text).toString('hex');
const word = (value: number) => value.toString(16).padStart(8, '0');
const long = (text: string) => `53 ${word(text.length)} ${ascii(text)}`;
const named = (name: string, value: string) => `${name.length.toString(16).padStart(2, '0')} ${ascii(name)} ${value}`;
const sized = (value: string) => `${word(value.replace(/\s/g, '').length / 2)} ${value}`;

const death = { queue: 'q', reason: 'rejected', exchange: 'x', routingKeys: ['k'], time: 1, isRekeyed: false };

describe('a dead letter', () => {
  it('says where, why and when, and keeps everything else', () => {
    // content-type, a header, delivery mode, expiration, message id.
    const before = hex(`b180 04 ${ascii('text')} ${sized(named('h', '42 07'))} 02 02 3530 03 ${ascii('mid')}`);
    const line = [
      named('count', '6c 0000000000000001'),
      named('reason', long('rejected')),
      named('queue', long('q')),
      named('time', '54 0000000000000001'),
      named('exchange', long('x')),
      named('routing-keys', `41 ${sized(long('k'))}`),
      named('original-expiration', long('50')),
    ].join('');
    const table = [
      named('h', '42 07'),
      named('x-death', `41 ${sized(`46 ${sized(line)}`)}`),
      ...['last', 'first'].flatMap((which) => [
        named(`x-${which}-death-queue`, long('q')),
        named(`x-${which}-death-reason`, long('rejected')),
        named(`x-${which}-death-exchange`, long('x')),
      ]),
    ].join('');
    const after = hex(`b080 04 ${ascii('text')} ${sized(table)} 02 03 ${ascii('mid')}`);
    expect(withDeath(before, death).toString('hex')).toBe(after.toString('hex'));
  });

  it('counts what it has died of before, the latest first, and remembers the first', () => {
    let properties: Buffer = hex('0000');
    for (const [queue, reason] of [
      ['a', 'expired'],
      ['b', 'rejected'],
      ['a', 'expired'],
      ['a', 'maxlen'],
    ] as const)
      properties = withDeath(properties, { ...death, queue, reason });
    const headers = readHeaders(properties);
    expect(headers['x-death']).toMatchObject([
      { table: { queue: 'a', reason: 'maxlen', count: 1 } },
      { table: { queue: 'a', reason: 'expired', count: 2 } },
      { table: { queue: 'b', reason: 'rejected', count: 1 } },
    ]);
    expect(headers).toMatchObject({
      'x-first-death-queue': 'a',
      'x-first-death-reason': 'expired',
      'x-last-death-reason': 'maxlen',
    });
  });

  it('loses its further keys when it goes on under another one', () => {
    const cc = hex(`2000 ${sized(named('CC', `41 ${sized(long('k2'))}`))}`);
    expect(readHeaders(withDeath(cc, death)).CC).toEqual(['k2']);
    expect(readHeaders(withDeath(cc, { ...death, isRekeyed: true })).CC).toBeUndefined();
  });

  it('survives headers that are no such list', () => {
    const odd = hex(`2000 ${sized(named('x-death', long('odd')))}`);
    expect(readHeaders(withDeath(odd, death))['x-death']).toMatchObject([{ table: { count: 1 } }]);
  });
});
