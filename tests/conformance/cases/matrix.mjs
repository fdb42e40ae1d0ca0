// Every advertised method four times: without a scope, from a node, with an unknown key, with params that are no object.
import fs from "node:fs";

export const advertised = JSON.parse(fs.readFileSync(new URL("advertised.json", import.meta.url), "utf8"));

/** Methods that ignore what they do not know, so a bad call of them is a valid one: their answer is compared by valid.mjs. */
export const takesAnything = new Set([
  "health", "diagnostics.stability", "doctor.memory.status", "doctor.memory.dreamDiary", "doctor.memory.backfillDreamDiary",
  "doctor.memory.resetDreamDiary", "doctor.memory.resetGroundedShortTerm", "doctor.memory.repairDreamingArtifacts",
  "doctor.memory.dedupeDreamDiary", "status", "usage.status", "usage.cost", "tts.status", "tts.providers", "tts.personas", "tts.enable",
  "tts.disable", "tts.setPersona", "exec.approval.list", "plugin.approval.list", "openclaw.approval.list", "models.authStatus",
  "voicewake.get", "secrets.reload", "voicewake.routing.get", "last-heartbeat", "gateway.identity.get", "gateway.restart.preflight",
  "system-presence", "attach.grant", "terminal.list", "diagnostics.lanes",
]);

/** Where the common bad parameters would do something: another bad call. */
const OTHER_BAD = {
  // Any record without a target is valid and restarts the gateway. Source: src/gateway/server-methods/restart.ts.
  "gateway.restart.request": { "unknown-key": { target: "nobody" } },
};

export function matrix() {
  const cases = [];
  for (const method of advertised.methods) {
    const lenient = takesAnything.has(method) ? { mask: ["payload"] } : {};
    const bad = (name, params) => ({ id: `matrix/${method}/${name}`, as: "admin", method, params: OTHER_BAD[method]?.[name] ?? params, ...lenient });
    cases.push(
      { id: `matrix/${method}/no-scope`, as: "none", method, params: {}, ...lenient },
      { id: `matrix/${method}/node-role`, as: "node", method, params: {}, ...lenient },
      bad("unknown-key", { conformanceUnknownKey: { nested: 1 } }),
      bad("not-object", "text"),
    );
  }
  return cases;
}
