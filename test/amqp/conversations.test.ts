// Whole conversations, octet for octet: every method that clients and brokers send, each in the directions in which it is sent, and every error.
//
// The octets come from the specification, and `AMQP_CONVERSATIONS=HOST:PORT` has the conversations with any broker. With RabbitMQ 3.10.8 all go the
// same way, but for those that need our own disks and nodes, and: who it says it is; 406 for an unknown type of exchange and x-consumer-timeout,
// which are as in later versions; answers that nobody asked for, which it refuses (503) and we ignore; bits of basic.nack that mean nothing in a
// confirm; and broken frames, methods and credentials that it has no words for, or no answer to at all.
// Of the reply codes of the specification RabbitMQ and this broker never send
//   311 content-too-large   (406 says how large)         313 no-consumers   (immediate is refused: 540)
//   402 invalid-path        (530 for a virtual host)
// and all others stand in conversations/, each under its number.

import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, test } from 'vitest';
import { type MethodName, methodNames } from '../../node/amqp/methods.ts';
import {
  type Conversation,
  converse,
  MemoryPartner,
  type Partner,
  parseConversations,
  TcpPartner,
} from './conversation.ts';

const folder = fileURLToPath(new URL('conversations/', import.meta.url));
const files = readdirSync(folder).sort();
const elsewhere = process.env.AMQP_CONVERSATIONS;

/** Who sends a method. `connection.secure` nobody: both mechanisms need one step only; an answer to it is refused (504). */
const bothSend = ['connection.close', 'connection.close-ok', 'channel.close', 'channel.close-ok', 'channel.flow-ok'];
const more = ['basic.cancel', 'basic.cancel-ok', 'basic.ack', 'basic.nack'];
const serversSend = ['connection.start', 'connection.tune', 'connection.blocked', 'connection.unblocked'];
const contents = ['basic.return', 'basic.deliver', 'basic.get-empty'];
const clientsAnswer = ['connection.start-ok', 'connection.tune-ok', 'connection.secure-ok'];

function sendersOf(name: MethodName): readonly ('client' | 'server')[] {
  if (name === 'connection.secure') return [];
  if ([...bothSend, ...more].includes(name)) return ['client', 'server'];
  if ([...serversSend, ...contents].includes(name)) return ['server'];
  return name.endsWith('-ok') && !clientsAnswer.includes(name) ? ['server'] : ['client'];
}

const exchanged = new Set<string>();
const codes = new Set<string>();
/** Broker of the conversations that do nothing to it. */
let shared: Partner | null = null;

async function partnerFor({ steps }: Conversation): Promise<Partner> {
  if (elsewhere !== undefined) {
    const [host, port] = elsewhere.split(':');
    return new TcpPartner(host!, Number(port));
  }
  const remarks = steps.flatMap((step) => (step.kind === 'happens' ? [step.what] : []));
  if (remarks.some((remark) => !/^\d+ seconds$/.test(remark))) return MemoryPartner.start(remarks);
  shared ??= await MemoryPartner.start();
  return shared;
}

for (const file of files)
  describe(file, () => {
    for (const conversation of parseConversations(readFileSync(folder + file, 'utf8')))
      test(conversation.name, async ({ skip }) => {
        const partner = await partnerFor(conversation);
        const end = await converse(partner, conversation, (from, name) => exchanged.add(`${from} ${name}`));
        if (end === 'skipped') skip('nobody can make that broker do this');
        codes.add(conversation.name.slice(0, 3));
      });
  });

test('every method was exchanged, from each side that sends it, and every error', () => {
  const wanted = methodNames.flatMap((name) => sendersOf(name).map((from) => `${from} ${name}`));
  const missing = wanted.filter((pair) => !exchanged.has(pair));
  const methods = `${wanted.length - missing.length} of ${wanted.length} methods`;
  process.stdout.write(`AMQP conversations: ${methods} (by side), ${methodNames.length} in the table\n`);
  expect([...exchanged].filter((pair) => pair.startsWith('server') && !wanted.includes(pair))).toEqual([]);
  if (elsewhere === undefined) {
    expect(missing).toEqual([]);
    for (const code of [312, 320, 403, 404, 405, 406, 501, 502, 503, 504, 505, 506, 530, 540, 541])
      expect(codes).toContain(String(code));
  }
});

afterAll(() => {
  shared = null;
});
