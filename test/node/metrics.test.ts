// GET /metrics: whether it is what Prometheus reads, whether it counts what clients do, and whether what asks for it asks for what there is.

import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { renderMetrics } from '../../node/http/metrics.ts';
import { type Measures, ProcessWatch } from '../../node/measures.ts';
import { consume } from '../amqp/harness.ts';
import { AmqpWorld, declareQueue, get } from '../support/amqp-world.ts';

interface Family {
  readonly type: string;
  readonly series: Map<string, number>;
}

const nameOf = '[a-z][a-z0-9_]*';
const labelOf = String.raw`${nameOf}="(?:[^"\\\n]|\\["\\n])*"`;
const samplePattern = new RegExp(`^(${nameOf})(\\{${labelOf}(?:,${labelOf})*\\})? (\\S+)$`);

/** Reads the text format strictly; throws at the first line that is not as it should be. */
function parse(text: string): Map<string, Family> {
  const families = new Map<string, Family>();
  const lines = text.split('\n');
  if (lines.pop() !== '') throw new Error('the last line has no end');
  let name = '';
  let helped = '';
  for (const line of lines) {
    const [, word, named, rest = ''] = /^# (HELP|TYPE) (\S+) (.+)$/.exec(line) ?? [];
    if (word === 'HELP') {
      if (families.has(named!)) throw new Error(`${named} comes twice`);
      helped = named!;
    } else if (word === 'TYPE') {
      if (helped !== named || !/^(gauge|counter|histogram)$/.test(rest)) throw new Error(line);
      name = named!;
      families.set(name, { type: rest, series: new Map() });
    } else {
      const [, sampled, labels = '', value] = samplePattern.exec(line) ?? [];
      const family = families.get(name);
      const suffix = sampled?.startsWith(name) === true ? sampled.slice(name.length) : 'other';
      const known = family?.type === 'histogram' ? ['_bucket', '_sum', '_count'] : [''];
      if (family === undefined || !known.includes(suffix)) throw new Error(`out of place: ${line}`);
      if (family.series.has(suffix + labels)) throw new Error(`twice: ${line}`);
      const number = Number(value);
      if (!Number.isFinite(number)) throw new Error(`no number: ${line}`);
      family.series.set(suffix + labels, number);
    }
  }
  for (const [named, { series }] of families) if (series.size === 0) throw new Error(`${named} has no samples`);
  return families;
}

let world: AmqpWorld;
let watch: ProcessWatch;

function measuresOf(node: number): Measures {
  const { cluster } = world.cluster.node(node);
  const { server, backend } = world.server(node);
  return {
    process: watch.read(),
    cluster: { ...cluster.measures(), status: cluster.status() },
    clients: { ...server.measures(), consumers: backend.consumerCount, unroutable: backend.unroutable },
  };
}
const metricsOf = (node: number) => parse(renderMetrics(measuresOf(node), true));

/** One series; it must be there. */
function read(families: Map<string, Family>, name: string, labels = ''): number {
  const value = families.get(name)?.series.get(labels);
  if (value === undefined) throw new Error(`no ${name}${labels}`);
  return value;
}
/** All series of a family together. */
const sum = (families: Map<string, Family>, name: string): number =>
  [...(families.get(name)?.series.values() ?? [])].reduce((a, b) => a + b, 0);

beforeAll(async () => {
  watch = new ProcessWatch();
  world = await AmqpWorld.start(3, 11);
  await world.run(1_000);
});
afterAll(() => watch.stop());

describe('what /metrics says', () => {
  it('is in the format, with the units and endings that there should be', () => {
    for (const [name, { type, series }] of metricsOf(1)) {
      expect(name).toMatch(/^warren_[a-z_]+$/);
      expect(name.endsWith('_total'), name).toBe(type === 'counter');
      expect(/_(milliseconds|microseconds|kilobytes|megabytes|percent)/.test(name), name).toBe(false);
      if (type !== 'histogram') continue;
      const buckets = [...series].filter(([labels]) => labels.startsWith('_bucket'));
      const bounds = buckets.map(([labels]) => Number(/le="(.+)"/.exec(labels)![1]!.replace('+Inf', 'Infinity')));
      expect(bounds).toEqual([...bounds].sort((a, b) => a - b));
      const counts = buckets.map(([, count]) => count);
      expect(counts).toEqual([...counts].sort((a, b) => a - b));
      expect(counts.at(-1)).toBe(series.get('_count'));
    }
  });

  it('has as many series whatever clients do', async () => {
    const count = () => [...metricsOf(1).values()].reduce((total, { series }) => total + series.size, 0);
    const before = count();
    const speaker = world.connect(1);
    for (let i = 0; i < 20; i++) await speaker.send(declareQueue(`many-${i}`));
    expect(sum(metricsOf(1), 'warren_queues')).toBeGreaterThanOrEqual(20);
    // Who leads tells of the others' lag.
    const leads = sum(metricsOf(1), 'warren_group_leader');
    expect(count()).toBeLessThanOrEqual(before + 2 * leads);
  });

  it('counts what clients do', async () => {
    const before = metricsOf(2);
    const speaker = world.connect(2);
    await speaker.send({ kind: 'confirm.select', nowait: true }, declareQueue('counted'));
    for (const body of ['one', 'two', 'three']) await speaker.publish('', 'counted', body);
    await speaker.publish('', 'nowhere', 'four', '0000', true);
    await speaker.publish('', 'nowhere', 'five');
    await speaker.send(get('counted', false));
    await speaker.send({ kind: 'basic.reject', deliveryTag: 1, requeue: true });
    await speaker.send(consume('counted', 'c'));
    speaker.listen();
    await speaker.send({ kind: 'basic.ack', deliveryTag: 2, multiple: false });
    await speaker.send({ kind: 'basic.nack', deliveryTag: 3, multiple: false, requeue: false });
    const after = metricsOf(2);
    const grew = (name: string, labels = '') => read(after, name, labels) - read(before, name, labels);
    expect({
      opened: grew('warren_connections_opened_total'),
      connections: grew('warren_connections'),
      channels: grew('warren_channels'),
      consumers: grew('warren_consumers'),
      publishes: grew('warren_publishes_total'),
      publishedBytes: grew('warren_published_bytes_total'),
      confirmed: grew('warren_publishes_confirmed_total'),
      refused: grew('warren_publishes_refused_total'),
      returned: grew('warren_publishes_returned_total'),
      unroutable: grew('warren_publishes_unroutable_total'),
      deliveries: grew('warren_deliveries_total'),
      redeliveries: grew('warren_redeliveries_total'),
      acks: grew('warren_settlements_total', '{kind="ack"}'),
      requeues: grew('warren_settlements_total', '{kind="requeue"}'),
      discards: grew('warren_settlements_total', '{kind="discard"}'),
    }).toEqual({
      opened: 1,
      connections: 1,
      channels: 1,
      consumers: 1,
      publishes: 5,
      publishedBytes: 19,
      confirmed: 5,
      refused: 0,
      returned: 1,
      unroutable: 2,
      deliveries: 4,
      redeliveries: 1,
      acks: 1,
      requeues: 1,
      discards: 1,
    });
    expect(grew('warren_received_bytes_total')).toBeGreaterThan(200);
    expect(grew('warren_sent_bytes_total')).toBeGreaterThan(200);
    expect(grew('warren_confirm_seconds', '_count')).toBe(3);
    expect(grew('warren_confirm_seconds', '_sum')).toBeGreaterThan(0);
    // The last message is still at its consumer, on every replica within a tick.
    await world.run(100);
    for (const node of [1, 2, 3]) expect(sum(metricsOf(node), 'warren_messages_unacknowledged')).toBe(1);
  });

  it('tells of the groups what all nodes agree on, each for itself', async () => {
    const all = [1, 2, 3].map(metricsOf);
    const groups = ['meta', 'shard-1', 'shard-2', 'shard-3'].map((group) => `{group="${group}"}`);
    for (const group of groups) {
      expect(all.reduce((leaders, of) => leaders + read(of, 'warren_group_leader', group), 0)).toBe(1);
      for (const of of all) {
        expect(read(of, 'warren_group_term', group)).toBeGreaterThan(0);
        expect(read(of, 'warren_group_applied_index', group)).toBe(read(of, 'warren_group_commit_index', group));
        expect(read(of, 'warren_group_halted', group) + read(of, 'warren_group_damaged', group)).toBe(0);
      }
    }
    expect(all.reduce((won, of) => won + read(of, 'warren_elections_won_total'), 0)).toBeGreaterThanOrEqual(4);
    expect(all.map((of) => sum(of, 'warren_peer_up'))).toEqual([2, 2, 2]);
    expect(all.map((of) => read(of, 'warren_members', '{state="member"}'))).toEqual([3, 3, 3]);
    for (const of of all) expect(read(of, 'warren_log_write_seconds', '_count')).toBeGreaterThan(0);
  });

  it('tells of a stall, of who is away, and of a node cut off by its launcher', async () => {
    const speaker = world.connect(1);
    await speaker.send({ kind: 'confirm.select', nowait: true }, declareQueue('stalled'));
    world.cluster.node(1).cluster.isolate(true);
    await world.run(100);
    await speaker.publish('', 'stalled', 'waits');
    await world.run(1_500);
    const alone = metricsOf(1);
    expect(sum(alone, 'warren_peer_up')).toBe(0);
    expect(read(alone, 'warren_unapplied_oldest_seconds')).toBeGreaterThan(1);
    expect(read(alone, 'warren_unapplied_bytes')).toBeGreaterThan(0);
    expect([2, 3].map((node) => sum(metricsOf(node), 'warren_peer_up'))).toEqual([1, 1]);
    expect(speaker.methods().filter(({ kind }) => kind === 'basic.ack')).toEqual([]);
    world.cluster.node(1).cluster.isolate(false);
    await world.run(1_500);
    expect(speaker.methods().map(({ kind }) => kind)).toEqual(['basic.ack']);
    expect(read(metricsOf(1), 'warren_unapplied_oldest_seconds')).toBe(0);
  });

  it('keeps names that people chose apart from its own signs', () => {
    const measures = measuresOf(1);
    const { cluster } = measures;
    const status = { ...cluster!.status, clusterName: 'a "b" \\ c\nd' };
    const text = renderMetrics({ ...measures, cluster: { ...cluster!, status } }, true);
    expect(text).toContain(String.raw`cluster="a \"b\" \\ c\nd"`);
    parse(text);
  });

  it('begins before there is a cluster', () => {
    const families = parse(renderMetrics({ process: watch.read(), cluster: null, clients: null }, false));
    expect([...families.keys()]).not.toContain('warren_ready');
    expect(read(families, 'warren_healthy')).toBe(0);
    expect(read(families, 'warren_memory_bytes', '{kind="resident"}')).toBeGreaterThan(1e6);
  });
});

interface Panel {
  readonly id: number;
  readonly type: string;
  readonly title: string;
  readonly gridPos: { readonly x: number; readonly y: number; readonly w: number; readonly h: number };
  readonly targets?: readonly { readonly refId: string; readonly expr: string }[];
}

describe('what asks for it', () => {
  const source = (path: string) =>
    readFileSync(fileURLToPath(new URL(`../../node/monitoring/${path}`, import.meta.url)), 'utf8');
  const namesIn = (text: string) => new Set(text.match(/\bwarren_[a-z_]+/g) ?? []);

  it.each(['grafana/dashboards/warren.json', 'alerts.yml'])(
    '%s names only what there is, with labels that there are',
    (path) => {
      const families = metricsOf(1);
      const known = [...families].flatMap(([name, { type }]) =>
        type === 'histogram' ? ['_bucket', '_sum', '_count'].map((suffix) => name + suffix) : [name],
      );
      const text = source(path);
      const names = namesIn(text);
      expect(names.size).toBeGreaterThan(10);
      expect([...names].filter((name) => !known.includes(name))).toEqual([]);
      const unescaped = text.replaceAll('\\"', '"');
      for (const [, name, matchers] of unescaped.matchAll(/\b(warren_[a-z_]+)\{([^}]*)\}/g))
        for (const [, label, operator, value] of matchers!.matchAll(/([a-z_]+)(=~|!=|=)"([^"]*)"/g)) {
          if (label === 'instance') continue;
          const series = [...(families.get(name!)?.series.keys() ?? [])];
          const wanted = operator === '=' ? `${label}="${value}"` : `${label}="`;
          expect(
            series.some((labels) => labels.includes(wanted)),
            `${name}{${matchers}}`,
          ).toBe(true);
        }
    },
  );

  it('has a dashboard whose panels stand side by side', () => {
    const { panels } = JSON.parse(source('grafana/dashboards/warren.json')) as { panels: Panel[] };
    expect(new Set(panels.map(({ id }) => id)).size).toBe(panels.length);
    const taken = new Set<string>();
    for (const { title, type, targets = [], gridPos } of panels) {
      expect(type === 'row' || targets.length > 0, title).toBe(true);
      expect(new Set(targets.map(({ refId }) => refId)).size).toBe(targets.length);
      expect(gridPos.x + gridPos.w, title).toBeLessThanOrEqual(24);
      for (let x = gridPos.x; x < gridPos.x + gridPos.w; x++)
        for (let y = gridPos.y; y < gridPos.y + gridPos.h; y++) {
          expect(taken.has(`${x} ${y}`), title).toBe(false);
          taken.add(`${x} ${y}`);
        }
    }
  });
});
