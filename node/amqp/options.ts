// Every bound of the AMQP front-end, with its default.

export interface AmqpOptions {
  /** Largest frame with its overhead, in bytes; what the server proposes. At least 4096. */
  readonly frameMax: number;
  /** Highest channel number; what the server proposes. */
  readonly channelMax: number;
  /** What the server proposes; the client's answer counts, and 0 turns heartbeats off. */
  readonly heartbeatSeconds: number;
  /** From the TCP connection to connection.open. */
  readonly handshakeMilliseconds: number;
  /** From our connection.close to the end of the socket, if the client does not answer. */
  readonly closeMilliseconds: number;
  /** Bytes wait for the socket, and it has taken none for so long: the connection ends. 0: never. */
  readonly sendTimeoutMilliseconds: number;
  /** Largest frame before connection.tune-ok. */
  readonly handshakeFrameMax: number;
  /** Bytes a connection may send before it has logged in. */
  readonly preAuthBytesMax: number;
  /** Largest body; a larger one is refused with 406. */
  readonly messageBytesMax: number;
  /** Unfinished messages of a connection, all channels together; beyond it the connection is closed with 506. */
  readonly assemblyBytesMax: number;
  /** While others are busy, a connection with unfinished messages of more bytes is read so much at a time. */
  readonly largeBytesAtOnce: number;
  /** Then it rests for so long; 0: not at all. */
  readonly largeRestMilliseconds: number;
  /** Bytes waiting for the socket beyond which deliveries wait. As many replies beyond that stop the reading. */
  readonly socketBufferBytesMax: number;
  /** Methods waiting behind a pending reply, all channels together, beyond which the socket is not read. */
  readonly channelBacklogBytesMax: number;
  readonly consumersPerChannelMax: number;
  readonly connectionsMax: number;
  /** Clients choose their behaviour by these two, so they name what we are compatible with. */
  readonly product: string;
  readonly version: string;
  readonly platform: string;
  readonly clusterName: string;
}

export const defaultAmqpOptions: AmqpOptions = {
  frameMax: 131_072,
  channelMax: 2047,
  heartbeatSeconds: 60,
  handshakeMilliseconds: 10_000,
  closeMilliseconds: 3_000,
  sendTimeoutMilliseconds: 30_000,
  handshakeFrameMax: 8192,
  preAuthBytesMax: 64 * 1024,
  messageBytesMax: 128 * 1024 * 1024,
  assemblyBytesMax: 256 * 1024 * 1024,
  largeBytesAtOnce: 512 * 1024,
  largeRestMilliseconds: 3,
  socketBufferBytesMax: 1024 * 1024,
  channelBacklogBytesMax: 1024 * 1024,
  consumersPerChannelMax: 65_535,
  connectionsMax: 20_000,
  product: 'RabbitMQ',
  version: '4.2.0',
  platform: 'Warren',
  clusterName: 'warren',
};

/** The defaults where nothing else is said. */
export function withDefaults(options: Partial<AmqpOptions>): AmqpOptions {
  const merged = { ...defaultAmqpOptions, ...options };
  // Whole messages must fit, however large they may be.
  const assemblyBytesMax = options.assemblyBytesMax ?? Math.max(merged.assemblyBytesMax, 2 * merged.messageBytesMax);
  return { ...merged, assemblyBytesMax };
}

/** What is wrong with the options, or null. */
export function checkAmqpOptions(options: AmqpOptions): string | null {
  if (options.frameMax < 4096) return 'frameMax is below 4096';
  if (options.handshakeFrameMax < 4096) return 'handshakeFrameMax is below 4096';
  if (options.channelMax < 1 || options.channelMax > 65_535) return 'channelMax is not within 1 to 65535';
  if (options.heartbeatSeconds < 0 || options.heartbeatSeconds > 65_535)
    return 'heartbeatSeconds is not within 0 to 65535';
  if (options.preAuthBytesMax < options.handshakeFrameMax) return 'preAuthBytesMax is below handshakeFrameMax';
  if (options.assemblyBytesMax < options.messageBytesMax) return 'assemblyBytesMax is below messageBytesMax';
  return null;
}
