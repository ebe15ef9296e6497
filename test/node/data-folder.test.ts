// Who may use a data folder: identity, the one living process, incarnation numbers that are never given twice.

import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { isEndedVolatileGroup, volatileGroupOf } from '../../cluster/machine/groups.ts';
import type { NodeConfig } from '../../node/config.ts';
import { readConfig } from '../../node/config-sources.ts';
import { checkDataFolder, type DataFolder, isAlive, openDataFolder, processName } from '../../node/data-folder.ts';

let root: string;
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'warren-test-'));
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

function config(...flags: string[]): NodeConfig {
  const read = readConfig({ flags: ['--data.folder', join(root, 'deep', 'data'), ...flags], environment: {} });
  if (!read.ok) throw new Error(read.error);
  return read.config;
}

function open(of = config(), self = processName(process.pid)): DataFolder {
  const opened = openDataFolder(of, self);
  if (!opened.ok) throw new Error(opened.error);
  return opened.folder;
}

const format = { clusterId: 'c'.repeat(32), nodes: [{ node: 1, name: 'n1', uuid: 'u'.repeat(32) }] };

/** An open folder of a node whose cluster is formed. */
function formed(of: NodeConfig = config()): DataFolder {
  const folder = open(of);
  folder.prepare(format);
  folder.commit(format);
  return folder;
}

/** Every file with its content, to see that nothing was touched. */
function picture(path: string): Record<string, string> {
  return Object.fromEntries(readdirSync(path).map((name) => [name, readFileSync(join(path, name), 'latin1')]));
}

function refusedUntouched(of: NodeConfig): string {
  const before = picture(of.dataFolder);
  const opened = openDataFolder(of);
  expect(opened.ok).toBe(false);
  expect(picture(of.dataFolder)).toEqual(before);
  expect(opened.ok || checkDataFolder(of)).toBe(opened.ok || opened.error);
  return opened.ok ? '' : opened.error;
}

/** The number of a process that has ended. */
const endedPid = (): number => spawnSync(process.execPath, ['-e', '']).pid;

describe('a data folder', () => {
  it('is made at the first start, with incarnation and pid, and with an identity once the cluster is formed', () => {
    const folder = open();
    const number = folder.nextIncarnation();
    expect(readdirSync(folder.path)).toEqual([`incarnation-${number}`, 'pid']);
    expect(readFileSync(join(folder.path, 'pid'), 'utf8')).toBe(`${process.pid}\n`);
    expect(folder.identity).toBeNull();
    folder.prepare(format);
    const prepared = {
      format: 1,
      clusterName: 'warren',
      node: 1,
      name: 'n1',
      committed: false,
      begun: false,
      cluster: format,
      shards: 12,
      replication: 3,
      membership: null,
    };
    expect(folder.identity).toEqual(prepared);
    folder.commit(format);
    expect(readdirSync(folder.path)).toEqual(['identity', `incarnation-${number}`, 'pid']);
    folder.release();
    expect(open().identity).toEqual({ ...prepared, committed: true });
  });

  it('of a node that joins keeps the UUID that it asks with, until it is let in, and what it is told then', () => {
    const of = config('--node.name', 'n4', '--cluster.join', 'h:1', '--cluster.secret', 'x'.repeat(16));
    const first = open(of);
    const uuid = first.joiningUuid();
    expect(first.joiningUuid()).toBe(uuid);
    first.release();
    const second = open(of);
    expect(second.identity).toBeNull();
    expect(second.joiningUuid()).toBe(uuid);
    const membership = {
      node: 4,
      uuid,
      format,
      shards: 24,
      replication: 1,
      contacts: [{ node: 1, name: 'n1', address: { host: 'h', port: 1 } }],
    };
    second.joined(membership);
    expect(readdirSync(second.path)).not.toContain('joining');
    expect(second.identity).toMatchObject({
      node: 4,
      name: 'n4',
      committed: true,
      shards: 24,
      replication: 1,
      membership,
    });
    second.release();
    // Once in, it needs no address to join by.
    for (const again of [of, config('--node.name', 'n4')]) {
      const folder = open(again);
      expect(folder.identity).toMatchObject({ node: 4, membership });
      folder.release();
    }
    const listed = config('--node.name', 'n4', '--cluster.nodes', '4=n4@h:1');
    expect(refusedUntouched(listed)).toContain('joined its cluster: start it without cluster.nodes');
    expect(refusedUntouched(config('--node.name', 'n4', '--node.number', '5'))).toContain('not to node 5');
  });

  it('of a founder joins nothing, and keeps to what the cluster was formed with', () => {
    formed().release();
    const joins = config('--node.name', 'n1', '--cluster.join', 'h:1', '--cluster.secret', 'x'.repeat(16));
    expect(refusedUntouched(joins)).toContain('start it without cluster.join');
    expect(refusedUntouched(config('--shards', '13'))).toContain('formed with shards = 12, not 13');
    expect(refusedUntouched(config('--replication', '1'))).toContain('formed with replication = 3, not 1');
  });

  it('never repeats an incarnation, counts up, also in a copy, and has no pid after a clean stop', () => {
    const first = formed();
    const numbers = [first.nextIncarnation(), first.nextIncarnation(), first.nextIncarnation()];
    expect(numbers.map((number) => Math.floor(number / 2 ** 12))).toEqual([1, 2, 3]);
    first.release();
    expect(readdirSync(first.path)).toEqual(['identity', `incarnation-${numbers[2]}`]);
    cpSync(first.path, `${first.path}-copy`, { recursive: true });
    const second = open();
    const next = second.nextIncarnation();
    expect(Math.floor(next / 2 ** 12)).toBe(4);
    second.release();
    const openCopy = () => {
      rmSync(first.path, { recursive: true });
      cpSync(`${first.path}-copy`, first.path, { recursive: true });
      const copy = open();
      const number = copy.nextIncarnation();
      copy.release();
      return number;
    };
    const copied = [openCopy(), openCopy(), openCopy()];
    for (const number of copied) expect(Math.floor(number / 2 ** 12)).toBe(4);
    // Equal only by a chance of one in four thousand each: then peers could not tell the two apart.
    expect(copied.some((number) => number !== next)).toBe(true);
  });

  it('gives incarnations by whose volatile groups the earlier ones are known to have ended, and the later ones not', () => {
    const folder = formed();
    const numbers = Array.from({ length: 20 }, () => folder.nextIncarnation());
    for (const [i, incarnation] of numbers.entries()) {
      const group = volatileGroupOf({ node: 1, incarnation });
      for (const [k, fencedTo] of numbers.entries()) expect(isEndedVolatileGroup(group, 1, fencedTo)).toBe(k >= i);
    }
  });

  it('is refused once its store is gone', () => {
    const folder = formed();
    const store = join(folder.path, 'store');
    mkdirSync(store);
    writeFileSync(join(store, 'manifest'), '');
    folder.begin();
    folder.release();
    open().release();
    rmSync(store, { recursive: true });
    expect(refusedUntouched(config())).toContain('its store is gone');
  });

  it('is refused to another node, cluster, or list of nodes', () => {
    formed(config('--node.name', 'n1')).release();
    expect(refusedUntouched(config('--cluster.name', 'other'))).toContain(
      'belongs to cluster "warren", not to "other"',
    );
    expect(refusedUntouched(config('--node.number', '2', '--node.name', 'n1'))).toContain(
      'belongs to node 1 "n1", not to node 2 "n1"',
    );
    const grown = ['--cluster.nodes', '1=n1@a:1,2=n2@b:1', '--node.name', 'n1', '--cluster.secret', 'x'.repeat(16)];
    expect(refusedUntouched(config(...grown))).toContain('belongs to a cluster of the nodes 1=n1, not of 1=n1,2=n2');
  });

  it('is refused when it is damaged, from another version, or none at all', () => {
    const folder = formed();
    const { path } = folder;
    folder.release();
    const identity = readFileSync(join(path, 'identity'), 'utf8');
    writeFileSync(join(path, 'identity'), identity.slice(0, 20));
    expect(refusedUntouched(config())).toContain('its identity file cannot be read');
    writeFileSync(join(path, 'identity'), identity.replace('"format": 1', '"format": 2'));
    expect(refusedUntouched(config())).toContain('another version of Warren (format 2)');
    writeFileSync(join(path, 'identity'), identity.replace('"uuid"', '"id"'));
    expect(refusedUntouched(config())).toContain('damaged');
    writeFileSync(join(path, 'identity'), 'null');
    expect(refusedUntouched(config())).toContain('another version');
    writeFileSync(join(path, 'identity'), identity);
    for (const name of readdirSync(path)) if (name.startsWith('incarnation')) unlinkSync(join(path, name));
    expect(refusedUntouched(config())).toContain('incarnation file is missing');
    unlinkSync(join(path, 'identity'));
    writeFileSync(join(path, 'holiday.jpg'), '');
    expect(refusedUntouched(config())).toContain('not empty ("holiday.jpg")');
  });

  it('is a file where a folder should be', () => {
    const of = config();
    mkdirSync(join(of.dataFolder, '..'), { recursive: true });
    writeFileSync(of.dataFolder, '');
    expect(checkDataFolder(of)).toContain('cannot be read (ENOTDIR)');
  });

  it('goes on from a first start that was cut off', () => {
    const of = config();
    mkdirSync(of.dataFolder, { recursive: true });
    for (const name of ['incarnation-1', 'identity.temporary', 'pid.temporary'])
      writeFileSync(join(of.dataFolder, name), '');
    expect(Math.floor(open(of).nextIncarnation() / 2 ** 12)).toBe(1);
  });
});

describe('a second process', () => {
  it('is refused while the first lives, and welcome when it was killed', async () => {
    const other = spawn(process.execPath, ['-e', 'setInterval(() => {}, 1000)']);
    await once(other, 'spawn');
    const pid = other.pid ?? 0;
    open(config(), processName(pid));
    expect(refusedUntouched(config())).toContain(`in use by process ${pid}`);
    other.kill('SIGKILL');
    await once(other, 'exit');
    const folder = open();
    expect(Math.floor(folder.nextIncarnation() / 2 ** 12)).toBe(2);
    expect(readFileSync(join(folder.path, 'pid'), 'utf8')).toBe(`${process.pid}\n`);
  });

  it('is not taken for the first because it has the same number', () => {
    open(config(), { pid: process.pid, start: 'another boot/12345' });
    expect(Math.floor(open().nextIncarnation() / 2 ** 12)).toBe(2);
    expect(isAlive({ pid: process.pid, start: 'another boot/12345' })).toBe(false);
    expect(isAlive(processName(process.pid))).toBe(true);
    expect(isAlive({ pid: endedPid(), start: null })).toBe(false);
    // Where the system does not tell start times: our own number found in a file is from before.
    expect(isAlive({ pid: process.pid, start: null })).toBe(false);
  });

  it('is not blocked by a pid file alone, and leaves that of its successor', () => {
    const folder = open(config(), { pid: endedPid(), start: 'x/1' });
    writeFileSync(join(folder.path, 'pid'), `${process.pid}\n`);
    const second = open();
    folder.release();
    expect(existsSync(join(second.path, 'pid'))).toBe(true);
    second.release();
    expect(existsSync(join(second.path, 'pid'))).toBe(false);
  });

  it('loses when two start at once', () => {
    const of = config();
    const live = processName(process.pid);
    // The other one came between our look and our file.
    mkdirSync(of.dataFolder, { recursive: true });
    writeFileSync(join(of.dataFolder, 'incarnation-7'), JSON.stringify(live));
    expect(refusedUntouched(of)).toContain('in use by process');
  });
});
