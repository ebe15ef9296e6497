// Snapshots at size, in this process and without a broker: the production log over a real disk, the production machines, and a little load
// meanwhile. For each phase: how long it took, the longest time for which the event loop stood still, and how much of that was work of this
// process (on a machine that others use too, the rest is theirs) and collecting garbage.
//
// A node's collector runs in steps, seldom and in one thread (`node/launch.ts`); for figures that compare:
//
//   node --single-threaded-gc --heap-growing-percent=300 dist/test/bench/main.js --suite snapshot

import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { PerformanceObserver, performance } from 'node:perf_hooks';
import { setTimeout as sleep, setImmediate as turn } from 'node:timers/promises';
import { crc32 } from 'node:zlib';
import { initialConfiguration, type SnapshotMeta } from 'raft-ts';
import { defaultLimits } from '../../cluster/index.ts';
import { openLog } from '../../cluster/log/index.ts';
import type { Log, SnapshotReader, SnapshotStaging } from '../../cluster/log/types.ts';
import { BatchBuilder, OriginKind } from '../../cluster/machine/commands.ts';
import type { Machine } from '../../cluster/machine/machine.ts';
import { MetadataMachine } from '../../cluster/machine/metadata.ts';
import { ShardMachine } from '../../cluster/machine/shard.ts';
import { createClock, createDisk } from '../../cluster/os.ts';
import { openSchedule } from '../../node/schedule.ts';
import { count, milliseconds, type ProgressLine, tableText } from './report.ts';

const messagesDefault = 10_000_000;
/** Of the messages this part is leased. */
const leasedShare = 10;
const bodyBytes = 16;
const perEntry = 100;
const queuesDefault = 100_000;
const pieceBytes = 256 * 1024;
const loadMilliseconds = 5;
const longMilliseconds = 10;
const configuration = initialConfiguration([1]);
const none = Buffer.alloc(0);

export interface Phase {
  readonly name: string;
  readonly seconds: number;
  /** Longest block; the one in which it was busy longest, also without what the collector of garbage took. */
  readonly blockMilliseconds: number;
  readonly busyMilliseconds: number;
  readonly ownMilliseconds: number;
  readonly collectorMilliseconds: number;
  /** Blocks of more than ten milliseconds of its own, without the collector. */
  readonly long: number;
  readonly residentMegabytes: number;
}

export async function measureSnapshots(messages = messagesDefault, progress: ProgressLine): Promise<Phase[]> {
  const folder = mkdtempSync(path.join(tmpdir(), 'warren-bench-'));
  const phases: Phase[] = [];
  try {
    await measureShard(folder, messages, phases, progress);
    await measureMetadata(folder, queuesDefault, phases, progress);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  return phases;
}

export function snapshotsText(phases: readonly Phase[]): string {
  const rows = phases.map((phase) => [
    phase.name,
    phase.seconds.toFixed(2),
    milliseconds(phase.blockMilliseconds),
    milliseconds(phase.busyMilliseconds),
    milliseconds(phase.ownMilliseconds),
    milliseconds(phase.collectorMilliseconds),
    count(phase.long),
    count(phase.residentMegabytes),
  ]);
  const header = [
    'phase',
    'seconds',
    'longest block ms',
    'busy',
    'without collector',
    'longest collection',
    'over 10 ms',
    'MB resident',
  ];
  return tableText(header, rows);
}

async function measureShard(folder: string, messages: number, phases: Phase[], progress: ProgressLine): Promise<void> {
  const source = new Replica(await opened(folder, 'source'), new ShardMachine(1));
  const target = new Replica(await opened(folder, 'target'), new ShardMachine(1));
  progress.show(`snapshot · filling ${count(messages)} messages`);
  await fill(source, messages);
  const measure = async (name: string, work: () => Promise<void>) => {
    progress.show(`snapshot · ${name}`);
    phases.push(await measured(`${count(messages)} messages: ${name}`, work, () => source.publish()));
  };
  await exchange(source, target, measure);
  await Promise.all([source.log.close(), target.log.close()]);
}

async function measureMetadata(folder: string, queues: number, phases: Phase[], progress: ProgressLine): Promise<void> {
  const initial = { nodes: [{ node: 1, name: 'n1', uuid: 'u1' }], replication: 1 };
  const machine = () => new MetadataMachine({ shards: 12, initial });
  const source = new Replica(await opened(folder, 'metadata-source'), machine());
  const target = new Replica(await opened(folder, 'metadata-target'), machine());
  progress.show(`snapshot · declaring ${count(queues)} queues`);
  for (let first = 0; first < queues; first += perEntry) {
    source.apply((builder) => {
      for (let i = first; i < first + perEntry; i++) {
        const name = `a queue of some service, number ${i}`;
        const home = { node: 1, incarnation: 1 };
        const table = { 'x-queue-type': 'quorum' };
        const declared = {
          vhost: '/',
          name,
          durable: true,
          autoDelete: false,
          exclusive: null,
          arguments: table,
          home,
        };
        const destination = { kind: 'queue', name };
        const bound = { vhost: '/', source: 'amq.topic', destination, routingKey: `some.key.${i}`, arguments: {} };
        builder.addMetadata(JSON.stringify({ kind: 'declareQueue', ...declared }));
        builder.addMetadata(JSON.stringify({ kind: 'bind', ...bound }));
      }
    });
    await turn();
  }
  const measure = async (name: string, work: () => Promise<void>) => {
    progress.show(`snapshot · ${name}`);
    phases.push(await measured(`${count(queues)} queues: ${name}`, work, () => {}));
  };
  await exchange(source, target, measure);
  await Promise.all([source.log.close(), target.log.close()]);
}

/** Taken, sent to another log, installed there, and loaded as at a start. */
async function exchange(
  source: Replica,
  target: Replica,
  measure: (name: string, work: () => Promise<void>) => Promise<void>,
): Promise<void> {
  const meta: SnapshotMeta = { index: source.index, term: 1, configuration };
  const { log, machine } = source;
  await measure('load alone', () => sleep(1_000));
  await measure('taken', () => log.saveSnapshot(1, meta, machine.snapshot()));
  const opened: { reader: SnapshotReader | null; staging: SnapshotStaging | null } = { reader: null, staging: null };
  await measure('stream opened', async () => {
    opened.reader = await log.openSnapshotStream(1, machine.liveEntries(1, meta.index), 0);
    opened.staging = await target.log.createSnapshotStaging(1, meta);
  });
  await measure('sent', () => send(opened.reader!, opened.staging!));
  await measure('installed', async () => {
    const restoring = target.machine.restoring();
    await opened.staging!.install(restoring);
    restoring.finish();
  });
  await measure('loaded at a start', async () => {
    const restoring = target.machine.restoring();
    await target.log.loadSnapshot(1, restoring);
    restoring.finish();
  });
}

/** One group of one log, and its machine, kept in step. */
class Replica {
  readonly log: Log;
  readonly machine: Machine;
  index = 0;
  #sequence = 0;
  readonly #builder = new BatchBuilder(64 * 1024);

  constructor(log: Log, machine: Machine) {
    this.log = log;
    this.machine = machine;
  }

  apply(fill: (builder: BatchBuilder) => void, kind: OriginKind = OriginKind.node): void {
    fill(this.#builder);
    const sequence = kind === OriginKind.node ? ++this.#sequence : 1;
    const payload = this.#builder.seal(
      { kind, id: kind === OriginKind.node ? 1 : 0, incarnation: 1 },
      sequence,
      0,
      sequence - 1,
    );
    const index = ++this.index;
    const data = { stamp: index, machineVersion: 1, stateHash: 0, payload, checksum: crc32(payload) };
    const entry = { kind: 'data' as const, index, term: 1, bytes: payload.length, data };
    this.log.append([{ group: 1, truncateFrom: null, entries: [entry], hardState: null }], () => {});
    this.machine.apply({ ...data, index, term: 1 });
  }

  publish(): void {
    this.apply((builder) => {
      const body = [Buffer.alloc(bodyBytes)];
      for (let i = 0; i < perEntry; i++) builder.addPublish([1], 0, 0, 0xffff_ffff, none, none, body, bodyBytes);
    });
  }
}

async function opened(folder: string, name: string): Promise<Log> {
  const options = { clusterId: 'bench', nodeUuid: name, ...defaultLimits.log };
  const { log } = await openLog(createDisk(path.join(folder, name)), createClock(), options);
  log.createGroup(1, 1, { index: 0, term: 0, configuration });
  return log;
}

async function fill(replica: Replica, messages: number): Promise<void> {
  const create = { kind: 'create', version: 1, uid: 1, vhost: '/', name: 'q', autoDelete: false, arguments: {} };
  const leased = Math.floor(messages / leasedShare);
  replica.apply((builder) => void builder.addChanges(1, JSON.stringify({ changes: [create] })), OriginKind.group);
  for (let done = 0; done < messages + leased; done += perEntry) {
    replica.publish();
    if (done % 10_000 === 0) await turn();
  }
  const consume = { consumer: 1, queue: 1, unsettledMax: 0, grantedTo: leased, priority: 0, flags: 0, tag: 'c' };
  replica.apply((builder) => void builder.addConsume(consume));
  while (replica.machine.due === 0) {
    replica.apply(() => {}, OriginKind.group);
    await turn();
  }
}

async function send(reader: SnapshotReader, staging: SnapshotStaging): Promise<void> {
  for (let offset = 0, isOver = false; !isOver; ) {
    const piece = await new Promise<Buffer>((resolve, reject) => {
      reader.read(offset, pieceBytes, (error, bytes, end) => {
        isOver = end;
        if (error === null) resolve(bytes);
        else reject(error);
      });
    });
    await new Promise<void>((resolve, reject) => {
      staging.write(offset, piece, (error) => (error === null ? resolve() : reject(error)));
    });
    offset += piece.length;
  }
  reader.close();
}

interface Span {
  readonly from: number;
  readonly to: number;
}

interface Block extends Span {
  /** Without the time for which others had its processor. */
  readonly busy: number;
}

/** Runs the work, with the load, while every turn of the event loop is timed. */
async function measured(name: string, work: () => Promise<void>, load: () => void): Promise<Phase> {
  const collections: Span[] = [];
  const observer = new PerformanceObserver((list) => {
    for (const { startTime, duration } of list.getEntries())
      collections.push({ from: startTime, to: startTime + duration });
  });
  observer.observe({ entryTypes: ['gc'] });
  const schedule = openSchedule();
  const blocks: Block[] = [];
  let isOver = false;
  let resident = 0;
  const watch = async () => {
    for (let [before, had] = [performance.now(), schedule.read()]; !isOver; ) {
      await turn();
      const [now, has] = [performance.now(), schedule.read()];
      const busy = has === null || had === null ? now - before : has.ran - had.ran;
      if (now - before > 1) blocks.push({ from: before, to: now, busy: Math.min(busy, now - before) });
      [before, had] = [now, has];
    }
  };
  const timer = setInterval(() => {
    resident = Math.max(resident, process.memoryUsage.rss());
    load();
  }, loadMilliseconds);
  const started = performance.now();
  const watching = watch();
  await work();
  const seconds = (performance.now() - started) / 1000;
  await sleep(20);
  isOver = true;
  await watching;
  schedule.close();
  clearInterval(timer);
  // What was collected is told later.
  await sleep(50);
  observer.disconnect();
  const collected = ({ from, to }: Span) =>
    collections.reduce((sum, span) => sum + Math.max(0, Math.min(to, span.to) - Math.max(from, span.from)), 0);
  const longest = (values: readonly number[]) => values.reduce((most, value) => Math.max(most, value), 0);
  return {
    name,
    seconds,
    blockMilliseconds: longest(blocks.map(({ from, to }) => to - from)),
    busyMilliseconds: longest(blocks.map(({ busy }) => busy)),
    ownMilliseconds: longest(blocks.map((block) => block.busy - collected(block))),
    collectorMilliseconds: longest(collections.map(({ from, to }) => to - from)),
    long: blocks.filter((block) => block.busy - collected(block) > longMilliseconds).length,
    residentMegabytes: resident / 1e6,
  };
}
