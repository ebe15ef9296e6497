// A pipe whose leader takes everything and says nothing, at a time that stands still if nothing else is said.

import { defaultLimits } from '../../cluster/options.ts';
import { nodeOrigin, Pipe, type PipeHost, type PipeOptions } from '../../cluster/origin/pipe.ts';

/** `payloads`: what left, in order. `host`: what is not quiet about it. */
export function createQuietPipe(options: Partial<PipeOptions> = {}, host: Partial<PipeHost> = {}) {
  const payloads: Buffer[] = [];
  const pipe = new Pipe(
    3,
    nodeOrigin(1, 7),
    { ...defaultLimits.pipe, ...options },
    {
      now: () => 0,
      dirty: () => {},
      isBusy: () => false,
      after: () => {},
      metadataVersion: () => 5,
      send: (_group, payload) => payloads.push(payload) > 0,
      confirming: () => {},
      congestion: () => {},
      refused: () => {},
      ...host,
    },
  );
  return { pipe, payloads };
}
