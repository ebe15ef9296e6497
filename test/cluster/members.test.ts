// What a shard's leader does about a placement, and when it says that it is done. With a core, metadata and peers that are only told.

import type { Configuration } from 'raft-ts';
import { initialConfiguration } from 'raft-ts';
import { beforeEach, describe, expect, test } from 'vitest';
import type { Group } from '../../cluster/group/group.ts';
import { Members, type MembersContext } from '../../cluster/leading/members.ts';
import type { Placement } from '../../cluster/machine/metadata-types.ts';

const shard = 1;

class World {
  placement: Placement = { voters: [1, 2, 3], target: null, version: 0 };
  configuration: Configuration = initialConfiguration([1, 2, 3]);
  /** The version that the shard's log knows, and that this node has come to. */
  known = 0;
  metadataVersion = 30;
  readonly done: string[] = [];
  readonly members: Members;

  constructor() {
    const world = this;
    const raft = {
      commit: 9,
      status: () => ({
        configuration: this.configuration,
        transferee: 0,
        progress: [1, 2, 3].map((id) => ({ id, active: true })),
      }),
      configurationAt: () => this.configuration,
      proposeConfiguration: (voters: readonly number[], learners: readonly number[]) => {
        this.done.push(`change to ${voters} and ${learners}`);
        return { ok: true };
      },
    };
    const context = {
      node: 1,
      metadata: {
        get appliedIndex() {
          return world.metadataVersion;
        },
        placement: () => this.placement,
      },
      groups: new Map([[shard, { id: shard, leads: true, raft } as unknown as Group]]),
      shards: new Map([
        [
          shard,
          {
            get metadataVersion() {
              return world.known;
            },
          },
        ],
      ]),
      peers: { get: () => ({ metadataApplied: 30 }) },
      pipe: { isStalled: false, metadata: (json: string) => this.done.push(json) },
      report: () => {},
      recordVersion: () => this.done.push('record'),
      teach: () => {},
      dirty: () => {},
    } as unknown as MembersContext;
    this.members = new Members(context);
  }

  /** What the leader does now. */
  drive(): string[] {
    this.done.length = 0;
    this.members.drive();
    return [...this.done];
  }
}

let world: World;
beforeEach(() => {
  world = new World();
});

const placed = (voters: readonly number[], version: number) =>
  JSON.stringify({ kind: 'placed', group: shard, voters, version });

describe('the leader of a shard', () => {
  test('has nothing to do where the shard is where it should be', () => {
    expect(world.drive()).toEqual([]);
  });

  test('writes the version of a move down, acts by it, and says that it is done', () => {
    world.placement = { voters: [1, 2, 3], target: [1], version: 20 };
    expect(world.drive()).toEqual(['record']);
    world.known = 25;
    expect(world.drive()).toEqual(['change to 1 and ']);
    world.configuration = initialConfiguration([1]);
    expect(world.drive()).toEqual([placed([1], 20)]);
  });

  test('writes the version down too where an earlier move has brought the shard, before it says so', () => {
    // The first move was taken back, and so was what took it back: a leader that knows only that one would go where replicas are dropped.
    world.placement = { voters: [1, 2, 3], target: [1], version: 23 };
    world.configuration = initialConfiguration([1]);
    world.known = 20;
    expect(world.drive()).toEqual(['record']);
    world.known = 24;
    expect(world.drive()).toEqual([placed([1], 23)]);
  });

  test('does nothing by metadata that are older than what an earlier leader acted by', () => {
    world.placement = { voters: [1, 2, 3], target: [1], version: 20 };
    Object.assign(world, { known: 25, metadataVersion: 24 });
    expect(world.drive()).toEqual([]);
  });
});
