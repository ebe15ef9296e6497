// The links that go through a Toxiproxy server, by name: faults are put on them and taken off again.
//
// State owned: which proxies were made or adopted here, and for each which faults it should have. What a proxy really has is read from the server
// before each change, so that a change which failed half way, or was made by somebody else, is put right by the next one.
// Changes of one link are made one after the other.
//
// Taking a `cut` off ends the connections that it affected: bytes are missing in them. A server other than the embedded one may keep a change
// waiting while the receiver of a link takes nothing (a process that is paused), and gives up after 25 s.

import { setTimeout as sleep } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import type { Toxiproxy } from 'toxiproxy-node-client';
import type { LinkFault } from '../types.ts';
import { type Address, addressText, splitAddress } from './proxy.ts';
import { type Direction, directions } from './toxics.ts';

/** A link takes nothing for as long as its receiver is paused; two such answers are waited out. */
const attemptsMax = 3;
const retryMilliseconds = 200;

interface Link {
  readonly name: string;
  /** It was there before, and stays. */
  readonly isAdopted: boolean;
  readonly faults: Record<Direction, LinkFault | null>;
  turn: Promise<void>;
}

interface ToxicBody {
  readonly name: string;
  readonly type: 'latency' | 'bandwidth' | 'slow_close' | 'timeout' | 'reset_peer' | 'slicer' | 'limit_data';
  readonly stream: Direction;
  readonly toxicity: number;
  readonly attributes: Readonly<Record<string, number>>;
}

interface ProxyBody {
  readonly enabled: boolean;
  readonly toxics: readonly ToxicBody[];
}

export class Links {
  readonly #api: Toxiproxy;
  readonly #links = new Map<string, Link>();

  constructor(api: Toxiproxy) {
    this.#api = api;
  }

  /** A link to `upstream`, which is host:port. Port 0: a free one. Resolves with where it listens. A proxy of that name is replaced. */
  async add(name: string, listenHost: string, listenPort: number, upstream: string): Promise<Address> {
    if (this.#links.has(name)) throw new Error(`there is a link ${name} already`);
    this.#enter(name, false);
    try {
      const old = (await this.#api.getAll())[name];
      await old?.remove();
      const { listen } = await this.#api.createProxy({ name, listen: addressText(listenHost, listenPort), upstream });
      const address = splitAddress(listen);
      if (typeof address === 'string') throw new Error(address);
      return address;
    } catch (error) {
      this.#links.delete(name);
      throw error;
    }
  }

  /** Takes a proxy that the server has. It is well from now on, and when `close` leaves it. Resolves with where it listens. */
  async adopt(name: string): Promise<Address> {
    const { listen } = await this.#api.get(name);
    const address = splitAddress(listen);
    if (typeof address === 'string') throw new Error(address);
    const link = this.#enter(name, true);
    await this.#inTurn(link, () => this.#apply(link));
    return address;
  }

  /** The fault of one direction, instead of the one before; `upstream` is what flows to the link's upstream. `refused` is both directions'. */
  async set(name: string, fault: LinkFault | null, direction: Direction): Promise<void> {
    const link = this.#links.get(name);
    if (!link) throw new Error(`there is no link ${name}`);
    await this.#inTurn(link, () => {
      link.faults[direction] = fault;
      return this.#apply(link);
    });
  }

  /** All links are well. Every one is tried, also when some fail; then it rejects with their errors. */
  async healAll(): Promise<void> {
    const healed = [...this.#links.values()].map((link) =>
      this.#inTurn(link, () => {
        for (const direction of directions) link.faults[direction] = null;
        return this.#apply(link);
      }),
    );
    const failed = (await Promise.allSettled(healed)).filter((result) => result.status === 'rejected');
    if (failed.length === 0) return;
    const errors = failed.map(({ reason }) => reason as Error);
    throw new AggregateError(errors, errors.map(({ message }) => message).join('; '));
  }

  /** Deletes the proxies that were made here, and heals the others, as far as the server is still there. */
  async close(): Promise<void> {
    const links = [...this.#links.values()];
    this.#links.clear();
    const leave = (link: Link): Promise<void> => {
      if (!link.isAdopted) return this.#api.api.delete(this.#path(link));
      for (const direction of directions) link.faults[direction] = null;
      return this.#apply(link);
    };
    await Promise.allSettled(links.map((link) => this.#inTurn(link, () => leave(link))));
  }

  #enter(name: string, isAdopted: boolean): Link {
    const link: Link = { name, isAdopted, faults: { upstream: null, downstream: null }, turn: Promise.resolve() };
    this.#links.set(name, link);
    return link;
  }

  /** A failed change does not hold up those behind it. */
  #inTurn(link: Link, act: () => Promise<void>): Promise<void> {
    const done = link.turn.then(act);
    link.turn = done.catch(() => {});
    return done;
  }

  async #apply(link: Link): Promise<void> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.#reconcile(link);
      } catch (error) {
        if (attempt === attemptsMax) {
          const reason = error instanceof Error ? error.message : error;
          throw new Error(`link ${link.name}: ${reason}`, { cause: error });
        }
        await sleep(retryMilliseconds);
      }
    }
  }

  async #reconcile(link: Link): Promise<void> {
    const { api } = this.#api;
    const path = this.#path(link);
    const faults = directions.flatMap((direction) => {
      const fault = link.faults[direction];
      return fault ? [{ fault, direction }] : [];
    });
    const enabled = !faults.some(({ fault }) => fault.kind === 'refused');
    const wanted = faults.flatMap(({ fault, direction }) => toxicOf(fault, direction) ?? []);
    const { data: proxy } = await api.get<ProxyBody>(path);
    if (proxy.enabled && !enabled) await api.post(path, { enabled });
    // The new ones first: between two faults there is no well link.
    for (const toxic of wanted) {
      const present = proxy.toxics.find(({ name }) => name === toxic.name);
      if (!present) await api.post(`${path}/toxics`, toxic);
      else if (!isDeepStrictEqual(present.attributes, toxic.attributes) || present.toxicity !== 1)
        await api.post(`${path}/toxics/${toxic.name}`, { attributes: toxic.attributes, toxicity: 1 });
    }
    for (const { name } of proxy.toxics) {
      if (!wanted.some((toxic) => toxic.name === name)) await api.delete(`${path}/toxics/${name}`);
    }
    if (!proxy.enabled && enabled) await api.post(path, { enabled });
  }

  #path(link: Link): string {
    return `${this.#api.host}/proxies/${encodeURIComponent(link.name)}`;
  }
}

/** Null: no toxic does that. */
function toxicOf(fault: LinkFault, stream: Direction): ToxicBody | null {
  const toxic = (type: ToxicBody['type'], attributes: ToxicBody['attributes']): ToxicBody => {
    return { name: `${type}_${stream}`, type, stream, toxicity: 1, attributes };
  };
  switch (fault.kind) {
    case 'refused':
      return null;
    case 'cut':
      return toxic('timeout', { timeout: 0 });
    case 'latency':
      return toxic('latency', { latency: fault.milliseconds, jitter: fault.jitter });
    case 'bandwidth':
      return toxic('bandwidth', { rate: fault.kilobytesPerSecond });
    case 'slicer':
      return toxic('slicer', {
        average_size: fault.bytes,
        size_variation: Math.floor(fault.bytes / 2),
        delay: fault.microseconds,
      });
    case 'reset':
      return toxic('reset_peer', { timeout: fault.milliseconds });
    case 'limit':
      return toxic('limit_data', { bytes: fault.bytes });
    case 'slowClose':
      return toxic('slow_close', { delay: fault.milliseconds });
    default:
      throw new Error(`no such fault: ${fault satisfies never}`);
  }
}
