// Why a change of members is refused: a number in the command's result, a sentence for people. The only place of both.
//
// The numbers are part of the machine's version: never given another meaning, new ones are added at the end. PURE.

export const MemberRefusal = {
  unknownNode: 1,
  nodeGone: 2,
  otherData: 3,
  newerProcess: 4,
  nameTaken: 5,
  addressTaken: 6,
  numbersUsedUp: 7,
  tooManyNodes: 8,
  lastNode: 9,
  tooFewUp: 10,
  shardDown: 11,
  oneAtATime: 12,
  notLeaving: 13,
  hasReplicas: 14,
  unknownShard: 15,
  badTarget: 16,
  anotherMoves: 17,
  moveIsOver: 18,
  malformed: 19,
  oldVersion: 20,
} as const;
export type MemberRefusal = (typeof MemberRefusal)[keyof typeof MemberRefusal];

const sentences: Readonly<Record<MemberRefusal, string>> = {
  [MemberRefusal.unknownNode]: 'there is no such node in the cluster',
  [MemberRefusal.nodeGone]:
    'the node has left the cluster for good: it can only come back with an empty data folder and a new name',
  [MemberRefusal.otherData]:
    'the node is known to the cluster with another data folder: one that lost its data joins as a new node, with a new name',
  [MemberRefusal.newerProcess]: 'a newer process of this node has been started, or this one was ended',
  [MemberRefusal.nameTaken]: 'the name belongs to another node, or to one that has left: a new node needs a new name',
  [MemberRefusal.addressTaken]: 'another node of the cluster has this address: let that one leave, or replace it',
  [MemberRefusal.numbersUsedUp]: 'so many nodes have joined that there is no number left',
  [MemberRefusal.tooManyNodes]: 'the cluster has as many nodes as it can have',
  [MemberRefusal.lastNode]: 'it is the last node: nobody would be left to hold the data',
  [MemberRefusal.tooFewUp]:
    'too few of the nodes that would stay are up: without a majority of them the cluster would stand still. Start them first',
  [MemberRefusal.shardDown]:
    'a shard that the node holds has no majority of its replicas up, so it cannot be moved. Start its other nodes first',
  [MemberRefusal.oneAtATime]:
    'another node is leaving, and without this one the shards would have fewer replicas: wait until that node is gone',
  [MemberRefusal.notLeaving]: 'the node was not asked to leave',
  [MemberRefusal.hasReplicas]: 'the node still holds replicas',
  [MemberRefusal.unknownShard]: 'there is no such shard',
  [MemberRefusal.badTarget]: 'these nodes cannot hold the shard',
  [MemberRefusal.anotherMoves]: 'another shard is moving',
  [MemberRefusal.moveIsOver]: 'the move is over, or was replaced by another',
  [MemberRefusal.malformed]: 'the request is malformed',
  [MemberRefusal.oldVersion]:
    'the cluster is ahead of the version of Warren that this node runs: start it with a newer one',
};

/** `value`: of a result with the code `refused`. */
export function memberRefusalText(value: number): string {
  return (sentences as Readonly<Record<number, string>>)[value] ?? 'refused';
}
