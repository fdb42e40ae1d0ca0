// `config check|show|diff` and the refusals that `doctor` repeats, from the spawned binary.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import test from "node:test";
import { startOurs, TOKEN } from "../lib/gateway.mjs";
import { RawClient } from "../lib/raw.mjs";
import { freePort, gatewayBinary, isolatedEnv, tempDir } from "../lib/tools.mjs";

const SENTINEL = "__OPENCLAW_REDACTED__";

function state({ json5, toml = "" }) {
  const dir = tempDir("config-cli");
  fs.mkdirSync(path.join(dir, "openclaw-rs"), { recursive: true });
  fs.writeFileSync(path.join(dir, "openclaw.json"), json5, { mode: 0o600 });
  fs.writeFileSync(path.join(dir, "openclaw-rs", "openclaw-gateway.toml"), toml);
  const run = (args, env = {}) => {
    const done = spawnSync(gatewayBinary(), args, { env: isolatedEnv(dir, env), encoding: "utf8", timeout: 120_000 });
    return { code: done.status, out: done.stdout, err: done.stderr };
  };
  return { dir, run };
}

test("check names file, line and key of what OpenClaw would refuse", () => {
  const good = state({ json5: "{ gateway: { mode: 'local' } }" });
  assert.equal(good.run(["config", "check"]).code, 0);
  const { dir, run } = state({ json5: "{\n  gateway: {\n    mode: 'local',\n    prot: 1,\n    bind: 'moon' } }" });
  const { code, out } = run(["config", "check"]);
  assert.equal(code, 78);
  assert.match(out, new RegExp(`${path.join(dir, "openclaw.json")}:5:5: gateway\\.bind: `));
  assert.match(out, /gateway: .*prot/);
});

test("show gives every value with its place, and no secret", () => {
  const { dir, run } = state({
    json5: "{\n $include: './more.json5',\n gateway: {\n  mode: 'local', port: 4321,\n  auth: { mode: 'token', token: '${MY_TOKEN}' } },\n}",
    toml: "[log]\nlevel = 'warn'\n",
  });
  fs.writeFileSync(path.join(dir, "more.json5"), "{\n // ours\n logging: { level: 'debug' } }");
  const env = { MY_TOKEN: "from-a-variable-0123456789" };
  const shown = JSON.parse(run(["config", "show", "--json"], env).out);
  const of = (part, key) => shown[part].values.find((row) => row.key === key);
  const file = path.join(dir, "openclaw.json");
  assert.deepEqual(of("config", "gateway.port"), { key: "gateway.port", value: 4321, origin: `${file}:4:18` });
  assert.deepEqual(of("config", "gateway.auth.token"), { key: "gateway.auth.token", value: SENTINEL, origin: `${file}:5:26 with MY_TOKEN` });
  assert.equal(of("config", "logging.level").origin, `${path.join(dir, "more.json5")}:3:13`);
  assert.deepEqual(shown.own.values.map((row) => row.key), ["log.level"]);

  const effective = JSON.parse(run(["config", "show", "--effective", "--json"], { ...env, OPENCLAW_GATEWAY_PORT: "5432" }).out);
  const port = effective.config.values.find((row) => row.key === "gateway.port");
  assert.deepEqual(port, { key: "gateway.port", value: 5432, origin: "variable OPENCLAW_GATEWAY_PORT" });
  const own = Object.fromEntries(effective.own.values.map((row) => [row.key, row]));
  assert.match(own["log.level"].origin, /openclaw-gateway\.toml:2:1$/);
  assert.deepEqual(own["messages.keep_days"], { key: "messages.keep_days", value: 30, origin: "default" });

  const text = run(["config", "show", "--effective"], env).out;
  assert.match(text, /^gateway\.port = 4321 {2}# /m);
  assert.ok(!text.includes(env.MY_TOKEN));
});

test("diff says what a candidate changes and whether that takes a restart", () => {
  const { dir, run } = state({
    json5: "{ gateway: { mode: 'local', port: 4321, auth: { mode: 'token', token: 'one-secret' } } }",
    toml: "[log]\nlevel = 'info'\nformat = 'json'\n",
  });
  const file = path.join(dir, "candidate.json5");
  const candidate = (name, text) => {
    fs.writeFileSync(path.join(dir, name), text);
    return run(["config", "diff", path.join(dir, name), "--json"]);
  };
  const user = candidate("candidate.json5", "{ gateway: { mode: 'local', port: 4322, auth: { mode: 'token', token: 'two-secret' } }, logging: { level: 'debug' } }");
  assert.ok(!user.out.includes("secret"), user.out);
  const changes = Object.fromEntries(JSON.parse(user.out).changes.map((change) => [change.key, change]));
  assert.deepEqual(changes["gateway.port"], { key: "gateway.port", old: 4321, new: 4322, restart: true });
  assert.deepEqual(changes["gateway.auth.token"], { key: "gateway.auth.token", old: SENTINEL, new: SENTINEL, restart: false });
  assert.equal(Object.keys(changes).length, 3);
  const own = candidate("candidate.toml", "[log]\nlevel = 'warn'\nformat = 'pretty'\n");
  assert.deepEqual(JSON.parse(own.out).changes, [
    { key: "log.level", old: "info", new: "warn", restart: false },
    { key: "log.format", old: "json", new: "pretty", restart: true },
  ]);
  const bad = candidate("candidate.json5", "{\n a: 1\n b: 2 }");
  assert.equal(bad.code, 78);
  assert.match(bad.err, new RegExp(`${file}:3:2: `));
});

test("doctor repeats refused connects with what to do about them", async () => {
  const admin = await freePort();
  const stateDir = tempDir("doctor");
  const own = path.join(stateDir, "openclaw-rs");
  fs.mkdirSync(own, { recursive: true, mode: 0o700 });
  fs.writeFileSync(path.join(own, "openclaw-gateway.toml"), `[admin]\nlisten = "127.0.0.1:${admin}"\n[upstream]\nmode = "off"\n`);
  const target = await startOurs({ stateDir });
  try {
    const doctor = () => JSON.parse(spawnSync(gatewayBinary(), ["doctor", "--json"], { env: target.env, encoding: "utf8", timeout: 120_000 }).stdout);
    assert.deepEqual(doctor().refusals, []);
    for (let index = 0; index < 11; index++) {
      const client = await RawClient.open(target.wsUrl);
      // Wrong tokens are slowed down; one of them is enough.
      const hello = await client.connect(index < 10 ? { token: TOKEN, minProtocol: 99, maxProtocol: 99 } : { token: "wrong-0123456789" });
      assert.equal(hello.ok, false);
      await client.end();
    }
    const { refusals } = doctor();
    assert.equal(refusals.length, 10);
    assert.notEqual(refusals[8].cause + refusals[8].reason, refusals[9].cause + refusals[9].reason);
    for (const refusal of refusals) {
      assert.ok(refusal.cause && refusal.fix && refusal.atMs > 0, JSON.stringify(refusal));
      assert.ok(!refusal.text.includes("wrong-"), refusal.text);
    }
    const text = spawnSync(gatewayBinary(), ["doctor"], { env: target.env, encoding: "utf8", timeout: 120_000 }).stdout;
    assert.equal(text.match(/connect refused: .*; fix: /g).length, 10);
    const rebound = await new Promise((resolve, reject) => {
      import("node:http").then(({ get }) => get({ port: admin, path: "/refusals", headers: { host: "evil.example" } }, (reply) => { reply.resume(); resolve(reply.statusCode); }).on("error", reject));
    });
    assert.equal(rebound, 403);
  } finally {
    await target.stop();
  }
});
