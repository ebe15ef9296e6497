// What clients did and were told since the process began, in numbers.
//
// PURE. State owned: the numbers of one server. Each is added to where the thing happens, by a plain addition: some of it happens 100,000 times a
// second. Invariant: they never go down.

export class Counters {
  connectionsOpened = 0;
  /** There were too many, or the server was closing. */
  connectionsRefused = 0;
  loginsRefused = 0;
  /** On sockets. */
  receivedBytes = 0;
  sentBytes = 0;
  publishes = 0;
  /** Of message bodies. */
  publishedBytes = 0;
  /** Publishers were told that it is on a majority's disks, or that it was refused or is unknown. */
  confirmed = 0;
  refused = 0;
  returned = 0;
  /** To consumers, and by `get`. */
  deliveries = 0;
  redeliveries = 0;
  /** By clients: deliveries without acknowledgement are not among them. */
  readonly settled = { accept: 0, requeue: 0, reject: 0, discard: 0 };
}
