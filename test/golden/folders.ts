// The golden data folders on this machine's disk: one per version and node, as a node leaves it, each file compressed by itself.
//
//   <version>/n<node>/identity.gz, incarnation-….gz, store/manifest….gz, store/log/….gz, store/snapshots/….gz

import { mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gunzipSync, gzipSync } from 'node:zlib';
import type { NodeConfig } from '../../node/config.ts';
import { readConfig } from '../../node/config-sources.ts';
import { clusterName, format } from './scene.ts';

/** Beside the source, also when this runs compiled. */
const root = fileURLToPath(
  new URL(import.meta.url.includes('/dist/') ? '../../../test/golden/' : './', import.meta.url),
);

/** Paths below a node's data folder, with their bytes. */
export type Files = ReadonlyMap<string, Buffer>;

export const goldenFolder = (version: number): string => join(root, String(version));

export function writeGolden(version: number, node: number, files: Files): void {
  const folder = join(goldenFolder(version), `n${node}`);
  rmSync(folder, { recursive: true, force: true });
  for (const [name, bytes] of files) {
    const path = `${join(folder, name)}.gz`;
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, gzipSync(bytes, { level: 9 }));
  }
}

export function readGolden(version: number, node: number): Files {
  const folder = join(goldenFolder(version), `n${node}`);
  return new Map(
    listFiles(folder).map((path) => [relative(folder, path).slice(0, -3), gunzipSync(readFileSync(path))]),
  );
}

export const goldenBytes = (version: number): number =>
  listFiles(goldenFolder(version)).reduce((sum, path) => sum + statSync(path).size, 0);

export const goldenVersions = (): number[] =>
  readdirSync(root)
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .sort((a, b) => a - b);

export function listFiles(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true })
    .flatMap((entry) => (entry.isDirectory() ? listFiles(join(folder, entry.name)) : [join(folder, entry.name)]))
    .sort();
}

/** The settings of a node of the golden cluster whose data folder lies in this folder. */
export function goldenConfig(node: number, folder: string): NodeConfig {
  const members = format.nodes
    .map(({ node: number, name }) => `${number}=${name}@127.0.0.1:${25_672 + number}`)
    .join(',');
  const cluster = [
    '--cluster.name',
    clusterName,
    '--cluster.nodes',
    members,
    '--cluster.secret',
    'a-golden-secret-of-the-test',
  ];
  const flags = ['--data.folder', folder, '--node.name', `n${node}`, '--shards', '3', ...cluster];
  const read = readConfig({ flags, environment: {} });
  if (!read.ok) throw new Error(read.error);
  return read.config;
}
