// The files behind `amqp.tls.*`: who this node is to clients that speak TLS, and whom it trusts. Reads them; keeps nothing.

import { X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createSecureContext } from 'node:tls';
import type { TlsIdentity } from '../cluster/index.ts';
import type { Settings } from './config.ts';

/** `identity` is null without `amqp.tls.port`. `error`: one line that names key and file. */
export type TlsResult =
  | { readonly ok: true; readonly identity: TlsIdentity | null }
  | { readonly ok: false; readonly error: string };

type FileKey = 'amqp.tls.certificate.file' | 'amqp.tls.key.file' | 'amqp.tls.ca.file';

/** Everything that can be wrong with these files is found before anything is started. */
export function readTls(settings: Settings): TlsResult {
  if (settings['amqp.tls.port'] === 0) return { ok: true, identity: null };
  const named = (key: FileKey, problem: string): TlsResult => ({
    ok: false,
    error: `${key} = ${JSON.stringify(settings[key])}: ${problem}`,
  });
  const contents = new Map<FileKey, Buffer>();
  for (const key of ['amqp.tls.certificate.file', 'amqp.tls.key.file', 'amqp.tls.ca.file'] as const) {
    if (settings[key] === '') continue;
    try {
      contents.set(key, readFileSync(settings[key]));
    } catch (error) {
      return named(key, `cannot be read (${(error as NodeJS.ErrnoException).code ?? String(error)})`);
    }
  }
  const certificate = contents.get('amqp.tls.certificate.file')!;
  const key = contents.get('amqp.tls.key.file')!;
  const authority = contents.get('amqp.tls.ca.file') ?? null;
  const problem = problemOf(() => new X509Certificate(certificate));
  if (problem !== null) return named('amqp.tls.certificate.file', `is no certificate in PEM (${problem})`);
  const keyProblem = problemOf(() => createSecureContext({ cert: certificate, key }));
  if (keyProblem !== null) return named('amqp.tls.key.file', `is not the key of that certificate (${keyProblem})`);
  const authorityProblem = authority === null ? null : problemOf(() => new X509Certificate(authority));
  if (authorityProblem !== null) return named('amqp.tls.ca.file', `is no certificate in PEM (${authorityProblem})`);
  return {
    ok: true,
    identity: {
      certificate,
      key,
      authority,
      demandsCertificate: settings['amqp.tls.clients'] === 'required',
      handshakeMilliseconds: settings['amqp.handshake.milliseconds'],
    },
  };
}

/** What OpenSSL says of it, or null. */
function problemOf(make: () => unknown): string | null {
  try {
    make();
    return null;
  } catch (error) {
    return (error as Error).message;
  }
}
