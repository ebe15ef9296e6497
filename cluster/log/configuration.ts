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
