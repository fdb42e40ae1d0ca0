// `doctor` finds what breaks a first day: each cause planted, found by name, with what to do.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import fs from "node:fs";
import net from "node:net";
import path from "node:path";
import test from "node:test";
import { startOriginal, startOurs } from "../lib/gateway.mjs";
import { freePort, gatewayBinary, isolatedEnv, nodeBinary, openclawEntry, tempDir } from "../lib/tools.mjs";

/** A state that is well, with what a test changes of it. */
async function patient(t, { toml = "[upstream]\nmode = \"off\"\n", env = {} } = {}) {
  const dir = tempDir("doctor");
  t.after(() => fs.rmSync(dir, { recursive: true, force: true }));
  const own = path.join(dir, "openclaw-rs");
  fs.mkdirSync(own, { mode: 0o700 });
  fs.writeFileSync(path.join(own, "openclaw-gateway.toml"), `[admin]\nlisten = "off"\n${toml}`);
  const port = await freePort();
  const config = path.join(dir, "openclaw.json");
  fs.writeFileSync(config, JSON.stringify({ gateway: { mode: "local", port, auth: { mode: "token", token: "doctor-token-0123456789" } } }), { mode: 0o600 });
  return { dir, own, port, config, env: isolatedEnv(dir, env) };
}

/** Not by `spawnSync`: a port may be held by this process. */
function doctor(env, ...args) {
  return new Promise((resolve, reject) => {
    const child = spawn(gatewayBinary(), ["doctor", ...args], { env });
    let text = "";
    child.stdout.on("data", (chunk) => (text += chunk));
    child.on("error", reject).on("close", (code) => resolve({ code, text }));
  });
}

/** The one thing that is wrong. */
async function only(env, check) {
  const { code, text } = await doctor(env, "--json");
  const { ok, findings } = JSON.parse(text);
  const bad = findings.filter((finding) => !finding.ok);
  assert.deepEqual([code, ok, bad.map((finding) => finding.check)], [1, false, [check]], text);
  assert.ok(bad[0].fix, text);
  const shown = await doctor(env);
  assert.ok(shown.text.includes(`BAD ${check}`) && shown.text.includes(bad[0].fix), shown.text);
  return bad[0];
}

test("who is well is told so", async (t) => {
  const { env } = await patient(t);
  const { code, text } = await doctor(env, "--json");
  assert.equal(code, 0, text);
  assert.equal(JSON.parse(text).ok, true);
});

test("a port that somebody else holds", async (t) => {
  const { env, port } = await patient(t);
  const server = net.createServer();
  await new Promise((resolve) => server.listen(port, "127.0.0.1", resolve));
  t.after(() => server.close());
  assert.match((await only(env, "port")).what, new RegExp(`port ${port} is held by .*\\(pid ${process.pid}\\)`));
});

test("a configuration that others can read", async (t) => {
  const { env, config } = await patient(t);
  fs.chmodSync(config, 0o644);
  assert.equal((await only(env, "secrets")).fix, `chmod go= ${config}`);
});

test("a clock that was set back", async (t) => {
  const { env, own } = await patient(t);
  const later = new Date(Date.now() + 3_600_000);
  fs.utimesSync(path.join(own, "openclaw-gateway.toml"), later, later);
  assert.match((await only(env, "clock")).what, /set back/);
});

test("a Node that is too old", async (t) => {
  const old = path.join(tempDir("node"), "node");
  t.after(() => fs.rmSync(path.dirname(old), { recursive: true, force: true }));
  fs.writeFileSync(old, "#!/bin/sh\necho v20.11.1\n", { mode: 0o755 });
  const { env } = await patient(t, { toml: `[upstream]\nmode = "supervise"\ncommand = ["${old}", ${JSON.stringify(openclawEntry)}]\n` });
  assert.match((await only(env, "node")).what, /needs >=24\.16 <25, or >=26\.1, and .*node is 20\.11\.1/);
});

test("a package that is not there", async (t) => {
  const { env } = await patient(t, { toml: "[upstream]\nmode = \"supervise\"\n", env: { PATH: "/nowhere" } });
  assert.match((await only(env, "openclaw")).what, /openclaw is not installed.*npm install -g openclaw/);
});

test("another token than the running gateway's", async (t) => {
  const ours = await startOurs();
  t.after(() => ours.stop());
  const env = { ...ours.env, OPENCLAW_GATEWAY_PORT: String(ours.port) };
  const well = await doctor(env, "--json");
  assert.equal(well.code, 0, well.text);
  assert.match(well.text, /the running gateway takes the configured secret/);
  const found = await only({ ...env, OPENCLAW_GATEWAY_TOKEN: "wrong-0123456789" }, "token");
  assert.match(found.what, /does not take the secret of the variable OPENCLAW_GATEWAY_TOKEN: unauthorized: gateway token mismatch/);
});

test("a gateway that is attached to: with another token, and not running", async (t) => {
  const original = await startOriginal();
  t.after(() => original.stop());
  const toml = (token) => `[upstream]\nmode = "attach"\nurl = "${original.wsUrl}"\ntoken = "${token}"\ncommand = [${JSON.stringify(nodeBinary)}, ${JSON.stringify(openclawEntry)}]\n`;
  const well = await patient(t, { toml: toml(original.token) });
  assert.equal((await doctor(well.env)).code, 0);
  const wrong = await patient(t, { toml: toml("wrong-0123456789") });
  assert.match((await only(wrong.env, "upstream")).fix, /token or token_file under \[upstream\]/);
  await original.child.stop();
  assert.match((await only(well.env, "upstream")).fix, /openclaw gateway run/);
});
