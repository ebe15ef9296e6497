// Which acknowledgements of a consumer may wait for company.

import { expect, test } from 'vitest';
import { type Consumer, hasRoomToSpare } from '../../node/broker/consumer.ts';

const consumer = (unsettledMax: number, outstanding: number) =>
  ({ unsettledMax, outstanding, accepted: 0, acceptedIn: 0 }) as Consumer;

test('a consumer without a limit has always room to spare', () => {
  expect(hasRoomToSpare(consumer(0, 1_000_000), 1000, 1)).toBe(true);
});

test('a consumer has room to spare while half of its limit is free for the machine too', () => {
  const some = consumer(10, 3);
  expect(hasRoomToSpare(some, 1, 7)).toBe(true);
  expect(hasRoomToSpare(some, 1, 7)).toBe(true);
  // Three to be settled, and three of which the machine has not heard.
  expect(hasRoomToSpare(some, 1, 7)).toBe(false);
  // Those have left with the batch before.
  expect(hasRoomToSpare(some, 1, 8)).toBe(true);
});

test('a consumer of one message at a time has none', () => {
  expect(hasRoomToSpare(consumer(1, 0), 1, 1)).toBe(false);
});
