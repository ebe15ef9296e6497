// Peer frames: every message survives the way, and nothing malformed gets through.

import { initialConfiguration, type OutgoingMessage } from 'raft-ts';
import { describe, expect, test } from 'vitest';
import type { LogEntry } from '../../cluster/log/types.ts';
import * as wire from '../../cluster/peers/wire.ts';

const envelope = { group: 7, groupIncarnation: 3, from: 1, to: 2, term: 0x1_0000_0005 };
const messages: OutgoingMessage[] = [
  { ...envelope, kind: 'preVote', lastIndex: 10, lastTerm: 4 },
  { ...envelope, kind: 'preVoteReply', granted: true },
  { ...envelope, kind: 'vote', lastIndex: 2 ** 40, lastTerm: 4, transfer: true },
  { ...envelope, kind: 'voteReply', granted: false },
  { ...envelope, kind: 'appendReply', session: 9, success: false, index: 8, hintIndex: 6, hintTerm: 2 },
  { ...envelope, kind: 'heartbeat', session: 9, commit: 5, readContext: 77 },
  { ...envelope, kind: 'heartbeatReply', session: 9, readContext: 77 },
  { ...envelope, kind: 'timeoutNow' },
  { ...envelope, kind: 'snapshotReply', session: 9, index: 12, offset: 4096, ok: true },
];

const payload = Buffer.from('payload of an entry');
const entries: LogEntry[] = [
  { kind: 'noop', index: 21, term: 4, bytes: 0 },
  {
    kind: 'data',
    index: 22,
    term: 5,
    bytes: payload.length,
    data: { stamp: 1_900_000_000_123, machineVersion: 1, stateHash: 0xdead_beef, payload, checksum: 0xfeed_f00d },
  },
];
const append = {
  ...envelope,
  kind: 'append' as const,
  session: 9,
  previousIndex: 20,
  previousTerm: 4,
  first: 21,
  last: 22,
  lastTerm: 5,
  commit: 19,
  notice: false,
};

const statuses: wire.NodeStatus[] = [
  {
    sequence: 0x1_0000_0007,
    clock: 1.5,
    metadataApplied: 3,
    metadataHalted: true,
    heard: [2, 3],
    connected: [3],
    led: new Map([[12, 0x1_0000_0009]]),
    followed: new Map([[4, 6]]),
    damaged: [9],
    members: [1, 2, 7],
    processes: new Map([[2, 5]]),
    disk: 'full',
  },
  {
    sequence: 1,
    clock: 1_900_000_000_123.25,
    metadataApplied: 2 ** 41,
    metadataHalted: false,
    heard: [],
    connected: [],
    led: new Map(),
    followed: new Map(),
    damaged: [],
    members: [],
    processes: new Map(),
    disk: 'ok',
  },
];

describe('peer frames', () => {
  test('messages come back as they were, several in one frame', () => {
    expect(wire.decodeMessages(wire.encodeMessages(messages))).toEqual(messages);
  });

  test('an append comes back with its entries, the payload a view of the frame', () => {
    const frame = Buffer.concat(wire.encodeAppend(append, entries));
    const { first: _first, last: _last, lastTerm: _lastTerm, ...fields } = append;
    expect(wire.decodeAppend(frame)).toEqual({ ...fields, entries });
  });

  test('a configuration entry and a notice of the commit index too', () => {
    const configuration = initialConfiguration([1, 2, 3]);
    const frame = Buffer.concat(
      wire.encodeAppend(append, [{ kind: 'configuration', index: 21, term: 4, bytes: 0, configuration }]),
    );
    const decoded = wire.decodeAppend(frame);
    expect(
      decoded?.kind === 'append' && decoded.entries[0]?.kind === 'configuration' && decoded.entries[0].configuration,
    ).toEqual(configuration);
    const notice = wire.decodeAppend(Buffer.concat(wire.encodeAppend({ ...append, last: 20, notice: true }, [])));
    expect(notice).toMatchObject({ entries: [], commit: append.commit, notice: true });
  });

  test('a snapshot chunk comes back with its bytes', () => {
    const chunk = {
      ...envelope,
      kind: 'snapshotChunk' as const,
      session: 3,
      snapshot: { index: 50, term: 4, configuration: initialConfiguration([1, 2]) },
      offset: 1 << 20,
      bytes: Buffer.from('chunk'),
      done: true,
    };
    expect(wire.decodeSnapshotChunk(Buffer.concat(wire.encodeSnapshotChunk(chunk)))).toEqual(chunk);
  });

  test('a damaged configuration is refused, not thrown over', () => {
    const configuration = initialConfiguration([1, 2, 3]);
    const frame = Buffer.concat(
      wire.encodeAppend({ ...append, last: 21 }, [
        { kind: 'configuration', index: 21, term: 4, bytes: 0, configuration },
      ]),
    );
    frame.fill(0xff, frame.length - 4);
    expect(wire.decodeAppend(frame)).toBeNull();
  });

  test('batches and replies', () => {
    expect(wire.decodeBatch(Buffer.concat(wire.encodeBatch(5, 0xffff_ffff, payload)))).toEqual({
      group: 5,
      checksum: 0xffff_ffff,
      payload,
    });
    const reply = { group: 5, answer: 'expected', incarnation: 2 ** 33, sequence: 12, leader: 3 } as const;
    expect(wire.decodeReply(wire.encodeReply(reply))).toEqual(reply);
    expect(wire.decodeApplied(wire.encodeApplied(2 ** 41))).toBe(2 ** 41);
    const address = { host: 'n4.example', port: 25_672 };
    expect(wire.decodeAddress(wire.encodeAddress(address))).toEqual(address);
    expect(wire.decodeAddress(Buffer.alloc(2))).toBeNull();
  });

  test('a status comes back as it was told', () => {
    for (const status of statuses) expect(wire.decodeStatus(wire.encodeStatus(status))).toEqual(status);
  });

  test('the bytes of a status, as written down', () => {
    expect(wire.encodeStatus(statuses[0]!).toString('hex')).toBe(
      '0700000001000000' +
        '000000000000f83f' +
        '0300000000000000' +
        '01000000' +
        '0200' +
        '0100' +
        '01000000' +
        '01000000' +
        '0100' +
        '0200' +
        '0300' +
        '0100' +
        '02000000' +
        '03000000' +
        '03000000' +
        '09000000' +
        '01000000' +
        '02000000' +
        '07000000' +
        '0c000000' +
        '0900000001000000' +
        '04000000' +
        '0600000000000000' +
        '02000000' +
        '0500000000000000',
    );
  });

  test('a status with a length that is not its own, or without a time, is refused', () => {
    const frame = wire.encodeStatus(statuses[0]!);
    for (let length = 0; length < frame.length; length++)
      expect(wire.decodeStatus(frame.subarray(0, length))).toBeNull();
    expect(wire.decodeStatus(Buffer.concat([frame, Buffer.alloc(4)]))).toBeNull();
    expect(wire.decodeStatus(wire.encodeStatus({ ...statuses[0]!, clock: Number.NaN }))).toBeNull();
  });

  test('frames to relay keep their kind and bytes, as views', () => {
    const relay = Buffer.concat([wire.encodeRelay(3, wire.FrameKind.batch), payload]);
    expect(wire.decodeRelay(relay)).toEqual({ to: 3, kind: wire.FrameKind.batch, body: payload });
    const relayed = Buffer.concat([wire.encodeRelayed(1, 2 ** 35, wire.FrameKind.append), payload]);
    expect(wire.decodeRelayed(relayed)).toEqual({
      from: 1,
      incarnation: 2 ** 35,
      kind: wire.FrameKind.append,
      body: payload,
    });
    expect(wire.decodeRelay(relay)?.body.buffer).toBe(relay.buffer);
    expect(wire.decodeRelayed(relayed)?.body.buffer).toBe(relayed.buffer);
  });

  test('nothing is relayed twice', () => {
    const { relay, relayed } = wire.FrameKind;
    for (const kind of [relay, relayed, 0, 256]) {
      expect(wire.decodeRelay(wire.encodeRelay(3, kind))).toBeNull();
      expect(wire.decodeRelayed(wire.encodeRelayed(3, 1, kind))).toBeNull();
    }
    expect(wire.decodeRelay(Buffer.alloc(7))).toBeNull();
    expect(wire.decodeRelayed(Buffer.alloc(15))).toBeNull();
  });

  test('every shortened frame is refused', () => {
    const frame = Buffer.concat(wire.encodeAppend(append, entries));
    for (let length = 0; length < frame.length; length++)
      expect(wire.decodeAppend(frame.subarray(0, length))).toBeNull();
    const control = wire.encodeMessages(messages);
    for (let length = 0; length < control.length; length++)
      expect(wire.decodeMessages(control.subarray(0, length))).toBeNull();
    expect(wire.decodeReply(Buffer.alloc(27))).toBeNull();
  });

  test('the bytes of a heartbeat, as written down', () => {
    const frame = wire.encodeMessages([{ ...envelope, kind: 'heartbeat', session: 1, commit: 2, readContext: 3 }]);
    expect(frame.toString('hex')).toBe(
      '0100' +
        '06000000' +
        '07000000' +
        '0300000000000000' +
        '01000000' +
        '02000000' +
        '0500000001000000' +
        '0100000000000000' +
        '0200000000000000' +
        '0300000000000000' +
        '0000000000000000' +
        '0000000000000000',
    );
  });
});
