// The workloads that seeds draw from; `plan.ts` adds `declaring`. A new feature adds its own here.

import type { Workload } from '../workload.ts';
import { competing } from './competing.ts';
import { fanout } from './fanout.ts';
import { getting } from './getting.ts';
import { keeping } from './keeping.ts';
import { large } from './large.ts';
import { letters } from './letters.ts';
import { redeclaring } from './redeclaring.ts';
import { replying } from './replying.ts';

export const workloads: readonly Workload[] = [
  competing,
  getting,
  redeclaring,
  fanout,
  replying,
  letters,
  large,
  keeping,
];
