// The bodies of the frames by which a node hears of a group from another node, little-endian. `wire.ts` names the kinds.
//
//   feedOpen    u64 feed, u32 group, u64 incarnation, u64 minApplied, u32 count, per consumer: u32 number, u64 next lease
//   feedEvents  u64 feed, u32 group, u32 number, u64 applied, then events, each a u8 kind and its numbers
//   feedClose   u64 feed, u32 group, u8 1: from the node that serves it
//   query       u64 request, u32 group, u8 what, then messages: u64 entry, u32 count, u32 ordinal each; status: u32 uid
//   answer      u64 request, u32 number, u8 state, then records of messages, or the status as JSON
//
// A record of an answer is whole in one frame: `missing`, a `piece` of a body (a part), or a `message` with the rest of its body; the
// pieces of a message come before it. Pieces and messages are views of the frame, and of what was read: never copied.
//
// Nothing here keeps state but the writer, which gathers the events of one turn.

import type { MessageView, ResultCode } from '../machine/commands.ts';
import type { PipeId, PipeSink, QueueStatus } from '../machine/machine.ts';
import { readU64, viewOf, writeU64 } from '../peers/wire.ts';

export interface FeedOpen extends Pick<PipeId, 'incarnation'> {
  /** Ascends with every feed that a process opens. */
  readonly feed: number;
  readonly group: number;
  /** What the origin has seen of this group: a state before that would take it back in time. */
  readonly minApplied: number;
  /** The origin's consumers in this group, with the lowest lease that each has not heard of. */
  readonly consumers: readonly FeedConsumer[];
}
export interface FeedConsumer {
  readonly consumer: number;
  readonly nextLease: number;
}
export interface FeedHead {
  readonly feed: number;
  readonly group: number;
  /** Of this frame in its feed, from 1: a gap means that one was lost. */
  readonly number: number;
  /** How far the serving replica has come. */
  readonly applied: number;
}
export interface FeedClose {
  readonly feed: number;
  readonly group: number;
  readonly byServer: boolean;
}
/** Hears the events of a frame. */
export interface FeedVisitor extends PipeSink {
  /** The state was told whole; `existing`: the consumers of the pipe that the group has, also such as the origin did not name. */
  opened(lastSequence: number, fenced: boolean, existing: ReadonlySet<number>): void;
}

export type Query =
  | {
      readonly what: 'messages';
      readonly request: number;
      readonly group: number;
      readonly entry: number;
      readonly ordinals: readonly number[];
    }
  | { readonly what: 'status'; readonly request: number; readonly group: number; readonly uid: number };

/** `unavailable`: this node cannot know (any more, or yet). */
export const answerStates = ['more', 'last', 'unavailable', 'status'] as const;
export type AnswerState = (typeof answerStates)[number];
export interface AnswerHead {
  readonly request: number;
  /** From 0, per answer. */
  readonly number: number;
  readonly state: AnswerState;
}

const openHeadBytes = 32;
const consumerBytes = 12;
const eventsHeadBytes = 24;
const closeBytes = 13;
const queryHeadBytes = 13;
const answerHeadBytes = 13;
const ordinalsMax = 65_536;

const EventKind = { applied: 1, result: 2, lease: 3, cancelled: 4, fenced: 5, opened: 6 } as const;
/** Bytes of each event; `opened` has the numbers of consumers behind. */
const eventBytes: Record<number, number> = { 1: 9, 2: 30, 3: 30, 4: 5, 5: 1, 6: 14 };

const RecordKind = { missing: 0, piece: 1, message: 2 } as const;
const recordHeadBytes = 16;

// ---- opening and closing ----

export function encodeFeedOpen(open: FeedOpen): Buffer {
  const { consumers } = open;
  const frame = Buffer.allocUnsafe(openHeadBytes + consumers.length * consumerBytes);
  const view = viewOf(frame);
  writeU64(view, open.feed, 0);
  view.setUint32(8, open.group, true);
  writeU64(view, open.incarnation, 12);
  writeU64(view, open.minApplied, 20);
  view.setUint32(28, consumers.length, true);
  for (let i = 0, at = openHeadBytes; i < consumers.length; i++, at += consumerBytes) {
    view.setUint32(at, consumers[i]!.consumer, true);
    writeU64(view, consumers[i]!.nextLease, at + 4);
  }
  return frame;
}

/** Null: not well formed. So with all decoders here. */
export function decodeFeedOpen(frame: Buffer): FeedOpen | null {
  if (frame.length < openHeadBytes) return null;
  const view = viewOf(frame);
  const count = view.getUint32(28, true);
  if (frame.length !== openHeadBytes + count * consumerBytes) return null;
  const consumers: FeedConsumer[] = [];
  for (let i = 0, at = openHeadBytes; i < count; i++, at += consumerBytes)
    consumers.push({ consumer: view.getUint32(at, true), nextLease: readU64(view, at + 4) });
  return {
    feed: readU64(view, 0),
    group: view.getUint32(8, true),
    incarnation: readU64(view, 12),
    minApplied: readU64(view, 20),
    consumers,
  };
}

export function encodeFeedClose({ feed, group, byServer }: FeedClose): Buffer {
  const frame = Buffer.allocUnsafe(closeBytes);
  const view = viewOf(frame);
  writeU64(view, feed, 0);
  view.setUint32(8, group, true);
  view.setUint8(12, byServer ? 1 : 0);
  return frame;
}

export function decodeFeedClose(frame: Buffer): FeedClose | null {
  if (frame.length !== closeBytes) return null;
  const view = viewOf(frame);
  return { feed: readU64(view, 0), group: view.getUint32(8, true), byServer: view.getUint8(12) === 1 };
}

// ---- events ----

/** Gathers events until they are taken as one frame. */
export class FeedWriter implements PipeSink {
  #frame: Buffer;
  #view: DataView;
  #end = eventsHeadBytes;

  constructor() {
    this.#frame = Buffer.allocUnsafe(1024);
    this.#view = viewOf(this.#frame);
  }

  /** Bytes of the events gathered. */
  get bytes(): number {
    return this.#end - eventsHeadBytes;
  }

  batchApplied(sequence: number): void {
    const at = this.#begin(EventKind.applied, 0);
    writeU64(this.#view, sequence, at + 1);
  }

  result(sequence: number, ordinal: number, code: ResultCode, value: number, extra: number): void {
    const at = this.#begin(EventKind.result, 0);
    const view = this.#view;
    view.setUint8(at + 1, code);
    view.setUint32(at + 2, ordinal, true);
    writeU64(view, sequence, at + 6);
    writeU64(view, value, at + 14);
    writeU64(view, extra, at + 22);
  }

  lease(
    consumer: number,
    leaseOrdinal: number,
    entryIndex: number,
    ordinal: number,
    redelivered: boolean,
    deliveryCount: number,
  ): void {
    const at = this.#begin(EventKind.lease, 0);
    const view = this.#view;
    view.setUint8(at + 1, redelivered ? 1 : 0);
    view.setUint32(at + 2, consumer, true);
    writeU64(view, leaseOrdinal, at + 6);
    writeU64(view, entryIndex, at + 14);
    view.setUint32(at + 22, ordinal, true);
    view.setUint32(at + 26, deliveryCount, true);
  }

  consumerCancelled(consumer: number): void {
    const at = this.#begin(EventKind.cancelled, 0);
    this.#view.setUint32(at + 1, consumer, true);
  }

  fenced(): void {
    this.#begin(EventKind.fenced, 0);
  }

  opened(lastSequence: number, fenced: boolean, existing: readonly number[]): void {
    const at = this.#begin(EventKind.opened, 4 * existing.length);
    const view = this.#view;
    view.setUint8(at + 1, fenced ? 1 : 0);
    writeU64(view, lastSequence, at + 2);
    view.setUint32(at + 10, existing.length, true);
    for (let i = 0; i < existing.length; i++) view.setUint32(at + 14 + 4 * i, existing[i]!, true);
  }

  /** Everything gathered, as the body of a frame, which is never written again. */
  take({ feed, group, number, applied }: FeedHead): Buffer {
    const view = this.#view;
    writeU64(view, feed, 0);
    view.setUint32(8, group, true);
    view.setUint32(12, number, true);
    writeU64(view, applied, 16);
    const body = Buffer.from(this.#frame.subarray(0, this.#end));
    this.#end = eventsHeadBytes;
    return body;
  }

  #begin(kind: number, extraBytes: number): number {
    const at = this.#end;
    const end = at + eventBytes[kind]! + extraBytes;
    if (end > this.#frame.length) {
      const larger = Buffer.allocUnsafe(Math.max(2 * this.#frame.length, end));
      this.#frame.copy(larger, 0, 0, at);
      this.#frame = larger;
      this.#view = viewOf(larger);
    }
    this.#view.setUint8(at, kind);
    this.#end = end;
    return at;
  }
}

export function decodeFeedHead(frame: Buffer): FeedHead | null {
  if (frame.length < eventsHeadBytes) return null;
  const view = viewOf(frame);
  return {
    feed: readU64(view, 0),
    group: view.getUint32(8, true),
    number: view.getUint32(12, true),
    applied: readU64(view, 16),
  };
}

/** Tells the events of a frame in order. False: one was not well formed; those before it were told. */
export function readFeedEvents(frame: Buffer, visitor: FeedVisitor): boolean {
  const view = viewOf(frame);
  let at = eventsHeadBytes;
  while (at < frame.length) {
    const kind = view.getUint8(at);
    let end = at + (eventBytes[kind] ?? frame.length);
    if (end > frame.length) return false;
    switch (kind) {
      case EventKind.applied:
        visitor.batchApplied(readU64(view, at + 1));
        break;
      case EventKind.result:
        visitor.result(
          readU64(view, at + 6),
          view.getUint32(at + 2, true),
          view.getUint8(at + 1) as ResultCode,
          readU64(view, at + 14),
          readU64(view, at + 22),
        );
        break;
      case EventKind.lease:
        visitor.lease(
          view.getUint32(at + 2, true),
          readU64(view, at + 6),
          readU64(view, at + 14),
          view.getUint32(at + 22, true),
          view.getUint8(at + 1) === 1,
          view.getUint32(at + 26, true),
        );
        break;
      case EventKind.cancelled:
        visitor.consumerCancelled(view.getUint32(at + 1, true));
        break;
      case EventKind.fenced:
        visitor.fenced();
        break;
      case EventKind.opened: {
        const count = view.getUint32(at + 10, true);
        if (end + 4 * count > frame.length) return false;
        const existing = new Set<number>();
        for (let i = 0; i < count; i++) existing.add(view.getUint32(end + 4 * i, true));
        end += 4 * count;
        visitor.opened(readU64(view, at + 2), view.getUint8(at + 1) === 1, existing);
        break;
      }
      default:
        return false;
    }
    at = end;
  }
  return true;
}

// ---- questions and answers ----

export function encodeQuery(query: Query): Buffer {
  const ordinals = query.what === 'messages' ? query.ordinals : [];
  const bytes = query.what === 'messages' ? 12 + 4 * ordinals.length : 4;
  const frame = Buffer.allocUnsafe(queryHeadBytes + bytes);
  const view = viewOf(frame);
  writeU64(view, query.request, 0);
  view.setUint32(8, query.group, true);
  view.setUint8(12, query.what === 'messages' ? 1 : 2);
  if (query.what === 'status') view.setUint32(13, query.uid, true);
  else {
    writeU64(view, query.entry, 13);
    view.setUint32(21, ordinals.length, true);
    for (let i = 0; i < ordinals.length; i++) view.setUint32(25 + 4 * i, ordinals[i]!, true);
  }
  return frame;
}

export function decodeQuery(frame: Buffer): Query | null {
  if (frame.length < queryHeadBytes + 4) return null;
  const view = viewOf(frame);
  const [request, group, what] = [readU64(view, 0), view.getUint32(8, true), view.getUint8(12)];
  if (what === 2) return frame.length === 17 ? { what: 'status', request, group, uid: view.getUint32(13, true) } : null;
  if (what !== 1 || frame.length < 25) return null;
  const count = view.getUint32(21, true);
  if (count === 0 || count > ordinalsMax || frame.length !== 25 + 4 * count) return null;
  const ordinals = Array.from({ length: count }, (_, i) => view.getUint32(25 + 4 * i, true));
  return { what: 'messages', request, group, entry: readU64(view, 13), ordinals };
}

function answerHead({ request, number, state }: AnswerHead): Buffer {
  const head = Buffer.allocUnsafe(answerHeadBytes);
  const view = viewOf(head);
  writeU64(view, request, 0);
  view.setUint32(8, number, true);
  view.setUint8(12, answerStates.indexOf(state));
  return head;
}

export function encodeUnavailable(request: number): Buffer[] {
  return [answerHead({ request, number: 0, state: 'unavailable' })];
}

/** `undefined`: there is no such queue. */
export function encodeStatus(request: number, status: QueueStatus | undefined): Buffer[] {
  return [answerHead({ request, number: 0, state: 'status' }), Buffer.from(JSON.stringify(status ?? null))];
}

export function decodeStatus(frame: Buffer): QueueStatus | undefined {
  try {
    return (JSON.parse(frame.toString('utf8', answerHeadBytes)) as QueueStatus | null) ?? undefined;
  } catch {
    return undefined;
  }
}

/** The frames of an answer, each about `frameBytes` at most, but for a record that is larger. */
export function encodeAnswer(request: number, views: readonly (MessageView | null)[], frameBytes: number): Buffer[][] {
  const frames: Buffer[][] = [];
  let records: Buffer[] = [];
  let bytes = 0;
  const close = (state: AnswerState) => {
    frames.push([answerHead({ request, number: frames.length, state }), ...records]);
    records = [];
    bytes = 0;
  };
  const add = (head: Buffer, content: Buffer) => {
    if (bytes > 0 && bytes + content.length > frameBytes) close('more');
    records.push(head);
    if (content.length > 0) records.push(content);
    bytes += head.length + content.length;
  };
  for (const view of views) {
    for (const piece of view?.before ?? []) add(recordHead(RecordKind.piece, 0, 0, 0, piece.length), piece);
    if (view === null) add(recordHead(RecordKind.missing, 0, 0, 0, 0), nothing);
    else add(messageHead(view), view.payload.subarray(view.keyStart, view.bodyEnd));
  }
  close('last');
  return frames;
}
const nothing = Buffer.alloc(0);

function recordHead(kind: number, flags: number, keyBytes: number, propertiesBytes: number, bodyBytes: number): Buffer {
  const head = Buffer.allocUnsafe(recordHeadBytes);
  const view = viewOf(head);
  view.setUint8(0, kind);
  view.setUint8(1, flags);
  view.setUint16(2, 0, true);
  view.setUint32(4, keyBytes, true);
  view.setUint32(8, propertiesBytes, true);
  view.setUint32(12, bodyBytes, true);
  return head;
}

const messageHead = ({ flags, keyStart, propertiesStart, bodyStart, bodyEnd }: MessageView): Buffer =>
  recordHead(RecordKind.message, flags, propertiesStart - keyStart, bodyStart - propertiesStart, bodyEnd - bodyStart);

export function decodeAnswerHead(frame: Buffer): AnswerHead | null {
  if (frame.length < answerHeadBytes) return null;
  const view = viewOf(frame);
  const state = answerStates[view.getUint8(12)];
  return state === undefined ? null : { request: readU64(view, 0), number: view.getUint32(8, true), state };
}

/** Messages gathered from the frames of one answer. */
export interface GatheredMessages {
  readonly views: (MessageView | null)[];
  /** Pieces of the message that comes next. */
  before: Buffer[];
}

/** Adds the records of one frame. False: not well formed. */
export function readAnswer(frame: Buffer, into: GatheredMessages): boolean {
  const view = viewOf(frame);
  let at = answerHeadBytes;
  while (at < frame.length) {
    if (at + recordHeadBytes > frame.length) return false;
    const kind = view.getUint8(at);
    const keyStart = at + recordHeadBytes;
    const propertiesStart = keyStart + view.getUint32(at + 4, true);
    const bodyStart = propertiesStart + view.getUint32(at + 8, true);
    const bodyEnd = bodyStart + view.getUint32(at + 12, true);
    if (bodyEnd > frame.length) return false;
    if (kind === RecordKind.piece) into.before.push(frame.subarray(bodyStart, bodyEnd));
    else if (kind === RecordKind.missing) into.views.push(null);
    else if (kind === RecordKind.message) {
      const { before } = into;
      into.before = [];
      into.views.push({
        payload: frame,
        flags: view.getUint8(at + 1),
        keyStart,
        propertiesStart,
        bodyStart,
        bodyEnd,
        before,
      });
    } else return false;
    at = bodyEnd;
  }
  return true;
}
