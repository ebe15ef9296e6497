// The bodies of the frames about metadata leases, little-endian. `wire.ts` names the kinds.
//
//   leaseRequest  u64 number, u64 incarnation, u64 applied: to the metadata's leader
//   leaseGrant    u64 number, u64 incarnation (both as asked), u64 read index, u64 visible
//   visible       u64: no node with a lease has applied less than this
//
// Decoders answer null for what is not well formed.

export interface LeaseRequest {
  /** Ascends in a process. */
  readonly number: number;
  /** Of the asking process: an answer to an earlier one must not count for it. */
  readonly incarnation: number;
  /** How far its metadata have come. */
  readonly applied: number;
}

export interface LeaseGrant {
  readonly number: number;
  readonly incarnation: number;
  /** The lease counts once this has been applied. */
  readonly readIndex: number;
  readonly visible: number;
}

export const encodeLeaseRequest = ({ number, incarnation, applied }: LeaseRequest): Buffer =>
  encode([number, incarnation, applied]);

export function decodeLeaseRequest(frame: Buffer): LeaseRequest | null {
  const [number, incarnation, applied] = decode(frame, 3) ?? [];
  if (number === undefined || incarnation === undefined || applied === undefined) return null;
  return { number, incarnation, applied };
}

export const encodeLeaseGrant = ({ number, incarnation, readIndex, visible }: LeaseGrant): Buffer =>
  encode([number, incarnation, readIndex, visible]);

export function decodeLeaseGrant(frame: Buffer): LeaseGrant | null {
  const [number, incarnation, readIndex, visible] = decode(frame, 4) ?? [];
  if (number === undefined || incarnation === undefined || readIndex === undefined || visible === undefined)
    return null;
  return { number, incarnation, readIndex, visible };
}

export const encodeVisible = (version: number): Buffer => encode([version]);
export const decodeVisible = (frame: Buffer): number | null => decode(frame, 1)?.[0] ?? null;

function encode(numbers: readonly number[]): Buffer {
  const frame = Buffer.allocUnsafe(8 * numbers.length);
  for (let i = 0; i < numbers.length; i++) frame.writeBigUInt64LE(BigInt(numbers[i]!), 8 * i);
  return frame;
}

/** So many numbers and no more, each an exact integer. */
function decode(frame: Buffer, count: number): number[] | null {
  if (frame.length !== 8 * count) return null;
  const numbers: number[] = [];
  for (let i = 0; i < count; i++) {
    const number = Number(frame.readBigUInt64LE(8 * i));
    if (!Number.isSafeInteger(number)) return null;
    numbers.push(number);
  }
  return numbers;
}
