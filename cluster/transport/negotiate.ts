// Runs a handshake over a connection, within a time. State owned: the connection, until the outcome is told or `cancel` is called.
// Invariant: the outcome is told once; when it is a failure, the connection has been closed.

import type { Clock, Connection } from '../ports.ts';
import type { Lane } from '../transport-types.ts';
import type { Handshake, HandshakeStep, Identity } from './handshake.ts';
import { refuse } from './handshake.ts';

export type Outcome =
  | { readonly kind: 'open'; readonly peer: Identity; readonly lane: Lane }
  /** `reason` null: the connection broke, which is no news. */
  | { readonly kind: 'failed'; readonly reason: string | null; readonly isGone?: boolean };

export interface Negotiation {
  /** Closes the connection; no outcome is told. */
  cancel(): void;
}

/** Sets the connection's handlers; whoever gets `open` sets its own within the call. */
export function negotiate(
  connection: Connection,
  handshake: Handshake,
  clock: Clock,
  milliseconds: number,
  done: (outcome: Outcome) => void,
): Negotiation {
  let isOver = false;
  const timer = clock.after(milliseconds, () => take(refuse('handshake took too long')));

  function end(): void {
    isOver = true;
    timer.cancel();
    connection.onData = () => {};
    connection.onClose = () => {};
  }

  function take(step: HandshakeStep): void {
    if (step.kind === 'wait') return;
    if (step.bytes !== null) connection.write([step.bytes]);
    if (step.kind === 'send') return;
    end();
    if (step.kind === 'done') return done({ kind: 'open', peer: step.peer, lane: step.lane });
    connection.close();
    done({ kind: 'failed', reason: step.reason, isGone: step.isGone === true });
  }

  connection.onData = (chunk) => take(handshake.receive(chunk));
  connection.onClose = () => {
    end();
    done({ kind: 'failed', reason: null });
  };
  const opening = handshake.start();
  if (opening !== null) connection.write([opening]);
  return {
    cancel() {
      if (isOver) return;
      end();
      connection.close();
    },
  };
}
