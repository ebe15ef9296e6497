// `warren cluster`: what it asks of a node, and what it tells people.

import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, describe, expect, it, vi } from 'vitest';
import {
  type ClusterView,
  joinText,
  parseClusterFlags,
  runClusterCommand,
  statusText,
} from '../../node/cluster-command.ts';

const view: ClusterView = {
  clusterName: 'warren',
  clusterId: 'c1',
  nodes: [1, 2, 3].map((node) => ({
    node,
    name: `n${node}`,
    state: node === 3 ? 'leaving' : 'member',
    up: node !== 2,
    peer: `127.0.0.1:${25671 + node}`,
    amqp: `127.0.0.1:${5671 + node}`,
    http: `127.0.0.1:${15671 + node}`,
  })),
  placements: [
    { group: 1, voters: [1, 2, 3], target: null, leader: 1 },
    { group: 2, voters: [1, 2, 3], target: [1, 2, 4], leader: 0 },
  ],
};

describe('warren cluster', () => {
  let server: Server | null = null;
  afterEach(() => {
    server?.close();
    server = null;
    vi.restoreAllMocks();
  });

  it.each<[string[], object]>([
    [[], { action: 'status', http: '127.0.0.1:15672' }],
    [['status', '--http', 'h:1'], { action: 'status', http: 'h:1' }],
    [['join'], { action: 'join', name: '' }],
    [['join', 'n9'], { action: 'join', name: 'n9' }],
    [['leave', '3'], { action: 'leave', node: '3' }],
    [['replace', 'n2', 'n9'], { action: 'replace', node: 'n2', name: 'n9' }],
  ])('understands %j', (flags, expected) => {
    expect(parseClusterFlags(flags)).toMatchObject({ ok: true, ...expected });
  });

  it.each<[string[], string]>([
    [['grow'], 'unknown action "grow"'],
    [['leave'], 'a node must follow'],
    [['leave', 'a', 'b'], 'unexpected "b"'],
    [['leave', 'a b'], 'must be the name or number'],
    [['status', '--http', 'h'], '--http: must be HOST:PORT'],
    [['--node'], "Unknown option '--node'"],
  ])('refuses %j', (flags, error) => {
    const parsed = parseClusterFlags(flags);
    expect(parsed.ok ? '' : parsed.error).toContain(error);
  });

  it('shows nodes, what they lead and hold, and what moves', () => {
    expect(statusText(view).split('\n')).toEqual([
      'cluster warren (c1)',
      '',
      'node  name  state    up   leads  holds  peers            amqp            http',
      '1     n1    member   yes  1      2      127.0.0.1:25672  127.0.0.1:5672  127.0.0.1:15672',
      '2     n2    member   NO   0      2      127.0.0.1:25673  127.0.0.1:5673  127.0.0.1:15673',
      '3     n3    leaving  yes  0      2      127.0.0.1:25674  127.0.0.1:5674  127.0.0.1:15674',
      '',
      '2 shards, on 3 nodes each',
      'shard-2 moves from n1, n2, n3 to n1, n2, node 4',
      'shard-2 has no leader',
      'n3 is leaving',
    ]);
  });

  it('says how to start a node that joins, with ports of its own on a machine that has others', () => {
    expect(joinText(view, '', null)).toContain(
      'warren node --node.name n4 --cluster.name warren --cluster.join 127.0.0.1:25672,127.0.0.1:25673,127.0.0.1:25674 ' +
        '--amqp.port 5675 --http.port 15675 --peer.port 25675\n',
    );
    const away = { ...view, nodes: view.nodes.map((node) => ({ ...node, peer: `10.0.0.${node.node}:25672` })) };
    const text = joinText(away, 'fresh', 'n2');
    expect(text).toContain('fresh joins, and n2 leaves with it');
    expect(text).toContain(
      '--cluster.join 10.0.0.1:25672,10.0.0.3:25672 --cluster.replaces n2 --peer.host ITS-ADDRESS\n',
    );
  });

  it('asks a node, and passes on what it answers', async () => {
    const asked: string[] = [];
    server = createServer((request, response) => {
      asked.push(`${request.method} ${request.url}`);
      const refused = request.url === '/cluster/nodes/1/leave';
      response.writeHead(request.method === 'GET' ? 200 : refused ? 409 : 202);
      response.end(JSON.stringify(request.method === 'GET' ? view : refused ? { error: 'refused', reason: 'no' } : {}));
    });
    await new Promise<void>((resolve) => server!.listen(0, '127.0.0.1', resolve));
    const http = `127.0.0.1:${(server.address() as AddressInfo).port}`;
    const told: string[] = [];
    for (const stream of ['log', 'error'] as const)
      vi.spyOn(console, stream).mockImplementation((line: string) => void told.push(line));
    expect(await runClusterCommand(['status', '--http', http])).toBe(0);
    expect(await runClusterCommand(['leave', 'n2', '--http', http])).toBe(0);
    expect(await runClusterCommand(['leave', '1', '--http', http])).toBe(1);
    expect(await runClusterCommand(['leave', 'n9', '--http', http])).toBe(1);
    expect(await runClusterCommand(['replace', '2', '--http', http])).toBe(0);
    expect(await runClusterCommand(['status', '--http', '127.0.0.1:1'])).toBe(1);
    expect(await runClusterCommand(['leave'])).toBe(1);
    const once = 'GET /cluster';
    expect(asked).toEqual([once, once, 'POST /cluster/nodes/2/leave', once, 'POST /cluster/nodes/1/leave', once, once]);
    expect(told[1]).toContain('n2 leaves');
    expect(told[2]).toBe('warren: n1 cannot leave: no');
    expect(told[3]).toBe('warren: the cluster has no node "n9": n1, n2, n3');
    expect(told[4]).toContain('--cluster.replaces n2');
    expect(told[5]).toContain('no answer from 127.0.0.1:1');
  });
});
