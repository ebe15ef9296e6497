// Matchers of single exchanges. The tree of words is compared with a slow twin that tries every pattern by itself.

import { describe, expect, it } from 'vitest';
import type { Arguments } from '../../cluster/machine/metadata-types.ts';
import { createMatcher, isHeadersBinding, type RoutingEntry } from '../../cluster/machine/routing.ts';

interface Entry extends RoutingEntry {
  readonly name: string;
}
const noHeaders = (): Arguments => ({});
const entry = (routingKey: string, table: Arguments = {}, name = routingKey): Entry => ({
  name,
  routingKey,
  arguments: table,
});

function matcherOf(type: 'direct' | 'fanout' | 'topic' | 'headers', entries: Entry[]) {
  const matcher = createMatcher<Entry>(type);
  for (const one of entries) matcher.add(one);
  const match = (key: string, headers: Arguments = {}): string[] => {
    const found: Entry[] = [];
    matcher.match(key, () => headers, found);
    return found.map((one) => one.name).sort();
  };
  return { matcher, match };
}

describe('direct', () => {
  it('takes exactly its key', () => {
    const { match } = matcherOf('direct', [entry('a'), entry('b'), entry(''), entry('a', {}, 'a again')]);
    expect(match('a')).toEqual(['a', 'a again']);
    expect(match('')).toEqual(['']);
    expect(match('c')).toEqual([]);
  });

  it('removes one of several with the same key', () => {
    const entries = [entry('k', {}, '1'), entry('k', {}, '2'), entry('k', {}, '3')];
    const { matcher, match } = matcherOf('direct', entries);
    matcher.remove(entries[1]!);
    expect(match('k')).toEqual(['1', '3']);
    matcher.remove(entries[0]!);
    matcher.remove(entries[2]!);
    expect(match('k')).toEqual([]);
    expect(() => matcher.remove(entries[2]!)).toThrow();
  });
});

describe('fanout', () => {
  it('takes everything, whatever the keys', () => {
    const entries = [entry('a'), entry('b')];
    const { matcher, match } = matcherOf('fanout', entries);
    expect(match('nothing like it')).toEqual(['a', 'b']);
    matcher.remove(entries[0]!);
    expect(match('')).toEqual(['b']);
  });
});

/** Does the pattern take the key? By trying every length for every `#`. */
function slowTopic(pattern: string, key: string): boolean {
  const words = (text: string) => (text === '' ? [] : text.split('.'));
  const takes = (left: string[], right: string[]): boolean => {
    if (left.length === 0) return right.length === 0;
    const [first, ...rest] = left;
    if (first === '#') return right.some((_, i) => takes(rest, right.slice(i))) || takes(rest, []);
    return right.length > 0 && (first === '*' || first === right[0]) && takes(rest, right.slice(1));
  };
  return takes(words(pattern), words(key));
}

describe('topic', () => {
  it.each([
    ['a.b', 'a.b', true],
    ['a.b', 'a.b.c', false],
    ['a.*', 'a.b', true],
    ['a.*', 'a', false],
    ['a.*', 'a.', true],
    ['*', '', false],
    ['*', 'a', true],
    ['#', '', true],
    ['#', 'a.b.c', true],
    ['', '', true],
    ['', 'a', false],
    ['a.#', 'a', true],
    ['a.#', 'a.b.c', true],
    ['a.#', 'b.a', false],
    ['#.a', 'a', true],
    ['#.a', 'b.c.a', true],
    ['#.a', 'b.a.c', false],
    ['#.*', '', false],
    ['#.*', 'a', true],
    ['*.#.*', 'a', false],
    ['*.#.*', 'a.b', true],
    ['#.#', '', true],
    ['a.#.b.#.c', 'a.b.c', true],
    ['a.#.b.#.c', 'a.x.b.y.z.c', true],
    ['a.#.b.#.c', 'a.c', false],
    ['a..b', 'a..b', true],
    ['a.*.b', 'a..b', true],
    ['*.constructor', 'x.constructor', true],
    ['a*', 'ab', false],
  ])('pattern "%s" and key "%s": %s', (pattern, key, takes) => {
    expect(matcherOf('topic', [entry(pattern)]).match(key)).toEqual(takes ? [pattern] : []);
    expect(slowTopic(pattern, key)).toBe(takes);
  });

  it('agrees with its slow twin on random patterns, as they come and go', () => {
    const seed = Number(process.env.SEED ?? Date.now() % 1_000_000);
    let state = seed;
    const random = (bound: number): number => {
      state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
      return (state >>> 8) % bound;
    };
    const words = (alphabet: string[]): string =>
      Array.from({ length: random(6) }, () => alphabet[random(alphabet.length)]!).join('.');
    for (let round = 0; round < 40; round++) {
      const { matcher, match } = matcherOf('topic', []);
      const inside: Entry[] = [];
      for (let step = 0; step < 60; step++) {
        if (random(3) > 0 || inside.length === 0) {
          const added = entry(words(['a', 'b', '', '*', '#']), {}, `${step}`);
          matcher.add(added);
          inside.push(added);
        } else matcher.remove(inside.splice(random(inside.length), 1)[0]!);
        const key = words(['a', 'b', 'c', '']);
        const expected = inside.filter((one) => slowTopic(one.routingKey, key)).map((one) => one.name);
        expect(match(key), `seed ${seed}, key "${key}"`).toEqual(expected.sort());
      }
    }
  });

  it('is not slowed down by patterns full of #', () => {
    const pattern = `${'#.a.'.repeat(60)}#.b`;
    const { match } = matcherOf('topic', [entry(pattern)]);
    const started = process.cpuUsage();
    for (let i = 0; i < 20; i++) expect(match(`${'a.'.repeat(120)}c`)).toEqual([]);
    expect(match(`${'a.'.repeat(120)}b`)).toEqual([pattern]);
    expect(process.cpuUsage(started).user / 1_000).toBeLessThan(3_000);
  });

  it('finds one of many patterns fast', () => {
    const { match } = matcherOf(
      'topic',
      Array.from({ length: 20_000 }, (_, i) => entry(`stock.${i % 200}.${i}.#`)),
    );
    const started = process.cpuUsage();
    for (let i = 0; i < 2_000; i++)
      expect(match(`stock.${i % 200}.${i}.price.usd`)).toEqual([`stock.${i % 200}.${i}.#`]);
    expect(process.cpuUsage(started).user / 1_000).toBeLessThan(3_000);
  });
});

describe('headers', () => {
  const takes = (table: Arguments, headers: Arguments): boolean =>
    matcherOf('headers', [entry('', table, 'it')]).match('', headers).length > 0;

  it('all, the default: every field must be there with its value', () => {
    expect(takes({ a: 1, b: 'x' }, { a: 1, b: 'x', c: true })).toBe(true);
    expect(takes({ 'x-match': 'all', a: 1, b: 'x' }, { a: 1, b: 'y' })).toBe(false);
    expect(takes({ a: 1 }, {})).toBe(false);
    expect(takes({}, { anything: 1 })).toBe(true);
  });

  it('any: one field is enough, but there must be one', () => {
    expect(takes({ 'x-match': 'any', a: 1, b: 'x' }, { a: 2, b: 'x' })).toBe(true);
    expect(takes({ 'x-match': 'any', a: 1 }, { a: 2 })).toBe(false);
    expect(takes({ 'x-match': 'any' }, { a: 1 })).toBe(false);
  });

  it('a field without a value asks for presence only', () => {
    expect(takes({ a: null }, { a: 'whatever' })).toBe(true);
    expect(takes({ a: null }, { b: 1 })).toBe(false);
    expect(takes({ a: null }, { a: null })).toBe(true);
    expect(takes({ a: 1 }, { a: null })).toBe(false);
    expect(takes({ 'x-match': 'any', a: null, b: 1 }, { a: { table: {} } })).toBe(true);
  });

  it('fields that start with x- count only with all-with-x and any-with-x', () => {
    expect(takes({ 'x-match': 'all', 'x-id': 1, a: 1 }, { a: 1 })).toBe(true);
    expect(takes({ 'x-match': 'all-with-x', 'x-id': 1, a: 1 }, { a: 1 })).toBe(false);
    expect(takes({ 'x-match': 'all-with-x', 'x-id': 1, a: 1 }, { a: 1, 'x-id': 1 })).toBe(true);
    expect(takes({ 'x-match': 'any', 'x-id': 1 }, { 'x-id': 1 })).toBe(false);
    expect(takes({ 'x-match': 'any-with-x', 'x-id': 1 }, { 'x-id': 1 })).toBe(true);
    expect(takes({ 'x-match': 'any-with-x' }, { 'x-match': 'any-with-x' })).toBe(false);
  });

  it('compares by value, within one class of types', () => {
    expect(takes({ a: 5 }, { a: { int64: '5' } })).toBe(true);
    expect(takes({ a: { int64: '9223372036854775807' } }, { a: { int64: '9223372036854775807' } })).toBe(true);
    expect(takes({ a: 5 }, { a: '5' })).toBe(false);
    expect(takes({ a: true }, { a: 1 })).toBe(false);
    expect(takes({ a: 'x' }, { a: { bytes: 'x' } })).toBe(false);
    expect(takes({ a: { timestamp: 7 } }, { a: { timestamp: 7 } })).toBe(true);
    expect(takes({ a: { timestamp: 7 } }, { a: 7 })).toBe(false);
    expect(takes({ a: { decimal: [2, 314] } }, { a: { decimal: [2, 314] } })).toBe(true);
    expect(takes({ a: [1, 'b'] }, { a: [1, 'b'] })).toBe(true);
    expect(takes({ a: [1, 'b'] }, { a: ['b', 1] })).toBe(false);
    expect(takes({ a: { table: { x: 1, y: 2 } } }, { a: { table: { y: 2, x: 1 } } })).toBe(true);
  });

  it('is not fooled by names that every object inherits', () => {
    expect(takes({ constructor: null }, {})).toBe(false);
    expect(takes(JSON.parse('{"__proto__": 1}'), {})).toBe(false);
    expect(takes(JSON.parse('{"__proto__": 1}'), JSON.parse('{"__proto__": 1}'))).toBe(true);
    expect(isHeadersBinding({ 'x-match': 'constructor' })).toBe(false);
  });

  it('knows the values of x-match', () => {
    for (const match of ['all', 'any', 'all-with-x', 'any-with-x'])
      expect(isHeadersBinding({ 'x-match': match })).toBe(true);
    for (const match of ['some', '', 1, null, true]) expect(isHeadersBinding({ 'x-match': match })).toBe(false);
  });

  it('decodes no headers while there is no binding', () => {
    const { matcher } = matcherOf('headers', []);
    matcher.match('', () => {
      throw new Error('decoded');
    }, []);
  });
});

it('refuses the same entry twice', () => {
  for (const type of ['direct', 'fanout', 'topic', 'headers'] as const) {
    const { matcher, match } = matcherOf(type, []);
    const one = entry('a');
    matcher.add(one);
    expect(() => matcher.add(one)).toThrow();
    expect(match('a')).toEqual(['a']);
    matcher.remove(one);
    expect(() => matcher.remove(one)).toThrow();
    matcher.match('a', noHeaders, []);
    expect(match('a')).toEqual([]);
  }
});
