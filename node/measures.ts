// What is measured of a node, as /metrics tells it: its process, its part of the cluster, its clients.
//
// State owned: sums of garbage collections, which are heard of from the runtime. Everything else is read when it is asked for.

import {
  constants,
  type EventLoopUtilization,
  type PerformanceEntry,
  PerformanceObserver,
  performance,
} from 'node:perf_hooks';
import type { ClusterMeasures, ClusterStatus } from '../cluster/index.ts';
import type { AmqpMeasures } from './amqp/server.ts';
import { EventLoopDelay, type LongestDelay } from './event-loop.ts';
import { readVersion } from './version.ts';

export interface Measures {
  readonly process: ProcessMeasures;
  /** Null before the data folder is open. */
  readonly cluster: (ClusterMeasures & { readonly status: ClusterStatus }) | null;
  /** Null likewise. */
  readonly clients: (AmqpMeasures & { readonly consumers: number; readonly unroutable: number }) | null;
}

export interface ProcessMeasures {
  readonly version: string;
  readonly nodeVersion: string;
  /** Seconds since 1970. */
  readonly startedAt: number;
  readonly uptimeSeconds: number;
  /** In microseconds. */
  readonly cpu: NodeJS.CpuUsage;
  readonly memory: NodeJS.MemoryUsage;
  /** In milliseconds, since the start. */
  readonly eventLoop: Pick<EventLoopUtilization, 'active' | 'idle'>;
  readonly longestDelay: LongestDelay;
  readonly collections: ReadonlyMap<string, { readonly count: number; readonly milliseconds: number }>;
}

const collectionKinds: readonly (readonly [kind: number, name: string])[] = [
  [constants.NODE_PERFORMANCE_GC_MINOR, 'minor'],
  [constants.NODE_PERFORMANCE_GC_MAJOR, 'major'],
  [constants.NODE_PERFORMANCE_GC_INCREMENTAL, 'incremental'],
  [constants.NODE_PERFORMANCE_GC_WEAKCB, 'weak'],
];

export class ProcessWatch {
  readonly #version = readVersion();
  readonly #delay = new EventLoopDelay();
  readonly #collections = new Map(collectionKinds.map(([, name]) => [name, { count: 0, milliseconds: 0 }]));
  readonly #observer: PerformanceObserver;

  constructor() {
    const byKind = new Map(collectionKinds.map(([kind, name]) => [kind, this.#collections.get(name)!]));
    this.#observer = new PerformanceObserver((list) => {
      for (const entry of list.getEntries()) {
        const { duration, detail } = entry as PerformanceEntry & { readonly detail?: { readonly kind?: number } };
        const sum = byKind.get(detail?.kind ?? 0);
        if (sum === undefined) continue;
        sum.count++;
        sum.milliseconds += duration;
      }
    });
    this.#observer.observe({ entryTypes: ['gc'] });
  }

  get longestDelay(): LongestDelay {
    return this.#delay.longest;
  }

  read(): ProcessMeasures {
    return {
      version: this.#version,
      nodeVersion: process.version,
      startedAt: performance.timeOrigin / 1000,
      uptimeSeconds: performance.now() / 1000,
      cpu: process.cpuUsage(),
      memory: process.memoryUsage(),
      eventLoop: performance.eventLoopUtilization(),
      longestDelay: this.#delay.longest,
      collections: this.#collections,
    };
  }

  stop(): void {
    this.#delay.stop();
    this.#observer.disconnect();
  }
}
