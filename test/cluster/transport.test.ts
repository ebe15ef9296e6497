// The transport over the memory network, and a few cases over real sockets.

import { spawn } from 'node:child_process';
import { afterEach, describe, expect, it } from 'vitest';
import { createClock, createNet, createRandom } from '../../cluster/os.ts';
import type { Connection, Net } from '../../cluster/ports.ts';
import { createTransport } from '../../cluster/transport.ts';
import type { Lane, Transport, TransportOptions } from '../../cluster/transport-types.ts';
import { createMemoryClock } from '../support/memory-clock.ts';
import { createMemoryNetwork } from '../support/memory-net.ts';
import { createMemoryRandom } from '../support/memory-random.ts';

interface Received {
  readonly from: number;
  readonly incarnation: number;
  readonly lane: Lane;
  readonly kind: number;
  readonly body: Buffer;
}
/** What one transport told. `news` has ups and downs in order. */
interface Told {
  readonly frames: Received[];
  readonly news: string[];
  readonly refusals: string[];
  readonly drained: string[];
  reject: (uuid: string) => string | null;
  /** Nodes that have left the cluster. */
  readonly gone: Set<number>;
}
interface Member extends Told {
  readonly transport: Transport;
}

const optionsOf = (node: number, nodes: readonly number[], port: (node: number) => number): TransportOptions => ({
  clusterId: 'cluster',
  node,
  nodeName: `n${node}`,
  nodeUuid: `uuid${node}`,
  incarnation: 1,
  listen: { host: '127.0.0.1', port: port(node) },
  peers: nodes.map((peer) => ({ node: peer, name: `n${peer}`, address: { host: '127.0.0.1', port: port(peer) } })),
  secret: 'secret',
  frameBytesMax: 8 * 1024 * 1024,
  handshakeMilliseconds: 1_000,
  redialMilliseconds: 50,
  redialMillisecondsMax: 400,
});

function create(ports: Parameters<typeof createTransport>[0], options: TransportOptions): Member {
  const told: Told = { frames: [], news: [], refusals: [], drained: [], reject: () => null, gone: new Set() };
  const transport = createTransport(ports, options, {
    frame: (from, incarnation, lane, kind, body) => void told.frames.push({ from, incarnation, lane, kind, body }),
    up: (node, incarnation) => void told.news.push(`up ${node}.${incarnation}`),
    down: (node) => void told.news.push(`down ${node}`),
    drained: (node, lane) => void told.drained.push(`${node} ${lane}`),
    refused: (address, reason) => void told.refusals.push(`${address.slice(0, address.lastIndexOf(':'))} ${reason}`),
    checkPeer: (_node, _name, uuid) => told.reject(uuid),
    isGone: (node) => told.gone.has(node),
    gone: (reason) => void told.news.push(`gone: ${reason}`),
  });
  return Object.assign(told, { transport });
}

/** Nodes in one simulated network. */
function simulate(nodes: readonly number[], seed = 1) {
  const clock = createMemoryClock();
  const random = createMemoryRandom(seed);
  const network = createMemoryNetwork(clock, random);
  const nets = new Map<number, Net>();
  return {
    clock,
    network,
    random,
    /** Starts a process at a node's place; one that ran there before must have crashed. */
    async start(node: number, changes: Partial<TransportOptions> = {}): Promise<Member> {
      const net = network.endpoint(`node${node}`);
      nets.set(node, net);
      const options = { ...optionsOf(node, nodes, (peer) => 7000 + peer), ...changes };
      const member = create({ net, clock, random }, options);
      await member.transport.start();
      return member;
    },
  };
}

async function startPair(changes: Partial<TransportOptions> = {}, seed = 1) {
  const world = simulate([1, 2], seed);
  const a = await world.start(1, changes);
  const b = await world.start(2, changes);
  world.clock.advance(500);
  expect([a.news, b.news]).toEqual([['up 2.1'], ['up 1.1']]);
  return { ...world, a, b };
}

/** The same network, but every connection it dials is shown to `change` first. */
const createNetThat = (net: Net, change: (connection: Connection) => void): Net => ({
  ...net,
  connect: (address, done) =>
    net.connect(address, (error, connection) => {
      if (connection !== null) change(connection);
      done(error, connection);
    }),
});

const bodies = (frames: readonly Received[]) => frames.map(({ body }) => body.toString());

describe('transport: connections', () => {
  it('brings up every pair, whoever starts first', async () => {
    const { start, clock } = simulate([1, 2, 3]);
    const members = [await start(1, { incarnation: 4 })];
    clock.advance(3_000);
    members.push(await start(2, { incarnation: 5 }), await start(3, { incarnation: 6 }));
    clock.advance(200);
    expect(members.map(({ news }) => [...news].sort())).toEqual([
      ['up 2.5', 'up 3.6'],
      ['up 1.4', 'up 3.6'],
      ['up 1.4', 'up 2.5'],
    ]);
    const { transport } = members[0]!;
    expect([transport.isUp(2), transport.incarnationOf(3), transport.isUp(1), transport.isUp(9)]).toEqual([
      true,
      6,
      false,
      false,
    ]);
    expect([transport.incarnationOf(9), transport.bufferedBytes(9, 'bulk')]).toEqual([0, 0]);
  });

  it('is alone while it is isolated, whoever dials whom, and finds everybody again', async () => {
    const { start, clock } = simulate([1, 2, 3]);
    const members = [await start(1), await start(2), await start(3)];
    clock.advance(500);
    const [a, b, c] = members as [Member, Member, Member];
    for (const { news } of members) news.length = 0;
    a.transport.isolate(true);
    a.transport.isolate(true);
    expect([...a.news].sort()).toEqual(['down 2', 'down 3']);
    expect(a.transport.send(2, 'bulk', 1, [Buffer.from('lost')])).toBe(false);
    clock.advance(5_000);
    // A peer that is new meanwhile is not dialled either.
    a.transport.setPeers([]);
    a.transport.setPeers(optionsOf(1, [1, 2, 3], (peer) => 7000 + peer).peers);
    clock.advance(5_000);
    expect(members.map(({ news }) => news.filter((line) => line.startsWith('up')))).toEqual([[], [], []]);
    expect([b.news, c.news]).toEqual([['down 1'], ['down 1']]);
    expect([b.transport.isUp(3), c.transport.isUp(2)]).toEqual([true, true]);
    a.transport.isolate(false);
    clock.advance(2_000);
    expect(
      members.map(({ transport }, at) => [1, 2, 3].filter((n) => n !== at + 1).every((n) => transport.isUp(n))),
    ).toEqual([true, true, true]);
    expect(a.transport.send(2, 'bulk', 1, [Buffer.from('again')])).toBe(true);
    clock.advance(100);
    expect(bodies(b.frames)).toEqual(['again']);
    expect(members.map(({ refusals }) => refusals)).toEqual([[], [], []]);
  });

  it('may be isolated before it starts, and closed while it is', async () => {
    const world = simulate([1, 2]);
    const b = await world.start(2);
    const net = world.network.endpoint('node1');
    const a = create(
      { net, clock: world.clock, random: world.random },
      optionsOf(1, [1, 2], (peer) => 7000 + peer),
    );
    a.transport.isolate(true);
    await a.transport.start();
    world.clock.advance(3_000);
    expect([a.news, b.news]).toEqual([[], []]);
    await a.transport.close();
    a.transport.isolate(false);
    world.clock.advance(3_000);
    expect([a.news, b.news]).toEqual([[], []]);
  });

  it('passes on why it could not listen', async () => {
    const { start } = simulate([1, 2]);
    await start(1);
    await expect(start(1)).rejects.toMatchObject({ code: 'EADDRINUSE' });
  });

  it('tells once that a peer is down, at once, and up again when it is back', async () => {
    const { a, b, network, clock, start } = await startPair();
    network.crash('node2');
    clock.advance(5);
    expect(a.news).toEqual(['up 2.1', 'down 2']);
    expect(a.transport.isUp(2)).toBe(false);
    clock.advance(2_000);
    const again = await start(2, { incarnation: 2 });
    clock.advance(20);
    expect(a.news).toEqual(['up 2.1', 'down 2', 'up 2.2']);
    expect([again.news, b.news]).toEqual([['up 1.1'], ['up 1.1']]);
  });

  it('both sides renew all lanes when one breaks, and it ends there', async () => {
    for (let seed = 1; seed <= 20; seed++) {
      const { a, b, network, clock } = await startPair({}, seed);
      network.setDelay('node1', 'node2', seed % 4);
      network.reset('node1', 'node2');
      clock.advance(10_000);
      expect([a.news, b.news]).toEqual([
        ['up 2.1', 'down 2', 'up 2.1'],
        ['up 1.1', 'down 1', 'up 1.1'],
      ]);
      a.transport.send(2, 'bulk', 1, [Buffer.from('x')]);
      b.transport.send(1, 'control', 1, [Buffer.from('y')]);
      clock.advance(20);
      expect([bodies(b.frames), bodies(a.frames)]).toEqual([['x'], ['y']]);
    }
  });

  it('sees a newer incarnation that dials before the old one was missed', async () => {
    const { a, network, clock, start } = await startPair();
    // The old process vanishes without a word, and so do its packets.
    network.partition('node1', 'node2', 'drop');
    network.crash('node2');
    clock.advance(100);
    const again = await start(2, { incarnation: 2 });
    network.heal();
    clock.advance(1_000);
    expect(a.news).toEqual(['up 2.1', 'down 2', 'up 2.2']);
    expect(again.news).toEqual(['up 1.1']);
    expect(a.transport.incarnationOf(2)).toBe(2);
  });

  it('does not reset a peer again for the late end of a lane from before', async () => {
    const { clock, network, random } = simulate([1, 2]);
    const dialled: Connection[] = [];
    const port = (peer: number) => 7000 + peer;
    const first = createNetThat(network.endpoint('node1'), (connection) => void dialled.push(connection));
    // What node 2 closes of its own ends a second later at the other side.
    const second = createNetThat(network.endpoint('node2'), (connection) => {
      const { close } = connection;
      connection.close = () => void clock.after(1_000, () => close.call(connection));
    });
    const a = create({ net: first, clock, random }, optionsOf(1, [1, 2], port));
    // So node 1 is up again first, and then hears of the new lanes before it hears of the old ones' end.
    const late = { ...optionsOf(2, [1, 2], port), redialMilliseconds: 300 };
    const b = create({ net: second, clock, random }, late);
    await a.transport.start();
    await b.transport.start();
    clock.advance(500);
    dialled.at(-1)!.close();
    clock.advance(4_000);
    expect([a.news, b.news]).toEqual([
      ['up 2.1', 'down 2', 'up 2.1'],
      ['up 1.1', 'down 1', 'up 1.1'],
    ]);
  });

  it('takes a new lane for the end of the old one, which it closes', async () => {
    const { clock, network, random, start } = simulate([1, 2]);
    const ends: (() => void)[] = [];
    let unheard = 0;
    // Node 2 loses its lanes in a way that the other side does not notice.
    const net = createNetThat(network.endpoint('node2'), (connection) => {
      connection.close = () => {
        connection.onClose = () => void unheard++;
      };
      ends.push(() => connection.onClose(new Error('lost')));
    });
    const a = await start(1);
    const b = create(
      { net, clock, random },
      optionsOf(2, [1, 2], (peer) => 7000 + peer),
    );
    await b.transport.start();
    clock.advance(500);
    ends.at(-1)!();
    expect(b.news).toEqual(['up 1.1', 'down 1']);
    a.news.length = 0;
    clock.advance(300);
    expect([a.news.slice(0, 1), unheard]).toEqual([['down 2'], 2]);
    clock.advance(2_000);
    expect([a.transport.isUp(2), b.transport.isUp(1)]).toEqual([true, true]);
  });

  it('ends what an older incarnation dialled, also while the way back was never open', async () => {
    const { clock, network, random } = simulate([1, 2]);
    const deaf = optionsOf(1, [1, 2], (peer) => 7000 + peer);
    const peers = deaf.peers.map((peer) => ({ ...peer, address: { host: '127.0.0.1', port: 6000 } }));
    const a = create({ net: network.endpoint('node1'), clock, random }, { ...deaf, peers });
    await a.transport.start();
    const members: Member[] = [];
    const dialled: Connection[] = [];
    for (const incarnation of [1, 2]) {
      const options = optionsOf(2, [1, 2], (peer) => 7000 + peer);
      const listen = { host: '127.0.0.1', port: 7990 + incarnation };
      const net = createNetThat(network.endpoint(`place${incarnation}`), (connection) => {
        // The old process closes nothing itself, and of the new one's lanes only the first comes to anything.
        if (incarnation === 1) connection.close = () => {};
        else if (dialled.length > 2) connection.write = () => true;
        dialled.push(connection);
      });
      const member = create({ net, clock, random }, { ...options, incarnation, listen });
      await member.transport.start();
      members.push(member);
      clock.advance(5);
    }
    clock.advance(5);
    expect(members.map(({ news }) => news)).toEqual([['up 1.1', 'down 1'], []]);
    expect(dialled.map((connection) => connection.write([Buffer.alloc(0)]))).toEqual([false, false, true, true]);
    expect([a.news, a.transport.incarnationOf(2)]).toEqual([[], 2]);
  });

  it('notices a path that drops packets in silence, also in one direction only, and recovers from it', async () => {
    for (const [from, to] of [
      ['node1', 'node2'],
      ['node2', 'node1'],
    ] as const) {
      const { a, b, network, clock } = await startPair();
      clock.advance(60_000);
      expect([a.news, b.news]).toEqual([['up 2.1'], ['up 1.1']]);
      network.cut(from, to, 'drop');
      clock.advance(10_000);
      expect([a.news, b.news]).toEqual([
        ['up 2.1', 'down 2'],
        ['up 1.1', 'down 1'],
      ]);
      clock.advance(60_000);
      network.heal();
      clock.advance(5_000);
      expect([a.news.at(-1), b.news.at(-1)]).toEqual(['up 2.1', 'up 1.1']);
      expect([a.transport.isUp(2), b.transport.isUp(1)]).toEqual([true, true]);
    }
  });

  it('dials ever more rarely, but answers a peer that is back at once', async () => {
    const { start, network, clock } = simulate([1, 2]);
    let dials = 0;
    const counted = network.endpoint('node1');
    const net: Net = {
      ...counted,
      connect(address, done) {
        dials++;
        counted.connect(address, done);
      },
    };
    const member = create(
      { net, clock, random: createMemoryRandom(3) },
      optionsOf(1, [1, 2], (peer) => 7000 + peer),
    );
    await member.transport.start();
    clock.advance(10_000);
    // Two lanes, each after 50, 100, 200 and then 400 ms, plus up to half of it.
    expect(dials).toBeGreaterThan(34);
    expect(dials).toBeLessThan(60);
    const before = clock.now();
    await start(2);
    while (member.news.length === 0) clock.advance(1);
    expect(clock.now() - before).toBeLessThan(10);
  });

  it('closes for good', async () => {
    const { a, b, clock } = await startPair();
    a.transport.send(2, 'control', 1, [Buffer.from('last words')]);
    await a.transport.close();
    await a.transport.close();
    expect(a.transport.send(2, 'control', 1, [])).toBe(false);
    clock.advance(5_000);
    expect([a.news, b.news]).toEqual([['up 2.1'], ['up 1.1', 'down 1']]);
    expect(bodies(b.frames)).toEqual(['last words']);
    expect([a.transport.isUp(2), a.refusals, b.refusals]).toEqual([false, [], []]);
  });
});

describe('transport: frames', () => {
  it('keep their order within a lane', async () => {
    const { a, b, clock, random } = await startPair({}, 5);
    for (let i = 0; i < 300; i++) {
      const lane: Lane = random.integer(2) === 0 ? 'control' : 'bulk';
      const padding = Buffer.alloc(random.integer(i % 10 === 0 ? 50_000 : 300));
      expect(a.transport.send(2, lane, 1 + (i % 255), [Buffer.from([i >> 8, i & 255]), padding])).toBe(true);
      if (i % 7 === 0) clock.advance(random.integer(3) / 10);
    }
    clock.advance(100);
    expect(b.frames.length).toBe(300);
    for (const lane of ['control', 'bulk']) {
      const numbers = b.frames.filter((frame) => frame.lane === lane).map(({ body }) => body.readUInt16BE(0));
      expect(numbers).toEqual([...numbers].sort((x, y) => x - y));
    }
    for (const { from, incarnation, kind, body } of b.frames)
      expect([from, incarnation, kind]).toEqual([1, 1, 1 + (body.readUInt16BE(0) % 255)]);
  });

  it('leave in one write per lane and turn', async () => {
    const { network, clock, start } = simulate([1, 2]);
    const writes: number[] = [];
    const net = createNetThat(network.endpoint('node1'), (connection) => {
      const { write } = connection;
      connection.write = (buffers) => {
        writes.push(buffers.length);
        return write.call(connection, buffers);
      };
    });
    const a = create(
      { net, clock, random: createMemoryRandom(1) },
      optionsOf(1, [1, 2], (peer) => 7000 + peer),
    );
    await a.transport.start();
    const b = await start(2);
    clock.advance(500);
    writes.length = 0;
    for (let i = 0; i < 100; i++) a.transport.send(2, 'bulk', 1, [Buffer.alloc(100), Buffer.alloc(30)]);
    expect(writes).toEqual([]);
    expect(a.transport.bufferedBytes(2, 'bulk')).toBe(100 * 135);
    clock.advance(10);
    expect(writes).toEqual([1]);
    expect(b.frames.length).toBe(100);
    expect(a.transport.bufferedBytes(2, 'bulk')).toBe(0);
  });

  it('of 8 MiB pass beside control frames', async () => {
    const { a, b, clock } = await startPair();
    const large = Buffer.alloc(8 * 1024 * 1024);
    for (let i = 0; i < large.length; i += 4096) large.writeUInt32LE(i, i);
    expect(a.transport.send(2, 'bulk', 9, [large.subarray(0, 5), large.subarray(5)])).toBe(true);
    for (let i = 0; i < 20; i++) {
      a.transport.send(2, 'control', 1, [Buffer.from([i])]);
      clock.advance(0.05);
    }
    clock.advance(10);
    const [bulk] = b.frames.filter(({ lane }) => lane === 'bulk');
    expect(bulk!.body.equals(large)).toBe(true);
    expect(b.frames.filter(({ lane }) => lane === 'control').map(({ body }) => body[0])).toEqual([...Array(20).keys()]);
    expect(() => a.transport.send(2, 'bulk', 9, [large, Buffer.alloc(1)])).toThrow('allowed');
    expect(() => a.transport.send(2, 'bulk', 0, [])).toThrow('kind');
  });

  it('are dropped while the peer is not up', async () => {
    const { a, b, network, clock } = await startPair();
    network.reset('node1', 'node2');
    clock.advance(1);
    expect(a.transport.send(2, 'control', 1, [Buffer.from('lost')])).toBe(false);
    expect(a.transport.send(7, 'control', 1, [Buffer.from('lost')])).toBe(false);
    clock.advance(2_000);
    expect(a.transport.send(2, 'control', 1, [Buffer.from('kept')])).toBe(true);
    clock.advance(10);
    expect([bodies(b.frames), a.drained]).toEqual([['kept'], []]);
  });

  it('never arrive half after a reconnect', async () => {
    for (let seed = 1; seed <= 15; seed++) {
      const { a, b, network, clock } = await startPair({}, seed);
      let number = 0;
      for (let round = 0; round < 4; round++) {
        for (let i = 0; i < 20; i++) {
          const body = Buffer.alloc(30_000, number & 255);
          body.writeUInt32LE(number++);
          a.transport.send(2, 'bulk', 1, [body]);
        }
        clock.advance(0.05);
        network.reset('node1', 'node2');
        clock.advance(2_000);
      }
      const numbers = b.frames.map(({ body }) => body.readUInt32LE(0));
      expect(numbers).toEqual([...numbers].sort((x, y) => x - y));
      expect(new Set(numbers).size).toBe(numbers.length);
      for (const { body } of b.frames)
        expect(body.length === 30_000 && body[29_999] === (body.readUInt32LE(0) & 255)).toBe(true);
    }
  });

  it('stop at a bound of bytes, and are told to go on', async () => {
    const frameBytesMax = 1024 * 1024;
    const { a, b, network, clock } = await startPair({ frameBytesMax });
    network.pause('node2');
    const body = Buffer.alloc(100_000);
    let sent = 0;
    while (a.transport.send(2, 'bulk', 1, [body])) {
      sent++;
      expect(a.transport.bufferedBytes(2, 'bulk')).toBeLessThanOrEqual(2 * frameBytesMax);
      if (sent % 3 === 0) clock.advance(0.1);
    }
    expect(sent).toBeGreaterThan(19);
    expect(a.transport.send(2, 'bulk', 1, [body])).toBe(false);
    expect(a.transport.send(2, 'control', 1, [Buffer.from('free')])).toBe(true);
    clock.advance(100);
    expect(a.drained).toEqual([]);
    network.resume('node2');
    clock.advance(100);
    expect(a.drained).toEqual(['2 bulk']);
    expect(b.frames.length).toBe(sent + 1);
    expect([a.news, a.transport.bufferedBytes(2, 'bulk')]).toEqual([['up 2.1'], 0]);
  });
});

describe('transport: identity', () => {
  it('refuses another secret, cluster, name or unknown node, tells both, and goes on trying', async () => {
    const cases: [Partial<TransportOptions>, string][] = [
      [{ secret: 'guess' }, 'wrong cluster secret'],
      [{ clusterId: 'other' }, 'belongs to another cluster'],
      [{ nodeName: 'impostor' }, 'node 2 is known as n2, not impostor'],
    ];
    for (const [changes, reason] of cases) {
      const { start, clock } = simulate([1, 2]);
      const a = await start(1);
      const b = await start(2, changes);
      clock.advance(3_000);
      expect([a.news, b.news]).toEqual([[], []]);
      expect(a.refusals).toContain(`127.0.0.1 ${reason}`);
      expect(b.refusals).toContain(`127.0.0.1 refused by the other side: ${reason}`);
      // Told once in ten seconds, not at every attempt.
      expect(new Set(a.refusals).size).toBe(a.refusals.length);
      clock.advance(11_000);
      expect(a.refusals.filter((text) => text === `127.0.0.1 ${reason}`).length).toBe(2);
    }
  });

  it('needs a secret, unless a node is alone', async () => {
    const { clock, network, random } = simulate([1, 2]);
    const ports = { net: network.endpoint('x'), clock, random };
    expect(() => create(ports, { ...optionsOf(1, [1, 2], (node) => node), secret: '' })).toThrow('secret');
    const alone = create(ports, { ...optionsOf(1, [1], () => 1), secret: '' });
    await alone.transport.start();
    await alone.transport.close();
  });

  it('lets nobody in who is not configured, although he knows the secret', async () => {
    const { start, clock } = simulate([1, 2]);
    const alone = await start(1, { peers: [] });
    const other = await start(2);
    clock.advance(3_000);
    expect([alone.news, other.news, alone.frames, other.frames]).toEqual([[], [], [], []]);
    expect(alone.refusals).toEqual(['127.0.0.1 node 2 is not known here']);
  });

  it('takes peers on and lets them go while it runs, and finds one that has moved', async () => {
    const { start, clock } = simulate([1, 2, 3]);
    const [a, b, c] = [await start(1, { peers: [] }), await start(2), await start(3)];
    const addressOf = (node: number) => ({ node, name: `n${node}`, address: { host: '127.0.0.1', port: 7000 + node } });
    clock.advance(500);
    expect(a.news).toEqual([]);
    const elsewhere = { ...addressOf(3), address: { host: '127.0.0.1', port: 9_999 } };
    a.transport.setPeers([addressOf(1), addressOf(2), elsewhere]);
    clock.advance(2_000);
    expect(a.news).toEqual(['up 2.1']);
    a.transport.setPeers([addressOf(2), addressOf(3)]);
    clock.advance(3_000);
    expect(a.news).toEqual(['up 2.1', 'up 3.1']);
    a.transport.setPeers([addressOf(3)]);
    expect(a.transport.isUp(2)).toBe(false);
    clock.advance(3_000);
    expect(a.news).toEqual(['up 2.1', 'up 3.1']);
    expect(b.news).toContain('down 1');
    expect(c.news.filter((text) => text === 'down 1')).toEqual([]);
    expect(a.refusals).toContain('127.0.0.1 node 2 is not known here');
  });

  it('tells a node that it has left the cluster, and believes that only from one who knows the secret', async () => {
    const { start, clock } = simulate([1, 2]);
    const [a, b] = [await start(1, { peers: [] }), await start(2)];
    a.gone.add(2);
    clock.advance(3_000);
    expect(b.news[0]).toBe('gone: refused by the other side: node 2 (n2) has left the cluster');
    expect(a.news).toEqual([]);
    const other = simulate([1, 2]);
    const [guesser, member] = [await other.start(1, { peers: [], secret: 'guess' }), await other.start(2)];
    guesser.gone.add(2);
    other.clock.advance(3_000);
    expect(member.news).toEqual([]);
  });

  it('asks the metadata about a peer, and lets it in when that changes its mind', async () => {
    const { start, clock } = simulate([1, 2]);
    const a = await start(1);
    a.reject = (uuid) => (uuid === 'uuid2' ? 'known under another UUID' : null);
    const b = await start(2);
    clock.advance(1_000);
    expect([a.news, b.news]).toEqual([[], []]);
    expect(b.refusals).toContain('127.0.0.1 refused by the other side: known under another UUID');
    a.reject = () => null;
    clock.advance(1_000);
    expect([a.news, b.news]).toEqual([['up 2.1'], ['up 1.1']]);
  });

  it('refuses an older incarnation than it has seen', async () => {
    const { a, network, clock, start } = await startPair({ incarnation: 1 });
    network.crash('node2');
    const newer = await start(2, { incarnation: 5 });
    clock.advance(1_000);
    expect(a.news.at(-1)).toBe('up 2.5');
    network.crash('node2');
    const older = await start(2, { incarnation: 4 });
    clock.advance(2_000);
    expect([a.news.at(-1), older.news, newer.news]).toEqual(['down 2', [], ['up 1.1']]);
    expect(older.refusals).toContain('127.0.0.1 refused by the other side: incarnation 4 of node 2 is older than 5');
    expect(a.transport.incarnationOf(2)).toBe(5);
  });

  it('ends the older of two processes that claim to be the same node', async () => {
    const { a, b, network, clock, random } = await startPair();
    // The second one has its own place in the network, and listens where nobody looks.
    const options = optionsOf(2, [1, 2], (peer) => 7000 + peer);
    const twin = create(
      { net: network.endpoint('elsewhere'), clock, random },
      { ...options, listen: { host: '127.0.0.1', port: 7999 }, incarnation: 2 },
    );
    await twin.transport.start();
    clock.advance(2_000);
    expect(a.news.slice(0, 2)).toEqual(['up 2.1', 'down 2']);
    expect(a.transport.incarnationOf(2)).toBe(2);
    expect([b.news, b.transport.isUp(1)]).toEqual([['up 1.1', 'down 1'], false]);
    expect(b.refusals).toContain('127.0.0.1 refused by the other side: incarnation 1 of node 2 is older than 2');
  });

  it('lets strangers wait a limited time, in limited number, and says nothing to those who talk nonsense', async () => {
    const { a, network, clock } = await startPair();
    const stranger = network.endpoint('stranger');
    const closed: number[] = [];
    const heard: Buffer[] = [];
    const dial = (number: number, text: string) =>
      stranger.connect({ host: '127.0.0.1', port: 7001 }, (_error, connection: Connection | null) => {
        connection!.onClose = () => void closed.push(number);
        connection!.onData = (chunk) => void heard.push(chunk);
        connection!.write([Buffer.from(text)]);
      });
    dial(0, 'GET / HTTP/1.1\r\n\r\n');
    clock.advance(10);
    expect([closed, heard.length]).toEqual([[0], 0]);
    dial(1, 'WRRN');
    clock.advance(500);
    expect(closed).toEqual([0]);
    clock.advance(600);
    expect(closed).toEqual([0, 1]);
    expect(a.refusals).toEqual(['127.0.0.1 does not speak the protocol of peers', '127.0.0.1 handshake took too long']);
    for (let i = 2; i < 72; i++) dial(i, '');
    clock.advance(10);
    expect(closed).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
    network.reset('node1', 'node2');
    clock.advance(500);
    expect(a.news).toEqual(['up 2.1', 'down 2', 'up 2.1']);
  });

  it('gives up on a peer that accepts and says nothing', async () => {
    const { start, clock, network } = simulate([1, 2]);
    const listener = await network.endpoint('node2').listen({ host: '127.0.0.1', port: 7002 }, () => {});
    const a = await start(1);
    clock.advance(1_500);
    expect(a.refusals).toEqual(['127.0.0.1 handshake took too long']);
    await listener.close();
    network.crash('node2');
    await start(2);
    clock.advance(2_000);
    expect(a.news).toEqual(['up 2.1']);
  });
});

describe('transport: over real sockets', () => {
  const cleanups: (() => unknown)[] = [];
  afterEach(async () => {
    for (const cleanup of cleanups.splice(0)) await cleanup();
  });
  const until = async (condition: () => boolean) => {
    const end = Date.now() + 25_000;
    while (!condition()) {
      if (Date.now() > end) throw new Error('waited too long');
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
  };
  /** A listener with a port of its own, and a Net that hands it to the one who listens: no port is free for others in between. */
  const reserve = async () => {
    let onConnection = (connection: Connection) => connection.close();
    const net = createNet({ lingerMilliseconds: 100 });
    const listener = await net.listen({ host: '127.0.0.1', port: 0 }, (connection) => onConnection(connection));
    cleanups.push(() => listener.close());
    const reserved: Net = {
      connect: net.connect,
      async listen(_address, onListenerConnection) {
        onConnection = onListenerConnection;
        return listener;
      },
    };
    return { port: listener.port, ports: { net: reserved, clock: createClock(), random: createRandom() } };
  };

  it('carries much in both directions, unharmed and in order', { timeout: 30_000 }, async () => {
    const places = [await reserve(), await reserve()];
    const members = places.map(({ ports }, at) =>
      create(
        ports,
        optionsOf(at + 1, [1, 2], (peer) => places[peer - 1]!.port),
      ),
    );
    for (const { transport } of members) {
      cleanups.push(() => transport.close());
      await transport.start();
    }
    await until(() => members.every(({ news }) => news.length === 1));
    const random = createMemoryRandom(11);
    const sent: Buffer[][] = [[], []];
    for (let i = 0; i < 2_000; i++) {
      for (const [from, { transport }] of members.entries()) {
        const body = Buffer.alloc(4 + random.integer(i % 50 === 0 ? 300_000 : 2_500), i & 255);
        body.writeUInt32LE(i);
        while (!transport.send(2 - from, 'bulk', 1, [body.subarray(0, 3), body.subarray(3)]))
          await new Promise((resolve) => setImmediate(resolve));
        sent[from]!.push(body);
      }
      if (i % 40 === 0) await new Promise((resolve) => setImmediate(resolve));
    }
    await until(() => members.every(({ frames }) => frames.length === 2_000));
    for (const [from, bodies] of sent.entries())
      for (const [i, { body }] of members[1 - from]!.frames.entries()) expect(body.equals(bodies[i]!)).toBe(true);
  });

  it('sees within milliseconds that the process of a peer was killed', { timeout: 30_000 }, async () => {
    const [ours, theirs] = [await reserve(), await reserve()];
    const program = `
      const net = require('node:net');
      const server = net.createServer((near) => {
        const far = net.connect(${theirs.port}, '127.0.0.1');
        near.pipe(far).pipe(near);
      });
      server.listen(0, '127.0.0.1', () => console.log(server.address().port));
    `;
    // The process is a mere relay: what its death does to the connections is the kernel's work and the same for any process.
    const child = spawn(process.execPath, ['-e', program], { stdio: ['ignore', 'pipe', 'inherit'] });
    cleanups.push(() => child.kill('SIGKILL'));
    const between = Number(await new Promise((resolve) => child.stdout.once('data', resolve)));
    const member = create(
      ours.ports,
      optionsOf(1, [1, 2], (peer) => (peer === 1 ? ours.port : between)),
    );
    const other = create(
      theirs.ports,
      optionsOf(2, [1, 2], (peer) => (peer === 1 ? ours.port : theirs.port)),
    );
    for (const { transport } of [member, other]) {
      cleanups.push(() => transport.close());
      await transport.start();
    }
    await until(() => member.news.length === 1 && other.news.length === 1);
    const start = performance.now();
    child.kill('SIGKILL');
    await until(() => member.news.length === 2 && other.news.length === 2);
    // Milliseconds on an idle machine; without a sign from the kernel it would be five seconds of silence.
    expect(performance.now() - start).toBeLessThan(2_500);
    expect([member.news, other.news]).toEqual([
      ['up 2.1', 'down 2'],
      ['up 1.1', 'down 1'],
    ]);
  });
});
