// All scenarios, in the order in which `all` runs them.

import type { Scenario } from '../types.ts';
import { calm } from './calm.ts';
import { clientScenarios, linkScenarios } from './links.ts';
import { machineScenarios } from './machines.ts';
import { monsoon } from './monsoon.ts';
import { processScenarios } from './processes.ts';

export const scenarios: readonly Scenario[] = [
  calm,
  ...processScenarios,
  ...linkScenarios,
  ...machineScenarios,
  ...clientScenarios,
  monsoon,
];
