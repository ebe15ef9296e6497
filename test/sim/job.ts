// A process of a series with `--jobs`: runs the seeds that its parent sends, one at a time.

import process from 'node:process';
import { type Order, runOrder } from './series.ts';

process.on('message', async (order: Order) => process.send!(await runOrder(order)));
// Nobody is left to hear of it.
process.on('disconnect', () => process.exit());
