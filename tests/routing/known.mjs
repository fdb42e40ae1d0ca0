// Where ours decides otherwise than the original, and why. Each entry must be met by a case, or the suite fails.
//
// Not compared, because it is decided outside the functions that can be called: control commands that pass a mention
// gate, `accessGroup:` entries, bindings of type `acp`, a session's own `/activation`, and access on other
// channels than Telegram.

/** @type {{ name: string, why: string, covers: (c: { config: any, envelope: any, ours: any, theirs: any }) => boolean }[]} */
export const known = [
  {
    name: "lookaround in mention patterns",
    why: "Patterns are matched in linear time, which look-ahead and look-behind don't allow. Such a pattern is left out, named in the log, and the group asks for a mention: silence, never an answer too many.",
    covers: ({ config, ours, theirs }) =>
      ours === "unmentioned" && theirs === "pass" && JSON.stringify(config.messages?.groupChat?.mentionPatterns ?? []).includes("(?!"),
  },
];
