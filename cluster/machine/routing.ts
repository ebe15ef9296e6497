// Which bindings of one exchange take a message: a matcher per exchange type.
//
//   direct   routing key → bindings
//   fanout   all
//   topic    a trie of words; `*` is any one word, `#` any number of them, none included
//   headers  a compiled rule per binding, tried one after the other
//
// Each entry is in the matcher at most once and is reported at most once by a match; the order of what is reported says nothing.
// The tree is walked with a set of places, not by backtracking, so that a match costs at most words × places and a pattern full of `#`
// cannot be made to cost more. Topic marks are scratch: they are no part of the state.
//
// PURE.

import { argumentOf, sameValue } from './metadata/arguments.ts';
import { addTo, appendTo, type Bucket, removeFrom } from './metadata/bucket.ts';
import type { Arguments, ArgumentValue, ExchangeType, HeaderLookup } from './metadata-types.ts';

/** What a matcher looks at. An entry is known by its identity as an object. */
export interface RoutingEntry {
  readonly routingKey: string;
  readonly arguments: Arguments;
}

export interface Matcher<T extends RoutingEntry> {
  /** Must not be in it yet. */
  add(entry: T): void;
  /** Must be in it. */
  remove(entry: T): void;
  /** Appends all entries that take the message to `into`. */
  match(routingKey: string, headers: HeaderLookup, into: T[]): void;
}

export function createMatcher<T extends RoutingEntry>(type: ExchangeType): Matcher<T> {
  switch (type) {
    case 'direct':
      return new DirectMatcher<T>();
    case 'fanout':
      return new FanoutMatcher<T>();
    case 'topic':
      return new TopicMatcher<T>();
    case 'headers':
      return new HeadersMatcher<T>();
    default:
      throw new Error(`exchange type ${type satisfies never} has no matcher`);
  }
}

function assert(condition: boolean): asserts condition {
  if (!condition) throw new Error('a routing entry was added twice, or removed without having been added');
}

class DirectMatcher<T extends RoutingEntry> implements Matcher<T> {
  readonly #buckets = new Map<string, Bucket<T>>();

  add(entry: T): void {
    this.#buckets.set(entry.routingKey, addTo(this.#buckets.get(entry.routingKey), entry));
  }

  remove(entry: T): void {
    const bucket = removeFrom(this.#buckets.get(entry.routingKey), entry);
    if (bucket === undefined) this.#buckets.delete(entry.routingKey);
  }

  match(routingKey: string, _headers: HeaderLookup, into: T[]): void {
    appendTo(this.#buckets.get(routingKey), into);
  }
}

class FanoutMatcher<T extends RoutingEntry> implements Matcher<T> {
  readonly #entries = new Set<T>();

  add(entry: T): void {
    assert(!this.#entries.has(entry));
    this.#entries.add(entry);
  }

  remove(entry: T): void {
    assert(this.#entries.delete(entry));
  }

  match(_routingKey: string, _headers: HeaderLookup, into: T[]): void {
    appendTo(this.#entries, into);
  }
}

/** A place in the tree of words. `#` is a child that keeps its place for every further word. */
interface TopicPlace<T> {
  readonly isHash: boolean;
  words: Map<string, TopicPlace<T>> | undefined;
  star: TopicPlace<T> | undefined;
  hash: TopicPlace<T> | undefined;
  bucket: Bucket<T> | undefined;
  /** The last step that entered here. */
  mark: number;
}

const newPlace = <T>(isHash: boolean): TopicPlace<T> => ({
  isHash,
  words: undefined,
  star: undefined,
  hash: undefined,
  bucket: undefined,
  mark: 0,
});

/** The words of a routing key or pattern. The empty key has none; everywhere else an empty word counts as a word. */
function topicWords(key: string): string[] {
  return key === '' ? [] : key.split('.');
}

class TopicMatcher<T extends RoutingEntry> implements Matcher<T> {
  readonly #root = newPlace<T>(false);
  #step = 0;
  #current: TopicPlace<T>[] = [];
  #next: TopicPlace<T>[] = [];

  add(entry: T): void {
    let place = this.#root;
    for (const word of topicWords(entry.routingKey)) {
      if (word === '*') place = place.star ??= newPlace(false);
      else if (word === '#') place = place.hash ??= newPlace(true);
      else {
        place.words ??= new Map();
        let child = place.words.get(word);
        if (child === undefined) place.words.set(word, (child = newPlace(false)));
        place = child;
      }
    }
    place.bucket = addTo(place.bucket, entry);
  }

  remove(entry: T): void {
    const words = topicWords(entry.routingKey);
    const path = [this.#root];
    for (const word of words) {
      const place = path[path.length - 1]!;
      const child = word === '*' ? place.star : word === '#' ? place.hash : place.words?.get(word);
      assert(child !== undefined);
      path.push(child);
    }
    const last = path[path.length - 1]!;
    last.bucket = removeFrom(last.bucket, entry);
    // Places that lead nowhere any more go, from the leaf up.
    for (let depth = words.length; depth > 0; depth--) {
      const place = path[depth]!;
      if (place.bucket ?? place.star ?? place.hash ?? place.words) return;
      const parent = path[depth - 1]!;
      const word = words[depth - 1]!;
      if (word === '*') parent.star = undefined;
      else if (word === '#') parent.hash = undefined;
      else {
        parent.words!.delete(word);
        if (parent.words!.size === 0) parent.words = undefined;
      }
    }
  }

  match(routingKey: string, _headers: HeaderLookup, into: T[]): void {
    this.#step++;
    this.#enter(this.#root);
    for (let at = routingKey === '' ? -1 : 0; at >= 0; ) {
      const dot = routingKey.indexOf('.', at);
      const word = dot < 0 ? routingKey.slice(at) : routingKey.slice(at, dot);
      at = dot < 0 ? -1 : dot + 1;
      this.#takeStep();
      for (const place of this.#current) {
        if (place.isHash) this.#enter(place);
        if (place.star !== undefined) this.#enter(place.star);
        const child = place.words?.get(word);
        if (child !== undefined) this.#enter(child);
      }
    }
    this.#takeStep();
    for (const place of this.#current) appendTo(place.bucket, into);
    this.#current.length = 0;
  }

  /** What was entered becomes where we are. */
  #takeStep(): void {
    const entered = this.#next;
    this.#next = this.#current;
    this.#next.length = 0;
    this.#current = entered;
    this.#step++;
  }

  #enter(place: TopicPlace<T>): void {
    if (place.mark === this.#step) return;
    place.mark = this.#step;
    this.#next.push(place);
    // `#` takes no word at all just as well.
    if (place.hash !== undefined) this.#enter(place.hash);
  }
}

/** How a headers binding matches: all of its fields, or any; with those that start with `x-`, or without. */
const headerMatchKinds: { readonly [name: string]: { readonly all: boolean; readonly withX: boolean } } = {
  all: { all: true, withX: false },
  any: { all: false, withX: false },
  'all-with-x': { all: true, withX: true },
  'any-with-x': { all: false, withX: true },
};

interface HeadersRule {
  readonly all: boolean;
  readonly fields: readonly { readonly name: string; readonly value: ArgumentValue }[];
}

/** Is the `x-match` of a binding to a headers exchange one that exists? Absent means `all`. */
export function isHeadersBinding(table: Arguments): boolean {
  const match = argumentOf(table, 'x-match');
  return match === undefined || (typeof match === 'string' && Object.hasOwn(headerMatchKinds, match));
}

function compileHeaders(table: Arguments): HeadersRule {
  const match = argumentOf(table, 'x-match') ?? 'all';
  const kind = typeof match === 'string' ? headerMatchKinds[match] : undefined;
  if (kind === undefined) throw new Error('a binding with a bad x-match reached the headers matcher');
  const names = Object.keys(table).filter((name) => name !== 'x-match' && (kind.withX || !name.startsWith('x-')));
  return { all: kind.all, fields: names.map((name) => ({ name, value: table[name]! })) };
}

function matchesHeaders(rule: HeadersRule, headers: Arguments): boolean {
  for (const { name, value } of rule.fields) {
    const found = argumentOf(headers, name);
    // A field without a value asks only that the header is there.
    const matches = found !== undefined && (value === null || sameValue(value, found));
    if (matches !== rule.all) return matches;
  }
  return rule.all;
}

class HeadersMatcher<T extends RoutingEntry> implements Matcher<T> {
  readonly #rules = new Map<T, HeadersRule>();

  add(entry: T): void {
    assert(!this.#rules.has(entry));
    this.#rules.set(entry, compileHeaders(entry.arguments));
  }

  remove(entry: T): void {
    assert(this.#rules.delete(entry));
  }

  match(_routingKey: string, headers: HeaderLookup, into: T[]): void {
    if (this.#rules.size === 0) return;
    const table = headers();
    for (const [entry, rule] of this.#rules) if (matchesHeaders(rule, table)) into.push(entry);
  }
}
