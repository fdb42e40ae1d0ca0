// Reads that the original answers, compared with our own answers while clients notice nothing.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import test from "node:test";
import { startOriginal, startOurs, TOKEN } from "../lib/gateway.mjs";
import { RawClient } from "../lib/raw.mjs";
import { gatewayBinary, until } from "../lib/tools.mjs";

const diff = (target, ...args) => new Promise((resolve) => {
  execFile(gatewayBinary(), ["rollout", "diff", ...args], { env: target.env, cwd: target.stateDir }, (error, stdout, stderr) =>
    resolve({ code: error?.code ?? 0, stdout, stderr }));
});
const report = async (target) => {
  const { code, stdout, stderr } = await diff(target, "--json");
  assert.equal(code, 0, stderr);
  return JSON.parse(stdout);
};

test("a share of the reads is answered by both sides, and what differs is shown without a text", async (t) => {
  const original = await startOriginal();
  t.after(() => original.stop());
  const ours = await startOurs({ upstream: { attach: original }, toml: "[rollout]\nshadow_percent = 100\n" });
  t.after(() => ours.stop());
  const client = await RawClient.open(ours.wsUrl);
  const hello = await client.connect({ token: TOKEN, scopes: ["operator.admin", "operator.read", "operator.write"] });
  assert.equal(hello.ok, true, JSON.stringify(hello.error));

  // Every read that is advertised, with nothing: many answer, the others refuse, and both count.
  const methods = hello.payload.features.methods;
  const asked = new Map();
  for (let round = 0; round < 3; round += 1) {
    for (const method of methods) {
      if (!/\.(list|get|status|info|catalog|effective|describe|usage|state)$|^(health|status)$/.test(method)) continue;
      const answer = await client.call(method, {});
      asked.set(method, answer.ok);
    }
  }
  assert.ok(asked.size > 40, `${asked.size} methods`);
  // Comparisons follow their calls; a busy machine has several under way, and leaves out what finds no room beside them.
  let before = 0;
  const seen = await until("the comparisons to end", async () => {
    const now = await report(ours);
    const more = now.compared + now.skipped - before;
    before += more;
    return before >= 3 * 20 && more === 0 && now;
  }, { everyMs: 500 });
  const rows = Object.entries(seen.methods);
  t.diagnostic(`${seen.compared} calls of ${rows.length} methods, ${(seen.share * 100).toFixed(2)} % equal, ${seen.skipped} skipped: ${rows.filter(([, row]) => row.different).map(([name]) => name).join(" ")}`);
  assert.ok(rows.length >= 20, `${rows.length} methods were compared`);
  assert.equal(seen.equal + seen.different, seen.compared);
  assert.ok(seen.equal > 0);

  // A planted difference: a person's name in a session of the original, which we know nothing of.
  const listed = seen.methods["sessions.list"];
  assert.ok(listed.equal + listed.different <= 3, JSON.stringify(listed));
  const created = await client.call("sessions.create", { label: "Ada Lovelace +491701234567" });
  assert.equal(created.ok, true, JSON.stringify(created.error));
  await client.call("sessions.list", {});
  let row;
  const planted = await until("the planted difference", async () => {
    row = (await report(ours)).methods["sessions.list"];
    return row?.examples?.some(({ path: place, here, openclaw }) => place === "sessions" && here === "0 items" && openclaw === "1 items") && row;
  }).catch((error) => assert.fail(`${error.message}: ${JSON.stringify(row)}`));
  assert.equal(planted.equal + planted.different, listed.equal + listed.different + 1);
  const shown = await diff(ours);
  assert.match(shown.stdout, /reads compared, \d+\.\d\d % equal/);
  assert.match(shown.stdout, /sessions\.list: \d+ of \d+ differ\n {2}\S+: here .+, OpenClaw .+/);
  const whole = shown.stdout + JSON.stringify(await report(ours));
  assert.doesNotMatch(whole, /Ada|Lovelace|4917012/, "what was said stays where it is");
  assert.doesNotMatch(whole, new RegExp(TOKEN));

  // The numbers are metrics too, and only they who may read are told.
  const metrics = await (await fetch(`${ours.url}/api/diagnostics/prometheus`, { headers: { authorization: `Bearer ${TOKEN}` } })).text();
  assert.match(metrics, /openclaw_rs_shadow_total\{result="equal"\} [1-9]/);
  assert.equal((await fetch(`${ours.url}/api/rollout/diff`)).status, 401);
  assert.equal((await fetch(`${ours.url}/api/rollout/diff`, { method: "POST", headers: { authorization: `Bearer ${TOKEN}` } })).status, 405);

  // Off again while it runs: nothing more is compared.
  const own = path.join(ours.stateDir, "openclaw-rs/openclaw-gateway.toml");
  fs.writeFileSync(own, fs.readFileSync(own, "utf8").replace("shadow_percent = 100", "shadow_percent = 0"));
  const last = await until("the file to be taken", async () => {
    const now = await report(ours);
    return now.percent === 0 && now;
  });
  for (let n = 0; n < 5; n += 1) assert.equal((await client.call("models.list", {})).ok, true);
  assert.equal((await report(ours)).compared, last.compared);
  await client.end();
});

test("nothing is compared by default, and the command says how to begin", async (t) => {
  const ours = await startOurs();
  t.after(() => ours.stop());
  const { code, stdout } = await diff(ours);
  assert.equal(code, 0);
  assert.match(stdout, /set `rollout\.shadow_percent` in openclaw-gateway\.toml/);
});
