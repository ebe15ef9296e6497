// A loader hook of Node, in its own thread: gives one file with a mutant's edit in it, and every other file as it is.
//
// State owned: which mutant.

import { pathToFileURL } from 'node:url';
import { applyEdit, type Mutant } from './mutant.ts';

interface Loaded {
  readonly format: string;
  readonly source?: string | Uint8Array;
  readonly shortCircuit?: boolean;
}

let mutant: Mutant | null = null;
let url = '';

export function initialize(data: { readonly mutant: Mutant; readonly path: string }): void {
  mutant = data.mutant;
  url = pathToFileURL(data.path).href;
}

export async function load(
  wanted: string,
  context: unknown,
  nextLoad: (wanted: string, context: unknown) => Promise<Loaded>,
): Promise<Loaded> {
  const loaded = await nextLoad(wanted, context);
  if (mutant === null || wanted !== url) return loaded;
  return { ...loaded, source: applyEdit(Buffer.from(loaded.source ?? '').toString(), mutant) };
}
