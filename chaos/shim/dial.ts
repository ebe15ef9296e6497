// Connections that a process opens to ports of this machine, led elsewhere: so that a node which learns another's address from a third one dials
// it through the proxy of its own link all the same.
//
// State owned: which port leads where. Nothing is replaced before the first redirect; connections that are open stay.

import { syncBuiltinESMExports } from 'node:module';
import net from 'node:net';

let redirects: Readonly<Record<number, number>> = {};
let isInstalled = false;

export function redirect(ports: Readonly<Record<number, number>>): void {
  redirects = ports;
  if (isInstalled || Object.keys(ports).length === 0) return;
  isInstalled = true;
  const real = net.createConnection;
  const dial = (target: unknown, ...rest: unknown[]): net.Socket => {
    const { host, port } = Object(target) as { readonly host?: unknown; readonly port?: unknown };
    const leadsTo = host === '127.0.0.1' ? redirects[Number(port)] : undefined;
    const changed = leadsTo === undefined ? target : { ...Object(target), port: leadsTo };
    return Reflect.apply(real, net, [changed, ...rest]) as net.Socket;
  };
  Object.assign(net, { createConnection: dial, connect: dial });
  syncBuiltinESMExports();
}
