// Batches of messages in a log, and who of them still lives: stands in for the machines where the log is tested alone. State owned: per group
// the references to each message, as a machine would count them.

import { crc32 } from 'node:zlib';
import type { Liveness, LiveReferences, Log, LogEntry, RecoveredGroup } from '../../cluster/log/types.ts';
import { BatchBuilder, findCommand, OriginKind, remainsOf, viewMessage } from '../../cluster/machine/commands.ts';

const key = Buffer.from([0, 1, 0x71]);
const properties = Buffer.from([0, 0]);

/** The body of a message follows from its name. */
export const bodyOf = (group: number, index: number, ordinal: number, bytes: number): Buffer =>
  Buffer.alloc(bytes, `${group}/${index}.${ordinal};`);

/** An entry whose messages have bodies of these lengths. */
export function batchEntry(group: number, index: number, term: number, bodies: readonly number[]): LogEntry {
  const builder = new BatchBuilder(1024);
  bodies.forEach((bytes, ordinal) => {
    builder.addPublish([1], 1, 0, 0, key, properties, [bodyOf(group, index, ordinal, bytes)], bytes);
  });
  const payload = builder.seal({ kind: OriginKind.node, id: 1, incarnation: 1 }, index, 0, 0);
  const data = { stamp: index, machineVersion: 1, stateHash: 0, payload, checksum: crc32(payload) };
  return { kind: 'data', index, term, bytes: payload.length, data };
}

interface Message {
  readonly bytes: number;
  references: number;
  settledBy: number;
}

export class LiveMessages implements Liveness {
  /** By group, then by entry. */
  readonly groups = new Map<number, Map<number, Message[]>>();
  readonly #applied = new Map<number, number>();
  /** The next reading of references is refused, or lost on its way. */
  refuses = false;
  loses = false;
  /** Called between pieces of references. */
  between: () => void = () => {};

  add(group: number, index: number, bodies: readonly number[], references = 1): void {
    const entries = this.groups.get(group) ?? new Map<number, Message[]>();
    this.groups.set(group, entries);
    entries.set(
      index,
      bodies.map((bytes) => ({ bytes, references, settledBy: 0 })),
    );
  }

  /** Lets one reference go, by this entry. */
  settle(group: number, index: number, ordinal: number, by = 0): void {
    const message = this.groups.get(group)!.get(index)![ordinal]!;
    if (message.references === 0) return;
    message.references--;
    message.settledBy = by;
    this.#applied.set(group, Math.max(by, this.applied(group)));
  }

  applied = (group: number): number => this.#applied.get(group) ?? 0;

  /** Messages without a reference, and the entry by which the last one went. */
  *settled(): Generator<{ group: number; index: number; ordinal: number; by: number }> {
    for (const [group, entries] of this.groups)
      for (const [index, messages] of entries)
        for (const [ordinal, { references, settledBy }] of messages.entries())
          if (references === 0) yield { group, index, ordinal, by: settledBy };
  }

  /** All messages with a reference that is left. */
  *messages(): Generator<{ group: number; index: number; ordinal: number; bytes: number }> {
    for (const [group, entries] of this.groups)
      for (const [index, messages] of entries)
        for (let ordinal = 0; ordinal < messages.length; ordinal++)
          if (messages[ordinal]!.references > 0) yield { group, index, ordinal, bytes: messages[ordinal]!.bytes };
  }

  /** Bytes that cannot be done without: live messages, each entry with the header of its record. */
  get bytes(): number {
    let [bytes, entry] = [0, ''];
    for (const { group, index, bytes: body } of this.messages()) {
      bytes += body + 30;
      if (entry === `${group}/${index}`) continue;
      entry = `${group}/${index}`;
      bytes += 104;
    }
    return bytes;
  }

  isLive = (group: number, first: number, last: number): boolean => this.count(group, first, last) > 0;

  count(group: number, first: number, last: number): number {
    const entries = this.groups.get(group);
    let sum = 0;
    if (entries === undefined) return sum;
    for (let index = first; index <= last; index++)
      for (const { references } of entries.get(index) ?? []) sum += references;
    return sum;
  }

  references(group: number): LiveReferences | null {
    if (this.refuses) return null;
    const rows: Buffer[] = [];
    for (const [index, messages] of this.groups.get(group) ?? [])
      messages.forEach(({ bytes, references }, ordinal) => {
        for (let i = 0; i < references; i++) {
          const row = Buffer.alloc(12);
          row.writeUInt32LE(index, 0);
          row.writeUInt16LE(ordinal, 4);
          row.writeUInt32LE(bytes, 8);
          rows.push(row);
        }
      });
    const { loses } = this;
    let at = 0;
    return {
      next: (bytesMax) => {
        this.between();
        const taken = rows.slice(at, at + Math.max(1, Math.floor(bytesMax / 12)));
        at += taken.length;
        return taken.length === 0 ? null : Buffer.concat(taken);
      },
      isLost: loses,
      close() {},
    };
  }

  remains = remainsOf;
}

/** The body of a message, or null if it is not there. */
export function readBody(log: Log, group: number, index: number, ordinal: number): Promise<Buffer | null> {
  if (!log.has(group, index)) return Promise.resolve(null);
  return new Promise((resolve, reject) => {
    log.readLive(group, index, (error, entry) => {
      if (error !== null || entry?.kind !== 'data') return reject(error ?? new Error('no data'));
      const { payload } = entry.data;
      if (findCommand(payload, ordinal) < 0) return resolve(null);
      const { bodyStart, bodyEnd } = viewMessage(payload, ordinal);
      resolve(payload.subarray(bodyStart, bodyEnd));
    });
  });
}

/** Every message that lives is there, as it was. */
export async function verifyLive(log: Log, live: LiveMessages): Promise<void> {
  for (const { group, index, ordinal, bytes } of [...live.messages()]) {
    const body = await readBody(log, group, index, ordinal);
    if (body === null || !body.equals(bodyOf(group, index, ordinal, bytes)))
      throw new Error(`message ${index}.${ordinal} of group ${group} is ${body === null ? 'gone' : 'another'}`);
  }
}

/** What is gone is dead also by the entries that are known as committed after a crash: only up to them a machine will stand. */
export async function verifySettled(log: Log, live: LiveMessages, found: readonly RecoveredGroup[]): Promise<void> {
  const commits = new Map(found.map(({ group, hardState }) => [group, hardState.commit]));
  for (const { group, index, ordinal, by } of live.settled())
    if (by > (commits.get(group) ?? 0) && (await readBody(log, group, index, ordinal)) === null)
      throw new Error(
        `message ${index}.${ordinal} of group ${group} is gone, and entry ${by} is not known as committed`,
      );
}
