// Quorum mathematics against counting by hand, and the bytes of a configuration.

import { type Configuration, decodeConfiguration, encodeConfiguration, initialConfiguration, majority } from 'raft-ts';
import { describe, expect, test } from 'vitest';
import { configurationPart } from './inner.ts';

const { configurationProblem, enterConfiguration, hasQuorum, leaveConfiguration, quorumValue, voteResult } =
  configurationPart;

const joint: Configuration = { voters: [1, 2, 3], outgoing: [3, 4], learners: [9], learnersNext: [4], autoLeave: true };

test('a majority is more than half', () => {
  expect([1, 2, 3, 4, 5, 6, 7].map(majority)).toEqual([1, 2, 2, 3, 3, 4, 4]);
});

describe('quorums', () => {
  test('any two quorums of one configuration, and of two that follow each other, meet', () => {
    const plain = initialConfiguration([1, 2, 3, 4]);
    const entered = enterConfiguration(plain, [3, 4, 5], [1]);
    const steps = [plain, entered, leaveConfiguration(entered)];
    const sets = Array.from({ length: 32 }, (_, bits) => [1, 2, 3, 4, 5].filter((id) => (bits >> (id - 1)) & 1));
    for (let i = 0; i < steps.length; i++) {
      for (const next of steps.slice(i, i + 2)) {
        for (const a of sets.filter((set) => hasQuorum(steps[i]!, (id) => set.includes(id)))) {
          for (const b of sets.filter((set) => hasQuorum(next, (id) => set.includes(id)))) {
            expect(a.some((id) => b.includes(id))).toBe(true);
          }
        }
      }
    }
  });

  test('a value is reached when a majority of each half has it', () => {
    const match: Record<number, number> = { 1: 10, 2: 20, 3: 5, 4: 30 };
    expect(quorumValue(initialConfiguration([1, 2, 3]), (id) => match[id]!)).toBe(10);
    expect(quorumValue(joint, (id) => match[id]!)).toBe(5);
    expect(quorumValue(initialConfiguration([]), () => 1)).toBe(0);
  });

  test('a vote is won by both halves and lost by either', () => {
    const votes = (entries: [number, boolean][]) => voteResult(joint, new Map(entries));
    expect(
      votes([
        [1, true],
        [2, true],
      ]),
    ).toBe('pending');
    expect(
      votes([
        [1, true],
        [2, true],
        [3, true],
      ]),
    ).toBe('pending');
    expect(
      votes([
        [1, true],
        [3, true],
        [4, true],
      ]),
    ).toBe('won');
    expect(
      votes([
        [1, true],
        [2, true],
        [4, false],
      ]),
    ).toBe('lost');
  });
});

describe('changes', () => {
  test('enter and leave go from one plain configuration to another', () => {
    const start: Configuration = { ...initialConfiguration([1, 2, 3]), learners: [4] };
    const entered = enterConfiguration(start, [4, 2], [3, 5]);
    expect(entered).toEqual({ voters: [2, 4], outgoing: [1, 2, 3], learners: [5], learnersNext: [3], autoLeave: true });
    expect(configurationProblem(entered)).toBeNull();
    expect(leaveConfiguration(entered)).toEqual({ ...initialConfiguration([2, 4]), learners: [3, 5] });
  });

  test('no joint phase if the voters stay', () => {
    expect(enterConfiguration(initialConfiguration([1, 2]), [2, 1], [7])).toEqual({
      ...initialConfiguration([1, 2]),
      learners: [7],
    });
  });

  test.each<[string, Partial<Configuration>]>([
    ['an id is listed twice', { voters: [1, 1] }],
    ['an id is not a positive integer', { voters: [0] }],
    ['a learner votes', { learners: [4] }],
    ['a voter to be demoted is not an outgoing one', { learnersNext: [2] }],
    ['there is no voter', { voters: [], learnersNext: [] }],
  ])('%s', (problem, change) => {
    expect(configurationProblem({ ...joint, ...change })).toBe(problem);
  });
});

describe('encoding', () => {
  test('golden bytes', () => {
    const bytes = [1, 1, 3, 1, 2, 3, 2, 3, 4, 1, 9, 1, 4];
    expect([...encodeConfiguration(joint)]).toEqual(bytes);
    expect([...encodeConfiguration(initialConfiguration([300]))]).toEqual([1, 0, 1, 0xac, 0x02, 0, 0, 0]);
    expect(decodeConfiguration(Uint8Array.from(bytes))).toEqual(joint);
  });

  test('large ids come back', () => {
    const large = initialConfiguration([2 ** 31, 2 ** 32 + 1, Number.MAX_SAFE_INTEGER]);
    expect(decodeConfiguration(encodeConfiguration(large))).toEqual(large);
  });

  test.each([
    ['empty', []],
    ['another version', [2, 0, 0, 0, 0, 0]],
    ['unknown flags', [1, 2, 0, 0, 0, 0]],
    ['a list that ends early', [1, 0, 3, 1, 2]],
    ['an absurd count', [1, 0, 0xff, 0xff, 0xff, 0xff, 0x0f]],
    ['an endless number', [1, 0, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]],
    ['bytes behind it', [1, 0, 1, 1, 0, 0, 0, 7]],
    ['a configuration that cannot be', [1, 0, 2, 1, 1, 0, 0, 0]],
  ])('%s is refused', (_name, bytes) => {
    expect(() => decodeConfiguration(Uint8Array.from(bytes))).toThrow(RangeError);
  });
});
