// Which interesting situations a run met. A simulation that never sees a truncation proves nothing about truncations, so what matters is counted
// and asked for. Marks come from watching: replicas (`invariants.ts`), what nodes tell people, and what clients saw.
//
// State owned: a count per mark.

import type { HistoryEvent } from '../history.ts';

/** What every long enough series of seeds has to meet. */
export const wantedMarks = [
  'leader elected',
  'two leaders at once',
  'log truncated',
  'follower behind by many entries',
  'snapshot installed',
  'snapshot installed while another leads',
  'restart with a log',
  'restart lost unsynced entries',
  'commit without one replica',
  'publish without an answer',
  'publish nacked',
  'publish returned',
  'confirmed after a failover',
  'redelivered',
  'delivered after an ack',
  'channel ended by the broker',
  'queue deleted and declared again',
  'node fenced',
  'lease on the metadata lost',
  'work left for later entries',
  'log rewritten',
] as const;

/** What a series with changes of members has to meet besides. */
export const membershipMarks = [
  'joint phase begun',
  'ended in a joint phase',
  'configuration cut off',
  'node joined',
  'node left',
  'node replaced',
  'replica moved away',
] as const;

export class Marks {
  readonly #counts = new Map<string, number>();

  hit(name: string, count = 1): void {
    this.#counts.set(name, (this.#counts.get(name) ?? 0) + count);
  }
  count(name: string): number {
    return this.#counts.get(name) ?? 0;
  }
  add(other: Readonly<Record<string, number>>): void {
    for (const [name, count] of Object.entries(other)) this.hit(name, count);
  }
  /** By name, for tables and between processes. */
  all(): Record<string, number> {
    return Object.fromEntries([...this.#counts].sort(([left], [right]) => (left < right ? -1 : 1)));
  }
}

/** What a node told people. */
export function markLog(marks: Marks, event: string): void {
  if (event.startsWith('lease on the metadata lost')) marks.hit('lease on the metadata lost');
  if (event.startsWith('this node was declared gone')) marks.hit('node fenced');
  if (event === 'node joins') marks.hit('node joined');
  if (event.startsWith('a replica has moved away')) marks.hit('replica moved away');
  if (event.includes('leadership given up')) marks.hit('leadership given up by a disk');
}

/** What clients saw in a whole run. */
export function markHistory(marks: Marks, events: readonly HistoryEvent[]): void {
  const settled = new Set<string>();
  const ids = new Map<number, string>();
  const deleted = new Set<string>();
  const tried = new Map<string, number>();
  const wasUnknown = new Set<string>();
  for (const [place, event] of events.entries()) {
    switch (event.kind) {
      case 'publish':
        ids.set(place, event.id);
        tried.set(event.id, place);
        break;
      case 'outcome': {
        const id = ids.get(event.publish)!;
        if (event.outcome === 'unknown') {
          marks.hit('publish without an answer');
          wasUnknown.add(id);
        } else if (event.outcome === 'refused') marks.hit('publish nacked');
        else if (wasUnknown.has(id)) marks.hit('confirmed after a failover');
        break;
      }
      case 'returned':
        marks.hit('publish returned');
        break;
      case 'deliver':
        ids.set(place, event.id);
        if (event.redelivered) marks.hit('redelivered');
        if (settled.has(`${event.queue} ${event.id}`)) marks.hit('delivered after an ack');
        break;
      case 'settle': {
        const delivery = events[event.deliver];
        if (delivery?.kind === 'deliver' && event.settlement === 'ack') settled.add(`${delivery.queue} ${delivery.id}`);
        break;
      }
      case 'end':
        if (!event.graceful) marks.hit('channel ended by the broker');
        break;
      case 'invoke': {
        const { operation } = event;
        if (operation.kind === 'delete') deleted.add(operation.queue);
        if (operation.kind === 'declare' && deleted.has(operation.queue)) marks.hit('queue deleted and declared again');
        break;
      }
      default:
        break;
    }
  }
}
