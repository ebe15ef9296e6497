// Settings from flags, environment and file: each kind of mistake, and the one line that it leads to.

import { describe, expect, it } from 'vitest';
import { defaultLimits } from '../../cluster/options.ts';
import { defaultAmqpOptions } from '../../node/amqp/options.ts';
import {
  amqpOptions,
  clusterLimits,
  defaultSettings,
  type Key,
  keys,
  type NodeConfig,
  parseValue,
  valueText,
} from '../../node/config.ts';
import { environmentName, nodeHelp, readConfig } from '../../node/config-sources.ts';

const secret = 'a-secret-of-the-cluster';
const three = '1=n1@127.0.0.1:25672,2=n2@127.0.0.1:25673,3=n3@[::1]:25674';

interface Sources {
  flags?: string[];
  environment?: Record<string, string>;
  file?: string;
}

function read({ flags = [], environment = {}, file }: Sources) {
  return readConfig({
    flags: file === undefined ? flags : [...flags, '--config', 'node.conf'],
    environment,
    readFile: () => file ?? '',
  });
}

function good(sources: Sources): NodeConfig {
  const result = read(sources);
  if (!result.ok) throw new Error(result.error);
  return result.config;
}

function error(sources: Sources): string {
  const result = read(sources);
  if (result.ok) throw new Error('was accepted');
  expect(result.error).not.toContain('\n');
  return result.error;
}

describe('settings', () => {
  it('are complete without a word from the user', () => {
    const config = good({});
    expect(config.name).toBe('n1');
    expect(config.node).toBe(1);
    expect(config.nodes).toEqual([{ node: 1, name: 'n1', address: { host: '127.0.0.1', port: 25672 } }]);
    expect(config.settings['amqp.port']).toBe(5672);
    expect(config.settings['amqp.host']).toEqual(['127.0.0.1', '::1']);
    expect(config.dataFolder).toMatch(/\/data\/n1$/);
  });

  it('say where a node that joins finds the cluster, and where it is found itself', () => {
    const secret = ['--cluster.secret', 'x'.repeat(16)];
    const config = good({
      flags: ['--node.name=n4', '--cluster.join', 'a:1,[::1]:2', '--cluster.replaces=n2', ...secret],
    });
    expect(config.join).toEqual({
      contacts: [
        { host: 'a', port: 1 },
        { host: '::1', port: 2 },
      ],
      replaces: 'n2',
    });
    expect([config.node, config.nodes, config.name]).toEqual([0, [], 'n4']);
    expect(config.address).toEqual({ host: '127.0.0.1', port: 25672 });
    expect(good({ flags: ['--peer.address', 'outside:1'] }).address).toEqual({ host: 'outside', port: 1 });
    const member = good({ flags: ['--node.name=n1', '--cluster.nodes', '1=n1@h:1,2=n2@h:2', ...secret] });
    expect([member.address, member.join]).toEqual([{ host: 'h', port: 1 }, null]);
    const joins = ['--node.name=n4', '--cluster.join=a:1'];
    expect(error({ flags: joins })).toContain('cluster.secret');
    expect(error({ flags: ['--cluster.join=a:1', ...secret] })).toContain('node.name');
    expect(error({ flags: [...joins, '--node.number=4', ...secret] })).toContain('node.number');
    expect(error({ flags: [...joins, '--cluster.nodes=4=n4@h:1', ...secret] })).toContain('cluster.join');
    expect(error({ flags: [...joins, '--peer.host=0.0.0.0', ...secret] })).toContain('nobody can call 0.0.0.0');
    expect(error({ flags: ['--node.name=n4', '--cluster.join=a:70000', ...secret] })).toContain(
      'ports from 1 to 65535',
    );
    expect(error({ flags: ['--cluster.replaces=n2'] })).toContain('cluster.replaces');
    expect(error({ flags: ['--peer.address=h:0'] })).toContain('peer.address');
  });

  it('have defaults within their own bounds, and a variable each', () => {
    const defaults = defaultSettings();
    const names = new Set<string>();
    for (const key of Object.keys(keys) as Key[]) {
      const text = valueText(key, defaults[key]);
      expect(parseValue(key, text), key).toEqual({ ok: true, value: defaults[key] });
      names.add(environmentName(key));
    }
    expect(names.size).toBe(Object.keys(keys).length);
  });

  it('give cluster and front-end the limits that they are tested with', () => {
    expect(defaultAmqpOptions).toMatchObject(amqpOptions(defaultSettings()));
    expect(clusterLimits(defaultSettings())).toEqual(defaultLimits);
  });

  it('come from flags over environment over file over defaults', () => {
    const file = '# first\n\namqp.port = 1001\n http.port=1002\r\npeer.port = 1003\n';
    const environment = { WARREN_AMQP_PORT: '2001', WARREN_HTTP_PORT: '2002', OTHER: 'x' };
    const { settings } = good({ file, environment, flags: ['--amqp.port', '3001', '--log.level=debug'] });
    expect([settings['amqp.port'], settings['http.port'], settings['peer.port']]).toEqual([3001, 2002, 1003]);
    expect(settings['log.level']).toBe('debug');
  });

  it('make room for unfinished messages as messages may be larger, unless that was said, and is enough', () => {
    const assembly = (flags: string[]) => good({ flags }).settings['amqp.assembly.bytes.max'];
    const MiB = 2 ** 20;
    expect(assembly([])).toBe(256 * MiB);
    expect(assembly(['--amqp.message.bytes.max', '500MiB'])).toBe(1000 * MiB);
    expect(assembly(['--amqp.message.bytes.max', '1MiB', '--amqp.assembly.bytes.max', '3MiB'])).toBe(3 * MiB);
    expect(error({ flags: ['--amqp.message.bytes.max', '5MiB', '--amqp.assembly.bytes.max', '3MiB'] })).toBe(
      'amqp.message.bytes.max = "5MiB" (flag --amqp.message.bytes.max): must be at most amqp.assembly.bytes.max, which is 3MiB',
    );
  });

  it('take sizes with suffixes, and passwords with any sign', () => {
    const { settings } = good({
      file: 'log.cache.bytes = 2 GiB\nlog.file.bytes = 1048576\ndefault.password = a=b # c',
    });
    expect(settings['log.cache.bytes']).toBe(2 ** 31);
    expect(settings['log.file.bytes']).toBe(2 ** 20);
    expect(settings['default.password']).toBe('a=b # c');
  });

  it('are all told by --help', () => {
    const help = nodeHelp();
    for (const key of Object.keys(keys)) expect(help).toContain(`  ${key}`);
    expect(help).toContain('log.file.bytes = 32MiB');
  });

  it('take WARREN_CONFIG, and ignore what Kubernetes adds', () => {
    const environment = {
      WARREN_CONFIG: '/etc/warren.conf',
      WARREN_SERVICE_HOST: '10.0.0.1',
      WARREN_PORT: 'tcp://10.0.0.1:5672',
      WARREN_PORT_5672_TCP_ADDR: '10.0.0.1',
    };
    const result = readConfig({ flags: [], environment, readFile: (path) => `node.name = from-${path.slice(5, 11)}` });
    expect(result.ok && result.config.name).toBe('from-warren');
  });
});

describe('the nodes of a cluster', () => {
  const nodes = { WARREN_CLUSTER_NODES: three, WARREN_CLUSTER_SECRET: secret };

  it('know each other by number, and this one by name or number', () => {
    const byName = good({ environment: { ...nodes, WARREN_NODE_NAME: 'n2' } });
    const byNumber = good({ environment: { ...nodes, WARREN_NODE_NUMBER: '2' } });
    expect(byName.node).toBe(2);
    expect(byNumber.name).toBe('n2');
    expect(byName.peerListen).toEqual({ host: '127.0.0.1', port: 25673 });
    expect(byName.nodes[2]?.address).toEqual({ host: '::1', port: 25674 });
    expect(byName.formationId).toBe(byNumber.formationId);
  });

  it('are another cluster when a member changes, and the same one when it moves', () => {
    const id = (members: string) =>
      good({ environment: { ...nodes, WARREN_CLUSTER_NODES: members }, flags: ['--node.number', '1'] }).formationId;
    expect(id(three.replace('127.0.0.1:25673', 'elsewhere:1'))).toBe(id(three));
    expect(id(three.replace('2=n2', '2=x2'))).not.toBe(id(three));
    expect(id('1=n1@a:1')).not.toBe(id(three));
  });

  it.each([
    [
      { flags: ['--node.name', 'n9'] },
      'node.name = "n9" (flag --node.name): must be one of the nodes in cluster.nodes: 1=n1, 2=n2, 3=n3',
    ],
    [
      { flags: ['--node.name', 'n1', '--node.number', '2'] },
      'node.number = "2" (flag --node.number): must be 1, which is',
    ],
    [{}, 'node.name = "" (default): must be one of the names in cluster.nodes'],
  ])('must contain this one: %o', (sources, message) => {
    expect(error({ ...sources, environment: nodes })).toContain(message);
  });

  it.each([
    ['1=n1@a:1,1=n2@b:2', 'each number and each name only once'],
    ['1=n1@a:1,2=n1@b:2', 'each number and each name only once'],
    ['1=n1@a:1,2=n2@a:1', 'an address only once'],
    ['1=n1@a:0', 'ports from 1 to 65535'],
    ['1=n1@a:70000', 'ports from 1 to 65535'],
    ['n1@a:1', 'NUMBER=NAME@HOST:PEERPORT'],
    ['1=n1@a', 'NUMBER=NAME@HOST:PEERPORT'],
    ['1=../x@a:1', 'NUMBER=NAME@HOST:PEERPORT'],
  ])('are refused when written as %s', (members, message) => {
    expect(error({ flags: ['--cluster.nodes', members, '--node.number', '1', '--cluster.secret', secret] })).toContain(
      message,
    );
  });
});

describe('an error names key, value, what is allowed, and the source', () => {
  it.each<[Sources, string]>([
    [
      { environment: { WARREN_AMQP_PORT: 'abc' } },
      'amqp.port = "abc" (environment variable WARREN_AMQP_PORT): must be an integer from 1 to 65535',
    ],
    [{ flags: ['--amqp.port', '65536'] }, 'amqp.port = "65536" (flag --amqp.port): must be an integer from 1 to 65535'],
    [{ flags: ['--amqp.port=-1'] }, 'must be an integer'],
    [{ flags: ['--amqp.port='] }, 'must be an integer'],
    [{ flags: ['--amqp.port', '0x10'] }, 'must be an integer'],
    [
      { file: '\n\nlog.level = loud' },
      'log.level = "loud" (node.conf line 3): must be one of trace, debug, info, warn, error, fatal, silent',
    ],
    [{ flags: ['--log.file.bytes', '1XiB'] }, 'must be bytes from 1MiB to 1GiB'],
    [{ flags: ['--node.name', '../up'] }, 'node.name = "../up" (flag --node.name): must be up to 63 letters'],
    [{ flags: ['--amqp.host', ''] }, 'amqp.host = "" (flag --amqp.host): must be at least one address'],
    [{ flags: ['--amqp.host', 'a b'] }, 'amqp.host = "a b"'],
    [{ file: 'amqp.prot = 1' }, 'unknown key "amqp.prot" (node.conf line 1): known are amqp.host, amqp.port,'],
    [{ environment: { WARREN_AMQP_PROT: '1' } }, 'unknown key "amqp.prot" (environment variable WARREN_AMQP_PROT)'],
    [{ flags: ['--colour', 'red'] }, 'unknown key "colour" (flag --colour): "warren node --help" lists all keys'],
    [{ flags: ['--constructor', 'x'] }, 'unknown key "constructor"'],
    [{ flags: ['amqp.port'] }, 'unexpected argument "amqp.port"'],
    [{ flags: ['--amqp.port'] }, 'flag --amqp.port: a value must follow'],
    [{ file: 'just words' }, 'node.conf line 1: must be "key = value"'],
    [{ file: 'amqp.port = 1\namqp.port = 2' }, 'amqp.port (node.conf line 2): already given at node.conf line 1'],
    [{ flags: ['--http.port', '5672'] }, 'http.port = "5672" (flag --http.port): must be another port than amqp.port'],
    [{ flags: ['--amqp.port', '25672'] }, 'peer.port = "0" (default): must be another port than amqp.port'],
    [
      { flags: ['--heartbeat.ticks', '5'] },
      'heartbeat.ticks = "5" (flag --heartbeat.ticks): must be at most 1/4 of election.ticks, which is 12',
    ],
    [
      { flags: ['--log.pressure.bytes', '8MiB'] },
      'log.file.bytes = "32MiB" (default): must be at most 1/2 of log.pressure.bytes, which is 8MiB',
    ],
    [
      { flags: ['--cluster.nodes', three, '--node.name', 'n1'] },
      'cluster.secret = "" (default): must be the same 16 or more characters on every node',
    ],
  ])('%o', (sources, message) => {
    expect(error(sources)).toContain(message);
  });

  it('and never a secret', () => {
    expect(error({ environment: { WARREN_CLUSTER_SECRET: 'short-one' } })).not.toContain('short-one');
    expect(error({ flags: ['--default.password', ''] })).toContain('default.password');
    expect(error({ file: 'cluster.secret a-secret-of-mine' })).not.toContain('mine');
  });

  it('also when the file cannot be read', () => {
    const result = readConfig({ flags: ['--config', '/nowhere/node.conf'], environment: {} });
    expect(result).toEqual({ ok: false, error: 'config file /nowhere/node.conf: cannot be read (ENOENT)' });
  });
});
