// Every failure that a client is told of: one type, one table from stable codes to AMQP reply codes and HTTP statuses.
// Never match on message text.

export type ErrorScope = 'message' | 'channel' | 'connection' | 'node';

/** code: [AMQP reply code, AMQP name, what it closes, HTTP status] */
const table = {
  'content-too-large': [311, 'CONTENT_TOO_LARGE', 'channel', 413],
  'no-route': [312, 'NO_ROUTE', 'message', 404],
  'connection-forced': [320, 'CONNECTION_FORCED', 'connection', 503],
  'access-refused': [403, 'ACCESS_REFUSED', 'channel', 403],
  'login-refused': [403, 'ACCESS_REFUSED', 'connection', 401],
  'not-found': [404, 'NOT_FOUND', 'channel', 404],
  'resource-locked': [405, 'RESOURCE_LOCKED', 'channel', 405],
  'precondition-failed': [406, 'PRECONDITION_FAILED', 'channel', 400],
  'frame-error': [501, 'FRAME_ERROR', 'connection', 400],
  'syntax-error': [502, 'SYNTAX_ERROR', 'connection', 400],
  'command-invalid': [503, 'COMMAND_INVALID', 'connection', 400],
  'channel-error': [504, 'CHANNEL_ERROR', 'connection', 400],
  'unexpected-frame': [505, 'UNEXPECTED_FRAME', 'connection', 400],
  'resource-error': [506, 'RESOURCE_ERROR', 'channel', 503],
  'not-allowed': [530, 'NOT_ALLOWED', 'connection', 403],
  'not-implemented': [540, 'NOT_IMPLEMENTED', 'connection', 501],
  'internal-error': [541, 'INTERNAL_ERROR', 'connection', 500],
  /** No majority, or no leader in time. What was asked may or may not have happened. */
  unavailable: [541, 'INTERNAL_ERROR', 'connection', 503],
} as const satisfies Record<string, readonly [number, string, ErrorScope, number]>;

export type ErrorCode = keyof typeof table;

export class BrokerError extends Error {
  readonly code: ErrorCode;
  readonly scope: ErrorScope;
  readonly replyCode: number;
  readonly httpStatus: number;

  /** `detail`: what went wrong, naming the thing; the AMQP name of the code is put before it, as RabbitMQ does. */
  constructor(code: ErrorCode, detail: string, scope: ErrorScope = table[code][2]) {
    super(`${table[code][1]} - ${detail}`);
    this.name = 'BrokerError';
    this.code = code;
    this.scope = scope;
    this.replyCode = table[code][0];
    this.httpStatus = table[code][3];
  }
}

/** Does this machine lack the address (as opposed to: the port is busy)? */
export function isMissingAddress(error: unknown): boolean {
  const code = (error as NodeJS.ErrnoException).code;
  return code === 'EADDRNOTAVAIL' || code === 'EAFNOSUPPORT';
}
