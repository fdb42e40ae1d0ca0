// What an agent is told to write down before its conversation is made short. The keys and their defaults are OpenClaw's
// (docs/reference/session-management-compaction/housekeeping.md at 2026.9.6), the words are our own.

const SOFT_TOKENS = 4000;
const FORCE_BYTES = 2 * 1024 * 1024;
const RESERVE_TOKENS = 20_000;
/** Of a window, at most. */
const RESERVE_PART = 4;
const SILENT = "NO_REPLY";

/** "2mb", "512 kb" or a number of bytes; undefined for anything else. */
function bytes(value) {
  if (typeof value === "number") return value >= 0 ? Math.floor(value) : undefined;
  const [, number, unit] = /^\s*(\d+(?:\.\d+)?)\s*([kmg]?)b?\s*$/i.exec(value ?? "") ?? [];
  if (number === undefined) return undefined;
  return Math.floor(Number(number) * 1024 ** ["", "k", "m", "g"].indexOf(unit.toLowerCase()));
}

/** YYYY-MM-DD where the person is; an unknown zone is the machine's. */
function day(nowMs, timeZone) {
  const write = (zone) => new Intl.DateTimeFormat("en-CA", { timeZone: zone, year: "numeric", month: "2-digit", day: "2-digit" }).format(nowMs);
  try {
    return write(timeZone);
  } catch {
    return write(undefined);
  }
}

/** `null`: nothing is to be written before. */
export function flushPlan({ cfg, nowMs = Date.now(), contextWindowTokens } = {}) {
  const asked = cfg?.agents?.defaults?.compaction?.memoryFlush ?? {};
  if (asked.enabled === false) return null;
  let softThresholdTokens = Number.isFinite(asked.softThresholdTokens) && asked.softThresholdTokens >= 0 ? Math.floor(asked.softThresholdTokens) : SOFT_TOKENS;
  let reserveTokensFloor = RESERVE_TOKENS;
  if (contextWindowTokens > 0) {
    reserveTokensFloor = Math.min(reserveTokensFloor, Math.floor(contextWindowTokens / RESERVE_PART));
    softThresholdTokens = Math.min(softThresholdTokens, Math.floor((contextWindowTokens - reserveTokensFloor) / 2));
  }
  const timeZone = cfg?.agents?.defaults?.userTimezone;
  const relativePath = `memory/${day(nowMs, timeZone)}.md`;
  const rules = [
    `Write only to ${relativePath}: make it if it is missing, otherwise add at its end and change nothing that is there.`,
    "Files of instructions and of lasting memory (AGENTS.md, SOUL.md, TOOLS.md, MEMORY.md, USER.md, DREAMS.md) may be read and must not be written now.",
    `Nobody reads your answer: when you are done, or when there is nothing to keep, answer ${SILENT}.`,
  ].join("\n");
  return {
    softThresholdTokens,
    forceFlushTranscriptBytes: bytes(asked.forceFlushTranscriptBytes) ?? FORCE_BYTES,
    reserveTokensFloor,
    model: asked.model?.trim() || undefined,
    prompt: [
      "This conversation is about to be summarised, and what only stands in it will be gone.",
      "Keep what will matter later: decisions and their reasons, facts about people and things, what was promised, what is open.",
      rules,
      `Current time: ${new Date(nowMs).toISOString()}`,
    ].join("\n"),
    systemPrompt: `A turn for keeping memory before a summary is made; it is no part of the conversation.\n${rules}`,
    relativePath,
  };
}
