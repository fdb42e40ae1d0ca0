// Records what the original says of when a conversation is over, into cases.json.
// Run from the repository root: TZ=Europe/Berlin node crates/gateway/src/assistant/freshness/record-cases.mjs  (needs tests/node_modules).
import fs from "node:fs";
import path from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const here = path.dirname(fileURLToPath(import.meta.url));
const dist = path.join(here, "../../../../../tests/node_modules/openclaw/dist");
const bundle = fs.readdirSync(dist).find((name) => /^reset-policy-.*\.mjs$/.test(name));
const text = fs.readFileSync(path.join(dist, bundle), "utf8");
const exported = text.slice(text.lastIndexOf("export {"));
const alias = (name) => exported.match(new RegExp(`\\b${name} as ([\\w$]+)`))[1];
const original = await import(pathToFileURL(path.join(dist, bundle)));
const policy = original[alias("resolveSessionResetPolicy")];
const freshness = original[alias("evaluateSessionFreshness")];
if (process.env.TZ !== "Europe/Berlin") throw new Error("run it with TZ=Europe/Berlin");

const HOUR = 3_600_000;
const resets = [
  undefined, {}, { mode: "none" }, { mode: "daily" }, { mode: "daily", atHour: 0 }, { mode: "daily", atHour: 2.9 }, { mode: "daily", atHour: 99 },
  { mode: "daily", atHour: 23, idleMinutes: 30 }, { mode: "idle" }, { mode: "idle", idleMinutes: 0 }, { mode: "idle", idleMinutes: 90.5 }, { atHour: 6 }, { idleMinutes: 45 },
];
// A plain day, and the two on which the clocks change.
const days = ["2026-06-10T", "2026-03-29T", "2026-10-25T"];
const cases = [];
let taken = 0;
for (const base of resets) for (const byType of resets) for (const day of days) {
  const now = Date.parse(`${day}0${taken % 9}:17:00Z`);
  for (const [age, silence] of [[0, 0], [1, 0.5], [5, 1], [23, 2], [50, 0.1]]) {
    // A part of all combinations, the same each time.
    if (taken++ % 4 !== 0) continue;
    const [started, spoken] = [now - age * HOUR, now - silence * HOUR];
    const sessionCfg = { reset: base, ...(byType ? { resetByType: { direct: byType } } : {}) };
    const { fresh } = freshness({ updatedAt: spoken, sessionStartedAt: started, lastInteractionAt: spoken, now, policy: policy({ sessionCfg, resetType: "direct" }) });
    cases.push({ ...(base ? { base } : {}), ...(byType ? { byType } : {}), now, started, spoken, over: !fresh });
  }
}
fs.writeFileSync(path.join(here, "cases.json"), `[\n${cases.map((row) => JSON.stringify(row)).join(",\n")}\n]\n`);
console.log(`${cases.length} cases, ${cases.filter((row) => row.over).length} over`);
