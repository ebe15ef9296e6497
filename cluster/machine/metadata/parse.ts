// From the text of a metadata command to a command that can be trusted, or null. Never throws.
//
// What comes out has exactly the known fields, each of its type and within its bound. So nothing that a client or a peer made up gets
// into the replicated state, and nothing in there is nested deeper than recursion bears.
//
// The bounds are constants, not options: every replica has to refuse the same commands.
//
// PURE.

import { nodeNumberMax } from '../groups.ts';
import type { PipeId } from '../machine.ts';
import type {
  Arguments,
  ArgumentValue,
  ConnectionId,
  ExchangeType,
  MetadataCommand,
  NodeAddress,
} from '../metadata-types.ts';
import { machineVersionMax } from '../versions.ts';
import { shareEmpty } from './arguments.ts';

/** Bytes of a name or routing key: what an AMQP short string can hold. */
export const nameBytesMax = 255;
/** Tables and arrays within each other. */
export const argumentsDepthMax = 32;

type Fields = { readonly [name: string]: unknown };

export function parseMetadataCommand(text: string): MetadataCommand | null {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return null;
  }
  if (!isObject(value)) return null;
  switch (value.kind) {
    case 'openNode':
      return parseOpenNode(value);
    case 'fenceNode':
      return isNode(value.node) && isCount(value.incarnation)
        ? { kind: value.kind, node: value.node, incarnation: value.incarnation }
        : null;
    case 'declareQueue':
      return parseDeclareQueue(value);
    case 'deleteQueue':
      return isNode(value.uid) ? { kind: value.kind, uid: value.uid } : null;
    case 'configureQueue': {
      const table = parseArguments(value.arguments);
      return isNode(value.uid) && table !== null ? { kind: value.kind, uid: value.uid, arguments: table } : null;
    }
    case 'deleteExclusive': {
      const owner = parseOwner(value.owner);
      return owner === null ? null : { kind: value.kind, owner };
    }
    case 'declareExchange':
      return parseDeclareExchange(value);
    case 'deleteExchange':
      return isName(value.vhost) && isName(value.name) && typeof value.ifUnused === 'boolean'
        ? { kind: value.kind, vhost: value.vhost, name: value.name, ifUnused: value.ifUnused }
        : null;
    case 'bind':
    case 'unbind':
      return parseBinding(value, value.kind);
    case 'raiseVersion':
      return isVersion(value.version) ? { kind: value.kind, version: value.version } : null;
    case 'shardApplied':
      return isCount(value.shard) && isCount(value.version)
        ? { kind: value.kind, shard: value.shard, version: value.version }
        : null;
    case 'joinNode':
      return parseJoinNode(value);
    case 'leaveNode':
    case 'memberJoined':
    case 'memberGone':
      return isNode(value.node) ? { kind: value.kind, node: value.node } : null;
    case 'place':
      return isNode(value.group) && isNodes(value.target)
        ? { kind: value.kind, group: value.group, target: value.target }
        : null;
    case 'placed':
      return isNode(value.group) && isNodes(value.voters) && isCount(value.version)
        ? { kind: value.kind, group: value.group, voters: value.voters, version: value.version }
        : null;
    default:
      return null;
  }
}

function parseOpenNode(value: Fields): MetadataCommand | null {
  const { node, name, uuid, incarnation, machineVersion = 1 } = value;
  // Its volatile groups' numbers hold the node's.
  if (
    !isNode(node) ||
    node > nodeNumberMax ||
    !isFullName(name) ||
    !isFullName(uuid) ||
    !isCount(incarnation) ||
    incarnation === 0 ||
    !isVersion(machineVersion)
  )
    return null;
  const contact = isObject(value.contact) ? value.contact : {};
  const { pid, amqp, http } = contact;
  const address = parseAddress(value.address);
  return {
    kind: 'openNode',
    node,
    name,
    uuid,
    incarnation,
    contact: { pid: isCount(pid) ? pid : 0, amqp: isFullName(amqp) ? amqp : '', http: isFullName(http) ? http : '' },
    machineVersion,
    ...(address === null ? {} : { address }),
  };
}

function parseJoinNode(value: Fields): MetadataCommand | null {
  const { name, uuid, replaces } = value;
  const address = parseAddress(value.address);
  if (!isFullName(name) || !isFullName(uuid) || address === null) return null;
  return replaces === null || isNode(replaces) ? { kind: 'joinNode', name, uuid, address, replaces } : null;
}

function parseAddress(value: unknown): NodeAddress | null {
  if (!isObject(value)) return null;
  const { host, port } = value;
  return isFullName(host) && isCount(port) && port >= 1 && port <= 65_535 ? { host, port } : null;
}

function parseDeclareQueue(value: Fields): MetadataCommand | null {
  const { vhost, name, durable, autoDelete } = value;
  if (!isName(vhost) || !isFullName(name) || typeof durable !== 'boolean' || typeof autoDelete !== 'boolean')
    return null;
  const exclusive = value.exclusive === null ? null : parseOwner(value.exclusive);
  if (exclusive === null && value.exclusive !== null) return null;
  const home = parseHome(value.home);
  if (home === null) return null;
  if (exclusive !== null && (exclusive.node !== home.node || exclusive.incarnation !== home.incarnation)) return null;
  const table = parseArguments(value.arguments);
  const near = value.near ?? [];
  if (table === null || !Array.isArray(near) || !near.every(isCount)) return null;
  return { kind: 'declareQueue', vhost, name, durable, autoDelete, exclusive, arguments: table, home, near };
}

function parseDeclareExchange(value: Fields): MetadataCommand | null {
  const { vhost, name, type, durable, autoDelete, internal } = value;
  if (!isName(vhost) || !isName(name) || !isExchangeType(type)) return null;
  if (typeof durable !== 'boolean' || typeof autoDelete !== 'boolean' || typeof internal !== 'boolean') return null;
  const table = parseArguments(value.arguments);
  if (table === null) return null;
  return { kind: 'declareExchange', vhost, name, type, durable, autoDelete, internal, arguments: table };
}

function parseBinding(value: Fields, kind: 'bind' | 'unbind'): MetadataCommand | null {
  const { vhost, source, destination, routingKey } = value;
  if (!isName(vhost) || !isName(source) || !isName(routingKey) || !isObject(destination)) return null;
  const { kind: target, name } = destination;
  if ((target !== 'queue' && target !== 'exchange') || !isName(name)) return null;
  const table = parseArguments(value.arguments);
  if (table === null) return null;
  return { kind, vhost, source, destination: { kind: target, name }, routingKey, arguments: table };
}

function parseOwner(value: unknown): ConnectionId | null {
  if (!isObject(value)) return null;
  const { node, incarnation, connection } = value;
  return isNode(node) && isCount(incarnation) && isCount(connection) ? { node, incarnation, connection } : null;
}

function parseHome(value: unknown): PipeId | null {
  if (!isObject(value)) return null;
  const { node, incarnation } = value;
  return isNode(node) && isCount(incarnation) ? { node, incarnation } : null;
}

/** The table itself, not a copy: `JSON.parse` made it, and nobody else has it. */
function parseArguments(value: unknown): Arguments | null {
  if (!isArguments(value, 1)) return null;
  return shareEmpty(value);
}

function isArguments(value: unknown, depth: number): value is Arguments {
  if (!isObject(value) || depth > argumentsDepthMax) return false;
  return Object.keys(value).every((name) => isName(name) && isArgumentValue(value[name], depth));
}

function isArgumentValue(value: unknown, depth: number): value is ArgumentValue {
  if (value === null || typeof value === 'boolean' || typeof value === 'string') return true;
  // 1e999 is JSON, and infinite.
  if (typeof value === 'number') return Number.isFinite(value);
  if (Array.isArray(value))
    return depth < argumentsDepthMax && value.every((element) => isArgumentValue(element, depth + 1));
  if (!isObject(value)) return false;
  const names = Object.keys(value);
  if (names.length !== 1) return false;
  switch (names[0]) {
    case 'int64':
      return typeof value.int64 === 'string' && /^-?\d{1,20}$/.test(value.int64);
    case 'bytes':
      return typeof value.bytes === 'string';
    case 'timestamp':
      return isNumber(value.timestamp);
    case 'decimal':
      return Array.isArray(value.decimal) && value.decimal.length === 2 && value.decimal.every(isNumber);
    case 'table':
      return isArguments(value.table, depth + 1);
    default:
      return false;
  }
}

function isObject(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isNumber(value: unknown): value is number {
  return typeof value === 'number' && Number.isFinite(value);
}

/** A whole number in [0, 2^53). */
function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

/** A node number or uid: fits 32 bits. */
function isNode(value: unknown): value is number {
  return isCount(value) && value <= 0xffff_ffff;
}

function isNodes(value: unknown): value is number[] {
  return Array.isArray(value) && value.length >= 1 && value.length <= nodeNumberMax && value.every(isNode);
}

function isVersion(value: unknown): value is number {
  return isCount(value) && value >= 1 && value <= machineVersionMax;
}

function isName(value: unknown): value is string {
  // A string of n UTF-16 units has n to 3n bytes: hardly ever is there a need to count them.
  if (typeof value !== 'string' || value.length > nameBytesMax) return false;
  return value.length * 3 <= nameBytesMax || Buffer.byteLength(value, 'utf8') <= nameBytesMax;
}

function isFullName(value: unknown): value is string {
  return isName(value) && value !== '';
}

function isExchangeType(value: unknown): value is ExchangeType {
  return value === 'direct' || value === 'fanout' || value === 'topic' || value === 'headers';
}
