// A few bindings, of which there is usually one: kept as such, since a Set for each of 100,000 would take 20 MB and most of a restart. PURE.
//
// Invariant: an entry is added once, and removed only if it is there. A breach is a bug, and throws.

import type { RoutingEntry } from '../routing.ts';

/** One entry, or several; none is undefined. */
export type Bucket<T> = T | Set<T>;

export function addTo<T extends RoutingEntry>(bucket: Bucket<T> | undefined, entry: T): Bucket<T> {
  if (bucket === undefined) return entry;
  if (bucket instanceof Set) {
    assert(!bucket.has(entry));
    return bucket.add(entry);
  }
  assert(bucket !== entry);
  return new Set([bucket, entry]);
}

/** The bucket without the entry; undefined once it is empty. */
export function removeFrom<T extends RoutingEntry>(bucket: Bucket<T> | undefined, entry: T): Bucket<T> | undefined {
  if (bucket instanceof Set) {
    assert(bucket.delete(entry));
    return bucket.size === 0 ? undefined : bucket;
  }
  assert(bucket === entry);
  return undefined;
}

export function appendTo<T extends RoutingEntry>(bucket: Bucket<T> | undefined, into: T[]): void {
  if (bucket instanceof Set) for (const entry of bucket) into.push(entry);
  else if (bucket !== undefined) into.push(bucket);
}

function assert(condition: boolean): asserts condition {
  if (!condition) throw new Error('a routing entry was added twice, or removed without having been added');
}
