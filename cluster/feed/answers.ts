// Answers what other nodes ask of the replicas here: messages, and the state of queues.
//
// State owned: per asking node, its questions in order and the frames of the answer being sent. One question at a time is answered per node,
// and an answer leaves frame by frame as its lane takes them, so that large messages neither fill memory nor delay entries for long.

import type { QueueStatus } from '../machine/machine.ts';
import type { FeedOptions } from '../options.ts';
import { decodeQuery, encodeAnswer, encodeStatus, encodeUnavailable, type Query } from './feed-wire.ts';
import type { MessageViews } from './messages.ts';

export interface AnswersContext {
  readonly limits: FeedOptions;
  /** `null`: cannot be known here. */
  read(
    group: number,
    entry: number,
    ordinals: readonly number[],
    bytesMax: number,
    done: (views: MessageViews | null) => void,
  ): void;
  /** `null`: cannot be known here; `undefined`: there is no such queue. */
  status(group: number, uid: number): QueueStatus | undefined | null;
  sendAnswer(node: number, pieces: readonly Buffer[]): boolean;
  /** Bytes that wait for the way to this node. */
  bufferedBytes(node: number): number;
}

interface Asking {
  readonly questions: Query[];
  /** Of the answer under way. */
  frames: Buffer[][];
  isReading: boolean;
}

export class Answers {
  readonly #context: AnswersContext;
  readonly #askings = new Map<number, Asking>();

  constructor(context: AnswersContext) {
    this.#context = context;
  }

  /** False: not understood. */
  query(from: number, frame: Buffer): boolean {
    const query = decodeQuery(frame);
    if (query === null) return false;
    let asking = this.#askings.get(from);
    if (asking === undefined) this.#askings.set(from, (asking = { questions: [], frames: [], isReading: false }));
    // It asks again in time, here or elsewhere.
    if (asking.questions.length < this.#context.limits.questionsMax) asking.questions.push(query);
    this.#pump(from, asking);
    return true;
  }

  /** Lanes may take frames again. */
  tick(): void {
    for (const [node, asking] of this.#askings) this.#pump(node, asking);
  }

  /** What it asked it will ask elsewhere. */
  peerDown(node: number): void {
    this.#askings.delete(node);
  }

  #pump(node: number, asking: Asking): void {
    const { limits, sendAnswer, bufferedBytes } = this.#context;
    while (!asking.isReading) {
      while (asking.frames.length > 0) {
        if (bufferedBytes(node) > limits.answerBytesMax || !sendAnswer(node, asking.frames[0]!)) return;
        asking.frames.shift();
      }
      const query = asking.questions.shift();
      if (query === undefined) return;
      this.#answer(node, asking, query);
    }
  }

  #answer(node: number, asking: Asking, query: Query): void {
    const { limits, read, status } = this.#context;
    const { request, group } = query;
    if (query.what === 'status') {
      const found = status(group, query.uid);
      asking.frames = [found === null ? encodeUnavailable(request) : encodeStatus(request, found)];
      return;
    }
    asking.isReading = true;
    let isInCall = true;
    read(group, query.entry, query.ordinals, limits.answerBytesMax, (views) => {
      asking.isReading = false;
      asking.frames = views === null ? [encodeUnavailable(request)] : encodeAnswer(request, views, limits.frameBytes);
      if (!isInCall && this.#askings.get(node) === asking) this.#pump(node, asking);
    });
    isInCall = false;
  }
}
