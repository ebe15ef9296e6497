// The few AMQP 0-9-1 frames that the load generator sends, as bytes. Written for this program alone, from the specification,
// so that measuring a broker never depends on that broker's own codecs. Nothing here runs while a measurement does, but
// `settleFrame`.

export const frameHeaderBytes = 7;
export const frameEnd = 0xce;
export const frameType = { method: 1, header: 2, body: 3, heartbeat: 8 } as const;

/** Class and method id in one number, as they stand on the wire. */
export const method = {
  connectionStart: 0x000a_000a,
  connectionStartOk: 0x000a_000b,
  connectionTune: 0x000a_001e,
  connectionTuneOk: 0x000a_001f,
  connectionOpen: 0x000a_0028,
  connectionOpenOk: 0x000a_0029,
  connectionClose: 0x000a_0032,
  connectionCloseOk: 0x000a_0033,
  channelOpen: 0x0014_000a,
  channelOpenOk: 0x0014_000b,
  channelClose: 0x0014_0028,
  queueDeclare: 0x0032_000a,
  queueDeclareOk: 0x0032_000b,
  queuePurge: 0x0032_001e,
  queuePurgeOk: 0x0032_001f,
  queueDelete: 0x0032_0028,
  basicQos: 0x003c_000a,
  basicQosOk: 0x003c_000b,
  basicConsume: 0x003c_0014,
  basicConsumeOk: 0x003c_0015,
  basicCancel: 0x003c_001e,
  basicPublish: 0x003c_0028,
  basicDeliver: 0x003c_003c,
  basicAck: 0x003c_0050,
  basicNack: 0x003c_0078,
  confirmSelect: 0x0055_000a,
  confirmSelectOk: 0x0055_000b,
} as const;

export type TableValue = string | boolean | number | Table;
export interface Table {
  readonly [name: string]: TableValue;
}

export function shortString(text: string): Buffer {
  const bytes = Buffer.from(text);
  return Buffer.concat([octet(bytes.length), bytes]);
}

export function longString(content: string | Buffer): Buffer {
  const bytes = Buffer.from(content as string);
  return Buffer.concat([uint32(bytes.length), bytes]);
}

export function octet(value: number): Buffer {
  return Buffer.from([value]);
}

export function uint16(value: number): Buffer {
  const bytes = Buffer.alloc(2);
  bytes.writeUInt16BE(value);
  return bytes;
}

export function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

export function table(fields: Table): Buffer {
  const parts: Buffer[] = [];
  for (const [name, value] of Object.entries(fields)) {
    parts.push(shortString(name));
    if (typeof value === 'string') parts.push(Buffer.from('S'), longString(value));
    else if (typeof value === 'boolean') parts.push(Buffer.from('t'), octet(Number(value)));
    else if (typeof value === 'number') parts.push(Buffer.from('I'), uint32(value));
    else parts.push(Buffer.from('F'), table(value));
  }
  return longString(Buffer.concat(parts));
}

export function frame(type: number, channel: number, payload: Buffer): Buffer {
  return Buffer.concat([octet(type), uint16(channel), uint32(payload.length), payload, octet(frameEnd)]);
}

export function methodFrame(channel: number, id: number, ...fields: Buffer[]): Buffer {
  return frame(frameType.method, channel, Buffer.concat([uint32(id), ...fields]));
}

/**
 * One persistent message to the default exchange: publish, header and as many body frames as `frameMax` asks for. `expiration`: milliseconds,
 * as AMQP has it, in digits; absent: it does not expire.
 */
export function messageFrames(
  channel: number,
  queue: string,
  bodyBytes: number,
  frameMax: number,
  expiration?: string,
): Buffer {
  const deliveryModePresent = 0x1000;
  const expirationPresent = 0x0100;
  const properties =
    expiration === undefined
      ? [uint16(deliveryModePresent), octet(2)]
      : [uint16(deliveryModePresent | expirationPresent), octet(2), shortString(expiration)];
  const header = [uint16(60), uint16(0), uint32(0), uint32(bodyBytes), ...properties];
  const frames = [
    methodFrame(channel, method.basicPublish, uint16(0), shortString(''), shortString(queue), octet(0)),
    frame(frameType.header, channel, Buffer.concat(header)),
  ];
  const bodyBytesPerFrame = frameMax - frameHeaderBytes - 1;
  for (let at = 0; at < bodyBytes; at += bodyBytesPerFrame) {
    frames.push(frame(frameType.body, channel, Buffer.alloc(Math.min(bodyBytesPerFrame, bodyBytes - at), 'a')));
  }
  return Buffer.concat(frames);
}

/** basic.ack with `multiple`: everything up to `deliveryTag`. */
export function settleFrame(channel: number, deliveryTag: number): Buffer {
  const bytes = Buffer.allocUnsafe(21);
  bytes[0] = frameType.method;
  bytes.writeUInt16BE(channel, 1);
  bytes.writeUInt32BE(13, 3);
  bytes.writeUInt32BE(method.basicAck, 7);
  bytes.writeUInt32BE(Math.floor(deliveryTag / 0x1_0000_0000), 11);
  bytes.writeUInt32BE(deliveryTag >>> 0, 15);
  bytes[19] = 1;
  bytes[20] = frameEnd;
  return bytes;
}
