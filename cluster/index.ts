// The door of the cluster: the only file that node/ may import.

export type {
  Arguments,
  ArgumentValue,
  ConnectionId,
  ExchangeType,
  MetadataView,
  QueueRecord,
} from './machine/metadata-types.ts';
export type { Address, Clock, Connection, Disk, DiskFile, Net, Ports, Random, Timer } from './ports.ts';
