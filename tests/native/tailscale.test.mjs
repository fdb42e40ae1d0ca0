// `gateway.tailscale`: the same questions to the `tailscale` command line, the same clients let in, on the original and on
// ours. The command line and the daemon's proxy are played by tailscale-cli.mjs.
import assert from "node:assert/strict";
import fs from "node:fs";
import path from "node:path";
import test from "node:test";
import { startOriginal, startOurs, TOKEN } from "../lib/gateway.mjs";
import { Device, RawClient } from "../lib/raw.mjs";
import { freePort, nodeBinary, repoRoot, tempDir, until } from "../lib/tools.mjs";

const WHO = { "100.64.0.9": "person@example.com", "100.64.0.10": "other@example.com" };
const PAGE = { id: "openclaw-control-ui", mode: "webchat" };
const sides = { original: startOriginal, ours: startOurs };

/** A folder with a `tailscale` program, and the environment that finds it. */
function tailnet(t, files = {}) {
  const dir = tempDir("tailscale");
  t.after(() => fs.rmSync(dir, { recursive: true, force: true }));
  fs.mkdirSync(path.join(dir, "bin"));
  fs.writeFileSync(path.join(dir, "bin/tailscale"), `#!/bin/sh\nexec ${nodeBinary} ${path.join(repoRoot, "tests/native/tailscale-cli.mjs")} ${dir} "$@"\n`, { mode: 0o755 });
  for (const [name, content] of Object.entries({ "whois.json": WHO, ...files })) {
    fs.writeFileSync(path.join(dir, name), typeof content === "string" ? content : JSON.stringify(content));
  }
  const json = (name) => JSON.parse(fs.readFileSync(path.join(dir, name), "utf8"));
  return {
    env: { PATH: `${path.join(dir, "bin")}:${path.dirname(nodeBinary)}:${process.env.PATH}` },
    address: () => until("the route", () => fs.existsSync(path.join(dir, "address")) && json("address")),
    /** Each different call once, in order, without what only asks for the daemon's state. */
    calls: () => [...new Set(fs.readFileSync(path.join(dir, "calls"), "utf8").trim().split("\n")
      .map((line) => line.replace(/"\d{4,5}"/, '"<port>"'))
      .filter((line) => !/"version"|"status","--json"\]$/.test(line) || /"(serve|funnel)","status"/.test(line)))],
    has: (name) => fs.existsSync(path.join(dir, name)),
  };
}

const isAlive = (pid) => {
  try {
    process.kill(pid, 0);
    return !/^State:\s+Z/m.test(fs.readFileSync(`/proc/${pid}/status`, "utf8"));
  } catch {
    return false;
  }
};

/** What a client is told that comes through `url`, and what of it is the same everywhere. */
async function come(url, headers, connect) {
  let client;
  try {
    client = await RawClient.open(url.replace("http", "ws"), { headers: { origin: "https://box.tail1.ts.net", ...headers } });
  } catch (error) {
    return { status: error.status, body: error.body };
  }
  const answer = await client.connect(connect);
  const told = answer.ok
    ? { ok: true, role: answer.payload.auth.role, scopes: answer.payload.auth.scopes, token: typeof answer.payload.auth.deviceToken, page: answer.payload.snapshot.controlUiIdentityUrl }
    : { ok: false, code: answer.error.code, message: answer.error.message, details: { ...answer.error.details, requestId: undefined, deviceId: undefined } };
  client.socket.terminate();
  return told;
}

/** The page as this gateway serves it; a node or a command line has no such thing. */
async function pages(target, secret = { token: TOKEN }) {
  const admin = await RawClient.open(target.wsUrl);
  const { payload } = await admin.connect(secret);
  await admin.end();
  return (auth) => ({ client: { ...PAGE, buildId: payload.server.buildId }, device: new Device(), scopes: ["operator.read", "operator.write"], auth });
}

async function serve(t, start) {
  const net = tailnet(t);
  const target = await start({ config: { gateway: { tailscale: { mode: "serve" } } }, env: net.env });
  t.after(() => target.stop());
  const route = await net.address();
  assert.notEqual(route.target, target.port, "the route leads to a listener of its own");
  const page = await pages(target);
  const person = { "x-test-login": "person@example.com" };
  const seen = {
    calls: net.calls(),
    probe: (await fetch(`${route.url}/healthz`)).status,
    person: await come(route.url, person, page()),
    "a person in other letters": await come(route.url, { "x-test-login": "Person@Example.com" }, page()),
    "somebody else's name": await come(route.url, { "x-test-login": "root@example.com" }, page()),
    "nobody's address": await come(route.url, { "x-test-client": "100.64.0.77", ...person }, page()),
    "no name": await come(route.url, {}, page()),
    "a wrong secret beside a name": await come(route.url, { "x-test-client": "100.64.0.10", "x-test-login": "other@example.com" }, page({ token: "wrong" })),
    "the secret": await come(route.url, {}, page({ token: TOKEN })),
    "no device": await come(route.url, person, { ...page(), device: undefined }),
    "a command line": await come(route.url, person, { client: { id: "cli", mode: "cli" }, device: new Device(), scopes: ["operator.read"] }),
    "a node": await come(route.url, person, { client: { id: "node-host", mode: "node" }, role: "node", device: new Device(), scopes: [] }),
    "a client that says it is this machine": await come(route.url, { "x-test-client": "127.0.0.1" }, page()),
    "the same headers at the ordinary port": await come(target.url, {
      "x-forwarded-for": "100.64.0.9", "x-forwarded-proto": "https", "x-forwarded-host": "box.tail1.ts.net", "tailscale-user-login": "person@example.com",
    }, page()),
    "straight to the route's own port": await come(`http://127.0.0.1:${route.target}`, {}, page({ token: TOKEN })),
    "an API with a name instead of the secret": (await fetch(`${route.url}/v1/models`, { headers: person })).status,
  };
  process.kill(target.child.pid, "SIGKILL");
  await until("the route to end with its gateway", () => !isAlive(route.pid), { timeoutMs: 60_000 });
  return seen;
}

async function funnel(t, start) {
  const net = tailnet(t);
  const auth = { mode: "password", password: "a long password for everybody" };
  const target = await start({ config: { gateway: { tailscale: { mode: "funnel" }, auth } }, env: net.env });
  t.after(() => target.stop());
  const route = await net.address();
  const page = await pages(target, { password: auth.password });
  const everybody = { "x-test-public": "1", "x-test-client": "203.0.113.9" };
  const seen = {
    calls: net.calls(),
    "anybody without the password": await come(route.url, everybody, page()),
    "anybody with a wrong one": await come(route.url, everybody, page({ password: "wrong" })),
    "anybody with it": await come(route.url, { ...everybody, "x-test-client": "203.0.113.10" }, page({ password: auth.password })),
    "a person of the tailnet without it": await come(route.url, { "x-test-login": "person@example.com" }, page()),
  };
  await target.child.stop();
  assert.ok(!isAlive(route.pid), "the route has outlived its gateway");
  return seen;
}

async function adopt(t, start) {
  const net = tailnet(t);
  const target = await start({
    config: { gateway: { tailscale: { mode: "serve" } } }, env: net.env, waitReady: false,
    ...(await portWith(net, (port) => ({ TCP: { 443: { HTTPS: true } }, Web: { "box.tail1.ts.net:443": { Handlers: { "/": { Proxy: `http://127.0.0.1:${port}` } } } } }))),
  });
  t.after(() => target.stop());
  await net.address();
  return { calls: net.calls(), left: net.has("serve.json") };
}

/** A port chosen now, with the routes that lead to it. */
async function portWith(net, routes) {
  const port = await freePort();
  fs.writeFileSync(path.join(path.dirname(net.env.PATH.split(":")[0]), "serve.json"), JSON.stringify(routes(port)));
  return { port };
}

async function preserved(t, start) {
  const net = tailnet(t);
  const port = await freePort();
  const dir = path.dirname(net.env.PATH.split(":")[0]);
  fs.writeFileSync(path.join(dir, "funnel.json"), JSON.stringify({
    AllowFunnel: { "box.tail1.ts.net:443": true },
    Web: { "box.tail1.ts.net:443": { Handlers: { "/": { Proxy: `http://127.0.0.1:${port}` } } } },
  }));
  const target = await start({ config: { gateway: { tailscale: { mode: "serve", preserveFunnel: true } } }, env: net.env, port });
  t.after(() => target.stop());
  return { calls: net.calls(), route: net.has("address") };
}

for (const [what, run] of Object.entries({ serve, funnel, "a route that an older OpenClaw left": adopt, "a Funnel that is left alone": preserved })) {
  test(what, async (t) => {
    const seen = {};
    for (const [side, start] of Object.entries(sides)) {
      await t.test(side, async (part) => {
        seen[side] = await run(part, start);
      });
    }
    assert.deepEqual(seen.ours, seen.original);
  });
}

test("who may come is what it should be", async (t) => {
  const seen = await serve(t, startOurs);
  assert.deepEqual(Object.entries(seen).filter(([, told]) => told.ok).map(([who]) => who), ["person", "a person in other letters"]);
  assert.equal(seen.person.page, "https://box.tail1.ts.net/");
});

test("a route that is not to be had stops the start, and says what to do", async (t) => {
  const net = tailnet(t, { refuse: "sending serve config: listener already exists for port 443" });
  const target = await startOurs({ config: { gateway: { tailscale: { mode: "serve" } } }, env: net.env, waitReady: false });
  t.after(() => target.stop());
  assert.equal((await target.child.waitExit()).code, 1);
  assert.match(target.child.output, /HTTPS port 443 has a route already, see `tailscale serve status`/);
});

test("no tailscale at all is said", async (t) => {
  const target = await startOurs({ config: { gateway: { tailscale: { mode: "serve" } } }, env: { PATH: "/nonexistent" }, waitReady: false });
  t.after(() => target.stop());
  assert.equal((await target.child.waitExit()).code, 1);
  assert.match(target.child.output, /tailscale serve: the program `tailscale` was not found; install Tailscale/);
});

test("a route that is lost sends its people away, and nobody else", async (t) => {
  const net = tailnet(t);
  const target = await startOurs({ config: { gateway: { tailscale: { mode: "serve" } } }, env: net.env });
  t.after(() => target.stop());
  const route = await net.address();
  const client = await RawClient.open(target.wsUrl);
  assert.ok((await client.connect({ token: TOKEN })).ok);
  process.kill(route.pid, "SIGKILL");
  assert.deepEqual(await client.closed, { code: 1012, reason: "browser identity route changed" });
  assert.equal((await fetch(`${target.url}/readyz`)).status, 200);
});

test("with OpenClaw behind, who Tailscale says it is counts as well, and the rest is bridged", async (t) => {
  const original = await startOriginal();
  t.after(() => original.stop());
  const net = tailnet(t);
  const target = await startOurs({ config: { gateway: { tailscale: { mode: "serve" } } }, env: net.env, upstream: { attach: original } });
  t.after(() => target.stop());
  const route = await net.address();
  const page = await pages(target);
  const client = await RawClient.open(route.url.replace("http", "ws"), { headers: { origin: "https://box.tail1.ts.net", "x-test-login": "person@example.com" } });
  const { payload } = await client.connect(page());
  assert.deepEqual(payload.auth.scopes, ["operator.read", "operator.write"]);
  const models = await client.call("models.list", {});
  assert.ok(models.ok, JSON.stringify(models));
  const config = await client.call("config.set", { raw: "{}" });
  assert.equal(config.error?.details?.missingScope ?? config.error?.code, "operator.admin", JSON.stringify(config));
  await client.end();
});
