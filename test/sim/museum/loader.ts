// A loader hook of Node, in its own thread: gives files with a mutant's edits in them, and every other file as it is.
//
// State owned: which mutant.

import { pathToFileURL } from 'node:url';
import { applyEdit, type Edit, editsOf, type Mutant } from './mutant.ts';

interface Loaded {
  readonly format: string;
  readonly source?: string | Uint8Array;
  readonly shortCircuit?: boolean;
}

let name = '';
let edits: readonly { readonly url: string; readonly edit: Edit }[] = [];

/** `paths`: the compiled files of the mutant's edits. */
export function initialize({ mutant, paths }: { readonly mutant: Mutant; readonly paths: readonly string[] }): void {
  name = mutant.name;
  edits = editsOf(mutant).map((edit, place) => ({ url: pathToFileURL(paths[place]!).href, edit }));
}

export async function load(
  wanted: string,
  context: unknown,
  nextLoad: (wanted: string, context: unknown) => Promise<Loaded>,
): Promise<Loaded> {
  const loaded = await nextLoad(wanted, context);
  const here = edits.filter(({ url }) => url === wanted);
  if (here.length === 0) return loaded;
  const source = Buffer.from(loaded.source ?? '').toString();
  return { ...loaded, source: here.reduce((edited, { edit }) => applyEdit(edited, name, edit), source) };
}
