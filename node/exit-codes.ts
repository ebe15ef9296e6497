// What a node's process ends with, for whoever started it.

export const ExitCode = {
  clean: 0,
  /** What the user can put right: a setting, the data folder, a port. Told in one line on stderr. */
  refused: 1,
  /** It is no part of its cluster any more, for good: starting it again with this data folder would not help. */
  left: 69,
  /** Anything else, told in the log. */
  failed: 70,
} as const;
