// Frames of feeds, questions and answers: everything survives the way, and nothing malformed gets through.

import { describe, expect, test } from 'vitest';
import * as wire from '../../cluster/feed/feed-wire.ts';
import type { MessageView, ResultCode } from '../../cluster/machine/commands.ts';

const big = 2 ** 40 + 5;

/** What a visitor was told, in order. */
function recorder() {
  const told: unknown[][] = [];
  const tell =
    (name: string) =>
    (...values: unknown[]) => {
      told.push([name, ...values]);
    };
  const visitor: wire.FeedVisitor = {
    batchApplied: tell('applied'),
    result: tell('result'),
    lease: tell('lease'),
    consumerCancelled: tell('cancelled'),
    fenced: tell('fenced'),
    opened: tell('opened'),
  };
  return { told, visitor };
}

function message(body: string, before: readonly Buffer[] = []): MessageView {
  const payload = Buffer.from(`....keykeyproperties${body}....`);
  const bodyStart = 4 + 6 + 10;
  return { payload, flags: 3, keyStart: 4, propertiesStart: 10, bodyStart, bodyEnd: bodyStart + body.length, before };
}

const textOf = ({ payload, keyStart, propertiesStart, bodyStart, bodyEnd, before }: MessageView) => [
  payload.toString('utf8', keyStart, propertiesStart),
  payload.toString('utf8', propertiesStart, bodyStart),
  Buffer.concat([...before, payload.subarray(bodyStart, bodyEnd)]).toString('utf8'),
];

describe('feeds', () => {
  const open: wire.FeedOpen = {
    feed: big,
    group: 7,
    incarnation: big + 1,
    minApplied: big + 2,
    consumers: [
      { consumer: 1, nextLease: 9 },
      { consumer: 0xffff_fffe, nextLease: big },
    ],
  };

  test('opening and closing', () => {
    const frame = wire.encodeFeedOpen(open);
    expect(wire.decodeFeedOpen(frame)).toEqual(open);
    for (let length = 0; length < frame.length; length++)
      expect(wire.decodeFeedOpen(frame.subarray(0, length))).toBeNull();
    for (const byServer of [false, true]) {
      const close = { feed: big, group: 7, byServer };
      expect(wire.decodeFeedClose(wire.encodeFeedClose(close))).toEqual(close);
    }
    expect(wire.decodeFeedClose(Buffer.alloc(12))).toBeNull();
  });

  test('a feed is opened with these bytes', () => {
    const small = { ...open, feed: 1, incarnation: 2, minApplied: 3, consumers: [{ consumer: 4, nextLease: 5 }] };
    const hex = '0100000000000000 07000000 0200000000000000 0300000000000000 01000000 04000000 0500000000000000';
    expect(wire.encodeFeedOpen(small).toString('hex')).toBe(hex.replaceAll(' ', ''));
  });

  test('events, in order; a writer begins anew after each frame', () => {
    const writer = new wire.FeedWriter();
    const tell = (visitor: Omit<wire.FeedVisitor, 'opened'>) => {
      visitor.batchApplied(big);
      visitor.result(big, 65_000, 6 as ResultCode, big + 1, big + 2);
      visitor.lease(3, big, big + 3, 65_535, true, 12);
      visitor.lease(4, 1, 2, 0, false, 0);
      visitor.consumerCancelled(3);
      visitor.fenced();
    };
    const expected = recorder();
    for (let round = 1; round <= 3; round++) {
      const before = expected.told.length;
      for (let i = 0; i < 40; i++) tell(writer);
      writer.opened(big, true, [3, 4, 0xffff_ffff]);
      for (let i = 0; i < 40; i++) tell(expected.visitor);
      expected.visitor.opened(big, true, new Set([3, 4, 0xffff_ffff]));
      const head = { feed: big, group: 7, number: round, applied: big + round };
      const frame = writer.take(head);
      expect(writer.bytes).toBe(0);
      expect(wire.decodeFeedHead(frame)).toEqual(head);
      const heard = recorder();
      expect(wire.readFeedEvents(frame, heard.visitor)).toBe(true);
      expect(heard.told).toEqual(expected.told.slice(before));
    }
  });

  test('a frame that was cut, or has an unknown event, is not understood', () => {
    const writer = new wire.FeedWriter();
    writer.lease(3, 1, 2, 3, true, 4);
    writer.opened(1, false, [1, 2]);
    const frame = writer.take({ feed: 1, group: 2, number: 3, applied: 4 });
    const whole = new Set([24, 54, frame.length]);
    for (let length = 24; length <= frame.length; length++)
      expect(wire.readFeedEvents(frame.subarray(0, length), recorder().visitor), `${length}`).toBe(whole.has(length));
    expect(wire.decodeFeedHead(frame.subarray(0, 23))).toBeNull();
    frame[24] = 99;
    expect(wire.readFeedEvents(frame, recorder().visitor)).toBe(false);
  });
});

describe('questions and answers', () => {
  const queries: wire.Query[] = [
    { what: 'messages', request: big, group: 7, entry: big + 1, ordinals: [0, 65_535, 3] },
    { what: 'status', request: big, group: 7, uid: 0xffff_ffff },
  ];

  test.each(queries)('a question for $what', (query) => {
    const frame = wire.encodeQuery(query);
    expect(wire.decodeQuery(frame)).toEqual(query);
    for (let length = 0; length < frame.length; length++)
      expect(wire.decodeQuery(frame.subarray(0, length))).toBeNull();
  });

  test('the state of a queue, and that there is none', () => {
    const status = { uid: 7, ready: 1, unsettled: 2, consumers: 3, bytes: 4 };
    for (const known of [status, undefined]) {
      const frame = Buffer.concat(wire.encodeStatus(9, known));
      expect(wire.decodeAnswerHead(frame)).toEqual({ request: 9, number: 0, state: 'status' });
      expect(wire.decodeStatus(frame)).toEqual(known);
    }
  });

  test('messages in as many frames as their size needs, whole or in pieces, and those that are gone', () => {
    const large = message('end', [Buffer.from('a'.repeat(90)), Buffer.from('b'.repeat(90))]);
    const views = [message('first'), null, large, message('last')];
    const frames = wire.encodeAnswer(5, views, 100).map((pieces) => Buffer.concat(pieces));
    expect(frames.length).toBeGreaterThan(2);
    const gathered: wire.GatheredMessages = { views: [], before: [] };
    for (const [number, frame] of frames.entries()) {
      const state = number === frames.length - 1 ? 'last' : 'more';
      expect(wire.decodeAnswerHead(frame)).toEqual({ request: 5, number, state });
      expect(wire.readAnswer(frame, gathered)).toBe(true);
    }
    expect(gathered.views.map((view) => (view === null ? null : textOf(view)))).toEqual(
      views.map((view) => (view === null ? null : textOf(view))),
    );
    expect(gathered.views[0]!.flags).toBe(3);
  });

  test('an answer that was cut is not understood', () => {
    const frame = Buffer.concat(wire.encodeAnswer(5, [message('body')], 1_000)[0]!);
    for (let length = 14; length < frame.length; length++)
      expect(wire.readAnswer(frame.subarray(0, length), { views: [], before: [] })).toBe(false);
    expect(wire.decodeAnswerHead(frame.subarray(0, 12))).toBeNull();
    frame[13] = 9;
    expect(wire.readAnswer(frame, { views: [], before: [] })).toBe(false);
  });
});
