// The door to the targets: what runs a scenario asks here for a cluster to harm, and knows none of the kinds.

import type { Target } from '../types.ts';
import { openComposeTarget } from './compose.ts';
import { startLocalTarget } from './local.ts';
import type { TargetOptions } from './options.ts';
import { openUrlsTarget } from './urls.ts';

export type { TargetOptions } from './options.ts';

/** `local`: a cluster of its own; `compose`: the docker compose project of this repository; else AMQP URLs, one for each node. */
export type TargetSpec = 'local' | 'compose' | readonly string[];

/** Rejects, with what to do about it, if there is no such cluster. */
export function openTarget(spec: TargetSpec, options: TargetOptions = {}): Promise<Target> {
  if (spec === 'local') return startLocalTarget(options);
  if (spec === 'compose') return openComposeTarget();
  return openUrlsTarget(spec, options);
}
