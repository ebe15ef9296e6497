// `warren rebuild`: asks a running node, over its HTTP port, to build its replica of a group anew from its peers.

import { parseArgs } from 'node:util';

export const rebuildHelp = `usage: warren rebuild GROUP --http HOST:PORT

Builds one node's replica of a group anew from the other nodes: for a replica that has halted (GET /health says so, and why). What the
replica holds is thrown away, so first make sure that the other nodes are well. A group that nobody else leads is left alone.

  GROUP              meta, or shard-1 and so on; or the group's number
  --http HOST:PORT   the HTTP port of the node whose replica it is`;

export type RebuildFlags =
  | { readonly ok: true; readonly group: number; readonly http: string }
  | { readonly ok: false; readonly error: string };

export function parseRebuildFlags(flags: readonly string[]): RebuildFlags {
  const fail = (error: string): RebuildFlags => ({ ok: false, error });
  let parsed: { values: { http?: string }; positionals: string[] };
  try {
    parsed = parseArgs({ args: [...flags], options: { http: { type: 'string' } }, allowPositionals: true });
  } catch (error) {
    return fail(`${(error as Error).message.split('. ', 1)[0]}: "warren rebuild --help" lists the flags`);
  }
  const { values, positionals } = parsed;
  const name = positionals[0] ?? '';
  const match = /^(?:shard-)?([0-9]{1,10})$/.exec(name);
  if (positionals.length !== 1 || (name !== 'meta' && match === null))
    return fail(`"${positionals.join(' ')}": must be one group: meta, shard-1 and so on, or its number`);
  if (!/^.+:[0-9]{1,5}$/.test(values.http ?? '')) return fail('--http: must be HOST:PORT');
  return { ok: true, group: match === null ? 0 : Number(match[1]), http: values.http! };
}

/** Prints what came of it. Returns the exit code. */
export async function rebuildGroup(flags: readonly string[]): Promise<number> {
  const parsed = parseRebuildFlags(flags);
  if (!parsed.ok) {
    console.error(`warren: ${parsed.error}`);
    return 1;
  }
  const { group, http } = parsed;
  try {
    const response = await fetch(`http://${http}/groups/${group}/rebuild`, { method: 'POST' });
    if (response.status === 202) {
      console.log(`the replica is being built anew; http://${http}/health tells when it is well`);
      return 0;
    }
    const { reason, error } = (await response.json()) as { reason?: string; error?: string };
    console.error(`warren: refused: ${reason ?? error ?? response.status}`);
  } catch (error) {
    const { cause, message } = error as Error;
    console.error(`warren: no answer from ${http}: ${cause instanceof Error ? cause.message : message}`);
  }
  return 1;
}
