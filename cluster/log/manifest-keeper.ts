// Writes the manifests of a log that is open, one after the other: each says at least what was true when it was asked for.
//
// State owned: the generations of the manifest; which log files it covers, with the control state of all groups at their end; whether one is
// being written, and one waits.
//
// Invariants:
//   - what is covered moves on only when a file is sealed: control state in later files is replayed when the log is opened;
//   - files that are made name the generation whose two copies are durable; `lastGeneration` is that of the last one that was begun;
//   - one manifest is written at a time; a failure ends the log.

import type { Disk } from '../ports.ts';
import { FileKind } from './codec.ts';
import { type Captured, capture, describeFile, manifestGroups } from './covered.ts';
import type { LogEnd } from './end-mark.ts';
import type { LogFile } from './files.ts';
import type { GroupLog } from './group.ts';
import type { Life } from './life.ts';
import { type Manifest, writeManifest } from './manifest.ts';
import type { FileOwner, Identity } from './writer.ts';

export interface ManifestContext {
  readonly disk: Disk;
  readonly identity: Identity;
  readonly life: Life;
  readonly groups: ReadonlyMap<number, GroupLog>;
  /** Those that count, by sequence. */
  files(): readonly LogFile[];
  nextSequence(): number;
  /** The end of what is durable of the file that is being written. */
  durable(): LogEnd;
}

export class ManifestKeeper {
  readonly #context: ManifestContext;
  /** Who makes files, as they say in their headers. */
  readonly owner: FileOwner;
  /** As far as both copies are durable. */
  #generation: number;
  #lastGeneration: number;
  #captured: Captured;
  #running: Promise<void> = Promise.resolve();
  #waiting: Promise<void> | null = null;

  constructor(context: ManifestContext, found: { readonly generation: number; readonly coveredTo: number }) {
    const { clusterId, nodeUuid } = context.identity;
    this.#context = context;
    this.owner = { clusterId, nodeUuid, generation: () => this.#generation };
    this.#generation = found.generation;
    this.#lastGeneration = found.generation;
    this.#captured = this.capture(found.coveredTo);
  }

  /** Of the last one that was begun. */
  get lastGeneration(): number {
    return this.#lastGeneration;
  }
  /** Log files up to here are covered by the next manifest. */
  get coveredTo(): number {
    return this.#captured.coveredTo;
  }

  /** The control state of all groups now, at the end of this file. */
  capture(sequence: number): Captured {
    return capture(this.#context.groups.values(), sequence);
  }

  /** The file at whose end this was captured is sealed. */
  cover(captured: Captured): void {
    this.#captured = captured;
  }

  /** Writes a manifest that says at least what is true now. Those that are asked for while one is being written share the next. */
  save(): Promise<void> {
    this.#waiting ??= this.#running.then(() => {
      this.#waiting = null;
      this.#running = this.#context.life.guard(this.write());
      return this.#running;
    });
    return this.#waiting;
  }

  /** The first one of this run, before anybody can ask for others. */
  async write(): Promise<void> {
    const manifest = this.#manifest();
    await writeManifest(this.#context.disk, manifest);
    this.#generation = manifest.generation;
  }

  /** The one that is being written has come to an end, whichever. */
  ended(): Promise<void> {
    return this.#running.catch(() => {});
  }

  #manifest(): Manifest {
    const { groups, identity, files: allFiles, durable, nextSequence } = this.#context;
    const { clusterId, nodeUuid } = identity;
    const { coveredTo } = this.#captured;
    const files = allFiles();
    const covered = (kind: FileKind) =>
      files.filter((file) => file.kind === kind && (kind === FileKind.kept || file.sequence <= coveredTo));
    return {
      clusterId,
      nodeUuid,
      generation: ++this.#lastGeneration,
      coveredTo,
      files: covered(FileKind.log).map(describeFile),
      keptFiles: covered(FileKind.kept).map(describeFile),
      durable: { ...durable() },
      nextSequence: nextSequence(),
      groups: manifestGroups(groups.values(), this.#captured, files),
    };
  }
}
