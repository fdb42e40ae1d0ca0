// What varies from run to run, as data. Everything else a client shows must be equal.

/** In any text: pattern → what stands in its place. Order matters. */
export const TEXT = [
  [/[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}/g, "<uuid>"],
  [/\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{3}…/g, "<uuid>…"],
  [/\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)/g, "<time>"],
  [/\b\d{4}-\d\d-\d\d\b/g, "<date>"],
  [/\b\d+(\.\d+)?ms\b/g, "<ms>"],
  [/\breachable \d+(\.\d+)?s\b/g, "reachable <ms>"],
  [/Gateway event loop: (ok|degraded for \S+ reasons=\S+)/g, "Gateway event loop: <load>"],
  [/\b(util|cpu)[= ]\d+(\.\d+)?/g, "$1=<load>"],
  [/\bin (<?\d+\w|<1m)\b/g, "in <span>"],
  [/\b(\d+[smhd] ago|just now)/g, "<ago>"],
  [/\b\d+(\.\d+)? [KMG]iB\b/g, "<bytes>"],
];

/** In JSON, by key: the value is replaced by its type. */
export const KEYS = [
  "ts", "createdAtMs", "updatedAtMs", "nextRunAtMs", "nextWakeAtMs", "lastRunAtMs", "durationMs", "uptimeMs", "latencyMs", "elapsedMs",
  "connectLatencyMs", "configRevision", "updatedAt", "snapshotAt", "startedAt", "endedAt", "generatedAt", "age", "eventLoop", "pid", "processMemory",
  "rootRequests",
];

/** A text with this side's own paths and port, and all that varies, replaced. Columns are collapsed: their width follows content. */
export function maskText(text, side, extra = []) {
  let masked = text.replaceAll(side.stateDir, "<state>").replaceAll(new RegExp(`\\b${side.target.port}\\b`, "g"), "<port>");
  for (const [pattern, put] of [...TEXT, ...extra]) masked = masked.replaceAll(pattern, put);
  return masked.replaceAll(/ {2,}/g, "  ").replaceAll(/ +│/g, " │").replaceAll(/─{2,}/g, "──").replaceAll(/[ \t]+$/gm, "").trim().split("\n");
}

/** A parsed JSON value with what varies replaced. */
export function maskJson(value, side, keys = []) {
  const volatile = new Set([...KEYS, ...keys]);
  const walk = (node) => {
    if (typeof node === "string") return maskText(node, side).join("\n");
    if (Array.isArray(node)) return node.map(walk);
    if (node === null || typeof node !== "object") return node;
    return Object.fromEntries(Object.entries(node).map(([key, inner]) =>
      [key, volatile.has(key) && inner !== null ? `<${typeof inner}>` : walk(inner)]));
  };
  return walk(value);
}
