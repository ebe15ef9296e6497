// The text of a `changes` command, checked. It comes from the metadata group, whose leader may run another release: what is not understood
// in full is not applied at all, since a shard must not go past a change that it did not make. PURE.

import type { Arguments, ShardChange } from '../metadata-types.ts';

/** Levels of lists and tables within a queue argument. All that a queue understands are plain values; deeper ones are dropped. */
const argumentDepthMax = 4;

/** Null: not a list of changes that this machine knows. Fields that it does not know are ignored. */
export function parseChanges(json: string): ShardChange[] | null {
  let value: unknown;
  try {
    value = JSON.parse(json);
  } catch {
    return null;
  }
  const list = isObject(value) ? value.changes : undefined;
  return Array.isArray(list) && list.every(isChange) ? list : null;
}

function isChange(value: unknown): value is ShardChange {
  if (!isObject(value) || !isCount(value.version, Number.MAX_SAFE_INTEGER)) return false;
  switch (value.kind) {
    case 'create':
      return isCount(value.uid, 0xffff_ffff) && isNew(value) && isObject(value.arguments);
    case 'configure':
      return isCount(value.uid, 0xffff_ffff) && isObject(value.arguments);
    case 'delete':
      return isCount(value.uid, 0xffff_ffff);
    case 'fence':
      return isCount(value.node, 0xffff_ffff) && isCount(value.incarnation, Number.MAX_SAFE_INTEGER);
    default:
      return false;
  }
}

const isNew = ({ vhost, name, autoDelete }: Record<string, unknown>): boolean =>
  typeof vhost === 'string' && typeof name === 'string' && typeof autoDelete === 'boolean';

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

const isCount = (value: unknown, max: number): value is number =>
  Number.isSafeInteger(value) && (value as number) >= 0 && (value as number) <= max;

/** The arguments to be kept with a queue, as JSON. Bounded in depth, because writing JSON recurses. */
export function keptArguments(all: Arguments): string {
  const kept = Object.entries(all).filter(([, value]) => isWithin(value, argumentDepthMax));
  return JSON.stringify(Object.fromEntries(kept));
}

const isWithin = (value: unknown, depth: number): boolean =>
  typeof value !== 'object' ||
  value === null ||
  (depth > 0 && Object.values(value).every((inner) => isWithin(inner, depth - 1)));
