// The reports of a chaos run, as files: for people (one HTML page that needs no network), for programs (JSON), for CI servers (JUnit XML).

import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { ChaosReport } from '../types.ts';
import { htmlOf } from './html.ts';
import { junitOf } from './junit.ts';

export { htmlOf, junitOf };

export function jsonOf(report: ChaosReport): string {
  return `${JSON.stringify(report, null, 1)}\n`;
}

/** Returns the paths of what it wrote, the page first. The folder is made; older reports in it are replaced. */
export function writeReports(report: ChaosReport, folder: string): string[] {
  mkdirSync(folder, { recursive: true });
  const files = { 'report.html': htmlOf(report), 'report.json': jsonOf(report), 'junit.xml': junitOf(report) };
  return Object.entries(files).map(([name, text]) => {
    const path = join(folder, name);
    writeFileSync(path, text);
    return path;
  });
}
