// raft-ts: what a host may use. README.md tells its duties in order.

export {
  decodeConfiguration,
  encodeConfiguration,
  initialConfiguration,
  majority,
} from './configuration.ts';
export { RaftInvariantError } from './invariant.ts';
export { createRaft } from './raft.ts';
export * from './types.ts';
