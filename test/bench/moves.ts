// What a node that joins costs publishers: a cluster of its own with a backlog, a steady full load through node 1, and a fourth node that is
// given its share of the replicas meanwhile. Shown is the rate before, during and after.

import { setTimeout as sleep } from 'node:timers/promises';
import { askView } from '../../chaos/ask.ts';
import { freePorts, LocalCluster } from '../../chaos/local-cluster.ts';
import { Client } from './client.ts';
import { Histogram } from './histogram.ts';
import { drive, Publisher, prepareQueues, queueNames } from './load.ts';
import { count, median, type ProgressLine, tableText } from './report.ts';

const backlogDefault = 600_000;
const bodyBytes = 1024;
const queues = 12;
/** One measured piece of load takes about a second. */
const pieceMessages = 30_000;
const piecesAtLeast = 8;
const secondsMax = 240;

export interface Moves {
  readonly backlog: number;
  /** Messages a second of each piece, as its publishers were confirmed. */
  readonly before: readonly number[];
  readonly during: readonly number[];
  readonly after: readonly number[];
  readonly seconds: number;
  /** Replicas of shards on the new node in the end. */
  readonly held: number;
}

interface Placements {
  readonly placements: readonly { readonly voters: readonly number[]; readonly target: readonly number[] | null }[];
}

export async function measureMoves(backlog = backlogDefault, progress: ProgressLine): Promise<Moves> {
  progress.show('moves · starting three nodes');
  const cluster = await LocalCluster.start();
  try {
    const urls = [cluster.nodes[0]!.url];
    const setup = await Client.connect(urls[0]!);
    const full = queueNames(queues);
    const busy = queueNames(queues);
    await prepareQueues(setup, [...full, ...busy], 'quorum');
    for (const [i, queue] of full.entries()) {
      progress.show(`moves · backlog ${i + 1}/${queues}`);
      const client = await Client.connect(urls[0]!);
      await client.selectConfirms();
      await new Publisher(client, queue, backlog / queues, { bodyBytes, window: 2000 }, new Histogram()).run();
      await client.close();
    }
    const piece = async () => {
      const shape = { bodyBytes, messages: pieceMessages, window: 500, prefetch: 500, queueType: 'quorum' };
      const parts = { publishers: queues, consumers: queues, queues };
      return (await drive({ urls, ...shape, ...parts }, busy)).messagesPerSecond;
    };
    const pieces = async (name: string, isOver: (done: number) => Promise<boolean>) => {
      const rates: number[] = [];
      do {
        progress.show(`moves · ${name} · ${rates.length}`);
        rates.push(await piece());
      } while (!(await isOver(rates.length)));
      return rates;
    };
    const enough = async (done: number) => done >= piecesAtLeast;
    await pieces('warming up', async (done) => done >= 4);
    const before = await pieces('before', enough);
    const ports = await freePorts(3);
    const contacts = cluster.nodes.map((node) => `127.0.0.1:${node.peerPort}`).join(',');
    const joined = cluster.add(cluster.nodes.length + 1, ports, { 'cluster.nodes': '', 'cluster.join': contacts });
    joined.start();
    const begun = performance.now();
    let held = 0;
    const settled = async () => {
      const { placements } = (await askView(cluster.nodes[0]!.http)) as unknown as Placements;
      held = placements.filter(({ voters }) => voters.includes(joined.number)).length;
      const isEven =
        placements.every(({ target }) => target === null) && held >= Math.floor((placements.length * 3) / 4);
      if (!isEven && performance.now() - begun > secondsMax * 1000)
        throw new Error(`replicas are not spread after ${secondsMax} s`);
      return isEven;
    };
    const during = await pieces('a node joins', settled);
    const seconds = (performance.now() - begun) / 1000;
    await sleep(2_000);
    const after = await pieces('after', enough);
    await setup.close();
    return { backlog, before, during, after, seconds, held };
  } finally {
    progress.show('moves · ending the nodes');
    await cluster.stop();
  }
}

export function movesText({ backlog, before, during, after, seconds, held }: Moves): string {
  const usual = median(before);
  const row = (name: string, rates: readonly number[]) => [
    name,
    String(rates.length),
    count(median(rates)),
    count(Math.min(...rates)),
    `${(median(rates) / usual).toFixed(2)}x`,
    `${(Math.min(...rates) / usual).toFixed(2)}x`,
  ];
  const rows = [row('before', before), row('while a node joins', during), row('after, with four nodes', after)];
  const remark = `${count(backlog)} messages of 1 KiB waited; ${held} replicas were on the new node after ${seconds.toFixed(1)} s`;
  return `${tableText(['publish and consume', 'pieces', 'msg/s', 'least', 'of before', 'least'], rows)}\n${remark}`;
}
