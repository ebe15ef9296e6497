// All mutants of the museum, and the pitfalls that are none.

import type { Mutant, NoMutant } from '../museum/mutant.ts';
import { clusterMutants, clusterNoMutants } from './cluster.ts';
import { logMutants } from './log.ts';
import { membershipMutants, membershipNoMutants } from './membership.ts';
import { raftMutants, raftNoMutants } from './raft.ts';
import { seeds } from './seeds.ts';

export const mutants: readonly Mutant[] = [...raftMutants, ...logMutants, ...clusterMutants, ...membershipMutants].map(
  (mutant) => {
    const seed = seeds[mutant.name];
    return seed === undefined ? mutant : { ...mutant, seed };
  },
);
export const noMutants: readonly NoMutant[] = [...raftNoMutants, ...clusterNoMutants, ...membershipNoMutants];
