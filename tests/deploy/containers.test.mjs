// What the images and manifests of deploy/ tell the gateway is what it takes: configuration, health check, probes. The images
// themselves need a container engine, which these tests do without.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { Child } from "../lib/child.mjs";
import { freePort, gatewayBinary, isolatedEnv, repoRoot, tempDir, until } from "../lib/tools.mjs";

const TOKEN = "container-token-0123456789abcdef";
const deploy = (name) => fs.readFileSync(path.join(repoRoot, "deploy", name), "utf8");

/** The binary as the entry point with `args`, on `env`; stopped at the end. */
function start(t, stateDir, args, env) {
  const child = new Child(gatewayBinary(), args, { env, cwd: stateDir, label: "gateway" });
  t.after(async () => {
    await child.stop();
    fs.rmSync(stateDir, { recursive: true, force: true });
  });
  return child;
}

/** Exit code of a command line whose program is ours. */
const run = ([program, ...args], env, cwd) => new Promise((resolve) => {
  assert.equal(program, "/usr/local/bin/openclaw-gateway");
  spawn(gatewayBinary(), args, { env, cwd, stdio: "ignore" }).on("close", resolve);
});

test("the container's configuration listens everywhere, and its health check judges this gateway, not OpenClaw behind", async (t) => {
  const stateDir = tempDir("container");
  fs.mkdirSync(path.join(stateDir, "openclaw-rs"), { mode: 0o700 });
  fs.writeFileSync(path.join(stateDir, "openclaw.json"), deploy("docker/openclaw.json"), { mode: 0o600 });
  // Another gateway may run on this machine.
  const toml = deploy("docker/openclaw-gateway.toml").replace("0.0.0.0:18689", "0.0.0.0:0");
  const [, gone] = /127\.0\.0\.1:(\d+)/.exec(toml);
  fs.writeFileSync(path.join(stateDir, "openclaw-rs/openclaw-gateway.toml"), toml.replace(gone, String(await freePort())));
  const port = await freePort();
  const env = isolatedEnv(stateDir, { OPENCLAW_GATEWAY_TOKEN: TOKEN, OPENCLAW_GATEWAY_PORT: String(port) });
  const child = start(t, stateDir, ["run"], env);
  await until("the gateway to live", async () => (await fetch(`http://127.0.0.1:${port}/healthz`)).ok);
  await until("its summary", () => child.output.includes(`http://0.0.0.0:${port}`));
  const dockerfile = deploy("docker/Dockerfile");
  const checks = [...dockerfile.matchAll(/^HEALTHCHECK .* CMD (\[.*\])$/gm)].map(([, command]) => JSON.parse(command));
  assert.equal(checks.length, 2);
  for (const check of checks) assert.equal(await run(check, env, stateDir), 0, "OpenClaw is not there, and the gateway is well");
  await child.stop();
  for (const check of checks) assert.notEqual(await run(check, env, stateDir), 0);
  for (const [, user] of dockerfile.matchAll(/^USER (.*)$/gm)) assert.equal(user, "65532:65532");
});

test("the pod's arguments, read-only configuration and probes", async (t) => {
  const stateDir = tempDir("pod");
  const config = path.join(tempDir("pod-config"), "openclaw.json");
  t.after(() => fs.rmSync(path.dirname(config), { recursive: true, force: true }));
  fs.writeFileSync(config, deploy("kubernetes/base/openclaw.json"), { mode: 0o444 });
  const manifest = deploy("kubernetes/base/statefulset.yaml");
  const args = JSON.parse(/^ +args: (\[.*\])$/m.exec(manifest)[1]);
  const port = await freePort();
  fs.mkdirSync(path.join(stateDir, "openclaw-rs"), { mode: 0o700 });
  fs.writeFileSync(path.join(stateDir, "openclaw-rs/openclaw-gateway.toml"), '[admin]\nlisten = "127.0.0.1:0"\n');
  const env = isolatedEnv(stateDir, { OPENCLAW_GATEWAY_TOKEN: TOKEN, OPENCLAW_GATEWAY_PORT: String(port), OPENCLAW_CONFIG_PATH: config });
  start(t, stateDir, args, env);
  const probes = [...manifest.matchAll(/Probe: \{ httpGet: \{ path: (\S+), port: gateway \}/g)].map(([, where]) => where);
  assert.equal(probes.length, 3);
  for (const where of probes) {
    await until(where, async () => (await fetch(`http://127.0.0.1:${port}${where}`)).status === 200);
  }
});
