// Configurations as bytes: the payload of configuration entries and checkpoints. The layout of a configuration is raft-ts's.

import { type Configuration, decodeConfiguration as decode, encodeConfiguration as encode } from 'raft-ts';
import { readU64, viewOf, writeU64 } from './codec.ts';
import { LogError } from './errors.ts';

/** Of a group of which nothing is known, or that has none. */
export const noConfiguration: Configuration = {
  voters: [],
  outgoing: [],
  learners: [],
  learnersNext: [],
  autoLeave: false,
};

export function encodeConfiguration(configuration: Configuration): Buffer {
  const bytes = encode(configuration);
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** Throws `corrupt` on bytes that are no configuration. */
export function decodeConfiguration(bytes: Uint8Array): Configuration {
  try {
    return decode(bytes);
  } catch (error) {
    throw new LogError('corrupt', `not a configuration: ${(error as Error).message}`);
  }
}

/**
 * Payload of a checkpoint record: u64 first index dropped by it (0: none), u32 kept files, each u64 sequence, then the configuration.
 */
export interface Checkpoint {
  readonly configuration: Configuration;
  readonly truncateFrom: number;
  readonly keptFiles: readonly number[];
}

export function encodeCheckpoint({ configuration, truncateFrom, keptFiles }: Checkpoint): Buffer {
  const head = Buffer.alloc(12 + 8 * keptFiles.length);
  const view = viewOf(head);
  writeU64(view, 0, truncateFrom);
  view.setUint32(8, keptFiles.length, true);
  for (let i = 0; i < keptFiles.length; i++) writeU64(view, 12 + 8 * i, keptFiles[i]!);
  return Buffer.concat([head, encodeConfiguration(configuration)]);
}

export function decodeCheckpoint(bytes: Buffer): Checkpoint {
  const view = viewOf(bytes);
  const count = bytes.length < 12 ? -1 : view.getUint32(8, true);
  if (count < 0 || bytes.length < 12 + 8 * count) throw new LogError('corrupt', 'checkpoint is cut');
  const keptFiles: number[] = [];
  for (let i = 0; i < count; i++) keptFiles.push(readU64(view, 12 + 8 * i));
  return {
    configuration: decodeConfiguration(bytes.subarray(12 + 8 * count)),
    truncateFrom: readU64(view, 0),
    keptFiles,
  };
}
