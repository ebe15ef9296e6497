// The handshake: golden bytes, and every way in which an introduction can be wrong.

import { describe, expect, it } from 'vitest';
import {
  createAcceptHandshake,
  createDialHandshake,
  type Handshake,
  type HandshakeParty,
  type HandshakeStep,
} from '../../../cluster/transport/handshake.ts';

const party = (node: number, changes: Partial<HandshakeParty['self']> = {}, secret = 's'): HandshakeParty => ({
  self: { clusterId: 'c', node, name: `n${node}`, uuid: `u${node}`, incarnation: 3, ...changes },
  secret,
  nonce: Buffer.alloc(32, node),
  check: () => null,
});
const dialler = (self: HandshakeParty) => createDialHandshake(self, 'bulk', { node: 2, name: 'n2' });

/** Passes messages to and fro until both sides are done. `tamper` sees each message, and may change it. */
function converse(dial: Handshake, accept: Handshake, tamper = (bytes: Buffer, _number: number) => bytes) {
  const ends: { dialler: HandshakeStep | null; acceptor: HandshakeStep | null } = { dialler: null, acceptor: null };
  let message = dial.start();
  let toAcceptor = true;
  for (let number = 1; message !== null; number++) {
    const step: HandshakeStep = (toAcceptor ? accept : dial).receive(tamper(message, number));
    if (step.kind !== 'send') ends[toAcceptor ? 'acceptor' : 'dialler'] = step;
    message = step.kind === 'wait' ? null : step.bytes;
    toAcceptor = !toAcceptor;
  }
  return ends;
}
const reasonOf = (step: HandshakeStep | null) => (step?.kind === 'refused' ? step.reason : step);

describe('handshake', () => {
  it('ends with both sides knowing each other', () => {
    const { dialler: near, acceptor: far } = converse(dialler(party(1)), createAcceptHandshake(party(2)));
    expect(near).toEqual({ kind: 'done', peer: party(2).self, lane: 'bulk', bytes: null });
    expect(far).toMatchObject({ kind: 'done', peer: party(1).self, lane: 'bulk' });
  });

  it('works byte by byte', () => {
    const accept = createAcceptHandshake(party(2));
    const hello = dialler(party(1)).start()!;
    const steps = [...hello].map((byte) => accept.receive(Buffer.from([byte])).kind);
    expect(steps.slice(0, -1).every((kind) => kind === 'wait')).toBe(true);
    expect(steps.at(-1)).toBe('send');
  });

  it('begins with these bytes', () => {
    // magic, kind 1, length 61; versions 1 to 1, bulk, target 2, node 1, incarnation 3, nonce, "c", "n1", "u1"
    expect(dialler(party(1)).start()!.toString('hex')).toBe(
      `5752524e${'01'}${'3b00'}${'01010202000000010000000300000000000000'}${'01'.repeat(32)}${'0163'}${'026e31'}${'027531'}`,
    );
  });

  it('refuses what does not belong', () => {
    const cases: [HandshakeParty, HandshakeParty, string][] = [
      [party(1, {}, 'x'), party(2), 'wrong cluster secret'],
      [party(1, { clusterId: 'd' }), party(2), 'belongs to another cluster'],
      [party(1), party(3), 'node 2 is not here, this is node 3'],
      [party(2), party(2), 'claims to be node 2 as well'],
      [party(1), { ...party(2), check: () => 'unwelcome' }, 'unwelcome'],
    ];
    for (const [near, far, reason] of cases) {
      const ends = converse(dialler(near), createAcceptHandshake(far));
      expect(reasonOf(ends.acceptor)).toBe(reason);
      expect(reasonOf(ends.dialler)).toBe(`refused by the other side: ${reason}`);
    }
    const cautious = converse(dialler({ ...party(1), check: () => 'unwelcome' }), createAcceptHandshake(party(2)));
    expect(reasonOf(cautious.dialler)).toBe('unwelcome');
    const renamed = converse(dialler(party(1)), createAcceptHandshake(party(2, { name: 'other' })));
    expect(reasonOf(renamed.dialler)).toBe('node 2 (other) answered where node 2 (n2) should be');
  });

  it('notices every changed bit', () => {
    for (const number of [1, 2, 3, 4]) {
      let length = 1;
      for (let at = 0; at < length; at++) {
        const ends = converse(dialler(party(1)), createAcceptHandshake(party(2)), (bytes, count) => {
          if (count !== number) return bytes;
          length = bytes.length;
          const changed = Buffer.from(bytes);
          changed[at]! ^= 1;
          return changed;
        });
        // With a longer length the message is waited for; a time limit ends that.
        const victim = number % 2 === 1 ? ends.acceptor : ends.dialler;
        const open = ends.dialler?.kind === 'done' || (number < 4 && ends.acceptor?.kind === 'done');
        expect(open, `message ${number}, byte ${at}, ${victim?.kind}`).toBe(false);
      }
    }
  });

  it('takes no proof from another connection or another role', () => {
    const proofs: Buffer[] = [];
    converse(dialler(party(1)), createAcceptHandshake(party(2)), (bytes, number) => {
      if (number > 2) proofs.push(bytes);
      return bytes;
    });
    const replayed = (proof: Buffer, nonce: number) => {
      const accept = createAcceptHandshake({ ...party(2), nonce: Buffer.alloc(32, nonce) });
      accept.receive(dialler(party(1)).start()!);
      return accept.receive(proof).kind;
    };
    expect(replayed(proofs[0]!, 2)).toBe('done');
    expect(replayed(proofs[0]!, 9)).toBe('refused');
    expect(replayed(proofs[1]!, 2)).toBe('refused');
  });

  it('proves nothing to a dialler that has proved nothing', () => {
    const accept = createAcceptHandshake(party(2));
    const sent: Buffer[] = [];
    for (const message of [dialler(party(1, {}, 'guess')).start()!, dialler(party(1)).start()!]) {
      const step = accept.receive(message);
      if (step.kind === 'send' || step.kind === 'refused') sent.push(step.bytes!);
    }
    expect(sent.map((bytes) => bytes[4])).toEqual([1, 3]);
  });

  it('agrees only on a common version', () => {
    const ends = converse(dialler(party(1)), createAcceptHandshake(party(2)), (bytes, number) => {
      if (number === 1) bytes[7] = bytes[8] = 9;
      return bytes;
    });
    expect(reasonOf(ends.acceptor)).toBe('no common version: 9 to 9 offered, 1 to 1 known');
  });

  it('gives garbage no answer, keeps little of it, and shows nothing strange of it', () => {
    for (const garbage of ['GET / HTTP/1.1\r\n', 'W', 'WRRX', 'AMQP\0\0\x09\x01'])
      for (const side of [createAcceptHandshake(party(2)), dialler(party(1))]) {
        const step = side.receive(Buffer.from(garbage, 'latin1'));
        if (garbage === 'W') expect(step.kind).toBe('wait');
        else expect(step).toEqual({ kind: 'refused', reason: 'does not speak the protocol of peers', bytes: null });
      }
    const header = Buffer.from('WRRN\x01\xff\xff', 'latin1');
    expect(createAcceptHandshake(party(2)).receive(header).kind).toBe('refused');
    expect(createAcceptHandshake(party(2)).receive(Buffer.concat([header, Buffer.alloc(5_000)])).kind).toBe('refused');
    const hello = dialler(party(1)).start()!;
    expect(createAcceptHandshake(party(2)).receive(Buffer.concat([hello, Buffer.from('x')])).kind).toBe('refused');
    const text = Buffer.from('\x1b[31mred\n');
    const refusal = Buffer.concat([Buffer.from(`WRRN\x03${String.fromCharCode(text.length)}\0`, 'latin1'), text]);
    expect(reasonOf(dialler(party(1)).receive(refusal))).toBe('refused by the other side: ?[31mred?');
  });
});
