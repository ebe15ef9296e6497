// Where a node's settings come from: flags over environment over config file over defaults. Every value remembers its source, so that
// an error can name it. Reads one file at most, writes nothing.

import { readFileSync } from 'node:fs';
import {
  allowedText,
  defaultSettings,
  type Key,
  type KeySpec,
  keys,
  type NodeConfig,
  parseValue,
  resolveConfig,
  type Settings,
  valueText,
  withDerivedDefaults,
} from './config.ts';

export interface ConfigSources {
  /** After `warren node`: `--key value` or `--key=value`, and `--config FILE`. */
  readonly flags: readonly string[];
  readonly environment: Readonly<Record<string, string | undefined>>;
  /** For tests. */
  readonly readFile?: (path: string) => string;
}

/** `error`: one line that names key, value, what is allowed, and where the value came from. */
export type ConfigResult =
  | { readonly ok: true; readonly config: NodeConfig }
  | { readonly ok: false; readonly error: string };

/** One value as it was written, and where. */
interface Given {
  readonly value: string;
  readonly source: string;
}
type Gathered = { readonly ok: true; readonly given: Map<Key, Given> } | { readonly ok: false; readonly error: string };

const fail = (error: string): { readonly ok: false; readonly error: string } => ({ ok: false, error });
const isKey = (name: string): name is Key => Object.hasOwn(keys, name);
const shownBytesMax = 120;

/** The environment variable of a key: WARREN_AMQP_PORT for amqp.port. */
export const environmentName = (key: string): string => `WARREN_${key.toUpperCase().replaceAll('.', '_')}`;

const keyOfEnvironment = new Map((Object.keys(keys) as Key[]).map((key) => [environmentName(key), key]));

/** Kubernetes adds these by itself for a service called "warren". */
const injected = /^WARREN_(SERVICE_(HOST|PORT(_.*)?)|PORT|PORT_[0-9]+_.*)$/;

export function readConfig(sources: ConfigSources): ConfigResult {
  const flags = gatherFlags(sources.flags);
  if (!flags.ok) return flags;
  const environment = gatherEnvironment(sources.environment);
  if (!environment.ok) return environment;
  let file: Gathered = { ok: true, given: new Map() };
  const path = flags.configFile ?? sources.environment.WARREN_CONFIG;
  if (path !== undefined) {
    file = gatherFile(path, sources.readFile ?? ((name) => readFileSync(name, 'utf8')));
    if (!file.ok) return file;
  }
  const given = new Map([...file.given, ...environment.given, ...flags.given]);
  const settings: Record<string, Settings[Key]> = { ...defaultSettings() };
  for (const [key, { value, source }] of given) {
    const parsed = parseValue(key, value);
    if (!parsed.ok) return fail(`${key} = ${shown(key, value)} (${source}): must be ${parsed.allowed}`);
    settings[key] = parsed.value;
  }
  const whole = withDerivedDefaults(settings as unknown as Settings, (key) => given.has(key));
  const config = resolveConfig(whole);
  if (!('key' in config)) return { ok: true, config };
  const { value, source } = given.get(config.key) ?? {
    value: valueText(config.key, whole[config.key]),
    source: 'default',
  };
  return fail(`${config.key} = ${shown(config.key, value)} (${source}): must be ${config.allowed}`);
}

function gatherFlags(flags: readonly string[]): Gathered & { readonly configFile?: string } {
  const given = new Map<Key, Given>();
  let configFile: string | undefined;
  for (let at = 0; at < flags.length; at++) {
    const flag = flags[at] ?? '';
    if (!flag.startsWith('--') || flag === '--')
      return fail(`unexpected argument "${flag}": settings are given as --key value`);
    const equals = flag.indexOf('=');
    const name = flag.slice(2, equals < 0 ? undefined : equals);
    if (name !== 'config' && !isKey(name)) return fail(unknownKey(name, `flag --${name}`));
    const value = equals < 0 ? flags[++at] : flag.slice(equals + 1);
    if (value === undefined) return fail(`flag --${name}: a value must follow`);
    if (name === 'config') configFile = value;
    else given.set(name, { value, source: `flag --${name}` });
  }
  return configFile === undefined ? { ok: true, given } : { ok: true, given, configFile };
}

function gatherEnvironment(environment: ConfigSources['environment']): Gathered {
  const given = new Map<Key, Given>();
  for (const [name, value] of Object.entries(environment)) {
    if (!name.startsWith('WARREN_') || value === undefined || name === 'WARREN_CONFIG' || injected.test(name)) continue;
    const key = keyOfEnvironment.get(name);
    if (key === undefined) {
      return fail(
        unknownKey(name.slice('WARREN_'.length).toLowerCase().replaceAll('_', '.'), `environment variable ${name}`),
      );
    }
    given.set(key, { value, source: `environment variable ${name}` });
  }
  return { ok: true, given };
}

/** Lines `key = value`; blank lines and lines that begin with # say nothing. */
function gatherFile(path: string, readFile: (path: string) => string): Gathered {
  let content: string;
  try {
    content = readFile(path);
  } catch (error) {
    return fail(`config file ${path}: cannot be read (${(error as NodeJS.ErrnoException).code ?? String(error)})`);
  }
  const given = new Map<Key, Given>();
  for (const [at, raw] of content
    .replace(/^\uFEFF/, '')
    .split('\n')
    .entries()) {
    const line = raw.trim();
    if (line === '' || line.startsWith('#')) continue;
    const source = `${path} line ${at + 1}`;
    const equals = line.indexOf('=');
    // The line may hold a misspelt secret, so it is not repeated.
    if (equals < 0) return fail(`${source}: must be "key = value", a comment that begins with #, or empty`);
    const key = line.slice(0, equals).trim();
    if (!isKey(key)) return fail(unknownKey(key, source));
    const before = given.get(key);
    if (before !== undefined) return fail(`${key} (${source}): already given at ${before.source}`);
    given.set(key, { value: line.slice(equals + 1).trim(), source });
  }
  return { ok: true, given };
}

function unknownKey(name: string, source: string): string {
  const family = Object.keys(keys).filter((key) => key.split('.')[0] === name.split('.')[0]);
  const hint = family.length > 0 ? `known are ${family.join(', ')}` : '"warren node --help" lists all keys';
  return `unknown key "${name}" (${source}): ${hint}`;
}

function shown(key: Key, value: string): string {
  const spec: KeySpec = keys[key];
  if (spec.kind === 'text' && spec.secret && value !== spec.default) return '(hidden)';
  return JSON.stringify(value.length > shownBytesMax ? `${value.slice(0, shownBytesMax)}…` : value);
}

/** The text of `warren node --help`. */
export function nodeHelp(): string {
  const lines = [
    'usage: warren node [--config FILE] [--KEY VALUE]...',
    '',
    'Runs one node until SIGTERM or SIGINT. A setting comes from, in this order: a flag --KEY VALUE; an environment variable',
    '(WARREN_AMQP_PORT for amqp.port; WARREN_CONFIG names the file); the config file, with lines "KEY = VALUE" and # comments;',
    'its default.',
    '',
  ];
  const defaults = defaultSettings();
  for (const key of Object.keys(keys) as Key[]) {
    const value = valueText(key, defaults[key]);
    lines.push(
      `  ${key}${value === '' ? '' : ` = ${value}`}`,
      `      ${keys[key].doc}`,
      `      ${allowedText(keys[key])}`,
    );
  }
  return lines.join('\n');
}
