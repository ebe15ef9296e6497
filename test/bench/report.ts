// What the load generator shows: where it ran, how far it is, tables and ratios. Figures are for people; `--json` has them raw.

import os from 'node:os';

export interface Environment {
  readonly date: string;
  readonly processor: string;
  readonly cores: number;
  readonly memoryGigabytes: number;
  readonly platform: string;
  readonly node: string;
}

export function environment(): Environment {
  return {
    date: new Date().toISOString(),
    processor: os.cpus()[0]?.model.trim() ?? 'unknown',
    cores: os.availableParallelism(),
    memoryGigabytes: Math.round(os.totalmem() / 2 ** 30),
    platform: `${os.platform()} ${os.release()} ${os.arch()}`,
    node: process.version,
  };
}

export function environmentText(at: Environment): string {
  return [
    `  date      ${at.date}`,
    `  processor ${at.processor}, ${at.cores} cores, ${at.memoryGigabytes} GiB`,
    `  system    ${at.platform}, Node ${at.node}`,
  ].join('\n');
}

/** Columns as wide as their widest cell; the first is left-aligned, the others too unless they are figures. */
export function tableText(
  header: readonly string[],
  rows: readonly (readonly string[])[],
  others: 'figures' | 'text' = 'figures',
): string {
  const widths = header.map((title, i) => Math.max(title.length, ...rows.map((row) => row[i]?.length ?? 0)));
  const line = (cells: readonly string[]) =>
    cells
      .map((cell, i) => (i === 0 || others === 'text' ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!)))
      .join('  ')
      .trimEnd();
  return [line(header), widths.map((width) => '-'.repeat(width)).join('  '), ...rows.map(line)].join('\n');
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = Math.floor(sorted.length / 2);
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

export function count(value: number): string {
  return Math.round(value).toLocaleString('en');
}

export function milliseconds(value: number): string {
  return value < 10 ? value.toFixed(2) : value < 100 ? value.toFixed(1) : count(value);
}

export function bytes(value: number): string {
  if (value >= 1024 * 1024 && value % (1024 * 1024) === 0) return `${value / 1024 / 1024} MiB`;
  return value >= 1024 && value % 1024 === 0 ? `${value / 1024} KiB` : `${value} B`;
}

/** One line on the terminal that is written over; nothing at all where there is no terminal. */
export class ProgressLine {
  readonly #out = process.stderr;
  #text = '';

  show(text: string): void {
    if (!this.#out.isTTY) return;
    this.#text = text.slice(0, this.#out.columns - 1);
    this.#out.write(`\r\x1b[2K${this.#text}`);
  }

  clear(): void {
    if (this.#text !== '') this.#out.write('\r\x1b[2K');
    this.#text = '';
  }
}
