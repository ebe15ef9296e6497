// Compaction: files of which little lives are rewritten, the disk stays within its bound, nothing that lives is ever lost, whatever happens in
// between. On the disk in memory; the bound also on a real one.

import { afterAll, describe, expect, it } from 'vitest';
import { openLog } from '../../cluster/log/index.ts';
import type { Store } from '../../cluster/log/store.ts';
import type { Log, LogOptions } from '../../cluster/log/types.ts';
import { piecesOf } from '../../cluster/machine/snapshot-pieces.ts';
import type { Disk } from '../../cluster/ports.ts';
import { createMemoryDisk, type MemoryDisk } from '../support/memory-disk.ts';
import { createMemoryRandom } from '../support/memory-random.ts';
import { receive, streamOf } from './log-install.ts';
import { batchEntry, bodyOf, LiveMessages, readBody, verifyLive, verifySettled } from './log-live.ts';
import {
  append,
  begin,
  cleanUp,
  clock,
  configuration,
  createRestlessClock,
  diskKinds,
  drain,
  installed,
  living,
  options,
  origin,
  read,
  rejection,
  reopen,
  turns,
  write,
} from './log-support.ts';

afterAll(cleanUp);

const fileBytes = 16 * 1024;
const changes: Partial<LogOptions> = { fileBytesMax: fileBytes, cacheBytesMax: 0, pressureBytes: 2 * fileBytes };

let rounds = 0;

/** A log with its messages. */
class Bench {
  readonly live = new LiveMessages();
  readonly last = new Map<number, number>();
  log: Log;
  readonly options: Partial<LogOptions>;

  constructor(log: Log, options: Partial<LogOptions>) {
    this.log = log;
    this.options = options;
  }

  static async open(disk: Disk, more: Partial<LogOptions> = {}, groups: readonly number[] = [1]): Promise<Bench> {
    const options = { ...changes, ...more };
    const { log } = await reopen(disk, options);
    const bench = new Bench(log, options);
    for (const group of groups) log.createGroup(group, group, origin);
    await append(log);
    return bench;
  }

  /** Entries of `messages` messages each. */
  async publish(group: number, entries: number, messages = 20, bytes = 50, references = 1): Promise<void> {
    const bodies = Array.from({ length: messages }, () => bytes);
    for (let i = 0; i < entries; i++) {
      const index = (this.last.get(group) ?? 0) + 1;
      this.last.set(group, index);
      this.live.add(group, index, bodies, references);
      await append(this.log, write(group, { entries: [batchEntry(group, index, 1, bodies)] }));
    }
  }

  /** Settles all but every so many. */
  settleAllBut(every: number): void {
    let count = 0;
    for (const { group, index, ordinal } of [...this.live.messages()])
      if (count++ % every !== 0) this.live.settle(group, index, ordinal);
  }

  async snapshot(group: number): Promise<void> {
    const index = this.last.get(group)!;
    await this.log.saveSnapshot(group, { index, term: 1, configuration }, piecesOf([Buffer.from('state')]));
  }

  /** What the host does now and then. */
  async collect(rounds = 1): Promise<void> {
    for (let i = 0; i < rounds; i++) {
      for (const group of this.last.keys()) this.log.compactionPoint(group);
      await this.log.collect(this.live);
      await this.compact();
    }
    await this.log.collect(this.live);
  }

  /** A round after the log has rested from the last one. */
  async compact(): Promise<void> {
    const { now } = clock;
    const later = ++rounds * 1e9;
    clock.now = () => now() + later;
    try {
      await this.log.compact(this.live);
    } finally {
      clock.now = now;
    }
  }

  async reopen(disk: Disk): Promise<void> {
    this.log = (await reopen(disk, this.options)).log;
  }
}

async function sparse(disk: Disk, more: Partial<LogOptions> = {}, entries = 100): Promise<Bench> {
  const bench = await Bench.open(disk, more);
  await bench.publish(1, entries);
  bench.settleAllBut(200);
  await bench.snapshot(1);
  return bench;
}

const kept = (disk: MemoryDisk) => disk.paths().filter(({ path }) => path.endsWith('.kept'));
const logBytes = (disk: MemoryDisk) =>
  disk.paths().reduce((sum, { path, bytes }) => sum + (path.startsWith('log/') ? bytes : 0), 0);

describe('files of which little lives', () => {
  it('give way to one with the messages that live, under their names', async () => {
    const disk = createMemoryDisk();
    const bench = await sparse(disk.mount());
    const before = bench.log.status();
    await bench.collect(2);
    const status = bench.log.status();
    expect(status.files).toBeLessThan(before.files - 5);
    expect(kept(disk)).toHaveLength(1);
    expect(status.rewrittenBytes).toBe(
      kept(disk)[0]!.bytes - disk.contents(kept(disk)[0]!.path).readUInt16LE(6) - footer(disk),
    );
    expect(status.liveBytes).toBeLessThan(4000);
    await verifyLive(bench.log, bench.live);
    expect(await readBody(bench.log, 1, 1, 0)).toEqual(bodyOf(1, 1, 0, 50));
    expect(await readBody(bench.log, 1, 1, 1)).toBe(null);
    expect(bench.log.has(1, 2)).toBe(false);
    (bench.log as Store).check();
    await bench.log.close();
    await bench.reopen(disk.mount());
    await verifyLive(bench.log, bench.live);
    expect(bench.log.has(1, 2)).toBe(false);
    expect(kept(disk)).toHaveLength(1);
  });

  it('are never read as whole entries again', async () => {
    const bench = await sparse(createMemoryDisk());
    expect(await read(bench.log, 1, 1, 1)).toHaveLength(1);
    await bench.collect(2);
    expect(await rejection(read(bench.log, 1, 1, 1))).toMatchObject({ code: 'missing' });
  });

  it('are left alone as long as entries in them are kept whole', async () => {
    const disk = createMemoryDisk();
    const bench = await Bench.open(disk.mount(), { keptBytesMax: 2 * fileBytes, pressureBytes: 1 << 30 });
    await bench.publish(1, 100);
    bench.settleAllBut(200);
    await bench.collect(2);
    expect(kept(disk)).toHaveLength(0);
    await bench.snapshot(1);
    await bench.collect(2);
    const { index } = bench.log.compactionPoint(1);
    expect(index).toBeLessThan(85);
    expect(await read(bench.log, 1, index + 1, 100)).toHaveLength(100 - index);
    await verifyLive(bench.log, bench.live);
  });

  it('are left alone within the slack, and where more than half lives', async () => {
    const disk = createMemoryDisk();
    const slack = await sparse(disk.mount(), { compactionSlackBytes: 1 << 20 });
    await slack.collect(2);
    expect(kept(disk)).toHaveLength(0);
    const dense = await Bench.open(createMemoryDisk());
    await dense.publish(1, 100);
    let count = 0;
    for (const { group, index, ordinal } of [...dense.live.messages()])
      if (count++ % 3 === 0) dense.live.settle(group, index, ordinal);
    await dense.snapshot(1);
    await dense.collect(3);
    expect(dense.log.status().rewrittenBytes).toBe(0);
  });

  it('are rewritten again when less of them lives; small ones become one', async () => {
    const disk = createMemoryDisk();
    const bench = await Bench.open(disk.mount());
    for (let i = 0; i < 14; i++) {
      await bench.publish(1, 40);
      bench.settleAllBut(3);
      await bench.snapshot(1);
      await bench.collect(2);
    }
    await verifyLive(bench.log, bench.live);
    expect(kept(disk).length).toBeLessThan(10);
    for (const { group, index, ordinal } of [...bench.live.messages()]) bench.live.settle(group, index, ordinal);
    await bench.collect(2);
    expect(kept(disk)).toHaveLength(0);
  });

  it('share a round with all groups; a message in many queues counts once', async () => {
    const disk = createMemoryDisk();
    const bench = await Bench.open(disk.mount(), {}, [1, 2, 3]);
    for (let i = 0; i < 30; i++) for (const group of [3, 1, 2]) await bench.publish(group, 1, 20, 50, 5);
    for (let i = 0; i < 3; i++) bench.settleAllBut(1_000_000);
    for (const { group, index, ordinal } of [...bench.live.messages()])
      if ((index + ordinal) % 10 > 0) for (let i = 0; i < 5; i++) bench.live.settle(group, index, ordinal);
    for (const group of [1, 2, 3]) await bench.snapshot(group);
    await bench.collect(3);
    expect(kept(disk).length).toBeGreaterThan(0);
    const { bytes, boundBytes, liveBytes } = bench.log.status();
    expect(bytes).toBeLessThan(2 * bench.live.bytes + 4 * fileBytes);
    expect(bytes).toBeLessThan(boundBytes);
    expect(liveBytes).toBeLessThan(1.5 * bench.live.bytes);
    await verifyLive(bench.log, bench.live);
  });
});

/** Bytes of footer and trailer of the one kept file. */
function footer(disk: MemoryDisk): number {
  const bytes = disk.contents(kept(disk)[0]!.path);
  return 32 + bytes.readUInt32LE(bytes.length - 28);
}

describe('the bound of the disk', () => {
  for (const kind of diskKinds)
    it(`holds with one message in a thousand left for good, on disk ${kind.name}`, async () => {
      const bench = await Bench.open(kind.create(), { fileBytesMax: 64 * 1024 }, [1, 2]);
      let most = 0;
      for (let round = 0; round < 12; round++) {
        for (const group of [1, 2]) {
          await bench.publish(group, 20, 100, 100);
          let count = round;
          for (const { index, ordinal, group: of } of [...bench.live.messages()])
            if (of === group && index > bench.last.get(group)! - 20 && count++ % 1000 !== 0)
              bench.live.settle(group, index, ordinal);
          await bench.snapshot(group);
        }
        await bench.collect();
        const { bytes } = bench.log.status();
        most = Math.max(most, bytes - 2 * bench.live.bytes);
      }
      const status = bench.log.status();
      expect(most).toBeLessThan(status.boundBytes - 2 * status.liveBytes);
      expect(status.appendedBytes).toBeGreaterThan(6_000_000);
      // What was written once more is a small part of what came in.
      expect(status.rewrittenBytes).toBeLessThan(status.appendedBytes / 20);
      await verifyLive(bench.log, bench.live);
      await bench.log.close();
    });
});

describe('what is dead by an entry that was applied', () => {
  const last = 120;
  const settledBy = 118;

  /** All but one in so many is settled by an entry behind the snapshot, whose commit no hard state tells of yet. */
  async function settled(disk: MemoryDisk, every: number): Promise<Bench> {
    const bench = await Bench.open(disk.mount(), {});
    await bench.publish(1, last);
    await append(bench.log, write(1, { entries: [], hardState: { term: 1, vote: 1, commit: settledBy - 1 } }));
    await bench.log.saveSnapshot(1, { index: 100, term: 1, configuration }, piecesOf([Buffer.from('state')]));
    let count = 0;
    for (const { group, index, ordinal } of [...bench.live.messages()])
      if (index <= 100 && count++ % every !== 0) bench.live.settle(group, index, ordinal, settledBy);
    return bench;
  }

  it.each([
    { way: 'is removed with its file', every: Number.POSITIVE_INFINITY, isRewritten: false },
    { way: 'is left out where files are rewritten', every: 200, isRewritten: true },
  ])('$way only once it is durable that the entry is committed', async ({ every, isRewritten }) => {
    const disk = createMemoryDisk();
    const bench = await settled(disk, every);
    const { files } = bench.log.status();
    bench.log.compactionPoint(1);
    await bench.log.collect(bench.live);
    if (isRewritten) await bench.compact();
    expect(bench.log.status().files).toBeLessThan(files - 3);
    expect(bench.log.status().rewrittenBytes > 0).toBe(isRewritten);
    disk.crash(createMemoryRandom(1));
    const { log, groups } = await reopen(disk.mount(), bench.options);
    expect(groups[0]!.hardState).toEqual({ term: 1, vote: 1, commit: settledBy });
    await verifySettled(log, bench.live, groups);
    await verifyLive(log, bench.live);
    await log.close();
  });

  it('is still there, or the entry is known as committed, wherever the power fails', async () => {
    let steps = 0;
    for (let at = 0; at <= steps; at++) {
      const disk = createMemoryDisk();
      const bench = await settled(disk, 200);
      let count = 0;
      disk.watch = () => {
        if (count++ === at) disk.halt();
      };
      const done = await Promise.race([bench.collect(2).then(() => true), turns(60).then(() => false)]);
      disk.watch = null;
      if (!done) steps = at + 1;
      disk.crash(createMemoryRandom(at));
      const { log, groups } = await reopen(disk.mount(), bench.options);
      await verifySettled(log, bench.live, groups);
      await verifyLive(log, bench.live);
      await log.close();
    }
    expect(steps).toBeGreaterThan(20);
  });
});

describe('a log that gets snapshots and no entries', () => {
  it('does not keep what came with those before the last one', async () => {
    const log = await begin(createMemoryDisk().mount(), { fileBytesMax: fileBytes });
    const lastTen = (index: number) => Array.from({ length: 10 }, (_, i) => index - 9 + i);
    for (let index = 10; index <= 200; index += 10) {
      const lengths = Array.from({ length: index }, () => 1000);
      const sent = { group: 1, index, term: 1, liveAbove: 0, lengths, live: lastTen(index) };
      await receive(log, sent, await streamOf(sent, clock));
    }
    await turns(20);
    await log.collect(living((_group, _first, last) => last > 190));
    expect(log.status().appendedBytes).toBeLessThan(fileBytes);
    expect(log.status().bytes).toBeLessThan(4 * fileBytes);
    for (const index of lastTen(200)) expect(await read(log, 1, index, index)).toHaveLength(1);
    await log.close();
  });
});

describe('a round', () => {
  it('survives a crash at every step: what lives is there, and the disk holds no more than before', async () => {
    let steps = 0;
    for (let at = 0; at <= steps; at++) {
      const disk = createMemoryDisk();
      const bench = await sparse(disk.mount(), {}, 50);
      let count = 0;
      disk.watch = (_operation, path) => {
        if (path.endsWith('.kept') || path.startsWith('manifest') || path === 'log' || path === '') {
          if (count++ === at) disk.halt();
        }
      };
      const done = await Promise.race([bench.collect(2).then(() => true), turns(60).then(() => false)]);
      disk.watch = null;
      if (!done) steps = at + 1;
      const before = logBytes(disk);
      disk.crash(createMemoryRandom(at));
      await bench.reopen(disk.mount());
      expect(logBytes(disk)).toBeLessThanOrEqual(before + 2 * fileBytes);
      await verifyLive(bench.log, bench.live);
      (bench.log as Store).check();
      await bench.collect(2);
      await verifyLive(bench.log, bench.live);
      expect(logBytes(disk)).toBeLessThan(6 * fileBytes);
      if (at > 200) throw new Error('no end of steps');
    }
    expect(steps).toBeGreaterThan(8);
  });

  it('comes to nothing when a group is reset meanwhile, or its state cannot be read', async () => {
    const disk = createMemoryDisk();
    const bench = await sparse(disk.mount());
    bench.live.refuses = true;
    await bench.collect(2);
    expect(kept(disk)).toHaveLength(0);
    bench.live.refuses = false;
    bench.live.loses = true;
    await bench.collect(2);
    expect(kept(disk)).toHaveLength(0);
    bench.live.loses = false;
    let reset: Promise<void> | null = null;
    bench.live.between = () => {
      reset ??= bench.log.resetGroup(1, 0, origin.configuration);
    };
    await bench.collect(2);
    await reset;
    bench.live.groups.clear();
    await bench.collect(2);
    expect(kept(disk)).toHaveLength(0);
    expect(bench.log.has(1, 1)).toBe(false);
    (bench.log as Store).check();
    await bench.log.close();
    await bench.reopen(disk.mount());
    expect(bench.log.has(1, 1)).toBe(false);
  });

  it('keeps what settles meanwhile or not, but nothing less than what lives', async () => {
    const bench = await sparse(createMemoryDisk());
    bench.live.between = () => {
      const [first] = [...bench.live.messages()];
      if (first !== undefined) bench.live.settle(first.group, first.index, first.ordinal);
      bench.live.between = () => {};
    };
    await bench.collect(2);
    await verifyLive(bench.log, bench.live);
  });

  it('takes no file away from who reads it', async () => {
    const disk = createMemoryDisk();
    const bench = await sparse(disk.mount());
    const indices = [...new Set([...bench.live.messages()].map(({ index }) => index))];
    const reader = await bench.log.openSnapshotStream(1, indices, 0);
    const stream = await drain(reader, 4096);
    await bench.collect(2);
    // Files that are read are not rewritten; others are.
    expect(await drain(reader, 4096)).toEqual(stream);
    reader.close();
    await bench.collect(2);
    expect(kept(disk).length).toBeGreaterThan(0);
    await verifyLive(bench.log, bench.live);
  });

  it('leaves a file alone that it cannot read, and goes on with the others', async () => {
    const disk = createMemoryDisk();
    const bench = await sparse(disk.mount());
    const [first] = disk.paths().filter(({ path }) => path.endsWith('.log'));
    disk.corrupt(first!.path, 200);
    await bench.collect(4);
    expect(disk.paths().map(({ path }) => path)).toContain(first!.path);
    expect(kept(disk)).toHaveLength(1);
    for (const { index, ordinal } of [...bench.live.messages()])
      if (index > 20) expect(await readBody(bench.log, 1, index, ordinal)).toEqual(bodyOf(1, index, ordinal, 50));
  });

  it('keeps to its rate', async () => {
    const disk = createMemoryDisk();
    const bench = await Bench.open(disk.mount(), {
      compactionBytesPerSecond: 1_000_000,
      compactionSlackBytes: 300_000,
    });
    await bench.publish(1, 30, 100, 1000);
    bench.settleAllBut(3);
    await bench.snapshot(1);
    const began = performance.now();
    await bench.log.collect(bench.live);
    bench.log.compactionPoint(1);
    await bench.log.compact(bench.live);
    const { rewrittenBytes } = bench.log.status();
    expect(rewrittenBytes).toBeGreaterThan(10_000);
    // Four times the rate where the bound is exceeded; the last piece waits for nobody.
    expect(performance.now() - began).toBeGreaterThan((rewrittenBytes * 1000) / 4_000_000 - 100);
  });

  it('gives up when the disk is full, leaves nothing behind, and is tried again', async () => {
    const disk = createMemoryDisk();
    const bench = await sparse(disk.mount());
    disk.fault = (operation, path) =>
      operation === 'write' && path.endsWith('.kept') ? Object.assign(new Error('full'), { code: 'ENOSPC' }) : null;
    bench.log.compactionPoint(1);
    expect(await rejection(bench.compact())).toMatchObject({ code: 'ENOSPC' });
    expect(kept(disk)).toEqual([]);
    disk.fault = null;
    await append(bench.log);
    await bench.collect(2);
    expect(kept(disk).length).toBeGreaterThan(0);
    await verifyLive(bench.log, bench.live);
  });

  it('ends when the log is closed', async () => {
    const bench = await Bench.open(createMemoryDisk(), { compactionBytesPerSecond: 1000 });
    await bench.publish(1, 30, 100, 1000);
    bench.settleAllBut(20);
    await bench.snapshot(1);
    bench.log.compactionPoint(1);
    const round = bench.log.compact(bench.live);
    await turns(20);
    await bench.log.close();
    await round;
  });

  it('is one at a time', async () => {
    const disk = createMemoryDisk();
    const bench = await sparse(disk.mount());
    bench.log.compactionPoint(1);
    await Promise.all([bench.compact(), bench.log.compact(bench.live), bench.log.compact(bench.live)]);
    expect(kept(disk)).toHaveLength(1);
  });
});

describe('what was rewritten', () => {
  it('goes to a node that is too far behind as it is', async () => {
    const bench = await sparse(createMemoryDisk());
    await bench.collect(2);
    const indices = [...new Set([...bench.live.messages()].map(({ index }) => index))].sort((a, b) => a - b);
    const reader = await bench.log.openSnapshotStream(1, indices, 0);
    const stream = await drain(reader, 1000);
    const other = createMemoryDisk();
    const follower = await Bench.open(other.mount());
    const staging = await follower.log.createSnapshotStaging(1, reader.meta);
    await new Promise((resolve) => staging.write(0, stream, resolve));
    await installed(staging);
    reader.close();
    await verifyLive(follower.log, bench.live);
    await follower.log.close();
    await follower.reopen(other.mount());
    await verifyLive(follower.log, bench.live);
  });

  it('may be volatile: it goes with its process', async () => {
    const disk = createMemoryDisk();
    const bench = await Bench.open(disk.mount(), {}, []);
    bench.log.createVolatileGroup(1000, 1);
    await bench.publish(1000, 100);
    await turns(20);
    bench.settleAllBut(200);
    bench.log.volatileApplied(1000, 100);
    bench.last.clear();
    const before = logBytes(disk);
    await bench.collect(3);
    expect(logBytes(disk)).toBeLessThan(before / 3);
    expect(kept(disk)).toHaveLength(0);
    await verifyLive(bench.log, bench.live);
    await bench.publish(1000, 0);
    disk.kill();
    await bench.reopen(disk.mount());
    expect(disk.paths().filter(({ path }) => path.endsWith('.volatile'))).toEqual([]);
  });
});

/** Groups under random use, with crashes at any moment. Every message that lives and was confirmed must be there, as it was. */
async function randomLife(seed: number): Promise<number> {
  const random = createMemoryRandom(seed);
  const disk = createMemoryDisk();
  const restless = createRestlessClock();
  const limits = options({
    fileBytesMax: 2000 + random.integer(8000),
    cacheBytesMax: random.integer(2) * 4000,
    keptBytesMax: random.integer(3) * 2000,
    pressureBytes: 4000 + random.integer(20_000),
    compactionSlackBytes: random.integer(2) * 3000,
  });
  const live = new LiveMessages();
  const last = new Map([1, 2, 3].map((group) => [group, 0]));
  let confirmed = new Map(last);
  let rewritten = 0;
  for (let life = 0; life < 4; life++) {
    const { log, groups } = await openLog(disk.mount(), restless, limits);
    await verifySettled(log, live, groups);
    for (const { group, snapshot, entries } of groups) {
      const end = entries[entries.length - 1]?.index ?? snapshot.index;
      if (end < confirmed.get(group)!) throw new Error(`group ${group} ends at ${end}`);
      for (let index = end + 1; index <= last.get(group)!; index++) live.groups.get(group)!.delete(index);
      last.set(group, end);
    }
    await verifyLive(log, live);
    confirmed = new Map(last);
    if (life === 0) for (const group of last.keys()) log.createGroup(group, group, origin);
    const publish = (group: number) => {
      const bodies = Array.from({ length: 1 + random.integer(30) }, () => random.integer(80));
      const index = last.get(group)! + 1;
      last.set(group, index);
      live.add(group, index, bodies, 1 + random.integer(2));
      const done = () => confirmed.set(group, Math.max(index, confirmed.get(group)!));
      log.append([write(group, { entries: [batchEntry(group, index, 1, bodies)] })], done);
    };
    for (let step = 20 + random.integer(80); step > 0; step--) {
      const group = 1 + random.integer(3);
      const choice = random.integer(10);
      if (choice < 5) publish(group);
      else if (choice < 7) {
        // Of what is committed only.
        for (const message of [...live.messages()])
          if (message.index <= confirmed.get(message.group)! && random.integer(3) > 0)
            live.settle(message.group, message.index, message.ordinal, confirmed.get(message.group)!);
      } else if (choice === 7) {
        const meta = { index: confirmed.get(group)!, term: 1, configuration };
        if (meta.index > 0) log.saveSnapshot(group, meta, piecesOf([Buffer.alloc(100)])).catch(() => {});
      } else {
        for (const id of last.keys()) log.compactionPoint(id);
        log.collect(live).catch(() => {});
        live.refuses = random.integer(10) === 0;
        log.compact(live).catch(() => {});
      }
      (log as Store).check();
      for (let pause = random.integer(4) === 0 ? 300 : random.integer(30); pause > 0; pause--) await Promise.resolve();
    }
    await verifyLive(log, live);
    rewritten += log.status().rewrittenBytes;
    if (random.integer(4) === 0) await log.close();
    else disk.crash(random);
  }
  return rewritten;
}

describe('logs under random use', () => {
  const seed = Date.now() & 0xfff_ffff;
  it(`lose no message that lives, from seed ${seed} on`, async () => {
    let rewritten = 0;
    for (let i = 0; i < 12; i++)
      try {
        rewritten += (await randomLife(seed + i)) > 0 ? 1 : 0;
      } catch (error) {
        throw new Error(`seed ${seed + i}`, { cause: error });
      }
    expect(rewritten).toBeGreaterThan(2);
  });
});
