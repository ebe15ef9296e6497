// The log of one node: pino, JSON lines on stdout, written synchronously (no worker thread, nothing lost at exit).
// Never in a log: message bodies, passwords, secrets. Callers pass names and numbers; `redact` is the net below them.

import { pino } from 'pino';
import type { Settings } from './config.ts';

export type Log = pino.Logger;

const redacted = ['password', 'secret', 'body', 'payload', 'response'];
const redact = { paths: redacted.flatMap((name) => [name, `*.${name}`]), censor: '(hidden)' };

/** `destination`: for tests; default stdout. `pretty` is for people at a terminal and slower. */
export async function createLog(
  settings: Pick<Settings, 'log.level' | 'log.format'>,
  node: string,
  destination?: pino.DestinationStream,
): Promise<Log> {
  const options = { level: settings['log.level'], base: { pid: process.pid, node }, redact };
  if (settings['log.format'] === 'json') return pino(options, destination ?? pino.destination({ dest: 1, sync: true }));
  const prettify = await createPrettifier(process.stdout.isTTY === true);
  const out = destination ?? pino.destination({ dest: 1, sync: true });
  return pino(options, { write: (line: string) => out.write(prettify(line)) });
}

/** Turns one JSON line of a node into one line for people. What is not a JSON object stays as it is. */
export async function createPrettifier(colours: boolean): Promise<(line: string) => string> {
  // Loaded only where it is used: it costs a node's start some 30 ms.
  const { prettyFactory } = await import('pino-pretty');
  const prettify = prettyFactory({
    colorize: colours,
    singleLine: true,
    translateTime: 'SYS:HH:MM:ss.l',
    ignore: 'pid,node,hostname',
  });
  return (line) => (line.startsWith('{') ? prettify(line) : `${line}\n`);
}
