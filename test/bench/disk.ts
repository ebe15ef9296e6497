// What a log keeps on the disk when one message in ten thousand is left for good, and what getting rid of the rest costs: in this process and
// without a broker, the production log over a real disk and a production shard machine, as fast as both go. Run once with compaction and once
// without, in turn.

import { mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { performance } from 'node:perf_hooks';
import process from 'node:process';
import { crc32 } from 'node:zlib';
import { initialConfiguration } from 'raft-ts';
import { defaultLimits } from '../../cluster/index.ts';
import { openLog } from '../../cluster/log/index.ts';
import type { Liveness, Log, LogEntry } from '../../cluster/log/types.ts';
import { BatchBuilder, OriginKind, remainsOf, SettleOperation } from '../../cluster/machine/commands.ts';
import type { PipeSink } from '../../cluster/machine/machine.ts';
import { ShardMachine } from '../../cluster/machine/shard.ts';
import { createClock, createDisk } from '../../cluster/os.ts';
import { bytes, count, type ProgressLine, tableText } from './report.ts';

const messagesDefault = 4_000_000;
const bodyBytesDefault = 1024;
const perEntry = 256;
/** One message in so many is never settled. */
const keptEvery = 10_000;
const group = 1;
const queue = 1;
const entriesInFlightMax = 8;
/** As often as the host does it, besides after every snapshot. */
const collectMilliseconds = 1_000;
const sampleMilliseconds = 250;
const configuration = initialConfiguration([1]);
const unlimited = 2 ** 40;

export interface DiskResult {
  readonly compacted: boolean;
  readonly messagesPerSecond: number;
  /** Of the processor, by this process. */
  readonly microsecondsPerMessage: number;
  /** While it ran; and when it had come to rest. */
  readonly mostBytes: number;
  readonly bytes: number;
  readonly boundBytes: number;
  /** Of the messages that are left: bodies. */
  readonly liveBytes: number;
  readonly appendedBytes: number;
  readonly rewrittenBytes: number;
}

export async function measureDisk(
  messages = messagesDefault,
  bodyBytes = bodyBytesDefault,
  runs: number,
  progress: ProgressLine,
): Promise<DiskResult[]> {
  const results: DiskResult[] = [];
  for (let run = 0; run < runs; run++)
    for (const compacted of [true, false]) {
      const folder = mkdtempSync(path.join(tmpdir(), 'warren-bench-'));
      const name = `disk · ${compacted ? 'with' : 'without'} compaction · run ${run + 1}/${runs}`;
      try {
        const result = await fill(folder, messages, bodyBytes, compacted, (done) =>
          progress.show(`${name} · ${count(done)}/${count(messages)}`),
        );
        results.push(result);
      } finally {
        rmSync(folder, { recursive: true, force: true });
      }
    }
  return results;
}

export function diskText(results: readonly DiskResult[]): string {
  const rows = results.map((result) => [
    result.compacted ? 'with' : 'without',
    count(result.messagesPerSecond),
    result.microsecondsPerMessage.toFixed(1),
    bytes(result.appendedBytes),
    bytes(result.liveBytes),
    bytes(result.mostBytes),
    bytes(result.bytes),
    bytes(result.boundBytes),
    ((result.appendedBytes + result.rewrittenBytes) / result.appendedBytes).toFixed(4),
  ]);
  const heads = [
    'compaction',
    'msg/s',
    'CPU us/msg',
    'appended',
    'live',
    'disk at most',
    'at the end',
    'bound',
    'amplification',
  ];
  return `one message in ${count(keptEvery)} left for good\n${tableText(heads, rows)}`;
}

/** A shard's replica alone: what it appends is applied when it is durable, and what it hands out is settled with the next batch. */
class Replica {
  readonly machine = new ShardMachine(group);
  readonly #log: Log;
  readonly #bodyBytes: number;
  readonly #builder = new BatchBuilder();
  readonly #body: Buffer;
  /** Lease ordinals that were handed out and are to be settled, as ranges. */
  #leases: number[] = [];
  #index = 0;
  #sequence = 0;
  #snapshotAt = 0;
  #bytes = 0;
  #saving: Promise<void> | null = null;
  #collecting: Promise<void> | null = null;
  handedOut = 0;

  constructor(log: Log, bodyBytes: number) {
    this.#log = log;
    this.#bodyBytes = bodyBytes;
    this.#body = Buffer.alloc(bodyBytes, 'warren');
    const nothing = () => {};
    const sink: PipeSink = {
      batchApplied: nothing,
      result: nothing,
      lease: (_consumer, leaseOrdinal) => {
        if (this.handedOut++ % keptEvery > 0) this.#leases.push(leaseOrdinal);
      },
      consumerCancelled: nothing,
      fenced: nothing,
    };
    this.machine.watch({ node: 1, incarnation: 1 }, sink);
  }

  async begin(): Promise<void> {
    this.#log.createGroup(group, group, { index: 0, term: 0, configuration });
    const created = { kind: 'create', version: 1, uid: queue, vhost: '/', name: 'q', autoDelete: false, arguments: {} };
    this.#builder.addChanges(1, JSON.stringify({ changes: [created] }));
    await this.#append(this.#builder.seal({ kind: OriginKind.group, id: 0, incarnation: 1 }, 1, 1, 0));
    const consumer = { consumer: 1, queue, unsettledMax: 0, grantedTo: 2 ** 50, priority: 0, flags: 0, tag: '' };
    this.#builder.addConsume(consumer);
    await this.#append(this.#seal());
  }

  /** One more batch: publishes, and settles what was handed out. */
  async publish(messages: number): Promise<void> {
    const key = Buffer.from([0, 1, 0x71]);
    for (let i = 0; i < messages; i++)
      this.#builder.addPublish([queue], 1, 0, 0xffff_ffff, key, Buffer.alloc(2), [this.#body], this.#bodyBytes);
    const leases = this.#leases;
    this.#leases = [];
    for (let from = 0, to = 1; from < leases.length; from = to, to++) {
      while (to < leases.length && leases[to] === leases[to - 1]! + 1) to++;
      this.#builder.addSettle(SettleOperation.accept, 0, 1, leases[from]!, to - from);
    }
    await this.#append(this.#seal());
  }

  /** As often as a group of a node does it. */
  snapshotIfDue(isUrgent: boolean): void {
    const { snapshotEveryBytes, snapshotEveryEntries } = defaultLimits;
    const index = this.machine.appliedIndex;
    const isDue = this.#bytes > snapshotEveryBytes || index - this.#snapshotAt > snapshotEveryEntries;
    if (this.#saving !== null || index === this.#snapshotAt || !(isDue || isUrgent)) return;
    this.#bytes = 0;
    this.#snapshotAt = index;
    const saving = this.#log.saveSnapshot(group, { index, term: 1, configuration }, this.machine.snapshot());
    this.#saving = saving.finally(() => {
      this.#saving = null;
      this.collect();
    });
  }

  async settled(): Promise<void> {
    await this.#saving;
    await this.#collecting;
  }

  readonly live: Liveness = {
    isLive: (group, first, last) => this.live.count(group, first, last) > 0,
    applied: () => this.machine.appliedIndex,
    count: (_group, first, last) =>
      last > this.machine.appliedIndex ? Number.POSITIVE_INFINITY : this.machine.countLive(first, last),
    references: () => this.machine.references(),
    remains: remainsOf,
  };

  /** As the host does it: now and then, and when a snapshot was saved. */
  collect(): Promise<void> {
    this.#collecting ??= this.#collect().finally(() => {
      this.#collecting = null;
    });
    return this.#collecting;
  }

  async #collect(): Promise<void> {
    if (this.#saving === null) this.#log.compactionPoint(group);
    await this.#log.collect(this.live);
    await this.#log.compact(this.live);
  }

  #seal(): Buffer {
    return this.#builder.seal({ kind: OriginKind.node, id: 1, incarnation: 1 }, ++this.#sequence, 1, this.#sequence);
  }

  #append(payload: Buffer): Promise<void> {
    const index = ++this.#index;
    const data = { stamp: index, machineVersion: 1, stateHash: 0, payload, checksum: crc32(payload) };
    const entry: LogEntry = { kind: 'data', index, term: 1, bytes: payload.length, data };
    this.#bytes += payload.length;
    return new Promise((resolve) => {
      this.#log.append([{ group, truncateFrom: null, entries: [entry], hardState: null }], () => {
        this.machine.apply({ index, term: 1, stamp: index, machineVersion: 1, payload });
        resolve();
      });
    });
  }
}

async function fill(
  folder: string,
  messages: number,
  bodyBytes: number,
  compacted: boolean,
  onProgress: (done: number) => void,
): Promise<DiskResult> {
  const clock = createClock();
  const slack = compacted ? defaultLimits.log.compactionSlackBytes : unlimited;
  const identity = { clusterId: 'bench', nodeUuid: 'bench' };
  const options = { ...defaultLimits.log, ...identity, compactionSlackBytes: slack };
  const { log } = await openLog(createDisk(folder), clock, options);
  log.onFatal = (error) => {
    throw error;
  };
  const replica = new Replica(log, bodyBytes);
  await replica.begin();
  let isUrgent = false;
  log.onPressure = () => {
    isUrgent = true;
  };
  let mostBytes = 0;
  const sampling = setInterval(() => {
    mostBytes = Math.max(mostBytes, usedBytes(folder));
  }, sampleMilliseconds);
  const collector = setInterval(() => void replica.collect(), collectMilliseconds);
  const started = performance.now();
  const before = process.cpuUsage();
  const inFlight: Promise<void>[] = [];
  for (let done = 0; done < messages; done += perEntry) {
    if (inFlight.length === entriesInFlightMax) await inFlight.shift();
    inFlight.push(replica.publish(Math.min(perEntry, messages - done)));
    replica.snapshotIfDue(isUrgent);
    isUrgent = false;
    if (done % (perEntry * 64) === 0) onProgress(done);
  }
  await Promise.all(inFlight);
  const seconds = (performance.now() - started) / 1000;
  const { user, system } = process.cpuUsage(before);
  clearInterval(collector);
  // What was handed out last is settled, and all that can go goes.
  await replica.publish(0);
  await replica.settled();
  replica.snapshotIfDue(true);
  await replica.settled();
  for (let left = 5; left > 0; left--) {
    await replica.collect();
    await new Promise((resolve) => setTimeout(resolve, collectMilliseconds / 2));
  }
  clearInterval(sampling);
  const { boundBytes, appendedBytes, rewrittenBytes } = log.status();
  const result = {
    compacted,
    messagesPerSecond: Math.round(messages / seconds),
    microsecondsPerMessage: (user + system) / messages,
    mostBytes: Math.max(mostBytes, usedBytes(folder)),
    bytes: usedBytes(folder),
    boundBytes,
    liveBytes: Math.ceil(messages / keptEvery) * bodyBytes,
    appendedBytes,
    rewrittenBytes,
  };
  await log.close();
  return result;
}

/** Of all files below; one that goes meanwhile counts as gone. */
function usedBytes(folder: string): number {
  let sum = 0;
  for (const name of readdirSync(folder, { recursive: true, encoding: 'utf8' })) {
    const found = statSync(path.join(folder, name), { throwIfNoEntry: false });
    if (found?.isFile()) sum += found.size;
  }
  return sum;
}
