// Loaded into a node's process before the node itself (`node --import`): makes its disk, its wall clock and what it dials go wrong, by order.
//
// State owned: none; see `disk.ts`, `clock.ts`, `dial.ts`. Without orders in the environment it does nothing at all, and with orders that say
// nothing is wrong the node runs as it does alone. It never speaks unless spoken to: the IPC channel also tells the node whether its
// launcher is still there.

import { shiftClock } from './clock.ts';
import { redirect } from './dial.ts';
import { DiskShim } from './disk.ts';
import { type Orders, type OrdersAnswer, type OrdersMessage, ordersVariable } from './orders.ts';

const given = process.env[ordersVariable];
if (given !== undefined) {
  const first = JSON.parse(given) as Orders;
  const disk = new DiskShim(first.folder);
  const obey = (orders: Orders): void => {
    disk.set(orders.disk);
    shiftClock(orders.clockMilliseconds);
    redirect(orders.redirects);
  };
  obey(first);
  process.on('message', (message) => {
    const { kind, number, orders } = Object(message) as Partial<OrdersMessage>;
    if (kind !== 'chaos orders' || number === undefined || orders === undefined) return;
    obey(orders);
    const answer: OrdersAnswer = { kind: 'chaos obeyed', number };
    // Who asked may be gone.
    process.send?.(answer, undefined, undefined, () => {});
  });
}
