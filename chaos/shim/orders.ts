// What a node's process is told to suffer: all of it in the environment at its start, and all of it again over the IPC channel whenever something
// changes. `give.ts` gives orders, `preload.ts` obeys.
//
// State: none. A message holds everything, so that the last one counts, whatever became of those before it.

import type { DiskFault } from '../types.ts';

export interface Orders {
  /** Absolute; only what is done below it is harmed. */
  readonly folder: string;
  readonly disk: DiskFault | null;
  /** How far the wall clock is ahead. */
  readonly clockMilliseconds: number;
  /** Who dials a port of this machine that stands here is connected to another. */
  readonly redirects: Readonly<Record<number, number>>;
}

/** Not one of Warren's own: a node refuses to start with a WARREN_ variable that it does not know. */
export const ordersVariable = 'CHAOS_SHIM';

export interface OrdersMessage {
  readonly kind: 'chaos orders';
  readonly number: number;
  readonly orders: Orders;
}

export interface OrdersAnswer {
  readonly kind: 'chaos obeyed';
  readonly number: number;
}
