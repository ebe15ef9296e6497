// Bodies: made from their ids, and known to be whole or not.

import { crc32 } from 'node:zlib';
import { expect, test } from 'vitest';
import { bodyOf, isBodyOf, sequenceOf } from '../../chaos/bodies.ts';

const ids = ['run/p0/0', 'run/p0/49', 'run/p3/499', 'a/b/c/1234567'];

test.each(ids)('the body of %s is its own and nobody else', (id) => {
  const body = bodyOf(id);
  expect(isBodyOf(id, body)).toBe(true);
  for (const other of ids) if (other !== id) expect(isBodyOf(other, body)).toBe(false);
  expect(isBodyOf(id, body.subarray(0, -1))).toBe(false);
  expect(isBodyOf(id, Buffer.concat([body, Buffer.from('x')]))).toBe(false);
  for (const at of [0, id.length + 3, body.length - 1]) {
    const changed = Buffer.from(body);
    changed[at]! ^= 1;
    expect(isBodyOf(id, changed)).toBe(false);
  }
});

test('a body alone says whose it is, and its checksum', () => {
  const body = bodyOf('run/p1/7');
  const end = body.indexOf(0x0a);
  const [id, hash] = body.toString('utf8', 0, end).split(' ');
  expect(id).toBe('run/p1/7');
  expect(Number.parseInt(hash!, 16)).toBe(crc32(body.subarray(end + 1)));
});

test('sizes go beyond what brokers handle in one piece', () => {
  const sizes = Array.from({ length: 500 }, (_, i) => bodyOf(`run/p0/${i}`).length);
  expect(Math.min(...sizes)).toBeLessThan(200);
  expect(sizes.filter((size) => size > 16_384).length).toBe(10);
  expect(sizes.filter((size) => size > 262_144).length).toBe(1);
});

test('what is no id of ours has no body', () => {
  expect(sequenceOf('run/p0/12')).toBe(12);
  for (const id of ['undefined', '', 'x/y']) expect(isBodyOf(id, Buffer.from('whatever'))).toBe(false);
});
