// The proxies of deploy/ in front of OpenClaw and of us, as shipped but for the ports: shares, drain, readiness.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import fs from "node:fs";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import { test } from "node:test";
import { Child } from "../lib/child.mjs";
import { startOriginal, startOurs, TOKEN } from "../lib/gateway.mjs";
import { RawClient } from "../lib/raw.mjs";
import { freePort, isolatedEnv, repoRoot, tempDir, until } from "../lib/tools.mjs";

/** An address of this machine that is no loopback: a client behind a proxy is never local. */
const outside = Object.values(os.networkInterfaces()).flat().find((one) => one.family === "IPv4" && !one.internal)?.address;

/** The shipped file with this test's ports; each is in it. */
function shipped(file, dir, { port, ports }, more = {}) {
  assert.ok(outside, "this machine has no address but loopback ones");
  let text = fs.readFileSync(path.join(repoRoot, "deploy", file), "utf8");
  const replaced = {
    "127.0.0.1:8080": `${outside}:${port}`,
    "127.0.0.1:18789": `127.0.0.1:${ports.ours}`,
    "127.0.0.1:18790": `127.0.0.1:${ports.original}`,
    ...more,
  };
  for (const [from, to] of Object.entries(replaced)) {
    assert.ok(text.includes(from), `${file} lacks ${from}`);
    text = text.replaceAll(from, to);
  }
  const own = path.join(dir, path.basename(file));
  fs.writeFileSync(own, text);
  return own;
}

async function pair(t) {
  const config = { gateway: { trustedProxies: ["127.0.0.1"] } };
  const original = await startOriginal({ config });
  t.after(() => original.stop());
  const ours = await startOurs({ config, upstream: { attach: original } });
  t.after(() => ours.stop());
  const dir = tempDir("proxy");
  t.after(() => fs.rmSync(dir, { recursive: true, force: true }));
  const port = await freePort();
  return { original, ours, dir, port, url: `http://${outside}:${port}`, ports: { ours: ours.port, original: original.port } };
}

/** Who answers so many requests, each on a connection of its own. */
async function served(url, count) {
  const by = {};
  for (let n = 0; n < count; n += 1) {
    const response = await fetch(`${url}/healthz`, { headers: { connection: "close" } });
    const who = response.headers.get("x-served-by");
    assert.equal(response.status, 200, await response.text());
    by[who] = (by[who] ?? 0) + 1;
  }
  return by;
}

async function client(url) {
  const one = await RawClient.open(url.replace("http", "ws"));
  const hello = await one.connect({ token: TOKEN, scopes: ["operator.read"], client: { id: "cli", mode: "cli" } });
  assert.equal(hello.ok, true, JSON.stringify(hello.error));
  return one;
}

test("HAProxy: by weight, drained without closing anything, away from who is not ready", { timeout: 600_000 }, async (t) => {
  const { ours, dir, url, ...rest } = await pair(t);
  const socket = path.join(dir, "admin.sock");
  const file = shipped("haproxy/haproxy.cfg", dir, rest, { "/run/haproxy/openclaw.sock": socket });
  const checked = spawnSync("/usr/sbin/haproxy", ["-c", "-f", file], { encoding: "utf8" });
  assert.equal(checked.status, 0, checked.stderr + checked.stdout);
  const proxy = new Child("/usr/sbin/haproxy", ["-db", "-f", file], { env: isolatedEnv(dir), cwd: dir, label: "haproxy" });
  t.after(() => proxy.stop());
  await until("haproxy to serve", async () => (await fetch(`${url}/readyz`)).status === 200);
  const order = (line) => new Promise((resolve, reject) => {
    let said = "";
    net.connect(socket).on("error", reject).on("data", (data) => (said += data)).on("end", () => resolve(said)).end(`${line}\n`);
  });
  const share = await served(url, 100);
  assert.ok(share["openclaw-rs"] >= 4 && share["openclaw-rs"] <= 6, JSON.stringify(share));

  await order("set server gateways/openclaw weight 0");
  await order("set server gateways/openclaw-rs weight 100");
  assert.deepEqual(await served(url, 10), { "openclaw-rs": 10 });
  const stays = await client(url);
  await order("set server gateways/openclaw weight 95");
  await order("set server gateways/openclaw-rs state drain");
  assert.deepEqual(await served(url, 10), { openclaw: 10 });
  assert.equal((await stays.call("health", {})).ok, true, "an open connection stays");
  await stays.end();

  await order("set server gateways/openclaw-rs state ready");
  await until("a share again", async () => (await served(url, 5))["openclaw-rs"]);
  ours.child.kill("SIGKILL");
  await until("to be left out", async () => !/openclaw-rs/.test(Object.keys(await served(url, 5)).join()));
  assert.deepEqual(await served(url, 10), { openclaw: 10 });
});

test("nginx: by percent, moved without closing anything, the other one for who is gone", { timeout: 600_000 }, async (t) => {
  const { ours, original, dir, url, ...rest } = await pair(t);
  const file = shipped("nginx/nginx.conf", dir, rest);
  const args = ["-p", dir, "-c", file, "-g", `daemon off; pid ${dir}/pid; error_log stderr; user root;`];
  const checked = spawnSync("/usr/sbin/nginx", ["-t", ...args], { encoding: "utf8" });
  assert.equal(checked.status, 0, checked.stderr);
  const proxy = new Child("/usr/sbin/nginx", args, { env: isolatedEnv(dir), cwd: dir, label: "nginx" });
  t.after(() => proxy.stop());
  await until("nginx to serve", async () => (await fetch(`${url}/readyz`)).status === 200).catch((error) => assert.fail(`${error.message}: ${JSON.stringify(proxy.exit)} ${proxy.output}`));
  const side = (target) => `127.0.0.1:${target.port}`;
  const set = async (percent, target) => {
    fs.writeFileSync(file, fs.readFileSync(file, "utf8").replace(/^( +)[\d.]+%/m, `$1${percent}%`));
    proxy.kill("SIGHUP");
    await until(`${percent} % in force`, async () => (await served(url, 5))[side(target)] === 5);
  };
  await set("100", ours);
  const stays = await client(url);
  await set("0.01", original);
  assert.equal((await stays.call("health", {})).ok, true, "an open connection stays");
  await stays.end();
  await set("100", ours);
  ours.child.kill("SIGKILL");
  await ours.child.waitExit();
  const by = await served(url, 10);
  assert.ok(Object.keys(by).every((who) => who.endsWith(side(original))), JSON.stringify(by));
});
