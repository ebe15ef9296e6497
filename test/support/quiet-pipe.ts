// A pipe whose leader takes everything and says nothing, at a time that stands still.

import { defaultLimits } from '../../cluster/options.ts';
import { nodeOrigin, Pipe, type PipeOptions } from '../../cluster/origin/pipe.ts';

/** `payloads`: what left, in order. `onCongestion` is called whenever congestion changed for somebody. */
export function createQuietPipe(options: Partial<PipeOptions> = {}, onCongestion: () => void = () => {}) {
  const payloads: Buffer[] = [];
  const pipe = new Pipe(
    3,
    nodeOrigin(1, 7),
    { ...defaultLimits.pipe, ...options },
    {
      now: () => 0,
      dirty: () => {},
      dirtyLater: () => {},
      metadataVersion: () => 5,
      send: (_group, payload) => payloads.push(payload) > 0,
      confirming: () => {},
      congestion: onCongestion,
      refused: () => {},
    },
  );
  return { pipe, payloads };
}
