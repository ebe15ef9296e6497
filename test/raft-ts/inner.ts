// Inner parts of raft-ts, for the tests that look at one alone. Loaded by path: the package's door does not offer them.

import type * as ConfigurationPart from '../../cluster/raft-ts/src/configuration.ts';
import type * as LogShapePart from '../../cluster/raft-ts/src/log-shape.ts';

const load = (file: string) => import(new URL(`../../cluster/raft-ts/src/${file}`, import.meta.url).href);

export const configurationPart = (await load('configuration.ts')) as typeof ConfigurationPart;
export const logShapePart = (await load('log-shape.ts')) as typeof LogShapePart;
