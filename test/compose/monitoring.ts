// What the profile monitoring shows, for test/compose.sh, which starts this program:
//
//   monitoring.js shown URL DASHBOARD      the Prometheus there hears three nodes, can tell all rules, and has an answer for each panel
//   monitoring.js alarmed URL ALERT NODE   it finds that alert at that node, soon
//
// Exit code 0 only if it is so, within a minute. Source of the API: https://prometheus.io/docs/prometheus/latest/querying/api/

import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { request } from 'undici';

const millisecondsMax = 60_000;
const pollMilliseconds = 500;
/** What Grafana puts in place of its variables: four scrapes, and all nodes. */
const variables: readonly (readonly [string, string])[] = [
  ['$__rate_interval', '20s'],
  ['$instance', '.*'],
];

interface Dashboard {
  readonly panels: readonly { readonly title: string; readonly targets?: readonly { readonly expr: string }[] }[];
}
interface Targets {
  readonly activeTargets: readonly {
    readonly scrapeUrl: string;
    readonly health: string;
    readonly lastError: string;
  }[];
}
interface Rules {
  readonly groups: readonly {
    readonly rules: readonly { readonly name: string; readonly health: string; readonly lastError?: string }[];
  }[];
}
interface Alerts {
  readonly alerts: readonly { readonly labels: Readonly<Record<string, string>>; readonly state: string }[];
}

const [command, url = '', ...rest] = process.argv.slice(2);

async function ask<T>(path: string, query: Readonly<Record<string, string>> = {}): Promise<T> {
  const { body } = await request(`${url}/api/v1/${path}`, { query });
  const { status, data, error } = (await body.json()) as { status: string; data: T; error?: string };
  if (status !== 'success') throw new Error(`${path} ${JSON.stringify(query)}: ${error}`);
  return data;
}

/** What is still missing; nothing: it is all there. */
async function missing(): Promise<string[]> {
  if (command === 'alarmed') {
    const [name, node] = rest;
    const { alerts } = await ask<Alerts>('alerts');
    const isFound = alerts.some(({ labels }) => labels.alertname === name && labels.instance === node);
    return isFound
      ? []
      : [`${name} is not found at ${node}, only ${JSON.stringify(alerts.map(({ labels }) => labels))}`];
  }
  const wrong: string[] = [];
  const { activeTargets } = await ask<Targets>('targets');
  if (activeTargets.length !== 3) wrong.push(`${activeTargets.length} nodes are asked, not 3`);
  for (const { scrapeUrl, health, lastError } of activeTargets)
    if (health !== 'up') wrong.push(`${scrapeUrl} is ${health}: ${lastError}`);
  const rules = (await ask<Rules>('rules')).groups.flatMap((group) => group.rules);
  if (rules.length === 0) wrong.push('there are no rules');
  for (const { name, health, lastError } of rules)
    if (health !== 'ok') wrong.push(`${name} is ${health}: ${lastError}`);
  const { panels } = JSON.parse(readFileSync(rest[0]!, 'utf8')) as Dashboard;
  for (const { title, targets = [] } of panels)
    for (const { expr } of targets) {
      const query = variables.reduce((text, [name, value]) => text.replaceAll(name, value), expr);
      const { result } = await ask<{ readonly result: readonly unknown[] }>('query', { query });
      if (result.length === 0) wrong.push(`"${title}" shows nothing: ${query}`);
    }
  return wrong;
}

let wrong = ['nothing was asked'];
for (const until = performance.now() + millisecondsMax; wrong.length > 0 && performance.now() < until; ) {
  wrong = await missing().catch((error: Error) => [error.message]);
  if (wrong.length > 0) await sleep(pollMilliseconds);
}
for (const what of wrong) console.error(`monitoring: ${what}`);
if (wrong.length > 0) process.exitCode = 1;
