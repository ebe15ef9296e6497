#!/usr/bin/env -S node --single-threaded-gc --heap-growing-percent=300
// The `warren` command. Dispatches, and loads only what the command needs. `launch.ts` says why these flags.

import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const help = `usage: warren COMMAND

  start      a whole cluster on this machine ("warren start --help")
  node       one node, from a config file or the environment ("warren node --help")
  cluster    the nodes of a running cluster: status, join, leave, replace ("warren cluster --help")
  rebuild    builds a node's replica of a group anew ("warren rebuild --help")
  chaos      harms a cluster under load and judges what its clients saw ("warren chaos --help")
  version    the version of Warren
  help       this text`;

async function main(command: string | undefined, flags: readonly string[]): Promise<void> {
  const wantsHelp = flags.includes('--help') || flags.includes('-h');
  switch (command) {
    case 'start': {
      if (wantsHelp) return console.log((await import('./launch-options.ts')).launchHelp);
      return start(flags);
    }
    case 'node': {
      if (wantsHelp) return console.log((await import('./config-sources.ts')).nodeHelp());
      const [{ runNode }, { createParts }] = await Promise.all([import('./run.ts'), import('./parts.ts')]);
      return runNode(flags, createParts);
    }
    case 'rebuild': {
      const { rebuildGroup, rebuildHelp } = await import('./rebuild-command.ts');
      if (wantsHelp) return console.log(rebuildHelp);
      process.exitCode = await rebuildGroup(flags);
      return;
    }
    case 'cluster': {
      const { clusterHelp, runClusterCommand } = await import('./cluster-command.ts');
      if (wantsHelp) return console.log(clusterHelp);
      process.exitCode = await runClusterCommand(flags);
      return;
    }
    case 'chaos':
      return chaos(flags);
    case 'version':
    case '--version':
    case '-v':
      return console.log((await import('./version.ts')).readVersion());
    case undefined:
    case 'help':
    case '--help':
    case '-h':
      return console.log(help);
    default:
      console.error(`warren: unknown command "${command}"\n\n${help}`);
      process.exitCode = 1;
  }
}

/** The suite is no part of a node, knows nothing of its code, and is not shipped everywhere. */
async function chaos(flags: readonly string[]): Promise<void> {
  const suite = new URL('../chaos/main.js', import.meta.url);
  if (!existsSync(suite)) {
    console.error(
      'warren: the chaos suite is not part of this installation: run it from a checkout, by "npm run chaos"',
    );
    process.exitCode = 1;
    return;
  }
  const { chaosProgram } = (await import(suite.href)) as { chaosProgram(flags: readonly string[]): Promise<number> };
  process.exit(await chaosProgram(flags));
}

async function start(flags: readonly string[]): Promise<void> {
  const [{ launch }, { parseLaunchFlags }, { terminalInput }] = await Promise.all([
    import('./launch.ts'),
    import('./launch-options.ts'),
    import('./launch-keys.ts'),
  ]);
  const parsed = parseLaunchFlags(flags);
  if (!parsed.ok) {
    console.error(`warren: ${parsed.error}`);
    process.exitCode = 1;
    return;
  }
  // A reader that went away (a closed terminal, `| head`) ends the printing, not the cluster.
  for (const stream of [process.stdout, process.stderr]) stream.on('error', () => {});
  const isTerminal = process.stdout.isTTY === true;
  const launched = launch(parsed.options, {
    script: fileURLToPath(import.meta.url),
    environment: process.env,
    print: (line) => process.stdout.write(`${line}\n`),
    printError: (line) => process.stderr.write(`${line}\n`),
    isTerminal,
    colours: isTerminal && process.env.NO_COLOR === undefined,
    keys: isTerminal ? terminalInput() : null,
  });
  // A Ctrl-C may arrive twice, from the terminal and from npm; `stop` does not mind.
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => launched.stop());
  process.exit(await launched.done);
}

await main(process.argv[2], process.argv.slice(3));
