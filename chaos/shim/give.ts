// Gives a process that runs under the shim its orders (`orders.ts`).
//
// State owned: the number of the last message.

import type { ChildProcess } from 'node:child_process';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { packageFolder } from '../local-cluster.ts';
import { type Orders, type OrdersAnswer, type OrdersMessage, ordersVariable } from './orders.ts';

/** What has Node load the shim before the program. */
export const shimFlags = (): string[] => [
  '--import',
  pathToFileURL(join(packageFolder(), 'dist', 'chaos', 'shim', 'preload.js')).href,
];

export const shimEnvironment = (orders: Orders): Record<string, string> => ({
  [ordersVariable]: JSON.stringify(orders),
});

let lastNumber = 0;

/** Resolves when the process obeys, or has ended. It has so long to answer. */
export function giveOrders(child: ChildProcess, orders: Orders, milliseconds: number): Promise<void> {
  lastNumber += 1;
  const message: OrdersMessage = { kind: 'chaos orders', number: lastNumber, orders };
  return new Promise((resolve, reject) => {
    const over = (error: Error | null) => {
      clearTimeout(timer);
      child.off('message', hear);
      child.off('exit', ended);
      if (error === null) resolve();
      else reject(error);
    };
    const ended = () => over(null);
    const hear = (answer: unknown) => {
      const { kind, number } = Object(answer) as Partial<OrdersAnswer>;
      if (kind === 'chaos obeyed' && number === message.number) over(null);
    };
    const timer = setTimeout(
      () => over(new Error(`process ${child.pid} does not answer the orders for its faults after ${milliseconds} ms`)),
      milliseconds,
    );
    child.on('message', hear);
    child.on('exit', ended);
    if (!child.connected) return over(null);
    // A channel that breaks while we write belongs to a process that ends.
    child.send(message, (error) => {
      if (error !== null) over(null);
    });
  });
}
