// The handshake: what two nodes say on a new connection before any frame. No I/O here: bytes in, bytes and a verdict out.
//
//   dialler  → introduction   version range, lane, the node it means to reach, its own identity, 32 random bytes
//   acceptor → introduction   the same about itself
//   dialler  → proof          HMAC-SHA-256(secret, role, both introductions)
//   acceptor → proof          the same with its own role; the lane is open, and only the dialler sends from here on
//
// Either may send a refusal (a short text) instead and close. Every message: "WRRN" | u8 kind | u16 length | body, little-endian.
//
// A node that has left the cluster is told so in place of the acceptor's proof: an HMAC too, with a role of its own, and then a text. It ends
// that node's process, so it counts only from somebody who knows the secret.
//
// The proofs cover every byte of both introductions: versions, lane, names and random bytes cannot be changed on the way, and no proof is
// good for a second connection or for the other role. The dialler proves itself first, so that a stranger gets nothing to guess from.
// Invariants: what was claimed is acted upon only after the proof; nothing longer than `messageBytesMax` is ever kept.

import { createHmac, timingSafeEqual } from 'node:crypto';
import type { Lane } from '../transport-types.ts';

export const handshakeVersions = { min: 1, max: 1 } as const;
export const nonceBytes = 32;

/** In place of a cluster id: of a node whose data folder is empty. */
export const formationPrefix = 'formation:';
export const isFormation = (clusterId: string): boolean => clusterId.startsWith(formationPrefix);
/** In place of a cluster id: of a node that asks to be let in. It has no number yet (0), and means whichever node answers. */
export const joiningId = 'joining';
export const isJoining = (clusterId: string): boolean => clusterId === joiningId;

export interface Identity {
  readonly clusterId: string;
  readonly node: number;
  readonly name: string;
  readonly uuid: string;
  readonly incarnation: number;
}

/** What one side brings to a handshake. */
export interface HandshakeParty {
  readonly self: Identity;
  readonly secret: string;
  /** Fresh unpredictable bytes. */
  readonly nonce: Buffer;
  /** Null, or why the other side must not be talked to. Who accepts asks after the proof only. */
  readonly check: (peer: Identity) => string | null;
  /** Has it left the cluster for good? */
  readonly isGone?: (peer: Identity) => boolean;
}

export type HandshakeStep =
  | { readonly kind: 'wait' }
  | { readonly kind: 'send'; readonly bytes: Buffer }
  /** The other side has proved who it is. `bytes` is the last message to it, if one is due. */
  | { readonly kind: 'done'; readonly peer: Identity; readonly lane: Lane; readonly bytes: Buffer | null }
  /** Close. `bytes` tells the other side why, if it is one to be told. */
  | Refused;

interface Refused {
  readonly kind: 'refused';
  readonly reason: string;
  readonly bytes: Buffer | null;
  /** The other side has proved that it belongs to the cluster, and says that this node does so no more. */
  readonly isGone?: boolean;
}

const MessageKind = { introduction: 1, proof: 2, refusal: 3, gone: 4 } as const;
const magic = Buffer.from('WRRN', 'latin1');
const messageHeaderBytes = 7;
const messageBytesMax = 1024;
const reasonBytesMax = 200;
const proofBytes = 32;
const laneCodes: Record<Lane, number> = { control: 1, bulk: 2 };

interface Introduction {
  readonly versionMin: number;
  readonly versionMax: number;
  readonly lane: Lane;
  /** The node that the sender believes to be on the other side. */
  readonly target: number;
  readonly identity: Identity;
  readonly nonce: Buffer;
}

/** One side of one handshake. Call `start`, then `receive` with each chunk until it answers `done` or `refused`. */
export interface Handshake {
  /** What to send first, if anything. */
  start(): Buffer | null;
  receive(chunk: Buffer): HandshakeStep;
}

/** `expected` null: whichever node of a cluster answers, for one that joins. */
export function createDialHandshake(
  party: HandshakeParty,
  lane: Lane,
  expected: { readonly node: number; readonly name: string } | null,
): Handshake {
  const messages = new MessageReader();
  const ours = encodeIntroduction(party, lane, expected?.node ?? 0);
  let introduced: { theirs: Buffer; peer: Identity } | null = null;
  return {
    start: () => encodeMessage(MessageKind.introduction, ours),
    receive(chunk) {
      const message = messages.read(chunk);
      if (message === null) return { kind: 'wait' };
      if (message.kind === 'refused') return message;
      if (introduced === null) {
        const their = message.type === MessageKind.introduction ? decodeIntroduction(message.body) : null;
        if (their === null) return refuse('not the introduction of a peer');
        const reason = checkIntroduction(their, party.self) ?? checkDialled(their, lane, expected);
        if (reason !== null) return refuse(reason);
        if (isFormation(their.identity.clusterId) && !isFormation(party.self.clusterId))
          return refuse('has an empty data folder');
        // Asked before the proof only in order to refuse early: nothing is remembered of a claim.
        const unwanted = party.check(their.identity);
        if (unwanted !== null) return refuse(unwanted);
        introduced = { theirs: message.body, peer: their.identity };
        return {
          kind: 'send',
          bytes: encodeMessage(MessageKind.proof, prove(party.secret, 'dialler', ours, message.body)),
        };
      }
      if (message.type === MessageKind.gone) return checkGone(party, message.body, ours, introduced.theirs);
      const proof = prove(party.secret, 'acceptor', ours, introduced.theirs);
      if (message.type !== MessageKind.proof || !isEqual(message.body, proof)) return refuse('wrong cluster secret');
      return { kind: 'done', peer: introduced.peer, lane, bytes: null };
    },
  };
}

export function createAcceptHandshake(party: HandshakeParty): Handshake {
  const messages = new MessageReader();
  let introduced: { their: Introduction; theirs: Buffer; ours: Buffer } | null = null;
  return {
    start: () => null,
    receive(chunk) {
      const message = messages.read(chunk);
      if (message === null) return { kind: 'wait' };
      if (message.kind === 'refused') return message;
      if (introduced === null) {
        const their = message.type === MessageKind.introduction ? decodeIntroduction(message.body) : null;
        if (their === null) return refuse('not the introduction of a peer');
        const reason = checkIntroduction(their, party.self);
        if (reason !== null) return refuse(reason);
        if (isJoining(their.identity.clusterId) && party.secret === '')
          return refuse('has no cluster.secret, without which no node can join');
        const ours = encodeIntroduction(party, their.lane, their.identity.node);
        introduced = { their, theirs: message.body, ours };
        return { kind: 'send', bytes: encodeMessage(MessageKind.introduction, ours) };
      }
      const { their, theirs, ours } = introduced;
      const proof = prove(party.secret, 'dialler', theirs, ours);
      if (message.type !== MessageKind.proof || !isEqual(message.body, proof)) return refuse('wrong cluster secret');
      if (party.isGone?.(their.identity)) return sendAway(party, their.identity, theirs, ours);
      const unwanted = party.check(their.identity);
      if (unwanted !== null) return refuse(unwanted);
      const answer = encodeMessage(MessageKind.proof, prove(party.secret, 'acceptor', theirs, ours));
      return { kind: 'done', peer: their.identity, lane: their.lane, bytes: answer };
    },
  };
}

/** A refusal to be sent to the other side, for reasons outside the handshake too. */
export function refuse(reason: string): HandshakeStep {
  const text = Buffer.from(reason, 'utf8').subarray(0, reasonBytesMax);
  return { kind: 'refused', reason, bytes: encodeMessage(MessageKind.refusal, text) };
}

/** The dialler has proved who it is, and is part of the cluster no more. */
function sendAway(party: HandshakeParty, { node, name }: Identity, dialler: Buffer, acceptor: Buffer): Refused {
  const reason = `node ${node} (${name}) has left the cluster`;
  const text = Buffer.from(reason, 'utf8').subarray(0, reasonBytesMax);
  const proof = prove(party.secret, 'gone', dialler, acceptor);
  return { kind: 'refused', reason, bytes: encodeMessage(MessageKind.gone, Buffer.concat([proof, text])) };
}

function checkGone(party: HandshakeParty, body: Buffer, dialler: Buffer, acceptor: Buffer): HandshakeStep {
  const proof = prove(party.secret, 'gone', dialler, acceptor);
  if (!isEqual(body.subarray(0, proofBytes), proof)) return refuse('wrong cluster secret');
  const reason = `refused by the other side: ${printable(body.subarray(proofBytes))}`;
  return { kind: 'refused', reason, bytes: null, isGone: true };
}

/** What rules the other side out whichever role it has, or null. */
function checkIntroduction(their: Introduction, self: Identity): string | null {
  const { min, max } = handshakeVersions;
  if (their.versionMin > max || their.versionMax < min)
    return `no common version: ${their.versionMin} to ${their.versionMax} offered, ${min} to ${max} known`;
  if (isJoining(their.identity.clusterId) || isJoining(self.clusterId)) return checkJoining(their.identity, self);
  const reason = checkCluster(their.identity.clusterId, self.clusterId);
  if (reason !== null) return reason;
  if (their.target !== self.node) return `node ${their.target} is not here, this is node ${self.node}`;
  if (their.identity.node === self.node) return `claims to be node ${self.node} as well`;
  return null;
}

/** A node that has no cluster yet may learn that others have one; what follows from it is theirs who asked. */
function checkCluster(their: string, own: string): string | null {
  if (their === own) return null;
  if (isFormation(their) && isFormation(own))
    return 'has other settings for the cluster: its name, or the list of nodes';
  return isFormation(their) || isFormation(own) ? null : 'belongs to another cluster';
}

/** One side asks to be let in: whether it is comes after the handshake (`joining.ts`). */
function checkJoining(their: Identity, self: Identity): string | null {
  if (isFormation(their.clusterId) || isFormation(self.clusterId)) return 'its cluster is not formed yet';
  return isJoining(their.clusterId) && isJoining(self.clusterId) ? 'is about to join a cluster itself' : null;
}

function checkDialled(
  their: Introduction,
  lane: Lane,
  expected: { readonly node: number; readonly name: string } | null,
): string | null {
  const { node, name } = their.identity;
  if (expected !== null && (node !== expected.node || name !== expected.name))
    return `node ${node} (${name}) answered where node ${expected.node} (${expected.name}) should be`;
  return their.lane === lane ? null : 'answered for another lane';
}

function prove(secret: string, role: 'dialler' | 'acceptor' | 'gone', dialler: Buffer, acceptor: Buffer): Buffer {
  // Introductions state the length of each of their parts, so no two pairs give the same bytes.
  return createHmac('sha256', secret).update(`warren peer ${role}\0`).update(dialler).update(acceptor).digest();
}

function isEqual(given: Buffer, proof: Buffer): boolean {
  return given.length === proofBytes && timingSafeEqual(given, proof);
}

function encodeMessage(type: number, body: Buffer): Buffer {
  const header = Buffer.alloc(messageHeaderBytes);
  magic.copy(header);
  header[4] = type;
  header.writeUInt16LE(body.length, 5);
  return Buffer.concat([header, body]);
}

/** u8 version min | u8 version max | u8 lane | u32 target | u32 node | u64 incarnation | nonce | cluster id, name, uuid: u8 length, UTF-8 */
function encodeIntroduction(party: HandshakeParty, lane: Lane, target: number): Buffer {
  const { clusterId, node, name, uuid, incarnation } = party.self;
  const fixed = Buffer.alloc(19);
  fixed[0] = handshakeVersions.min;
  fixed[1] = handshakeVersions.max;
  fixed[2] = laneCodes[lane];
  fixed.writeUInt32LE(target, 3);
  fixed.writeUInt32LE(node, 7);
  fixed.writeBigUInt64LE(BigInt(incarnation), 11);
  return Buffer.concat([fixed, party.nonce, encodeText(clusterId), encodeText(name), encodeText(uuid)]);
}

function encodeText(text: string): Buffer {
  const bytes = Buffer.from(text, 'utf8');
  if (bytes.length > 255) throw new Error(`an identity's text has at most 255 bytes, not ${bytes.length}`);
  return Buffer.concat([Buffer.from([bytes.length]), bytes]);
}

function decodeIntroduction(body: Buffer): Introduction | null {
  let at = 19 + nonceBytes;
  if (body.length < at) return null;
  const texts: string[] = [];
  for (let i = 0; i < 3; i++) {
    const length = body[at];
    if (length === undefined || at + 1 + length > body.length) return null;
    texts.push(body.toString('utf8', at + 1, at + 1 + length));
    at += 1 + length;
  }
  const incarnation = Number(body.readBigUInt64LE(11));
  const lane = body[2] === laneCodes.control ? 'control' : body[2] === laneCodes.bulk ? 'bulk' : null;
  if (at !== body.length || lane === null || !Number.isSafeInteger(incarnation)) return null;
  return {
    versionMin: body[0]!,
    versionMax: body[1]!,
    lane,
    target: body.readUInt32LE(3),
    identity: { clusterId: texts[0]!, node: body.readUInt32LE(7), name: texts[1]!, uuid: texts[2]!, incarnation },
    nonce: body.subarray(19, 19 + nonceBytes),
  };
}

type Message = { readonly kind: 'message'; readonly type: number; readonly body: Buffer } | Refused;

/** Gathers one message at a time: the sides take turns, so bytes after a message break the rules. */
class MessageReader {
  #bytes = Buffer.alloc(0);

  read(chunk: Buffer): Message | null {
    if (this.#bytes.length + chunk.length > messageBytesMax) return stranger();
    const bytes = (this.#bytes = Buffer.concat([this.#bytes, chunk]));
    const seen = Math.min(magic.length, bytes.length);
    if (bytes.compare(magic, 0, seen, 0, seen) !== 0) return stranger();
    if (bytes.length < messageHeaderBytes) return null;
    const end = messageHeaderBytes + bytes.readUInt16LE(5);
    if (end > messageBytesMax || bytes.length > end) return stranger();
    if (bytes.length < end) return null;
    this.#bytes = Buffer.alloc(0);
    const type = bytes[4]!;
    const body = bytes.subarray(messageHeaderBytes, end);
    if (type !== MessageKind.refusal) return { kind: 'message', type, body };
    return { kind: 'refused', reason: `refused by the other side: ${printable(body)}`, bytes: null };
  }
}

/** Whoever does not speak our language gets no answer. */
function stranger(): Message {
  return { kind: 'refused', reason: 'does not speak the protocol of peers', bytes: null };
}

/** A text from outside, for the log: short, and without control characters. */
function printable(body: Buffer): string {
  return body.toString('utf8', 0, reasonBytesMax).replace(/\p{C}/gu, '?');
}
