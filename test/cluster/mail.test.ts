// Frames in, frames out: what a node passes on, what it takes from a relay, and whom it sends elsewhere. The transport writes down what
// it is given.

import { describe, expect, test } from 'vitest';
import type { Group } from '../../cluster/group/group.ts';
import type { Log } from '../../cluster/log/types.ts';
import { BatchBuilder, OriginKind } from '../../cluster/machine/commands.ts';
import { Leaders } from '../../cluster/peers/leaders.ts';
import { Mail } from '../../cluster/peers/mail.ts';
import { Peers } from '../../cluster/peers/peers.ts';
import * as wire from '../../cluster/peers/wire.ts';
import type { Transport, TransportEvents } from '../../cluster/transport-types.ts';

const { FrameKind } = wire;

/** What nothing here is about. */
const others = { followed: new Map(), damaged: [], disk: 'ok', members: [] } as const;

/** Node 1 of four, connected with 2 and 3. */
function setting(log: Partial<Log> = {}) {
  const up = new Set([2, 3]);
  const sent: { to: number; lane: string; kind: number; body: Buffer }[] = [];
  const stepped: number[] = [];
  const reported: unknown[] = [];
  const otherFrames: { node: number; kind: number; body: Buffer }[] = [];
  const peers = new Peers([2, 3, 4], 50);
  let received!: TransportEvents;
  const transport: Transport = {
    start: async () => {},
    send: (to, lane, kind, pieces) => {
      if (!up.has(to)) return false;
      sent.push({ to, lane, kind, body: Buffer.concat(pieces) });
      return true;
    },
    bufferedBytes: (to) => 100 * to,
    isUp: (node) => up.has(node),
    incarnationOf: () => 1,
    setPeers: () => {},
    isolate: () => {},
    close: async () => {},
  };
  /** Nodes that have left the cluster. */
  const gone = new Set<number>();
  const raft = { role: 'follower', leader: 0, term: 1 };
  const group = { id: 7, halted: null, raft, step: () => stepped.push(7), told() {} };
  const leaders = new Leaders({
    node: 1,
    peers,
    replicas: () => [2, 3, 4],
    local: () => null,
    via: (node) => mail.via(node),
    learned: () => true,
  });
  const mail: Mail = new Mail(
    {
      node: 1,
      log: log as Log,
      limits: { electionTicks: 12, heartbeatTicks: 2, tickMilliseconds: 50, catchUpBytesPerSecond: 1_000 },
      peers,
      groups: new Map([[7, group as unknown as Group]]),
      leaders,
    },
    (events) => {
      received = events;
      return transport;
    },
    {
      report: (_level, event) => reported.push(event),
      schedule: () => {},
      ownStatus: () => ({ clock: 5, metadataApplied: 3, metadataHalted: false, led: new Map([[7, 2]]), ...others }),
      peerTold: () => {},
      stepped: () => {},
      replied: () => {},
      hears: () => {},
      peerApplied: () => {},
      leaseRequested: () => {},
      leaseGranted: () => {},
      visible: () => {},
      frame: (node, kind, body) => otherFrames.push({ node, kind, body }) > 0,
      up: () => {},
      down: () => {},
      drained: () => {},
      checkPeer: () => null,
      ownAddress: () => undefined,
      met: () => {},
      found: () => {},
      isGone: (node) => gone.has(node),
      gone: () => {},
    },
  );
  let sequence = 0;
  /** A peer tells whom it is connected with. */
  const tells = (node: number, connected: number[], led: [number, number][] = []) => {
    const told = { sequence: ++sequence, clock: 0, metadataApplied: 0, metadataHalted: false };
    const status = wire.encodeStatus({
      processes: new Map(),
      ...told,
      heard: connected,
      connected,
      led: new Map(led),
      ...others,
    });
    received.frame(node, 1, 'control', FrameKind.status, status);
  };
  for (const node of up) received.up(node, 1);
  return { mail, peers, sent, stepped, reported, otherFrames, tells, up, gone, received: () => received };
}

const heartbeat = wire.encodeMessages([
  { kind: 'heartbeat', group: 7, groupIncarnation: 1, from: 4, to: 1, term: 1, session: 1, commit: 0, readContext: 0 },
]);
const fromFour = (incarnation: number, kind: number, body: Buffer) =>
  Buffer.concat([wire.encodeRelayed(4, incarnation, kind), body]);

describe('a relay', () => {
  test('passes a frame on by the same lane, under the name of its origin', () => {
    const { received, sent } = setting();
    sent.length = 0;
    const body = Buffer.from('the frame');
    const frame = Buffer.concat([wire.encodeRelay(3, FrameKind.append), body]);
    received().frame(2, 9, 'bulk', FrameKind.relay, frame);
    expect(sent).toHaveLength(1);
    expect(sent[0]).toMatchObject({ to: 3, lane: 'bulk', kind: FrameKind.relayed });
    expect(wire.decodeRelayed(sent[0]!.body)).toEqual({ from: 2, incarnation: 9, kind: FrameKind.append, body });
  });

  test('looks for no further relay, and answers nothing for a node that it does not reach', () => {
    const { received, sent, tells, mail } = setting();
    tells(3, [1, 4]);
    expect(mail.via(4)).toBe(3);
    sent.length = 0;
    received().frame(2, 1, 'bulk', FrameKind.relay, Buffer.concat([wire.encodeRelay(4, FrameKind.append), heartbeat]));
    expect(sent).toEqual([]);
  });

  test('refuses what was relayed already', () => {
    const { received, reported } = setting();
    reported.length = 0;
    received().frame(2, 1, 'bulk', FrameKind.relay, wire.encodeRelay(3, FrameKind.relayed));
    received().frame(2, 1, 'bulk', FrameKind.relayed, wire.encodeRelayed(3, 1, FrameKind.relay));
    expect(reported).toEqual(['frame not understood', 'frame not understood']);
  });
});

describe('a peer whose first words of itself came by a relay', () => {
  test('is known to hear us as soon as it speaks of itself directly, with whatever it says then', () => {
    const { received, peers, tells, up } = setting();
    up.add(4);
    received().up(4, 1);
    received().frame(3, 1, 'control', FrameKind.relayed, fromFour(1, FrameKind.applied, wire.encodeApplied(7)));
    expect(peers.get(4)!.metadataApplied).toBe(7);
    expect(peers.answers(4)).toBe(false);
    tells(4, [1, 3]);
    expect(peers.answers(4)).toBe(true);
  });
});

describe('a node that joined while this one was away', () => {
  const joined = Buffer.concat([wire.encodeRelayed(5, 1, FrameKind.applied), wire.encodeApplied(7)]);

  test('is heard by a relay, and answered by it, before the metadata here know it', () => {
    const { mail, received, peers, tells } = setting();
    received().frame(3, 1, 'control', FrameKind.relayed, joined);
    expect(peers.get(5)!.metadataApplied).toBe(7);
    tells(3, [1, 4, 5]);
    expect(mail.reaches(5)).toBe(true);
  });

  test('is not heard when it has left since', () => {
    const { received, peers, gone } = setting();
    gone.add(5);
    received().frame(3, 1, 'control', FrameKind.relayed, joined);
    expect(peers.get(5)).toBeUndefined();
  });
});

describe('a node that another one cannot reach', () => {
  test('sends by the relay, and asks for its buffer', () => {
    const { mail, sent, tells } = setting();
    expect(mail.reaches(4)).toBe(false);
    expect(mail.post(4, 'bulk', FrameKind.batch, [heartbeat])).toBe(false);
    tells(3, [1, 4]);
    sent.length = 0;
    expect([mail.isUp(4), mail.reaches(4), mail.bufferedBytes(4, 'bulk')]).toEqual([false, true, 300]);
    expect(mail.post(4, 'bulk', FrameKind.batch, [heartbeat])).toBe(true);
    expect(sent[0]).toMatchObject({ to: 3, lane: 'bulk', kind: FrameKind.relay });
    expect(wire.decodeRelay(sent[0]!.body)).toEqual({ to: 4, kind: FrameKind.batch, body: heartbeat });
  });

  test('takes what it is sent by one as if it came straight, also right after the connection broke', () => {
    const { received, stepped, peers, up } = setting();
    up.add(4);
    received().up(4, 1);
    up.delete(4);
    received().down(4);
    for (let i = 0; i < 20; i++) peers.tick();
    received().up(4, 1);
    received().down(4);
    received().frame(4, 1, 'control', FrameKind.messages, heartbeat);
    expect(stepped).toEqual([]);
    received().frame(3, 1, 'control', FrameKind.relayed, fromFour(1, FrameKind.messages, heartbeat));
    expect(stepped).toEqual([7]);
    expect(peers.silentMilliseconds(4)).toBe(0);
  });

  test('takes no message under another name, and nothing of a process that is no more', () => {
    const { received, stepped, peers, otherFrames } = setting();
    received().frame(3, 1, 'control', FrameKind.messages, heartbeat);
    expect(stepped).toEqual([]);
    peers.heard(4, 6, false);
    received().frame(3, 1, 'control', FrameKind.relayed, fromFour(5, FrameKind.messages, heartbeat));
    received().frame(3, 1, 'control', FrameKind.relayed, fromFour(5, FrameKind.leaving, Buffer.alloc(0)));
    expect(stepped).toEqual([]);
    expect(peers.get(4)!.leaving).toBe(false);
    received().frame(3, 1, 'bulk', FrameKind.relayed, fromFour(6, FrameKind.query, Buffer.from('q')));
    expect(otherFrames).toEqual([{ node: 4, kind: FrameKind.query, body: Buffer.from('q') }]);
  });
});

describe('a peer that both sides reach by a relay only', () => {
  test('is told of us directly too: else nobody would find out that the direct way works again', () => {
    const { received, sent, tells, mail, up } = setting();
    up.add(4);
    received().up(4, 1);
    tells(3, [1, 4]);
    tells(4, [3]);
    expect([mail.isUp(4), mail.via(4)]).toEqual([true, 3]);
    sent.length = 0;
    mail.statusChanged();
    mail.flush();
    const ways = sent.map(({ to, kind }) => [to, kind]);
    expect(ways).toContainEqual([4, FrameKind.status]);
    expect(ways.filter(([to, kind]) => to === 3 && kind === FrameKind.relay)).toHaveLength(1);
    tells(4, [1, 3]);
    expect(mail.via(4)).toBe(4);
  });
});

describe('a status', () => {
  const statuses = (sent: ReturnType<typeof setting>['sent']) =>
    sent.filter(({ kind }) => kind === FrameKind.status).map(({ to, body }) => ({ to, ...wire.decodeStatus(body)! }));

  test('goes to everybody when a connection comes up, and then every heartbeat', () => {
    const { sent, mail, tells } = setting();
    tells(2, [1]);
    mail.flush();
    sent.length = 0;
    for (let i = 0; i < 4; i++) {
      mail.tick();
      mail.flush();
    }
    const told = statuses(sent);
    expect(told.map(({ to }) => to)).toEqual([2, 3, 2, 3]);
    expect(told[0]).toMatchObject({ clock: 5, metadataApplied: 3, heard: [2, 3], connected: [2] });
    expect(told[0]!.led).toEqual(new Map([[7, 2]]));
    expect(told[2]!.sequence).toBeGreaterThan(told[0]!.sequence);
  });

  test('goes at once when the neighbours change, once in a turn', () => {
    const { sent, mail, tells, received, up } = setting();
    mail.flush();
    sent.length = 0;
    tells(2, [1]);
    tells(3, [1, 2]);
    mail.flush();
    expect(statuses(sent).map(({ to, connected }) => [to, connected])).toEqual([
      [2, [2, 3]],
      [3, [2, 3]],
    ]);
    sent.length = 0;
    up.delete(2);
    received().down(2);
    mail.flush();
    // Also by the relay to the one that was lost.
    expect(statuses(sent).map(({ to, heard }) => [to, heard])).toEqual([[3, [3]]]);
    expect(sent.map(({ to, kind }) => [to, kind])).toEqual([
      [3, FrameKind.relay],
      [3, FrameKind.status],
    ]);
  });
});

describe('a batch', () => {
  const batch = () => {
    const builder = new BatchBuilder();
    builder.addPurge(5);
    return builder.seal({ kind: OriginKind.node, id: 2, incarnation: 4 }, 11, 0, 0);
  };

  test('for a group that has no replica here is answered with its leader', () => {
    const { received, sent, tells } = setting();
    const ask = () => {
      sent.length = 0;
      received().frame(2, 1, 'bulk', FrameKind.batch, Buffer.concat(wire.encodeBatch(9, 0, batch())));
      return wire.decodeReply(sent.find(({ kind }) => kind === FrameKind.reply)!.body);
    };
    const reply = { group: 9, answer: 'notLeader', incarnation: 4, sequence: 11 };
    expect(ask()).toEqual({ ...reply, leader: 0 });
    tells(3, [1], [[9, 5]]);
    expect(ask()).toEqual({ ...reply, leader: 3 });
  });

  test('goes to who claims the leadership, or to a replica that may know him', () => {
    const { mail, sent, tells } = setting();
    sent.length = 0;
    expect(mail.sendBatch(9, batch(), 0)).toBe(true);
    tells(3, [1], [[9, 5]]);
    expect(mail.sendBatch(9, batch(), 0)).toBe(true);
    expect(sent.filter(({ kind }) => kind === FrameKind.batch).map(({ to }) => to)).toEqual([2, 3]);
  });
});

describe('appends to a learner', () => {
  const append = (first: number, last: number) => ({
    ...({ kind: 'append', group: 7, groupIncarnation: 1, from: 1, to: 3, term: 1, session: 1 } as const),
    ...{
      previousIndex: first - 1,
      previousTerm: 1,
      first,
      last,
      lastTerm: last < first ? 0 : 1,
      commit: 0,
      notice: false,
    },
  });

  test('that the core sends again while the pace holds them back are sent once', () => {
    const read: [number, number][] = [];
    const log: Partial<Log> = {
      cached: () => undefined,
      read: (_group, first, last, _bytesMax, done) => {
        read.push([first, last]);
        const data = { stamp: 1, machineVersion: 1, stateHash: 0, payload: Buffer.alloc(1_000), checksum: 0 };
        const entry = (index: number) => ({ kind: 'data', index, term: 1, bytes: 1_000, data }) as const;
        done(null, first > last ? [] : Array.from({ length: last - first + 1 }, (_, i) => entry(first + i)));
      },
    };
    const { mail } = setting(log);
    mail.pace.set(7, [3]);
    mail.send(append(1, 1));
    expect(read).toEqual([[1, 1]]);
    mail.send(append(2, 2));
    mail.send(append(3, 3));
    // Not answered: it asks from its second entry on.
    for (let i = 0; i < 5; i++) mail.send(append(2, 2 + (i % 2)));
    mail.send(append(3, 4));
    for (let tick = 0; tick < 100; tick++) mail.tick();
    expect(read).toEqual([
      [1, 1],
      [2, 2],
      [3, 4],
    ]);
  });
});

describe('chunks of a snapshot for a learner', () => {
  const configuration = { voters: [1, 2], learners: [3], outgoing: [], learnersNext: [], autoLeave: false };
  const chunk = (offset: number) => ({
    ...({ kind: 'snapshotChunk', group: 7, groupIncarnation: 1, from: 1, to: 3, term: 1, session: 1 } as const),
    ...{ snapshot: { index: 5, term: 1, configuration }, offset, bytes: Buffer.alloc(1_000), done: false },
  });

  test('that are asked for again while the pace holds them back are sent once', () => {
    const { mail, sent } = setting();
    mail.pace.set(7, [3]);
    const chunks = () => {
      const frames = sent.filter(({ kind }) => kind === FrameKind.snapshot);
      return frames.map(({ body }) => (wire.decodeSnapshotChunk(body) as Partial<ReturnType<typeof chunk>>).offset);
    };
    mail.send(chunk(0));
    expect(chunks()).toEqual([0]);
    // The core waits for an election's time at most; a chunk of this size is a second's worth.
    for (let i = 0; i < 5; i++) mail.send(chunk(0));
    mail.send(chunk(1_000));
    for (let tick = 0; tick < 21; tick++) mail.tick();
    expect(chunks()).toEqual([0, 1_000]);
    for (let tick = 0; tick < 100; tick++) mail.tick();
    expect(chunks()).toEqual([0, 1_000]);
    mail.send(chunk(2_000));
    expect(chunks()).toEqual([0, 1_000, 2_000]);
  });
});
