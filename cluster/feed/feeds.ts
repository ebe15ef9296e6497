// Reading groups across nodes: what this node hears and asks of groups that it cannot read itself, and what it tells others of those it can.
//
//   here    machine → sink → pipe, sessions            log → messages
//   remote  feedOpen → feedEvents → pipe, sessions     query → answer → messages, the state of queues
//
// State owned: the four parts it wires together; each knows its own file only. A group is read here if it has a replica that is neither
// halted nor behind what sessions have seen, else from the nodes that have one, the leader first.

import type { Group } from '../group/group.ts';
import type { Log } from '../log/types.ts';
import type { QueueStatus } from '../machine/machine.ts';
import type { ShardMachine } from '../machine/shard.ts';
import type { ClusterLimits } from '../options.ts';
import type { Feed } from '../origin/origin.ts';
import type { Pipe } from '../origin/pipe.ts';
import { FrameKind } from '../peers/wire.ts';
import type { Clock } from '../ports.ts';
import type { Lane } from '../transport-types.ts';
import { Answers } from './answers.ts';
import { FeedServer } from './feed-server.ts';
import { decodeFeedClose, decodeFeedOpen, encodeFeedClose } from './feed-wire.ts';
import { Messages, type MessageViews } from './messages.ts';
import { RemoteFeeds } from './remote-feed.ts';
import { RemoteMessages } from './remote-messages.ts';

export interface FeedsContext {
  readonly node: number;
  readonly limits: ClusterLimits;
  readonly clock: Clock;
  readonly log: Log;
  readonly groups: ReadonlyMap<number, Group>;
  readonly shards: ReadonlyMap<number, ShardMachine>;
  replicas(group: number): readonly number[];
  leaderOf(group: number): number;
  reaches(node: number): boolean;
  post(node: number, lane: Lane, kind: number, pieces: readonly Uint8Array[]): boolean;
  bufferedBytes(node: number, lane: Lane): number;
  incarnation(): number;
  pipe(group: number): Pipe;
  sessions(): Feed | null;
  fenced(): void;
  /** Others wait for what this node does. */
  isBusy(): boolean;
  /** Asks for `turnEnded` at the end of this turn. */
  schedule(): void;
}

export class Feeds {
  readonly remote: RemoteFeeds;
  readonly questions: RemoteMessages;
  readonly #context: FeedsContext;
  readonly #messages: Messages;
  readonly #server: FeedServer;
  readonly #answers: Answers;

  constructor(context: FeedsContext) {
    this.#context = context;
    const { clock, post } = context;
    const limits = context.limits.feed;
    const now = () => clock.now();
    const readable = (group: number) => this.#readable(group);
    const sources = (group: number) => this.#sources(group);
    this.#messages = new Messages({
      log: context.log,
      clock,
      limits: context.limits.large,
      isBusy: context.isBusy,
      machine: (group) => this.#readable(group)?.machine,
      damaged: (group, error) => context.groups.get(group)?.halt(error),
    });
    this.remote = new RemoteFeeds({
      limits,
      now,
      sources,
      incarnation: context.incarnation,
      pipe: context.pipe,
      sessions: context.sessions,
      fenced: context.fenced,
      sendOpen: (node, frame) => post(node, 'control', FrameKind.feedOpen, [frame]),
      sendClose: (node, frame) => post(node, 'control', FrameKind.feedClose, [frame]),
      heard: context.schedule,
    });
    this.questions = new RemoteMessages({
      limits,
      now,
      sources,
      sendQuery: (node, frame) => post(node, 'control', FrameKind.query, [frame]),
    });
    this.#server = new FeedServer({
      limits,
      now,
      readable,
      sendEvents: (node, frame) => post(node, 'bulk', FrameKind.feedEvents, [frame]),
      sendClosed: (node, feed, group) =>
        post(node, 'control', FrameKind.feedClose, [encodeFeedClose({ feed, group, byServer: true })]),
      schedule: context.schedule,
    });
    this.#answers = new Answers({
      limits,
      // Another node waits, and has a deadline.
      read: (group, entry, ordinals, bytesMax, done) =>
        this.#messages.read(group, entry, ordinals, bytesMax, false, done),
      status: (group, uid) => (this.#readable(group) ? context.shards.get(group)?.queueStatus(uid) : null),
      sendAnswer: (node, pieces) => post(node, 'bulk', FrameKind.answer, pieces),
      bufferedBytes: (node) => context.bufferedBytes(node, 'bulk'),
    });
  }

  /** One frame of the kinds that are meant here; null: it is of another. False: not understood. */
  frame(from: number, kind: number, body: Buffer): boolean | null {
    switch (kind) {
      case FrameKind.feedOpen: {
        const open = decodeFeedOpen(body);
        if (open === null) return false;
        this.#server.open(from, open);
        return true;
      }
      case FrameKind.feedEvents:
        return this.remote.events(from, body);
      case FrameKind.feedClose: {
        const close = decodeFeedClose(body);
        if (close === null) return false;
        if (close.byServer) this.remote.closed(from, close);
        else this.#server.close(from, close.group, close.feed);
        return true;
      }
      case FrameKind.query:
        return this.#answers.query(from, body);
      case FrameKind.answer:
        return this.questions.answer(from, body);
      default:
        return null;
    }
  }

  /** The payload of an entry if it is in memory here. */
  cached(group: number, entry: number): Buffer | null {
    return this.#messages.cached(group, entry);
  }

  /**
   * Messages of one entry by their ordinals, in the order asked for: null where one is gone; maybe fewer than asked for, at least one. From
   * memory (then `done` may run before this returns), disk, or another node. Never answered once `isWanted` says no.
   */
  read(
    group: number,
    entry: number,
    ordinals: readonly number[],
    isWanted: () => boolean,
    done: (views: MessageViews) => void,
  ): void {
    this.#messages.read(group, entry, ordinals, this.#context.limits.feed.answerBytesMax, true, (views) => {
      if (views !== null) done(views);
      else this.questions.read(group, entry, ordinals, isWanted, done);
    });
  }

  /** The state of a queue; `undefined`: there is none, or nobody tells. `done` may run before this returns. */
  status(group: number, uid: number, done: (status: QueueStatus | undefined) => void): void {
    if (this.#readable(group) !== undefined) done(this.#context.shards.get(group)?.queueStatus(uid));
    else this.questions.status(group, uid, done);
  }

  /** Entries of this group were applied here. */
  applied(group: number): void {
    this.#server.applied(group);
  }

  /** The replica's state was replaced, or the replica stopped, or went. */
  groupChanged(group: number): void {
    this.#server.groupChanged(group);
  }

  peerDown(node: number): void {
    this.#answers.peerDown(node);
    this.remote.routesChanged();
  }

  turnEnded(): void {
    this.#server.turnEnded();
  }

  tick(): void {
    this.#server.tick();
    this.remote.tick();
    this.questions.tick();
    this.#answers.tick();
  }

  #readable(group: number): Group | undefined {
    const replica = this.#context.groups.get(group);
    return replica?.isReadable === true ? replica : undefined;
  }

  /** The leader applies first, and so tells first. */
  #sources(group: number): readonly number[] {
    const { node, replicas, leaderOf, reaches } = this.#context;
    const leader = leaderOf(group);
    const others = replicas(group).filter((other) => other !== leader);
    return [leader, ...others].filter((other) => other !== 0 && other !== node && reaches(other));
  }
}
