// `openclaw-gateway upstream`: a real OpenClaw is looked at, read and restarted from the command line, clients stay.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { Child } from "../lib/child.mjs";
import { startOurs, TOKEN } from "../lib/gateway.mjs";
import { RawClient } from "../lib/raw.mjs";
import { gatewayBinary, until } from "../lib/tools.mjs";

function cli(target, ...args) {
  return new Promise((resolve) => {
    execFile(gatewayBinary(), ["upstream", ...args], { env: target.env, cwd: target.stateDir }, (error, stdout, stderr) =>
      resolve({ code: error?.code ?? 0, stdout, stderr }));
  });
}

test("status, logs and restart of a supervised OpenClaw", async (t) => {
  // A machine that is busy with something else starts OpenClaw in a minute.
  const ours = await startOurs({ upstream: "supervise", toml: "hold_s = 300\nstop_timeout_s = 60" });
  t.after(() => ours.stop());
  const json = async (...args) => {
    const { code, stdout, stderr } = await cli(ours, ...args, "--json");
    assert.equal(code, 0, stderr + stdout);
    return JSON.parse(stdout);
  };
  const over = async (method, what = "", headers = { authorization: `Bearer ${TOKEN}` }) => {
    const response = await fetch(`${ours.url}/api/upstream${what}`, { method, headers });
    return { status: response.status, body: await response.json() };
  };
  const first = await json("status");
  assert.deepEqual([first.state, first.supervised, first.starts, first.version], ["ready", true, 1, "2026.9.6"]);
  assert.ok(first.lastOutput.length > 0 && first.lastOutput.every((line) => line.pid === first.pid), JSON.stringify(first));

  const follower = new Child(gatewayBinary(), ["upstream", "logs", "--follow", "--json"], { env: ours.env, cwd: ours.stateDir });
  t.after(() => follower.stop());
  await until("the lines so far", () => follower.output.includes(`"pid":${first.pid}`));

  const client = await RawClient.open(ours.wsUrl);
  assert.equal((await client.connect({ token: TOKEN })).ok, true);
  // What is asked while it goes, is away and comes is answered by the next one, once, whatever it does.
  const asked = [];
  let restarting = true;
  const asking = (async () => {
    while (restarting) {
      const label = `asked ${asked.length}`;
      const one = { label, began: Date.now() };
      one.answer = client.call("sessions.create", { label }, { timeoutMs: 300_000 }).finally(() => (one.tookMs = Date.now() - one.began));
      asked.push(one);
      await Promise.race([asked.at(-1).answer, new Promise((resolve) => setTimeout(resolve, 250))]);
    }
  })();
  const page = until("HTTP of the child to be asked while it is away", async () => {
    const { state } = await (await over("GET")).body;
    return state !== "ready" && fetch(`${ours.url}/v1/models`, { headers: { authorization: `Bearer ${TOKEN}` } });
  });
  const gone = until("the old one to be gone", () => !fs.existsSync(`/proc/${first.pid}`) && Date.now(), { timeoutMs: 300_000 });
  const second = await json("restart");
  restarting = false;
  const goneAt = await gone;
  await asking;
  for (const { label, answer } of asked) assert.equal((await answer).ok, true, `${label}: ${JSON.stringify((await answer).error)}`);
  const listed = await client.call("sessions.list", { limit: 1000 });
  assert.equal(listed.ok, true, JSON.stringify(listed.error));
  const labels = listed.payload.sessions.map((row) => row.label).filter((label) => label?.startsWith("asked "));
  assert.equal(new Set(labels).size, labels.length, `twice: ${labels}`);
  // Those that waited for the next one: what the first one did before it ended is its own to keep.
  const waited = asked.filter(({ began, tookMs }) => began < goneAt && began + tookMs > goneAt);
  assert.ok(waited.length > 0, "nothing came while it was away");
  assert.deepEqual(waited.filter(({ label }) => !labels.includes(label)), [], "each was done");
  t.diagnostic(`${asked.length} calls, ${waited.length} of them waited, ${Math.max(...asked.map(({ tookMs }) => tookMs))} ms at most`);
  assert.notEqual((await page).status, 503);
  assert.deepEqual([second.state, second.starts], ["ready", 2]);
  assert.notEqual(second.pid, first.pid);
  assert.ok(!fs.existsSync(`/proc/${first.pid}`), "the old one is gone");
  assert.equal(client.close_, undefined, "our client stayed");
  await client.end();
  await until("the new one's lines to be followed", () => follower.output.includes(`"pid":${second.pid}`));
  const numbers = follower.output.trim().split("\n").map((line) => JSON.parse(line).seq);
  assert.deepEqual(numbers, numbers.map((_, index) => numbers[0] + index), "every line once, in order");
  assert.match((await cli(ours, "logs")).stdout, new RegExp(`^\\S.*\\.\\d{3}  ${first.pid}  `, "m"));

  assert.equal((await over("GET", "", {})).status, 401);
  assert.equal((await over("POST", "/restart", {})).status, 401);
  assert.equal((await over("GET", "/restart")).status, 405);
  assert.equal((await over("GET", "/nope")).status, 404);
  assert.match((await over("GET", "/logs?after=x")).body.error, /after: "x" is no whole number/);

  // What it wrote before it failed is told, and a restart that fails says so.
  const again = await RawClient.open(ours.wsUrl);
  assert.equal((await again.connect({ token: TOKEN })).ok, true);
  const config = path.join(ours.stateDir, "openclaw.json");
  const good = fs.readFileSync(config, "utf8");
  fs.writeFileSync(config, JSON.stringify({ ...JSON.parse(good), noSuchKey: true }));
  const [failed, turned] = await Promise.all([cli(ours, "restart"), again.call("sessions.create", { label: "in vain" }, { timeoutMs: 300_000 })]);
  // Held or not, it is told at once that none follows.
  if (!turned.ok) assert.deepEqual([turned.error.code, turned.error.retryable], ["UNAVAILABLE", true], JSON.stringify(turned.error));
  assert.equal(failed.code, 1, failed.stdout + failed.stderr);
  assert.match(failed.stdout, /^state {4}(down|stopped)\nwhy {6}\S/);
  fs.writeFileSync(config, good);
  const started = await cli(ours, "start");
  assert.equal(started.code, 0, started.stdout + started.stderr);
  assert.match(started.stdout, /^state {4}ready\n/);
  await again.end();
});

test("without one: status says so, orders are refused with what to do", async (t) => {
  const ours = await startOurs();
  t.after(() => ours.stop());
  const status = await cli(ours, "status");
  assert.equal(status.stdout, "state    off\n", status.stderr);
  const refused = await cli(ours, "restart");
  assert.equal(refused.code, 1);
  assert.match(refused.stderr, /no OpenClaw is supervised by this gateway/);
});
