// The original's own `openclaw gateway restart` on a state whose OpenClaw is our child is followed, a stop from outside is honoured
// and shown, and our clients stay.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { startOurs, TOKEN } from "../lib/gateway.mjs";
import { RawClient } from "../lib/raw.mjs";
import { gatewayBinary, nodeBinary, openclawEntry, tempDir, until } from "../lib/tools.mjs";

const START_MS = 240_000;

test("the original's command line restarts the child, and a stop from outside holds", async (t) => {
  // As by default: it is supervised where there are the package and a state.
  const stateDir = tempDir("gateway-command");
  fs.mkdirSync(path.join(stateDir, "state"), { mode: 0o700 });
  const command = JSON.stringify([nodeBinary, openclawEntry]);
  const ours = await startOurs({ stateDir, upstream: "auto", toml: `command = ${command}` });
  t.after(() => ours.stop());
  const env = { ...ours.env, OPENCLAW_GATEWAY_PORT: String(ours.port) };
  const run = (command, ...args) => new Promise((resolve) => {
    execFile(command, args, { env, cwd: ours.stateDir, timeout: START_MS }, (error, stdout, stderr) => resolve({ code: error ? error.code : 0, text: stdout + stderr }));
  });
  const openclaw = (...args) => run(nodeBinary, openclawEntry, "gateway", ...args);
  const status = async () => JSON.parse((await run(gatewayBinary(), "upstream", "status", "--json")).text);
  const client = await RawClient.open(ours.wsUrl);
  assert.equal((await client.connect({ token: TOKEN })).ok, true);
  const served = () => until("a bridged call to be answered", async () => (await client.call("sessions.list", { limit: 1 })).ok, { timeoutMs: START_MS });
  await served();
  const first = await status();

  await t.test("a restart is followed", async () => {
    const { code, text } = await openclaw("restart");
    assert.equal(code, 0, text);
    await until("another start", async () => {
      const now = await status();
      return now.state === "ready" && (now.epoch !== first.epoch || now.pid !== first.pid);
    }, { timeoutMs: START_MS, everyMs: 200 });
    await served();
    assert.equal(client.close_, undefined, "our client never noticed");
    assert.equal(ours.child.exit, null);
  });

  await t.test("a stop is honoured, shown, and taken back by an order of ours", async () => {
    // What the command ends in: on a state that is not its user's own it refuses.
    process.kill((await status()).pid, "SIGTERM");
    await until("the stop to be shown", async () => (await status()).state === "stopped", { timeoutMs: START_MS, everyMs: 200 });
    assert.equal(client.close_, undefined, "our client never noticed");
    assert.equal(ours.child.exit, null, "this gateway was stopped instead of the child");
    assert.equal((await client.call("health")).ok, true);
    const refused = await client.call("cron.run", { id: "none" });
    assert.equal(refused.error?.code, "UNAVAILABLE", JSON.stringify(refused));
    assert.equal((await run(gatewayBinary(), "upstream", "start")).code, 0);
    await served();
  });
});
