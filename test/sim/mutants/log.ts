// Mistakes in the log: writing, recovery, the manifest, compaction. Hunted in the simulation of one log, which starts a hundred times while a node of
// the whole cluster starts once.

import type { Mutant } from '../museum/mutant.ts';

type Row = Omit<Mutant, 'prey' | 'seedsMax' | 'profile'> & { readonly seedsMax?: number };

const rows: readonly Row[] = [
  {
    name: 'log-is-not-synced',
    pitfall: '2',
    mistake: 'the log is written and not synced',
    file: 'cluster/log/writer.ts',
    find: 'else handle.writeDurably(batch.buffers, batch.offset, written);',
    replace: 'else handle.write(batch.buffers, batch.offset, written);',
  },
  {
    name: 'durable-before-the-write-is-done',
    pitfall: '2',
    mistake: 'whoever waits for the disk is told before the write has come back',
    file: 'cluster/log/writer.ts',
    find: 'else this.#write(batch);',
    replace: 'else { this.#write(batch); for (const done of batch.callbacks.splice(0)) done(); }',
  },
  {
    name: 'sync-error-is-ignored',
    pitfall: '30',
    mistake: 'a write that failed counts as done',
    file: 'cluster/log/writer.ts',
    find: 'const written = (error) => { if (error !== null) return this.#fail(error);',
    replace: 'const written = (error) => {',
  },
  {
    name: 'manifest-truncations-are-forgotten',
    pitfall: 'A2',
    mistake: 'a truncation is forgotten once the file that it stood in is covered',
    file: 'cluster/log/recovery.ts',
    find: 'if (group.replica === replica) group.kill(truncation.from, truncation.position);',
    replace: '',
  },
  {
    name: 'torn-tail-stays',
    pitfall: '31',
    mistake: 'a torn tail is left in the file, and the next footer is written behind it',
    file: 'cluster/log/recovery.ts',
    find: 'if (handle.size > file.bytes) await handle.truncate(file.bytes);',
    replace: '',
    seedsMax: 1500,
  },
  {
    name: 'old-files-go-before-the-manifest',
    pitfall: 'A10',
    mistake: 'rewritten files are removed while the durable manifest still names them',
    file: 'cluster/log/folder.ts',
    find: 'await commit(applied); await manifest.save();',
    replace: 'await commit(applied); void manifest.save().catch(() => {});',
  },
  {
    name: 'kept-files-are-named-before-they-are-durable',
    pitfall: 'A10',
    mistake: 'what compaction wrote counts before it is synced',
    file: 'cluster/log/compactor.ts',
    find: 'await kept.finish(); isDone = this.#isSound();',
    replace: 'void kept.finish().catch(() => {}); isDone = this.#isSound();',
  },
  {
    name: 'compaction-ignores-what-happened-meanwhile',
    pitfall: 'A10',
    mistake: 'files are replaced though a group in them was emptied or cut off while they were rewritten',
    file: 'cluster/log/compactor.ts',
    find: 'if (this.#store.groups.get(group.group) !== group || group.epoch !== epoch) return false; if (group.hasEnded || group.installing || group.damage.length > 0) return false;',
    replace: '',
  },
  {
    name: 'kept-entries-of-before-a-reset-count',
    pitfall: 'A10',
    mistake: 'after a group was emptied, what compaction had kept of it before is its own again',
    file: 'cluster/log/recovery.ts',
    find: 'group.replica === part.replica && sequence >= group.keptFrom;',
    replace: 'group.replica === part.replica;',
  },
  {
    name: 'truncations-are-not-kept',
    pitfall: '9',
    mistake: 'the manifest does not keep the truncations of the files that it covers',
    file: 'cluster/log/collector.ts',
    find: 'return part !== undefined && part.replica === group.replica && part.lastStored >= from;',
    replace: 'return false;',
  },
  {
    name: 'reset-forgets-what-was-acknowledged',
    pitfall: '11',
    mistake: 'an emptied replica does not remember how far it had acknowledged',
    file: 'cluster/log/store.ts',
    find: 'this.#records.reset(known, Math.max(repairTo, known.repairTo), {',
    replace: 'this.#records.reset(known, repairTo, {',
  },
  {
    name: 'snapshot-installed-over-pending-writes',
    pitfall: '24',
    mistake: 'an installed snapshot counts while older writes, and what it says of them, are on their way to the disk',
    file: 'cluster/log/snapshots.ts',
    find: 'await life.flushed(records.writer); for (const file of kept.files) folder.add(file);',
    replace: 'void life.flushed(records.writer).catch(() => {}); for (const file of kept.files) folder.add(file);',
  },
  {
    name: 'snapshot-counts-before-what-it-replaces',
    pitfall: '24',
    mistake: 'a saved snapshot counts while entries that it replaces are on their way to the disk',
    file: 'cluster/log/snapshots.ts',
    find: 'if (group.durableIndex < meta.index) await life.flushed(records.writer);',
    replace: '',
  },
  {
    name: 'manifest-is-not-synced',
    pitfall: '24',
    mistake: 'a manifest takes its place before its name is durable, and files go by it',
    file: 'cluster/log/manifest.ts',
    find: "await disk.rename(temporaryPath, path); await disk.syncFolder('');",
    replace: 'await disk.rename(temporaryPath, path);',
  },
];

export const logMutants: readonly Mutant[] = rows.map((row) => ({
  ...row,
  prey: 'log',
  seedsMax: row.seedsMax ?? 400,
}));
