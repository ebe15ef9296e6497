// The door of the cluster: the only file that node/ may import.

export type { Cluster, ClusterMeasures, ClusterStatus, GroupStatus, JoinRequest } from './cluster.ts';
export { openCluster } from './cluster.ts';
export type { MessageViews } from './feed/messages.ts';
export { type Format, type Formation, FormationError, formCluster, parseFormat } from './formation.ts';
export { type Joining, joinCluster, type Membership, parseMembership } from './joining.ts';
export type { Death } from './leading/deaths.ts';
export type { Durations } from './log/time-histogram.ts';
export type { MessageView } from './machine/commands.ts';
export {
  CancelFlag,
  ConsumeFlag,
  PublishFlag,
  RemoveFlag,
  ResultCode,
  SettleOperation,
  settleFailed,
  viewMessage,
} from './machine/commands.ts';
export type { Difference } from './machine/metadata/arguments.ts';
export { exchangeDifference, queueDifference } from './machine/metadata/arguments.ts';
export type {
  Arguments,
  ArgumentValue,
  ConnectionId,
  ExchangeRecord,
  ExchangeType,
  MetadataCommand,
  MetadataView,
  QueueRecord,
  Route,
} from './machine/metadata-types.ts';
export type { ClusterLimits, ClusterOptions, HostEvents } from './options.ts';
export { defaultLimits, LeftClusterError } from './options.ts';
export type { Feed } from './origin/origin.ts';
export type { CommandReply, ConfirmTarget, Pipe } from './origin/pipe.ts';
export { createNet, createPorts, type TlsIdentity } from './os.ts';
export type { Address, Clock, Connection, Disk, DiskFile, Net, Ports, Random, Timer } from './ports.ts';
