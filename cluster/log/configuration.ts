// Configurations as bytes: the payload of configuration entries and checkpoints. The one place that knows the codec.
//
//   u8 version (1) | u8 auto-leave | u16 0 | 4 × (u32 count, count × u64 replica id): voters, outgoing, learners, learners next

import type { Configuration } from 'raft-ts';
import { readU64, viewOf, writeU64 } from './codec.ts';
import { LogError } from './errors.ts';

const configurationVersion = 1;

export function encodeConfiguration(configuration: Configuration): Buffer {
  const lists = [configuration.voters, configuration.outgoing, configuration.learners, configuration.learnersNext];
  const bytes = Buffer.alloc(lists.reduce((sum, list) => sum + 4 + 8 * list.length, 4));
  const view = viewOf(bytes);
  bytes[0] = configurationVersion;
  bytes[1] = configuration.autoLeave ? 1 : 0;
  let at = 4;
  for (const list of lists) {
    view.setUint32(at, list.length, true);
    at += 4;
    for (const id of list) {
      writeU64(view, at, id);
      at += 8;
    }
  }
  return bytes;
}

/** Throws `corrupt` on bytes that are no configuration. */
export function decodeConfiguration(bytes: Uint8Array): Configuration {
  const view = viewOf(bytes);
  if (bytes.length < 4 || bytes[0] !== configurationVersion) throw new LogError('corrupt', 'not a configuration');
  const lists: number[][] = [];
  let at = 4;
  for (let i = 0; i < 4; i++) {
    if (at + 4 > bytes.length) throw new LogError('corrupt', 'configuration is cut');
    const count = view.getUint32(at, true);
    at += 4;
    if (at + 8 * count > bytes.length) throw new LogError('corrupt', 'configuration is cut');
    const list: number[] = [];
    for (let n = 0; n < count; n++, at += 8) list.push(readU64(view, at));
    lists.push(list);
  }
  if (at !== bytes.length) throw new LogError('corrupt', 'configuration is followed by bytes');
  return {
    voters: lists[0]!,
    outgoing: lists[1]!,
    learners: lists[2]!,
    learnersNext: lists[3]!,
    autoLeave: bytes[1] === 1,
  };
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
