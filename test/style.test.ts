// The style test: who may import whom, what pure code must not touch, and the few rules of form that a linter does not know.
//
// Each file belongs to one zone, the first whose pattern fits. A zone says which zones it may import, and of which it may only know the
// types. Files are parsed, not searched: a word in a comment or a string breaks nothing.
//
// A failure names file and line and says what to do. When the architecture changes, change the table here in the same commit.

import { readdirSync, readFileSync } from 'node:fs';
import { posix } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { parseAst } from 'vitest/node';

const folders = ['node', 'cluster', 'test', 'chaos'];
const fileLinesMax = 900;
/** Tests shorter than this need no header. */
const plainTestLines = 30;

type ZoneName =
  | 'raft-ts'
  | 'machine'
  | 'ports'
  | 'os'
  | 'transport'
  | 'log'
  | 'cluster/index'
  | 'host'
  | 'errors'
  | 'codec'
  | 'backend'
  | 'session'
  | 'channel'
  | 'cli'
  | 'http'
  | 'broker'
  | 'process'
  | 'history'
  | 'chaos'
  | 'test';

interface Zone {
  readonly name: ZoneName;
  readonly files: RegExp;
  readonly imports: readonly ZoneName[];
  /** Zones of which only types may be imported. */
  readonly types?: readonly ZoneName[];
  /** Modules of Node and npm: none, those that only compute, or all. */
  readonly modules: 'none' | 'computing' | 'all';
  /** `pure`: no clock, randomness, timers, promises, process. `ports`: no clock, randomness, timers, process: those come in as ports. */
  readonly globals: 'pure' | 'ports' | 'all';
}

const inCluster: readonly ZoneName[] = ['raft-ts', 'machine', 'ports', 'transport', 'log', 'host'];
const inNode: readonly ZoneName[] = [
  'errors',
  'codec',
  'backend',
  'session',
  'channel',
  'http',
  'broker',
  'process',
  'cluster/index',
];

const zones: readonly Zone[] = [
  { name: 'raft-ts', files: /^cluster\/raft-ts\/src\//, imports: ['raft-ts'], modules: 'none', globals: 'pure' },
  {
    name: 'machine',
    files: /^cluster\/machine\//,
    imports: ['machine'],
    types: ['raft-ts'],
    modules: 'none',
    globals: 'pure',
  },
  { name: 'ports', files: /^cluster\/ports\.ts$/, imports: [], modules: 'none', globals: 'ports' },
  { name: 'os', files: /^cluster\/os\.ts$/, imports: ['ports'], modules: 'all', globals: 'all' },
  {
    name: 'transport',
    files: /^cluster\/transport(-types)?(\.ts$|\/)/,
    imports: ['transport', 'ports'],
    types: ['raft-ts'],
    modules: 'computing',
    globals: 'ports',
  },
  {
    name: 'log',
    files: /^cluster\/log\//,
    imports: ['log', 'ports', 'raft-ts'],
    modules: 'computing',
    globals: 'ports',
  },
  {
    name: 'cluster/index',
    files: /^cluster\/index\.ts$/,
    imports: [...inCluster, 'os'],
    modules: 'none',
    globals: 'ports',
  },
  { name: 'host', files: /^cluster\//, imports: inCluster, modules: 'computing', globals: 'ports' },
  { name: 'errors', files: /^node\/errors\.ts$/, imports: [], modules: 'none', globals: 'pure' },
  {
    name: 'codec',
    files: /^node\/amqp\/((bytes|table|properties|methods|frames|content|codec[\w-]*)\.ts$|codec\/)/,
    imports: ['codec', 'errors'],
    types: ['backend', 'cluster/index'],
    modules: 'none',
    globals: 'pure',
  },
  {
    name: 'backend',
    files: /^node\/amqp\/backend\.ts$/,
    imports: [],
    types: ['errors', 'cluster/index'],
    modules: 'none',
    globals: 'pure',
  },
  {
    name: 'session',
    files: /^node\/amqp\/(session|server)[\w-]*\.ts$/,
    imports: ['session', 'channel', 'codec', 'backend', 'errors'],
    types: ['process', 'cluster/index'],
    modules: 'all',
    globals: 'all',
  },
  {
    name: 'channel',
    files: /^node\/amqp\//,
    imports: ['channel', 'codec', 'backend', 'errors'],
    types: ['cluster/index'],
    modules: 'none',
    globals: 'pure',
  },
  { name: 'cli', files: /^node\/cli[\w-]*(\.ts$|\/)/, imports: ['cli'], modules: 'all', globals: 'all' },
  {
    name: 'http',
    files: /^node\/http\//,
    imports: ['http', 'broker', 'errors', 'process'],
    types: ['backend', 'cluster/index'],
    modules: 'all',
    globals: 'all',
  },
  {
    name: 'broker',
    files: /^node\/broker(\.ts$|\/)/,
    imports: ['broker', 'backend', 'codec', 'errors', 'cluster/index'],
    types: ['process'],
    modules: 'all',
    globals: 'all',
  },
  { name: 'process', files: /^node\//, imports: [...inNode, 'cli'], modules: 'all', globals: 'all' },
  { name: 'history', files: /^test\/history(\.ts$|\/)/, imports: ['history'], modules: 'none', globals: 'pure' },
  // Public protocols only, and the judge of what their clients saw.
  { name: 'chaos', files: /^chaos\//, imports: ['chaos', 'history'], modules: 'all', globals: 'all' },
  {
    name: 'test',
    files: /^test\//,
    imports: [...inCluster, ...inNode, 'os', 'cli', 'history', 'chaos', 'test'],
    modules: 'all',
    globals: 'all',
  },
];

/** Modules that compute and do nothing else; of `node:crypto` only what gives the same again. */
const computingModules = new Map<string, readonly string[]>([
  ['node:zlib', ['crc32']],
  ['node:crypto', ['createHash', 'createHmac', 'timingSafeEqual']],
]);

const worldGlobals = [
  'Date',
  'performance',
  'process',
  'setTimeout',
  'setInterval',
  'setImmediate',
  'queueMicrotask',
  'crypto',
  'fetch',
  'console',
  'globalThis',
];
const bannedGlobals = {
  all: new Set<string>(),
  ports: new Set(worldGlobals),
  pure: new Set([...worldGlobals, 'Promise']),
};

interface AstNode {
  readonly type: string;
  readonly start: number;
  readonly [field: string]: unknown;
}

const zoneOf = (path: string): Zone | undefined => zones.find((zone) => zone.files.test(path));

/** Everything that is wrong with a file, as `file:line: what, and what to do`. `path`: from the root of the repository. */
function checkSource(path: string, source: string): string[] {
  const lineStarts = [0];
  for (let at = source.indexOf('\n'); at >= 0; at = source.indexOf('\n', at + 1)) lineStarts.push(at + 1);
  const found: { line: number; text: string }[] = [];
  const report = (at: number, text: string): void => {
    found.push({ line: lineStarts.findLastIndex((start) => start <= at) + 1, text });
  };

  const zone = zoneOf(path);
  const program = parseAst(source, { lang: 'ts' }) as unknown as AstNode;
  if (zone === undefined) report(0, 'belongs to no zone of test/style.test.ts. Add it to one, or add a zone');
  else
    visit(program, null, '', (node, parent, field) => {
      checkImport(path, zone, node, report);
      checkGlobals(zone, node, parent, field, report);
      checkForm(path, node, report);
    });
  checkWhole(path, source, program, report);
  found.sort((left, right) => left.line - right.line);
  return found.map(({ line, text }) => `${path}:${line}: ${text}.`);
}

type Report = (at: number, text: string) => void;

/** Calls `see` for every node, with the node that it is in and the name of the field there. */
function visit(
  node: AstNode,
  parent: AstNode | null,
  field: string,
  see: (node: AstNode, parent: AstNode | null, field: string) => void,
): void {
  see(node, parent, field);
  for (const [name, value] of Object.entries(node))
    for (const child of Array.isArray(value) ? value : [value])
      if (typeof child === 'object' && child !== null && typeof child.type === 'string') visit(child, node, name, see);
}

/** What a node imports: the text of the specifier, and whether types only. */
function importOf(node: AstNode): { specifier: string; typesOnly: boolean; names: string[] } | null {
  const source = (node.source ?? node.argument) as AstNode | null | undefined;
  const parts = (node.specifiers ?? []) as AstNode[];
  const names = parts.map((part) => String((part.imported as AstNode | undefined)?.name ?? '*'));
  const specifier = source?.value;
  if (typeof specifier !== 'string') return null;
  switch (node.type) {
    case 'ImportDeclaration':
    case 'ExportNamedDeclaration':
    case 'ExportAllDeclaration': {
      const kind = node.importKind ?? node.exportKind;
      const allTypes = parts.length > 0 && parts.every((part) => (part.importKind ?? part.exportKind) === 'type');
      return { specifier, typesOnly: kind === 'type' || allTypes, names };
    }
    case 'ImportExpression':
      return { specifier, typesOnly: false, names: ['*'] };
    case 'TSImportType':
      return { specifier, typesOnly: true, names };
    default:
      return null;
  }
}

function checkImport(path: string, zone: Zone, node: AstNode, report: Report): void {
  const imported = importOf(node);
  if (imported === null) return;
  const { specifier, typesOnly, names } = imported;
  const isRaft = specifier === 'raft-ts';
  if (!isRaft && !specifier.startsWith('.')) {
    const computing = computingModules.get(specifier);
    const known = computing !== undefined && names.every((name) => computing.includes(name));
    if (zone.modules === 'all' || (zone.modules === 'computing' && known)) return;
    const what = zone.modules === 'computing' && computing !== undefined ? names.join(', ') : 'it';
    report(
      node.start,
      `imports '${specifier}', but ${zone.name} may not use ${what}. Let its caller do that, or reach the system through cluster/ports.ts`,
    );
    return;
  }
  const target = isRaft ? 'cluster/raft-ts/src/index.ts' : posix.normalize(posix.join(posix.dirname(path), specifier));
  const to = zoneOf(target)?.name;
  if (to === undefined) {
    // A package's description, a page: nothing that could know anything.
    if (/\.[cm]?[jt]s$/.test(target)) report(node.start, `imports ${target}, which belongs to no zone`);
    return;
  }
  if (zone.imports.includes(to)) return;
  if (zone.types?.includes(to)) {
    if (!typesOnly)
      report(
        node.start,
        `imports ${target}, but ${zone.name} may only know the types of ${to}. Write \`import type\`, or pass the thing in`,
      );
    return;
  }
  report(
    node.start,
    `imports ${target}, but ${zone.name} may not know ${to}. Pass it in, or move what both need to where both may look`,
  );
}

/** Fields that hold names of properties, not references. */
const nameFields = new Set(['key', 'property', 'imported', 'exported', 'label', 'meta']);

function checkGlobals(zone: Zone, node: AstNode, parent: AstNode | null, field: string, report: Report): void {
  if (zone.globals === 'all') return;
  const toDo =
    zone.globals === 'pure'
      ? 'This folder is pure: take it as an argument, or hand the effect to the caller'
      : 'Use the ports: Clock, Random and the options';
  if (node.type === 'Identifier') {
    const name = String(node.name);
    const isName = nameFields.has(field) && parent?.computed !== true && parent?.shorthand !== true;
    if (!isName && (bannedGlobals[zone.globals].has(name) || (zone.name === 'raft-ts' && name === 'Buffer')))
      report(node.start, `uses ${name}. ${toDo}`);
  }
  if (node.type === 'MemberExpression') {
    const object = node.object as AstNode;
    const property = node.property as AstNode;
    if (object.name === 'Math' && (property.name === 'random' || property.value === 'random'))
      report(node.start, `uses Math.random. ${toDo}`);
  }
  if (zone.globals === 'pure' && (node.async === true || node.type === 'AwaitExpression'))
    report(node.start, `is asynchronous here. ${toDo}`);
}

function checkForm(path: string, node: AstNode, report: Report): void {
  switch (node.type) {
    case 'TSEnumDeclaration':
      report(node.start, 'declares an enum. Use a const object and a union type of the same name');
      return;
    case 'TSModuleDeclaration':
      report(node.start, 'declares a namespace. A file is the namespace: export from it');
      return;
    case 'ExportDefaultDeclaration':
      if (!/\.config\.ts$/.test(path)) report(node.start, 'has a default export. Export it by its name');
      return;
    case 'ClassDeclaration':
    case 'ClassExpression': {
      const members = (node.body as AstNode).body as AstNode[];
      const isStatic = (member: AstNode) =>
        member.static === true || member.type === 'StaticBlock' || member.kind === 'constructor';
      if (node.superClass == null && members.some((member) => member.static === true) && members.every(isStatic))
        report(node.start, 'is a class with static members only. Write functions and constants');
      return;
    }
  }
}

function checkWhole(path: string, source: string, program: AstNode, report: Report): void {
  const lines = source.split('\n').length - (source.endsWith('\n') ? 1 : 0);
  if (lines > fileLinesMax)
    report(source.length - 1, `has ${lines} lines, more than ${fileLinesMax}. Split it where it has two purposes`);
  const isBarrel = (program.body as AstNode[]).every(
    (node) => node.type === 'ExportAllDeclaration' || (node.type === 'ExportNamedDeclaration' && node.source !== null),
  );
  const isPlain = /\.config\.ts$/.test(path) || (path.startsWith('test/') && lines < plainTestLines);
  if (isBarrel || isPlain) return;
  const start = source.startsWith('#!') ? source.indexOf('\n') + 1 : 0;
  if (!/^\s*\/[/*]/.test(source.slice(start)))
    report(start, 'has no header. Begin with a comment: its purpose, the state it owns, its invariants');
}

describe('the repository', () => {
  const root = fileURLToPath(new URL('..', import.meta.url));
  const paths = folders.flatMap((folder) =>
    readdirSync(posix.join(root, folder), { recursive: true, encoding: 'utf8' })
      .map((name) => posix.join(folder, name.replaceAll('\\', '/')))
      .filter((path) => path.endsWith('.ts') && !path.endsWith('.d.ts') && !/(^|\/)(node_modules|dist)\//.test(path)),
  );

  it('keeps its own rules', () => {
    expect(paths).toContain('test/style.test.ts');
    expect(paths).toContain('cluster/raft-ts/src/index.ts');
    const broken = paths.sort().flatMap((path) => checkSource(path, readFileSync(posix.join(root, path), 'utf8')));
    expect(broken.join('\n')).toBe('');
  }, 60_000);
});

describe('the checker', () => {
  const check = (path: string, source: string): string[] => checkSource(path, `// Header.\n${source}\n`);

  it.each([
    ['cluster/raft-ts/src/core.ts', "import { x } from '../../ports.ts';"],
    ['cluster/raft-ts/src/core.ts', "import { x } from 'some-package';"],
    ['cluster/machine/metadata.ts', "import { createRaft } from 'raft-ts';"],
    ['cluster/machine/metadata.ts', "import type { Disk } from '../ports.ts';"],
    ['cluster/machine/queue/a.ts', "import { crc32 } from 'node:zlib';"],
    ['cluster/ports.ts', "import { x } from './host.ts';"],
    ['cluster/log/index.ts', "import { x } from '../machine/commands.ts';"],
    ['cluster/log/index.ts', "import { open } from 'node:fs/promises';"],
    ['cluster/transport.ts', "import { x } from './host.ts';"],
    ['cluster/transport/a.ts', "import { createRaft } from 'raft-ts';"],
    ['cluster/transport/a.ts', "import { randomBytes } from 'node:crypto';"],
    ['cluster/transport/a.ts', "import * as all from 'node:crypto';"],
    ['cluster/host.ts', "import { createPorts } from './os.ts';"],
    ['cluster/host.ts', "import { x } from '../node/errors.ts';"],
    ['cluster/os.ts', "import { x } from './log/index.ts';"],
    ['node/broker/broker.ts', "import type { Host } from '../../cluster/host.ts';"],
    ['node/main.ts', "const { x } = await import('../cluster/host.ts');"],
    ['node/main.ts', "export * from '../cluster/ports.ts';"],
    ['node/main.ts', "type Host = import('../cluster/host.ts').Host;"],
    ['node/amqp/frames.ts', "import { x } from './channel.ts';"],
    ['node/amqp/codec-table.ts', "import { x } from '../../cluster/index.ts';"],
    ['node/amqp/channel.ts', "import { x } from './session.ts';"],
    ['node/amqp/channel.ts', "import type { Broker } from '../broker/broker.ts';"],
    ['node/amqp/session.ts', "import { Broker } from '../broker/broker.ts';"],
    ['node/http/server.ts', "import { x } from '../amqp/session.ts';"],
    ['node/cli.ts', "import { Broker } from './broker/broker.ts';"],
    ['chaos/run.ts', "import { Broker } from '../node/broker/broker.ts';"],
    ['chaos/run.ts', "import { MemoryCluster } from '../test/support/memory-cluster.ts';"],
    ['test/history.ts', "import type { Entry } from 'raft-ts';"],
    ['chaos/run.ts', "import type { Machine } from '../cluster/machine/machine.ts';"],
  ])('%s may not: %s', (path, source) => {
    const [first, ...rest] = check(path, source);
    expect(rest).toEqual([]);
    expect(first).toMatch(new RegExp(`^${path.replaceAll('.', '\\.')}:2: imports .*\\. .*\\.$`));
  });

  it.each([
    ['cluster/machine/metadata.ts', "import type { Entry } from 'raft-ts';"],
    ['cluster/machine/metadata.ts', "import { type Entry } from 'raft-ts';"],
    ['cluster/machine/metadata/a.ts', "import { x } from '../commands.ts';"],
    ['cluster/log/index.ts', "import { crc32 } from 'node:zlib';\nimport type { Disk } from '../ports.ts';"],
    ['cluster/transport/a.ts', "import { createHmac, timingSafeEqual } from 'node:crypto';"],
    ['cluster/host.ts', "import { createRaft } from 'raft-ts';\nimport { x } from './log/index.ts';"],
    ['cluster/index.ts', "export { createPorts } from './os.ts';\nexport { openCluster } from './cluster.ts';"],
    ['node/broker/broker.ts', "import { openCluster } from '../../cluster/index.ts';"],
    ['node/amqp/table.ts', "import type { Arguments } from '../../cluster/index.ts';"],
    ['node/amqp/channel.ts', "import { BrokerError } from '../errors.ts';\nimport { x } from './table.ts';"],
    ['node/amqp/session.ts', "import { x } from './channel.ts';\nimport { createServer } from 'node:net';"],
    ['chaos/run.ts', "import { checkHistory } from '../test/history.ts';"],
    ['chaos/run.ts', "import amqplib from 'amqplib';\nimport { x } from './faults.ts';"],
    ['test/machine/a.test.ts', "import { x } from '../../cluster/machine/commands.ts';"],
    ['node/main.ts', "const text = \"import { x } from '../cluster/host.ts'\"; // import '../cluster/host.ts'"],
  ])('%s may: %s', (path, source) => {
    expect(check(path, source)).toEqual([]);
  });

  it.each([
    'const now = Date.now();',
    'const now = new Date();',
    'const random = Math.random();',
    "const random = Math['random']();",
    'setTimeout(() => {}, 1);',
    'const wait = setImmediate;',
    'const now = performance.now();',
    'const name = process.env.NAME;',
    'const all = { process };',
    'const later = Promise.resolve();',
    'const later = (): Promise<void> => never();',
    'async function later(): Later {}',
    'const later = async () => {};',
    'class Later { async run() {} }',
    'const value = await later;',
  ])('pure code may not: %s', (source) => {
    for (const path of [
      'cluster/machine/a.ts',
      'cluster/raft-ts/src/a.ts',
      'node/amqp/channel.ts',
      'node/amqp/table.ts',
    ]) {
      const broken = check(path, source);
      expect(broken.length, path).toBeGreaterThan(0);
      expect(broken[0]).toMatch(/:2: .*This folder is pure/);
    }
    expect(check('node/main.ts', source)).toEqual([]);
  });

  it('keeps the cluster to its ports', () => {
    for (const path of ['cluster/host.ts', 'cluster/log/a.ts', 'cluster/transport/a.ts']) {
      expect(check(path, 'const now = Date.now();')).toHaveLength(1);
      expect(check(path, 'const now = Math.random();')).toHaveLength(1);
      expect(check(path, 'async function later(): Promise<void> {}')).toEqual([]);
    }
    expect(check('cluster/os.ts', 'const now = Date.now();')).toEqual([]);
  });

  it('is not fooled by names, texts and comments', () => {
    const source = [
      '// Date.now() and await are words here.',
      "const text = 'Math.random() setTimeout process';",
      'const clock = { Date: 1, process: 2, random: 3 };',
      'const sum = clock.Date + clock.process + clock.random;',
      'interface Job { process(): void; readonly performance: number }',
      'class Runner { process(): void {} }',
    ].join('\n');
    expect(check('cluster/machine/a.ts', source)).toEqual([]);
  });

  it('keeps raft-ts free of Buffer', () => {
    expect(check('cluster/raft-ts/src/a.ts', 'const bytes = Buffer.alloc(1);')).toHaveLength(1);
    expect(check('cluster/machine/a.ts', 'const bytes = Buffer.alloc(1);')).toEqual([]);
  });

  it.each([
    ['enum', 'enum Colour { red }'],
    ['namespace', 'namespace Colours { export const red = 1; }'],
    ['default export', 'export default function colours() {}'],
    ['default export', 'const red = 1;\nexport default red;'],
    ['static members only', 'class Colours { static readonly red = 1; static mix() {} }'],
    ['static members only', 'class Colours { static readonly red = 1; private constructor() {} }'],
  ])('%s: %s', (what, source) => {
    const broken = check('node/broker/a.ts', source);
    expect(broken).toHaveLength(1);
    expect(broken[0]).toContain(what);
  });

  it('lets ordinary code be', () => {
    expect(check('test/vitest.config.ts', 'export default {};')).toEqual([]);
    expect(check('node/broker/a.ts', 'class A { static readonly red = 1; mix() {} }\nclass B {}')).toEqual([]);
    expect(check('node/broker/a.ts', 'class C extends Error { static readonly code = 1; }')).toEqual([]);
  });

  it('counts lines', () => {
    expect(check('node/broker/a.ts', 'const a = 1;\n'.repeat(899).trimEnd())).toEqual([]);
    expect(check('node/broker/a.ts', 'const a = 1;\n'.repeat(900).trimEnd())).toEqual([
      'node/broker/a.ts:901: has 901 lines, more than 900. Split it where it has two purposes.',
    ]);
  });

  it('asks for a header', () => {
    const code = 'const a = 1;\n';
    expect(checkSource('node/broker/a.ts', code)).toEqual([
      expect.stringMatching(/^node\/broker\/a\.ts:1: has no header/),
    ]);
    expect(checkSource('node/broker/a.ts', `/** What it is. */\n${code}`)).toEqual([]);
    expect(checkSource('node/main.ts', `#!/usr/bin/env node\n// What it is.\n${code}`)).toEqual([]);
    expect(checkSource('node/main.ts', `#!/usr/bin/env node\n${code}`)).toHaveLength(1);
    expect(checkSource('node/broker/index.ts', "export * from './a.ts';\nexport { b } from './b.ts';\n")).toEqual([]);
    expect(checkSource('test/node/a.test.ts', code)).toEqual([]);
    expect(checkSource('test/node/a.test.ts', code.repeat(30))).toHaveLength(1);
  });

  it('knows every file', () => {
    expect(checkSource('elsewhere/a.ts', '// Header.\n')).toEqual([expect.stringContaining('belongs to no zone')]);
  });
});
