// The pipe table: batches are applied once and in order, ended incarnations stay ended, results wait for their acknowledgement.

import { describe, expect, it } from 'vitest';
import { type BatchHeader, type Origin, OriginKind, ResultCode } from '../../cluster/machine/commands.ts';
import { PipeTable } from '../../cluster/machine/pipes.ts';
import { nodeOrigin } from './shard-support.ts';

const header = (origin: Origin, sequence: number, resultsAcknowledged = 0): BatchHeader => ({
  ...origin,
  sequence,
  metadataVersion: 0,
  resultsAcknowledged,
  commandCount: 0,
  tableOffset: 56,
  settleOffset: 56,
  settleCount: 0,
});

describe('admission', () => {
  it('applies 1, 2, 3 … once each, and counts gaps', () => {
    const table = new PipeTable();
    const one = nodeOrigin(1);
    expect(table.admit(header(one, 2))).toBe('gap');
    expect(table.admit(header(one, 1))).toBe('apply');
    expect(table.admit(header(one, 1))).toBe('duplicate');
    expect(table.admit(header(one, 3))).toBe('gap');
    expect(table.admit(header(one, 2))).toBe('apply');
    expect(table.lastSequence({ node: 1, incarnation: 1 })).toBe(2);
    expect(table.gaps).toBe(2);
  });

  it('keeps a node and a group with the same number apart', () => {
    const table = new PipeTable();
    expect(table.admit(header(nodeOrigin(1), 1))).toBe('apply');
    expect(table.admit(header({ kind: OriginKind.group, id: 1, incarnation: 1 }, 1))).toBe('apply');
    table.fence(1, 1);
    expect(table.isFenced({ node: 1, incarnation: 1 })).toBe(true);
    expect(table.isEnded({ kind: OriginKind.group, id: 1, incarnation: 1 })).toBe(false);
    expect(table.admit(header({ kind: OriginKind.group, id: 1, incarnation: 1 }, 2))).toBe('apply');
  });

  it('ends lower incarnations with the first batch of a higher one', () => {
    const ended: Origin[] = [];
    const table = new PipeTable((origin) => ended.push(origin));
    table.admit(header(nodeOrigin(1, 4), 1));
    // Not its first batch: nothing happens.
    expect(table.admit(header(nodeOrigin(1, 6), 2))).toBe('gap');
    expect(ended).toEqual([]);
    expect(table.admit(header(nodeOrigin(1, 6), 1))).toBe('apply');
    expect(ended).toEqual([nodeOrigin(1, 4)]);
    expect(table.admit(header(nodeOrigin(1, 4), 2))).toBe('fenced');
    expect(table.admit(header(nodeOrigin(1, 5), 1))).toBe('fenced');
    expect(table.isFenced({ node: 1, incarnation: 5 })).toBe(true);
    expect(table.isFenced({ node: 1, incarnation: 6 })).toBe(false);
    expect(table.lastSequence({ node: 1, incarnation: 4 })).toBe(0);
  });

  it('refuses an incarnation that was fenced before its first batch', () => {
    const ended: Origin[] = [];
    const table = new PipeTable((origin) => ended.push(origin));
    table.fence(2, 7);
    expect(table.admit(header(nodeOrigin(2, 7), 1))).toBe('fenced');
    expect(table.admit(header(nodeOrigin(2, 8), 1))).toBe('apply');
    table.fence(2, 3);
    expect(table.isFenced({ node: 2, incarnation: 8 })).toBe(false);
    expect(ended).toEqual([]);
    table.fence(2, 9);
    expect(ended).toEqual([nodeOrigin(2, 8)]);
    expect([...table.open()]).toEqual([]);
  });
});

describe('results', () => {
  it('are kept until a later batch says that they were read', () => {
    const table = new PipeTable();
    const pipe = { node: 1, incarnation: 1 };
    for (let sequence = 1; sequence <= 3; sequence++) {
      table.admit(header(nodeOrigin(1), sequence));
      table.keep(nodeOrigin(1), 0, ResultCode.leased, sequence, 5);
      table.keep(nodeOrigin(1), 4, ResultCode.empty, 0, 0);
    }
    expect(table.results(pipe).map((r) => `${r.sequence}/${r.ordinal}`)).toEqual([
      '1/0',
      '1/4',
      '2/0',
      '2/4',
      '3/0',
      '3/4',
    ]);
    // A batch that is not applied acknowledges nothing.
    table.admit(header(nodeOrigin(1), 3, 2));
    expect(table.results(pipe)).toHaveLength(6);
    table.admit(header(nodeOrigin(1), 4, 2));
    expect(table.results(pipe)).toEqual([
      { sequence: 3, ordinal: 0, code: ResultCode.leased, value: 3, extra: 5 },
      { sequence: 3, ordinal: 4, code: ResultCode.empty, value: 0, extra: 0 },
    ]);
    table.fence(1, 1);
    expect(table.results(pipe)).toEqual([]);
    table.admit(header(nodeOrigin(1, 2), 1));
    expect(table.results({ node: 1, incarnation: 2 })).toEqual([]);
    expect(() => table.keep(nodeOrigin(1), 0, ResultCode.empty, 0, 0)).toThrow('not open');
  });
});

describe('snapshot', () => {
  it('restores the table, and is the same for equal tables of another history', () => {
    const build = (nodes: readonly number[]): PipeTable => {
      const table = new PipeTable();
      for (const node of nodes) {
        table.admit(header(nodeOrigin(node, 2 ** 40), 1));
        table.keep(nodeOrigin(node, 2 ** 40), 3, ResultCode.noQueue, 2 ** 45, node);
      }
      table.fence(9, 2 ** 50);
      return table;
    };
    const table = build([1, 2, 3]);
    const other = build([3, 1, 2]);
    expect(other.serialise().equals(table.serialise())).toBe(true);
    expect(other.hash()).toBe(table.hash());
    const restored = new PipeTable();
    restored.restore(table.serialise());
    expect(restored.hash()).toBe(table.hash());
    expect(restored.serialise().equals(table.serialise())).toBe(true);
    expect(restored.isFenced({ node: 9, incarnation: 2 ** 50 })).toBe(true);
    expect(restored.results({ node: 2, incarnation: 2 ** 40 })).toEqual(
      table.results({ node: 2, incarnation: 2 ** 40 }),
    );
    expect(restored.admit(header(nodeOrigin(2, 2 ** 40), 2, 1))).toBe('apply');
    expect(restored.hash()).not.toBe(table.hash());
    expect(() => restored.restore(table.serialise().subarray(0, 40))).toThrow('too early');
  });
});
