// The process around one node: settings, checks, signals, exit codes. `warren node` is this.
//
// Exit codes: see `exit-codes.ts`. Before the checks have passed nothing is touched.
//
// Started by a launcher (there is an IPC channel), the node stops cleanly when the launcher is gone, and leaves SIGINT to it: a Ctrl-C at a
// terminal reaches the whole process group. The launcher alone may tell it to cut itself off from the other nodes (`orders.ts`).

import { FormationError, LeftClusterError } from '../cluster/index.ts';
import { readConfig } from './config-sources.ts';
import { checkDataFolder, openDataFolder } from './data-folder.ts';
import { ExitCode } from './exit-codes.ts';
import { findBusyAddress } from './listen-check.ts';
import { createLog, type Log } from './log.ts';
import { readOrder } from './orders.ts';
import { type CreateParts, createNodeServer } from './server.ts';
import { readTls } from './tls.ts';

/** Ends the process itself. */
export async function runNode(flags: readonly string[], createParts: CreateParts): Promise<void> {
  const launched = process.channel !== undefined;
  // With the launcher killed nobody reads our output; that must not be an uncaught error.
  for (const stream of [process.stdout, process.stderr]) stream.on('error', () => {});
  const read = readConfig({ flags, environment: process.env });
  if (!read.ok) return refuse(read.error);
  const { config } = read;
  const tls = readTls(config.settings);
  if (!tls.ok) return refuse(tls.error);
  const foreign = checkDataFolder(config);
  if (foreign !== null) return refuse(foreign);
  const busy = await findBusyAddress(config);
  if (busy !== null) {
    return refuse(`${busy.what}.port = ${busy.port}: cannot listen on ${busy.host} port ${busy.port} (${busy.code})`);
  }
  const opened = openDataFolder(config);
  if (!opened.ok) return refuse(opened.error);

  const log = await createLog(config.settings, config.name);
  const fatal = (error: unknown): void => {
    if (error instanceof LeftClusterError) {
      log.fatal({ reason: error.message }, 'the node ends');
      process.exit(ExitCode.left);
    }
    log.fatal({ err: error }, 'the node ends');
    process.exit(ExitCode.failed);
  };
  process.on('uncaughtException', fatal);
  process.on('unhandledRejection', fatal);

  const server = createNodeServer({ config, folder: opened.folder, log, fatal }, createParts);
  if (launched) {
    process.on('message', (message) => {
      const order = readOrder(message);
      if (order !== null) server.isolate(order.isolate);
    });
  }
  stopOnSignals(log, launched, config.settings['stop.milliseconds'], () => server.stop());
  try {
    await server.start();
  } catch (error) {
    if (server.phase === 'stopping') return;
    if (error instanceof FormationError) {
      await server.stop();
      return refuse(error.message);
    }
    const { code, syscall } = error as NodeJS.ErrnoException;
    if (syscall === 'listen') {
      // Somebody took the port since the check.
      await server.stop();
      opened.folder.release();
      return refuse(`${(error as Error).message} (${code})`);
    }
    fatal(error);
  }
  if (server.phase !== 'running') return;
  log.info(
    {
      cluster: config.settings['cluster.name'],
      amqp: `${config.settings['amqp.host'].join(',')}:${config.settings['amqp.port']}`,
      ...(config.settings['amqp.tls.port'] === 0 ? {} : { amqps: config.settings['amqp.tls.port'] }),
      http: `${config.settings['http.host'].join(',')}:${config.settings['http.port']}`,
      peers: `${config.peerListen.host}:${config.peerListen.port}`,
      folder: config.dataFolder,
    },
    'the node accepts clients',
  );
}

function refuse(error: string): void {
  process.stderr.write(`warren: ${error.replaceAll('\n', ' ')}\n`);
  process.exit(ExitCode.refused);
}

function stopOnSignals(log: Log, launched: boolean, stopMilliseconds: number, stop: () => Promise<boolean>): void {
  let stopping = false;
  const begin = (reason: string): void => {
    if (stopping) return;
    stopping = true;
    log.info({ reason }, 'the node stops');
    setTimeout(() => {
      log.fatal({ stopMilliseconds }, 'the stop took too long');
      process.exit(ExitCode.failed);
    }, stopMilliseconds);
    void stop().then((clean) => {
      log.info({ clean }, 'the node has stopped');
      process.exit(clean ? ExitCode.clean : ExitCode.failed);
    });
  };
  process.on('SIGTERM', () => begin('SIGTERM'));
  process.on('SIGHUP', () => begin('SIGHUP'));
  if (!launched) {
    process.on('SIGINT', () => begin('SIGINT'));
    return;
  }
  process.on('SIGINT', () => {});
  process.on('disconnect', () => begin('the launcher is gone'));
  if (!process.connected) begin('the launcher is gone');
}
