// GET /metrics: what is measured of a node, in the text format of Prometheus, version 0.0.4.
//
// Keeps nothing. Invariants: base units (seconds, bytes); sums end in _total and never go down while the process lives; there are as many series
// as groups, nodes and fixed words together, whatever clients do: never one per queue, connection or user.

import type { Durations } from '../../cluster/index.ts';
import type { Measures, ProcessMeasures } from '../measures.ts';

export const metricsType = 'text/plain; version=0.0.4; charset=utf-8';

type Labels = Readonly<Record<string, string | number>>;
type Sample = readonly [labels: Labels, value: number];

/** `isReady`, `isHealthy`: what GET /health would say. */
export function renderMetrics(measures: Measures, isHealthy: boolean): string {
  const out = new Exposition();
  writeProcess(out, measures.process);
  out.gauge('warren_healthy', '1: GET /health says ok.', [[{}, flag(isHealthy)]]);
  const { cluster, clients } = measures;
  if (cluster !== null) {
    writeNode(out, cluster);
    writeLog(out, cluster);
    writeGroups(out, cluster);
    writeQueues(out, cluster);
  }
  if (clients !== null) writeClients(out, clients);
  return out.text();
}

function writeProcess(out: Exposition, { version, nodeVersion, ...process }: ProcessMeasures): void {
  const { cpu, memory, eventLoop, collections } = process;
  out.gauge('warren_build_info', 'Always 1; the labels tell versions.', [[{ version, node_version: nodeVersion }, 1]]);
  out.gauge('warren_start_time_seconds', 'When the process began, since 1970.', [[{}, process.startedAt]]);
  out.gauge('warren_uptime_seconds', 'For how long the process has lived.', [[{}, process.uptimeSeconds]]);
  out.counter('warren_cpu_seconds_total', 'Processor time of the process.', [
    [{ mode: 'user' }, cpu.user / 1e6],
    [{ mode: 'system' }, cpu.system / 1e6],
  ]);
  out.gauge('warren_memory_bytes', 'Memory of the process; external: buffers outside of the heap.', [
    [{ kind: 'resident' }, memory.rss],
    [{ kind: 'heap_used' }, memory.heapUsed],
    [{ kind: 'heap_total' }, memory.heapTotal],
    [{ kind: 'external' }, memory.external],
  ]);
  out.counter('warren_event_loop_seconds_total', 'Time of the event loop, working or waiting for work.', [
    [{ state: 'active' }, eventLoop.active / 1000],
    [{ state: 'idle' }, eventLoop.idle / 1000],
  ]);
  out.gauge('warren_event_loop_delay_longest_seconds', 'The longest delay of the event loop in the last ten seconds.', [
    [{}, process.longestDelay.milliseconds / 1000],
  ]);
  const own = process.longestDelay.ownMilliseconds;
  out.gauge(
    'warren_event_loop_delay_longest_own_seconds',
    'The same without what the process waited for a processor, where the system tells.',
    own === null ? [] : [[{}, own / 1000]],
  );
  const ofKinds = [...collections];
  out.counter(
    'warren_gc_runs_total',
    'Garbage collections.',
    ofKinds.map(([kind, { count }]) => [{ kind }, count]),
  );
  out.counter(
    'warren_gc_seconds_total',
    'Time in garbage collections, in which nothing else was done.',
    ofKinds.map(([kind, { milliseconds }]) => [{ kind }, milliseconds / 1000]),
  );
}

type ClusterPart = NonNullable<Measures['cluster']>;

function writeNode(out: Exposition, { status, elections }: ClusterPart): void {
  const { node, name, clusterName, clusterId, incarnation, nodes, disk } = status;
  out.gauge('warren_node_info', 'Always 1; the labels tell which node of which cluster this is.', [
    [{ node, name, cluster: clusterName, cluster_id: clusterId }, 1],
  ]);
  out.gauge(
    'warren_incarnation',
    'The number of this life of the node: every start, and every end that others declared, begins a greater one.',
    [[{}, incarnation]],
  );
  out.gauge('warren_ready', '1: this node may serve clients.', [[{}, flag(status.ready)]]);
  const peers = nodes.filter((other) => other.node !== node);
  out.gauge(
    'warren_peer_up',
    '1: the connections to this other node are open.',
    peers.map((peer) => [{ peer: peer.node, name: peer.name }, flag(peer.up)]),
  );
  out.gauge('warren_members', 'Nodes that are part of the cluster, by what they are on the way to.', [
    ...['joining', 'member', 'leaving'].map(
      (state): Sample => [{ state }, nodes.filter((member) => member.state === state).length],
    ),
  ]);
  out.gauge('warren_shards_moving', 'Shards that are on their way to other nodes.', [
    [{}, status.placements.filter(({ target }) => target !== null).length],
  ]);
  out.counter('warren_elections_begun_total', 'Elections that this node stood for.', [[{}, elections.begun]]);
  out.counter('warren_elections_won_total', 'Elections that made this node a leader.', [[{}, elections.won]]);
  out.gauge('warren_publishers_alarm', '1: publishers wait because a disk of the cluster is low.', [
    [{}, flag(status.alarm !== null)],
  ]);
  out.gauge(
    'warren_disk_room',
    '1 for the state that the disk of this node is in: low holds publishers, full takes no messages.',
    ['ok', 'low', 'full'].map((state) => [{ state }, flag(disk.room === state)]),
  );
  if (disk.free !== null)
    out.gauge('warren_disk_free_bytes', 'Free on the disk of the data folder.', [[{}, disk.free]]);
  if (disk.total !== null) out.gauge('warren_disk_total_bytes', 'Size of that disk.', [[{}, disk.total]]);
}

function writeLog(out: Exposition, { status: { log }, writeTimes, confirmTimes, unapplied }: ClusterPart): void {
  out.gauge('warren_log_files', 'Files of the log.', [[{}, log.files]]);
  out.gauge('warren_log_bytes', 'The log on the disk, in all.', [[{}, log.bytes]]);
  out.gauge('warren_log_bound_bytes', 'What compaction keeps the log below.', [[{}, log.boundBytes]]);
  out.gauge('warren_log_live_bytes', 'What lives in the compacted part of the log.', [[{}, log.liveBytes]]);
  out.gauge('warren_log_cached_bytes', 'Entries of the log in memory.', [[{}, log.cachedBytes]]);
  out.gauge('warren_log_set_aside_files', 'Damaged files that were moved aside, to be looked at and removed.', [
    [{}, log.setAside.length],
  ]);
  out.counter('warren_log_appended_bytes_total', 'Appended to the log.', [[{}, log.appendedBytes]]);
  out.counter('warren_log_rewritten_bytes_total', 'Written again by compaction.', [[{}, log.rewrittenBytes]]);
  out.counter('warren_log_scrubbed_bytes_total', 'Read again in search of rot.', [[{}, log.scrubbedBytes]]);
  out.counter('warren_log_syncs_total', 'Writes that were made durable.', [[{}, log.syncs]]);
  out.durations('warren_log_write_seconds', 'From a write of the log until it was durable.', writeTimes);
  out.durations(
    'warren_confirm_seconds',
    'From a publish until it was confirmed; one observation for each batch, by its first publish.',
    confirmTimes,
  );
  out.gauge('warren_unapplied_bytes', 'What clients of this node asked for and is not done yet.', [
    [{}, unapplied.bytes],
  ]);
  out.gauge('warren_unapplied_oldest_seconds', 'For how long the oldest of it has waited.', [
    [{}, unapplied.milliseconds / 1000],
  ]);
}

function writeGroups(out: Exposition, { status: { node, groups } }: ClusterPart): void {
  type Group = (typeof groups)[number];
  const each = (name: string, help: string, value: (group: Group) => number) =>
    out.gauge(
      name,
      help,
      groups.map((group) => [{ group: group.name }, value(group)]),
    );
  each('warren_group_leader', '1: this node leads the group.', (group) =>
    flag(group.halted === null && group.leader === node && group.role === 'leader'),
  );
  each('warren_group_leader_node', 'Number of the node that leads, 0 if none is known.', ({ leader }) => leader);
  each('warren_group_term', 'The term of the replica here.', ({ term }) => term);
  each('warren_group_commit_index', 'Up to here the replica knows entries to be committed.', ({ commit }) => commit);
  each('warren_group_applied_index', 'Up to here it has applied them.', ({ applied }) => applied);
  each('warren_group_last_index', 'The last entry of its log.', ({ lastIndex }) => lastIndex);
  each('warren_group_snapshot_index', 'The last entry of its snapshot.', ({ snapshotIndex }) => snapshotIndex);
  each('warren_group_halted', '1: the replica here stopped.', ({ halted }) => flag(halted !== null));
  each('warren_group_damaged', '1: of the replica here something is lost and not back.', ({ damaged }) =>
    flag(damaged),
  );
  out.gauge(
    'warren_group_lag_entries',
    'By the leader: how far the log of another replica is behind.',
    groups.flatMap((group) =>
      group.lag
        .filter((replica) => replica.node !== node)
        .map((replica): Sample => [{ group: group.name, peer: replica.node }, Math.max(0, replica.behind)]),
    ),
  );
}

function writeQueues(out: Exposition, { queues }: ClusterPart): void {
  type Row = (typeof queues)[number];
  const each = (name: string, help: string, value: (row: Row) => number) =>
    out.gauge(
      name,
      help,
      queues.map((row) => [{ group: row.group }, value(row)]),
    );
  each(
    'warren_queues',
    'Queues of the group; volatile: exclusive and non-durable ones of this node.',
    (row) => row.queues,
  );
  each('warren_messages_ready', 'Messages that wait in its queues.', ({ ready }) => ready);
  each('warren_messages_unacknowledged', 'Messages that consumers hold.', ({ unsettled }) => unsettled);
  each('warren_messages_bytes', 'Both, in bytes.', ({ bytes }) => bytes);
  each('warren_queue_consumers', 'Consumers of its queues, on all nodes.', ({ consumers }) => consumers);
}

function writeClients(out: Exposition, clients: NonNullable<Measures['clients']>): void {
  const { counters } = clients;
  const gauge = (name: string, help: string, value: number) => out.gauge(name, help, [[{}, value]]);
  const counter = (name: string, help: string, value: number) => out.counter(name, help, [[{}, value]]);
  gauge('warren_connections', 'Client connections of this node.', clients.connections);
  gauge('warren_connections_held', 'Those of them whose publishes have to wait.', clients.held);
  gauge('warren_channels', 'Channels of these connections.', clients.channels);
  gauge('warren_consumers', 'Consumers of these channels.', clients.consumers);
  counter('warren_connections_opened_total', 'Clients that logged in.', counters.connectionsOpened);
  counter('warren_connections_refused_total', 'Connections that were too many.', counters.connectionsRefused);
  counter('warren_logins_refused_total', 'Clients with a wrong name or password.', counters.loginsRefused);
  counter('warren_received_bytes_total', 'From clients.', counters.receivedBytes);
  counter('warren_sent_bytes_total', 'To clients.', counters.sentBytes);
  counter('warren_publishes_total', 'Messages that clients published.', counters.publishes);
  counter('warren_published_bytes_total', 'Bodies of these messages.', counters.publishedBytes);
  counter('warren_publishes_confirmed_total', 'Publishes that were confirmed.', counters.confirmed);
  counter('warren_publishes_refused_total', 'Publishes that were answered with a nack.', counters.refused);
  counter('warren_publishes_returned_total', 'Mandatory publishes that found no queue.', counters.returned);
  counter('warren_publishes_unroutable_total', 'Publishes that found no queue, mandatory or not.', clients.unroutable);
  counter('warren_deliveries_total', 'Messages that were given to consumers.', counters.deliveries);
  counter('warren_redeliveries_total', 'Those of them that had been given to somebody before.', counters.redeliveries);
  const { accept, requeue, reject, discard } = counters.settled;
  out.counter('warren_settlements_total', 'Deliveries that clients settled, by what they said.', [
    [{ kind: 'ack' }, accept],
    [{ kind: 'requeue' }, requeue + reject],
    [{ kind: 'discard' }, discard],
  ]);
}

const flag = (value: boolean): number => (value ? 1 : 0);

/** Writes families of samples, each with its HELP and TYPE. A family without samples is left out. */
class Exposition {
  readonly #lines: string[] = [];

  gauge(name: string, help: string, samples: readonly Sample[]): void {
    this.#family(name, 'gauge', help, samples);
  }
  counter(name: string, help: string, samples: readonly Sample[]): void {
    this.#family(name, 'counter', help, samples);
  }

  /** A histogram, in seconds. */
  durations(name: string, help: string, { bounds, counts, totalMilliseconds }: Durations): void {
    this.#head(name, 'histogram', help);
    let count = 0;
    for (let bucket = 0; bucket < bounds.length; bucket++) {
      count += counts[bucket]!;
      this.#sample(`${name}_bucket`, { le: bounds[bucket]! / 1000 }, count);
    }
    count += counts[bounds.length]!;
    this.#sample(`${name}_bucket`, { le: '+Inf' }, count);
    this.#sample(`${name}_sum`, {}, totalMilliseconds / 1000);
    this.#sample(`${name}_count`, {}, count);
  }

  text(): string {
    return `${this.#lines.join('\n')}\n`;
  }

  #family(name: string, type: 'gauge' | 'counter', help: string, samples: readonly Sample[]): void {
    if (samples.length === 0) return;
    this.#head(name, type, help);
    for (const [labels, value] of samples) this.#sample(name, labels, value);
  }

  #head(name: string, type: string, help: string): void {
    this.#lines.push(`# HELP ${name} ${help}`, `# TYPE ${name} ${type}`);
  }

  #sample(name: string, labels: Labels, value: number): void {
    const words = Object.entries(labels).map(([label, of]) => `${label}="${escaped(String(of))}"`);
    this.#lines.push(`${name}${words.length === 0 ? '' : `{${words.join(',')}}`} ${value}`);
  }
}

/** Names of nodes and of the cluster are what people chose. */
const escaped = (text: string): string =>
  text.replace(/[\\"\n]/g, (character) => (character === '\n' ? '\\n' : `\\${character}`));
