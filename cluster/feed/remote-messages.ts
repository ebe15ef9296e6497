// Asks other nodes for messages, and for the state of queues, of groups that cannot be read here.
//
// State owned: the questions that wait for an answer, with what has come of it. A question is asked again, of another node, when it was not
// answered in time or the one asked cannot know; so it is answered in the end, unless nobody wants to know any more.
//
// Invariant: `done` of a question is called at most once, and never before the call that asked has returned.

import type { QueueStatus } from '../machine/machine.ts';
import type { FeedOptions } from '../options.ts';
import {
  type AnswerState,
  decodeAnswerHead,
  decodeStatus,
  encodeQuery,
  type GatheredMessages,
  readAnswer,
} from './feed-wire.ts';
import type { MessageViews } from './messages.ts';

export interface RemoteMessagesContext {
  readonly limits: FeedOptions;
  now(): number;
  /** Nodes with a replica of the group that can be reached, the one to prefer first; never this one. */
  sources(group: number): readonly number[];
  sendQuery(node: number, frame: Buffer): boolean;
}

interface Question {
  readonly group: number;
  /** As it is sent, but for the number. */
  readonly encode: (request: number) => Buffer;
  readonly answered: (state: AnswerState, frame: Buffer, gathered: GatheredMessages) => void;
  /** The group is gone, or nobody answered for too long. */
  readonly failed: () => void;
  readonly isWanted: () => boolean;
  /** Infinity: for as long as it is wanted. */
  readonly until: number;
  /** How often it was asked: each time of the next source. */
  asked: number;
  source: number;
  askAgainAt: number;
  gathered: GatheredMessages;
  nextFrame: number;
}

export class RemoteMessages {
  readonly #context: RemoteMessagesContext;
  /** By the number under which each was asked last: answers to earlier ones find nothing. */
  readonly #questions = new Map<number, Question>();
  #lastRequest = 0;

  constructor(context: RemoteMessagesContext) {
    this.#context = context;
  }

  /** Messages of one entry, in the order asked for; maybe fewer, at least one. All null if the group is gone. */
  read(
    group: number,
    entry: number,
    ordinals: readonly number[],
    isWanted: () => boolean,
    done: (views: MessageViews) => void,
  ): void {
    this.#ask({
      group,
      encode: (request) => encodeQuery({ what: 'messages', request, group, entry, ordinals }),
      answered: (_state, _frame, { views }) => done(views),
      failed: () => done(ordinals.map(() => null)),
      isWanted,
      until: Number.POSITIVE_INFINITY,
    });
  }

  /** `undefined`: there is no such queue there, or nobody answers. */
  status(group: number, uid: number, done: (status: QueueStatus | undefined) => void): void {
    this.#ask({
      group,
      encode: (request) => encodeQuery({ what: 'status', request, group, uid }),
      answered: (_state, frame) => done(decodeStatus(frame)),
      failed: () => done(undefined),
      isWanted: () => true,
      until: this.#context.now() + this.#context.limits.statusMilliseconds,
    });
  }

  /** False: the frame was not understood. */
  answer(from: number, frame: Buffer): boolean {
    const head = decodeAnswerHead(frame);
    if (head === null) return false;
    const { request, number, state } = head;
    const question = this.#questions.get(request);
    if (question === undefined || question.source !== from) return true;
    if (state === 'unavailable' || number !== question.nextFrame) {
      question.askAgainAt = 0;
      return true;
    }
    const isMessages = state === 'more' || state === 'last';
    if (isMessages && !readAnswer(frame, question.gathered)) {
      question.askAgainAt = 0;
      return false;
    }
    question.nextFrame++;
    if (state === 'more') {
      question.askAgainAt = this.#context.now() + this.#context.limits.queryMilliseconds;
      return true;
    }
    this.#questions.delete(request);
    question.answered(state, frame, question.gathered);
    return true;
  }

  /** Asks again what was not answered in time. */
  tick(): void {
    const now = this.#context.now();
    for (const [request, question] of [...this.#questions]) {
      if (!question.isWanted()) this.#questions.delete(request);
      else if (now >= question.until) {
        this.#questions.delete(request);
        question.failed();
      } else if (now >= question.askAgainAt) {
        this.#questions.delete(request);
        this.#send(question);
      }
    }
  }

  /** The group is gone: nobody can answer. */
  groupEnded(group: number): void {
    for (const [request, question] of [...this.#questions]) {
      if (question.group !== group) continue;
      this.#questions.delete(request);
      question.failed();
    }
  }

  #ask(question: Pick<Question, 'group' | 'encode' | 'answered' | 'failed' | 'isWanted' | 'until'>): void {
    this.#send({ ...question, asked: 0, source: 0, askAgainAt: 0, gathered: { views: [], before: [] }, nextFrame: 0 });
  }

  #send(question: Question): void {
    const { limits, now, sources, sendQuery } = this.#context;
    const candidates = sources(question.group);
    const request = ++this.#lastRequest;
    this.#questions.set(request, question);
    question.gathered = { views: [], before: [] };
    question.nextFrame = 0;
    question.source = candidates[question.asked++ % Math.max(1, candidates.length)] ?? 0;
    const isSent = question.source !== 0 && sendQuery(question.source, question.encode(request));
    question.askAgainAt = now() + (isSent ? limits.queryMilliseconds : limits.retryMilliseconds);
  }
}
