// The event loop's order, which the cluster's timers rely on, and the few threads that file operations share. Real sockets, files and clocks.

import { Worker } from 'node:worker_threads';
import { afterEach, describe, expect, it } from 'vitest';
import { openLog } from '../../cluster/log/index.ts';
import { createClock, createNet } from '../../cluster/os.ts';
import type { Disk, DiskFile } from '../../cluster/ports.ts';
import { append, cleanUp, diskKinds, entries, clock as logClock, options, origin, write } from './log-support.ts';

afterEach(cleanUp);

/** Connects to the port, and writes once each time it is told to, at once: in a thread of its own, so also while this one is busy. */
const writer = `
  const { parentPort, workerData } = require('node:worker_threads');
  const socket = require('node:net').connect(workerData, '127.0.0.1', () => parentPort.postMessage('connected'));
  socket.setNoDelay(true);
  parentPort.on('message', (delays) => {
    for (const milliseconds of delays) setTimeout(() => socket.write('heartbeat'), milliseconds);
  });
`;

/** Promise.withResolvers, which Node 20 lacks. */
function gate(): { readonly promise: Promise<void>; readonly resolve: () => void } {
  let resolve: () => void = () => {};
  const promise = new Promise<void>((done) => {
    resolve = done;
  });
  return { promise, resolve };
}

/** This process stands still, as one that was stopped or collected garbage. */
function standStill(milliseconds: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, milliseconds);
}

/** While `act` runs somebody is connected, in a thread of its own, who writes to us after each of the delays that he is given. */
async function withPeer(
  onData: () => void,
  act: (sendAfter: (milliseconds: readonly number[]) => void) => Promise<void>,
): Promise<void> {
  let worker: Worker | null = null;
  const net = createNet({ connectMilliseconds: 1_000, lingerMilliseconds: 100 });
  const accepted = gate();
  const listener = await net.listen({ host: '127.0.0.1', port: 0 }, (connection) => {
    connection.onData = onData;
    accepted.resolve();
  });
  try {
    const peer = new Worker(writer, { eval: true, workerData: listener.port });
    worker = peer;
    await new Promise((resolve) => peer.once('message', resolve));
    await accepted.promise;
    await act((milliseconds) => peer.postMessage(milliseconds));
  } finally {
    await worker?.terminate();
    await listener.close();
  }
}

describe('after a pause of the whole process', () => {
  it('a late timer comes before the sockets, what it asks for soon comes after them, and many late ticks are one', async () => {
    const clock = createClock();
    const events: string[] = [];
    await withPeer(
      () => events.push('heartbeat'),
      async (sendAfter) => {
        // As the host's timer does it.
        let ticks = 0;
        const finished = gate();
        const arm = () =>
          clock.after(50, () => {
            events.push('timer');
            clock.soon(() => {
              events.push('tick');
              if (++ticks < 3) arm();
              else finished.resolve();
            });
          });
        sendAfter([100, 200, 300]);
        arm();
        standStill(1_000);
        const stood = performance.now();
        await finished.promise;
        // The hazard is real on this system: a tick within the timer itself would have run before what had long arrived.
        expect(events.slice(0, 3)).toEqual(['timer', 'heartbeat', 'tick']);
        // Twenty ticks were missed; what follows are the next two, a period apart.
        expect(performance.now() - stood).toBeGreaterThan(80);
      },
    );
  });
});

describe('whoever has done enough in a turn', () => {
  it.each(['soon', 'nextTurn'] as const)('goes on in this turn or after sockets and timers: %s', async (asked) => {
    const clock = createClock();
    const events: string[] = [];
    await withPeer(
      () => events.push('heartbeat'),
      async (sendAfter) => {
        const finished = gate();
        clock.soon(() => {
          sendAfter([10]);
          clock.after(20, () => void events.push('timer'));
          standStill(1_000);
          events.push('work');
          clock[asked](() => {
            events.push('more work');
            clock.soon(() => events.push('soon'));
            clock.after(10, finished.resolve);
          });
        });
        await finished.promise;
        // What is asked for soon belongs to the turn.
        const [turn, waited] = [
          ['more work', 'soon'],
          ['timer', 'heartbeat'],
        ];
        expect(events).toEqual(['work', ...(asked === 'soon' ? [...turn, ...waited] : [...waited, ...turn])]);
      },
    );
  });
});

describe('the thread pool', () => {
  it('has at most two reads of the log in it, however many are asked for, and writes go on beside them', async () => {
    const disk = diskKinds.find(({ name }) => name === 'os')!.create();
    let reading = 0;
    let readingMax = 0;
    const held: (() => void)[] = [];
    const watched: Disk = {
      ...bound(disk),
      open: async (path, mode) => {
        const file = await disk.open(path, mode);
        const read: DiskFile['read'] = (offset, length, done) => {
          readingMax = Math.max(readingMax, ++reading);
          file.read(offset, length, (error, bytes) => {
            held.push(() => {
              reading--;
              done(error, bytes);
            });
          });
        };
        return new Proxy(file, {
          get: (target, key) => {
            if (key === 'read') return read;
            const value = Reflect.get(target, key, target);
            return typeof value === 'function' ? value.bind(target) : value;
          },
        });
      },
    };
    const { log } = await openLog(watched, logClock, options({ cacheBytesMax: 1024, fileBytesMax: 16 * 1024 }));
    log.createGroup(1, 1, origin);
    for (let first = 1; first <= 1_000; first += 100)
      await append(log, write(1, { entries: entries(1, first, first + 99, 1) }));
    let answered = 0;
    for (let i = 0; i < 32; i++)
      log.read(1, 1 + 30 * i, 1 + 30 * i, 1, (error) => {
        expect(error).toBeNull();
        answered++;
      });
    await append(log, write(1, { entries: entries(1, 1_001, 1_010, 1) }));
    expect(answered).toBe(0);
    while (answered < 32) {
      for (const release of held.splice(0)) release();
      await new Promise((resolve) => setImmediate(resolve));
    }
    expect(readingMax).toBe(2);
    await log.close();
  });
});

/** A disk's methods, bound to it. */
function bound(disk: Disk): Disk {
  return {
    makeFolder: (path) => disk.makeFolder(path),
    list: (path) => disk.list(path),
    open: (path, mode) => disk.open(path, mode),
    readFile: (path) => disk.readFile(path),
    rename: (from, to) => disk.rename(from, to),
    remove: (path) => disk.remove(path),
    syncFolder: (path) => disk.syncFolder(path),
    space: () => disk.space(),
  };
}
