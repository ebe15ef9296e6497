// What a caller may ask of a target, whatever its kind, and what all of them say of themselves.

import { readFileSync } from 'node:fs';
import os from 'node:os';
import { join } from 'node:path';
import process from 'node:process';
import { packageFolder } from '../local-cluster.ts';
import type { Ability } from '../types.ts';

export interface TargetOptions {
  /** Of a cluster that the target starts. */
  readonly nodes?: number;
  /** The same, by their keys. */
  readonly settings?: Readonly<Record<string, string>>;
  /** `embedded`, `path`, a file, or the URL of one that runs; null: the best there is. A compose project has its own. */
  readonly toxiproxy?: string | null;
  /** Data and output of the nodes stay in their temporary folder. */
  readonly keep?: boolean;
}

/** Of this package. */
export function warrenVersion(): string {
  const { version } = JSON.parse(readFileSync(join(packageFolder(), 'package.json'), 'utf8')) as { version: string };
  return version;
}

export const thisMachine = (): { readonly node: string; readonly platform: string } => ({
  node: process.version,
  platform: `${os.platform()} ${os.release()} ${os.arch()}`,
});

/** What a target answers that cannot do what it is asked to. */
export async function missing(target: string, ability: Ability): Promise<never> {
  throw new Error(`${target} has no ability "${ability}"`);
}
