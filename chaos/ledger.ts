// Who published, confirmed and received what, and whether the broker kept its promises. Pure: events go in, a verdict comes out.
//
// State owned: an append-only list of events. An event's place in it is its time; all clients of one run write to one ledger, so
// "confirmed before the other was sent" is meant literally.
//
// What a broker promises, and so what is checked:
//   lost       a message with a confirmed attempt is delivered
//   phantom    nothing is delivered that nobody sent
//   corrupt    a body arrives as it was sent
//   duplicate  deliveries without the redelivered flag are no more than attempts to publish; an attempt that ended in a refusal or in
//              silence may have been stored, so it counts
//   order      what one consumer gets first-hand comes in the order of the queue: messages of one publishing channel in the order sent,
//              and a message confirmed before another was sent comes before it. Messages sent twice or redelivered have no fixed place.

/** `refused`: basic.nack; `unknown`: no answer, because the connection ended or patience did; `returned`: no queue took it. */
export type Outcome = 'confirmed' | 'refused' | 'unknown' | 'returned';

export type LedgerEvent =
  /** Written down before the message is sent. `session`: one publishing channel; a new one after every reconnect. */
  | { readonly kind: 'attempt'; readonly id: string; readonly session: string }
  /** `attempt`: the place of its event. */
  | {
      readonly kind: 'outcome';
      readonly attempt: number;
      readonly outcome: Outcome;
    }
  | {
      readonly kind: 'delivery';
      readonly id: string;
      /** One consumer on one channel. */
      readonly session: string;
      readonly redelivered: boolean;
      /** The body is the one that was sent under this id. */
      readonly intact: boolean;
    }
  /** The consumer sent an ack: AMQP does not say whether it arrived. `delivery`: the place of its event. */
  | { readonly kind: 'ack'; readonly delivery: number };

export type Fault =
  | {
      readonly kind: 'lost';
      readonly id: string;
      /** Among the confirmed messages of its session: losing the newest hints at replication, the oldest at recovery. */
      readonly place: 'first' | 'middle' | 'last' | 'all';
    }
  | { readonly kind: 'phantom'; readonly id: string }
  | { readonly kind: 'corrupt'; readonly id: string }
  | {
      readonly kind: 'duplicate';
      readonly id: string;
      readonly deliveries: number;
      readonly attempts: number;
    }
  | {
      readonly kind: 'order';
      readonly id: string;
      /** Came before `id` though it belongs behind it. */
      readonly overtaker: string;
      readonly session: string;
      readonly rule: 'channel' | 'confirmed first';
    };

export interface Counts {
  readonly attempts: number;
  readonly confirmed: number;
  readonly refused: number;
  readonly unknown: number;
  readonly returned: number;
  /** Attempts without any outcome. */
  readonly open: number;
  readonly deliveries: number;
  readonly delivered: number;
  /** Deliveries that carried the redelivered flag. */
  readonly redelivered: number;
  /** Delivered again after an ack had been sent: allowed, as an ack has no answer. */
  readonly afterAck: number;
}

export interface Verdict {
  readonly ok: boolean;
  readonly faults: readonly Fault[];
  readonly counts: Counts;
}

export class Ledger {
  readonly events: LedgerEvent[] = [];
  /** Confirmed and not delivered so far. */
  readonly #awaited = new Set<string>();
  readonly #delivered = new Set<string>();
  #confirmed = 0;

  attempt(id: string, session: string): number {
    return this.events.push({ kind: 'attempt', id, session }) - 1;
  }

  outcome(attempt: number, outcome: Outcome): void {
    const sent = this.events[attempt];
    if (sent?.kind !== 'attempt') throw new Error(`event ${attempt} is no attempt`);
    this.events.push({ kind: 'outcome', attempt, outcome });
    if (outcome === 'confirmed') this.#confirmed++;
    if (outcome === 'confirmed' && !this.#delivered.has(sent.id)) this.#awaited.add(sent.id);
  }

  delivery(id: string, session: string, redelivered: boolean, intact: boolean): number {
    this.#awaited.delete(id);
    this.#delivered.add(id);
    return this.events.push({ kind: 'delivery', id, session, redelivered, intact }) - 1;
  }

  ack(delivery: number): void {
    this.events.push({ kind: 'ack', delivery });
  }

  /** How many confirmed messages have not been delivered yet. */
  get awaited(): number {
    return this.#awaited.size;
  }

  get delivered(): number {
    return this.#delivered.size;
  }

  /** Confirmed attempts so far. */
  get confirmed(): number {
    return this.#confirmed;
  }
}

interface MessageHistory {
  attempts: number;
  /** Places of the events; -1: none. */
  firstAttempt: number;
  confirmedAt: number;
  session: string;
  deliveries: number;
  unflagged: number;
}

/** Judges a whole run. `drained`: the queues were emptied at the end, so that what did not arrive is lost. */
export function verify(
  events: readonly LedgerEvent[],
  { drained = true }: { readonly drained?: boolean } = {},
): Verdict {
  const faults: Fault[] = [];
  const messages = gather(events, faults);
  if (drained) faults.push(...findLost(messages));
  for (const [id, message] of messages) {
    if (message.attempts > 0 && message.unflagged > message.attempts) {
      faults.push({
        kind: 'duplicate',
        id,
        deliveries: message.unflagged,
        attempts: message.attempts,
      });
    }
  }
  faults.push(...findDisorder(events, messages));
  return { ok: faults.length === 0, faults, counts: countEvents(events) };
}

/** One history per id; bodies and strangers are judged on the way. */
function gather(events: readonly LedgerEvent[], faults: Fault[]): Map<string, MessageHistory> {
  const messages = new Map<string, MessageHistory>();
  for (const [at, event] of events.entries()) {
    switch (event.kind) {
      case 'attempt': {
        const known = messages.get(event.id);
        if (known) known.attempts++;
        else messages.set(event.id, newHistory(at, event.session));
        break;
      }
      case 'outcome': {
        const attempt = events[event.attempt];
        const message = attempt?.kind === 'attempt' ? messages.get(attempt.id) : undefined;
        if (!message) throw new Error(`outcome ${at} of no attempt`);
        if (event.outcome === 'confirmed' && message.confirmedAt < 0) message.confirmedAt = at;
        break;
      }
      case 'delivery': {
        const message = messages.get(event.id);
        if (!message) faults.push({ kind: 'phantom', id: event.id });
        else {
          if (!event.intact) faults.push({ kind: 'corrupt', id: event.id });
          message.deliveries++;
          if (!event.redelivered) message.unflagged++;
        }
        break;
      }
      case 'ack':
        break;
      default:
        event satisfies never;
    }
  }
  return messages;
}

function newHistory(firstAttempt: number, session: string): MessageHistory {
  return {
    attempts: 1,
    firstAttempt,
    confirmedAt: -1,
    session,
    deliveries: 0,
    unflagged: 0,
  };
}

function findLost(messages: ReadonlyMap<string, MessageHistory>): Fault[] {
  const confirmed = new Map<string, { id: string; lost: boolean }[]>();
  for (const [id, message] of messages) {
    if (message.confirmedAt < 0) continue;
    const row = confirmed.get(message.session) ?? [];
    if (row.length === 0) confirmed.set(message.session, row);
    row.push({ id, lost: message.deliveries === 0 });
  }
  const faults: Fault[] = [];
  for (const row of confirmed.values()) {
    const firstKept = row.findIndex((one) => !one.lost);
    const lastKept = row.findLastIndex((one) => !one.lost);
    for (const [i, { id, lost }] of row.entries()) {
      if (!lost) continue;
      const place = firstKept < 0 ? 'all' : i < firstKept ? 'first' : i > lastKept ? 'last' : 'middle';
      faults.push({ kind: 'lost', id, place });
    }
  }
  return faults;
}

interface Reached {
  readonly id: string;
  readonly message: MessageHistory;
}

/** Walks each consumer's first-hand deliveries and remembers the latest-sent message seen so far, in all and of each channel. */
function findDisorder(events: readonly LedgerEvent[], messages: ReadonlyMap<string, MessageHistory>): Fault[] {
  const faults: Fault[] = [];
  const seen = new Set<string>();
  const consumers = new Map<string, { latest: Reached | null; readonly channels: Map<string, Reached> }>();
  for (const event of events) {
    if (event.kind !== 'delivery') continue;
    const repeated = seen.has(event.id);
    seen.add(event.id);
    const message = messages.get(event.id);
    if (!message || repeated || event.redelivered || message.attempts > 1) continue;
    const consumer = consumers.get(event.session) ?? {
      latest: null,
      channels: new Map<string, Reached>(),
    };
    consumers.set(event.session, consumer);
    const { latest, channels } = consumer;
    const before = channels.get(message.session);
    const disorder = (overtaker: string, rule: 'channel' | 'confirmed first') =>
      faults.push({
        kind: 'order',
        id: event.id,
        overtaker,
        session: event.session,
        rule,
      });
    if (before && before.message.firstAttempt > message.firstAttempt) disorder(before.id, 'channel');
    else if (latest && message.confirmedAt >= 0 && message.confirmedAt < latest.message.firstAttempt) {
      disorder(latest.id, 'confirmed first');
    }
    const reached = { id: event.id, message };
    if (!before || before.message.firstAttempt < message.firstAttempt) channels.set(message.session, reached);
    if (!latest || latest.message.firstAttempt < message.firstAttempt) consumer.latest = reached;
  }
  return faults;
}

function countEvents(events: readonly LedgerEvent[]): Counts {
  const outcomes: Record<Outcome, number> = {
    confirmed: 0,
    refused: 0,
    unknown: 0,
    returned: 0,
  };
  const delivered = new Set<string>();
  const acked = new Set<string>();
  let [attempts, deliveries, redelivered, afterAck] = [0, 0, 0, 0];
  const answered = new Set<number>();
  for (const event of events) {
    if (event.kind === 'attempt') attempts++;
    else if (event.kind === 'outcome') {
      outcomes[event.outcome]++;
      answered.add(event.attempt);
    } else if (event.kind === 'delivery') {
      deliveries++;
      delivered.add(event.id);
      if (event.redelivered) redelivered++;
      if (acked.has(event.id)) afterAck++;
    } else {
      const delivery = events[event.delivery];
      if (delivery?.kind === 'delivery') acked.add(delivery.id);
    }
  }
  const open = attempts - answered.size;
  return {
    attempts,
    ...outcomes,
    open,
    deliveries,
    delivered: delivered.size,
    redelivered,
    afterAck,
  };
}

const shownPerKind = 10;

/** For people: what was done, and every kind of fault with its first few cases. */
export function explain({ ok, faults, counts }: Verdict): string {
  const lines = [
    `${ok ? 'clean' : `${faults.length} faults`}: ${counts.attempts} attempts (${counts.confirmed} confirmed, ` +
      `${counts.refused} refused, ${counts.unknown} unknown, ${counts.returned} returned, ${counts.open} open), ` +
      `${counts.delivered} messages delivered in ${counts.deliveries} deliveries ` +
      `(${counts.redelivered} flagged as redelivered, ${counts.afterAck} after an ack)`,
  ];
  for (const kind of new Set(faults.map((fault) => fault.kind))) {
    const cases = faults.filter((fault) => fault.kind === kind);
    lines.push(`${kind}: ${cases.length}`);
    for (const fault of cases.slice(0, shownPerKind)) lines.push(`  ${describe(fault)}`);
    if (cases.length > shownPerKind) lines.push(`  and ${cases.length - shownPerKind} more`);
  }
  return lines.join('\n');
}

function describe(fault: Fault): string {
  switch (fault.kind) {
    case 'lost':
      return `${fault.id} was confirmed and never delivered (${fault.place} of its channel's confirmed messages)`;
    case 'phantom':
      return `${fault.id} was delivered and never sent`;
    case 'corrupt':
      return `${fault.id} was delivered with another body`;
    case 'duplicate':
      return `${fault.id} was sent ${fault.attempts} times and delivered ${fault.deliveries} times without the redelivered flag`;
    case 'order':
      return fault.rule === 'channel'
        ? `${fault.id} came after ${fault.overtaker} at ${fault.session}, though sent before it on the same channel`
        : `${fault.id} came after ${fault.overtaker} at ${fault.session}, though confirmed before that one was sent`;
    default:
      return fault satisfies never;
  }
}
