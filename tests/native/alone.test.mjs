// A gateway without an upstream, over a raw socket: what it lists it answers, and its people see each other.
import assert from "node:assert/strict";
import fs from "node:fs";
import path from "node:path";
import test, { after, before } from "node:test";
import { startOurs, TOKEN } from "../lib/gateway.mjs";
import { Device, RawClient } from "../lib/raw.mjs";
import { repoRoot } from "../lib/tools.mjs";

let target;
before(async () => {
  target = await startOurs({ config: { agents: { entries: { main: {}, ada: { name: "Ada" } } } } });
});
after(() => target.stop());

async function open(options = {}) {
  const client = await RawClient.open(target.wsUrl);
  const hello = await client.connect({ token: TOKEN, ...options });
  assert.equal(hello.ok, true, JSON.stringify(hello));
  return Object.assign(client, { hello: hello.payload });
}

/** The least that each method's schema asks for. */
const PARAMS = {
  agent: { message: "hi", idempotencyKey: "k" },
  "agent.wait": { runId: "none", timeoutMs: 0 },
  "artifacts.list": { sessionKey: "main" },
  "board.get": { sessionKey: "main" },
  "chat.abort": { sessionKey: "main" },
  "chat.history": { sessionKey: "main" },
  "chat.send": { sessionKey: "main", message: "hi", idempotencyKey: "k" },
  "chat.startup": { sessionKey: "main" },
  "controlUi.sessionPullRequests.subscribe": { sessionKeys: [] },
  "sessions.abort": { key: "main" },
  "sessions.delete": { key: "other" },
  "sessions.patch": { key: "other", label: "Other" },
  "sessions.reset": { key: "other" },
  "device.pair.approve": { requestId: "none" },
  "device.pair.reject": { requestId: "none" },
  "device.pair.remove": { deviceId: "none" },
  "device.pair.rename": { deviceId: "none", label: "x" },
  "device.token.revoke": { deviceId: "none", role: "operator" },
  "device.token.rotate": { deviceId: "none", role: "operator" },
  "memory.forget": { agentId: "main", paths: ["none.md"] },
  "memory.get": { agentId: "main", path: "MEMORY.md" },
  "memory.index": { agentId: "main" },
  "memory.search": { agentId: "main", query: "x" },
  "memory.status": { agentId: "main" },
  "progressCard.get": { sessionKey: "main" },
  "session.discussion.info": { sessionKey: "main" },
  "sessions.branches.list": { sessionKey: "main" },
  "sessions.companion.state": { sessionKey: "main" },
  "sessions.describe": { key: "main" },
  "sessions.messages.subscribe": { key: "main" },
  "sessions.messages.unsubscribe": { key: "main" },
  "sessions.observer.visibility": { visible: true },
  "sessions.preview": { keys: ["main"] },
  "sessions.resolve": { key: "main" },
  "sessions.search": { query: "x" },
  "sessions.viewers.set": { sessionKeys: ["main"] },
  "set-heartbeats": { enabled: true },
  "tools.invoke": { name: "memory_get", args: { path: "MEMORY.md" } },
  "users.prefs.get": { keys: ["ui.theme"] },
  "cron.add": { name: "x", schedule: { kind: "at", at: "2031-01-01" }, sessionTarget: "isolated", wakeMode: "now", payload: { kind: "agentTurn", message: "x" } },
  ...Object.fromEntries(["cron.get", "cron.remove", "cron.run", "cron.update"].map((method) => [method, { id: "nobody", ...(method === "cron.update" ? { patch: {} } : {}) }])),
  wake: { mode: "now", text: "x" },
};

/** Answers that are an error on purpose. */
const ERRORS = {
  agent: /start OpenClaw .* or configure a model/,
  "config.apply": /must have required property 'raw'/,
  "config.patch": /must have required property 'raw'/,
  ...Object.fromEntries(["get", "request", "resolve", "waitDecision"].map((name) => [`exec.approval.${name}`, /must have required property|is required|must provide/])),
  "exec.approvals.set": /must have required property 'file'/,
  "config.set": /must have required property 'raw'/,
  "sessions.compact": /must have required property 'key'/,
  ...Object.fromEntries(["branches.switch", "fork", "rewind"].map((name) => [`sessions.${name}`, /must have required property 'sessionKey'/])),
  "chat.send": /start OpenClaw .* or configure a model/,
  ...Object.fromEntries(["cron.get", "cron.remove", "cron.run", "cron.update"].map((method) => [method, /not found: nobody/])),
  wake: /start OpenClaw .* or configure a model/,
  "mentions.list": /verified user profile/,
  "sessions.resolve": /No session found: main/,
  "users.self": /authenticated user/,
};

/** Of each method that checks its params, what the original takes: its own words were asked for. */
const TAKEN = new Map(fs.readFileSync(path.join(repoRoot, "crates/wire/tests/captures/params.jsonl"), "utf8").split("\n").filter(Boolean)
  .map((line) => JSON.parse(line)).filter(({ errors }) => errors === null).map(({ method, params }) => [method, params]).reverse());
const ADVERTISED = JSON.parse(fs.readFileSync(path.join(repoRoot, "tests/conformance/cases/advertised.json"), "utf8")).methods;

test("every method that the hello lists is answered, and nothing else", async () => {
  const client = await open();
  const { methods } = client.hello.features;
  assert.ok(methods.length > 60, `${methods.length} methods`);
  for (const method of methods) {
    const answer = await client.call(method, PARAMS[method] ?? {});
    if (ERRORS[method]) assert.match(answer.error.message, ERRORS[method], method);
    else if (!method.startsWith("device.")) assert.equal(answer.ok, true, `${method}: ${JSON.stringify(answer.error)}`);
    assert.doesNotMatch(answer.error?.message ?? "", /unknown method/, method);
  }
  const unlisted = ADVERTISED.filter((method) => !methods.includes(method));
  assert.ok(unlisted.length > 300, `${unlisted.length} methods of the original's are not listed`);
  const wrong = [];
  for (const method of unlisted) {
    const { ok, error } = await client.call(method, TAKEN.get(method) ?? {});
    const isOfNodes = error?.message === "unauthorized role: operator";
    const isRefused = error?.code === "UNAVAILABLE" && /needs (the OpenClaw gateway,|an agent) and none/.test(error.message);
    if (ok || !(isOfNodes || isRefused)) wrong.push(`${method}: ${JSON.stringify(error ?? "answered")}`);
  }
  assert.deepEqual(wrong, [], "not listed, and not refused for want of an OpenClaw");
  assert.equal((await client.call("nobody.knows", {})).error.message, "unknown method: nobody.knows");
  await client.end();
});

test("bad params are refused in the original's words", async () => {
  const client = await open();
  const check = async (method, params, message) => {
    const { error } = await client.call(method, params);
    assert.deepEqual([error?.code, error?.message], ["INVALID_REQUEST", message]);
  };
  await check("chat.send", {}, "invalid chat.send params: must have required property 'sessionKey'");
  await check("sessions.list", { limit: "x" }, "invalid sessions.list params: at /limit: must be integer");
  await check("system.info", { a: 1 }, "invalid system.info params: at root: unexpected property 'a'");
  await check("set-heartbeats", {}, "invalid set-heartbeats params: enabled (boolean) required");
  // Also of a method that only the gateway behind could serve.
  await check("tools.invoke", {}, "invalid tools.invoke params: must have required property 'name'");
  await client.end();
});

test("no node is here: the lists are the original's of nobody, and the rest says what to start", async () => {
  const client = await open();
  const { ts, ...list } = (await client.call("node.list", {})).payload;
  assert.equal(typeof ts, "number");
  // The original's own words are asked for in devices.test.mjs.
  assert.deepEqual(list, { nodes: [] });
  assert.deepEqual((await client.call("node.pair.list", {})).payload, { pending: [], paired: [] });
  const { error } = await client.call("node.invoke", TAKEN.get("node.invoke"));
  assert.equal(error.code, "UNAVAILABLE");
  assert.match(error.message, /install openclaw .* or "attach" to a running one/);
  await client.end();
});

test("the hello tells of agents and paths, paths only to admins", async () => {
  const admin = await open();
  assert.equal(admin.hello.snapshot.stateDir, target.stateDir);
  assert.equal(admin.hello.snapshot.authMode, "token");
  assert.equal(admin.hello.snapshot.sessionDefaults.mainSessionKey, "agent:main:main");
  assert.equal(admin.hello.snapshot.presence[0].reason, "self");
  assert.deepEqual(admin.hello.snapshot.health.agents.map((agent) => agent.agentId), ["main", "ada"]);
  const reader = await open({ scopes: ["operator.read"] });
  assert.equal(reader.hello.snapshot.stateDir, undefined);
  await admin.end();
  await reader.end();
});

test("people see each other come and go, short-lived clients are not shown", async () => {
  const watcher = await open({ scopes: ["operator.read"] });
  const from = watcher.frames.length;
  const device = new Device();
  const client = { id: "openclaw-tui", mode: "ui", version: "2026.9.6", platform: "linux", instanceId: "tui-1" };
  const tui = await open({ client, device, scopes: ["operator.read"] });
  const row = (frame) => frame.payload.presence.find((entry) => entry.instanceId === "tui-1");
  const came = await watcher.frame("presence", (frame) => frame.event === "presence" && row(frame), { from });
  assert.equal(row(came).reason, "connect");
  assert.equal(row(came).deviceId, device.id);
  assert.equal(came.stateVersion.presence > 1, true);
  assert.equal(came.payload.presence.some((entry) => entry.mode === "backend"), false);
  await tui.end();
  const gone = await watcher.frame("presence", (frame) => frame.event === "presence" && row(frame)?.reason === "disconnect", { from });
  assert.ok(gone.seq > came.seq);
  const { payload } = await watcher.call("system-presence");
  assert.deepEqual(payload.map((entry) => entry.mode).sort(), ["gateway", "ui"]);
  await watcher.end();
});

test("a crowd arriving at once makes few presence events", async () => {
  const watcher = await open({ scopes: ["operator.read"] });
  const from = watcher.frames.length;
  const client = { id: "test", mode: "test", version: "1", platform: "linux" };
  const started = Date.now();
  const crowd = await Promise.all(Array.from({ length: 25 }, (_, n) => open({ client: { ...client, instanceId: `crowd-${n}` }, device: new Device(), scopes: ["operator.read"] })));
  await watcher.frame("all of the crowd", (frame) => frame.event === "presence" && frame.payload.presence.filter((entry) => entry.instanceId?.startsWith("crowd-")).length === 25, { from });
  const seconds = Math.ceil((Date.now() - started) / 1000);
  const events = watcher.frames.slice(from).filter((frame) => frame.event === "presence").length;
  assert.ok(events <= seconds + 1, `${events} events in ${seconds} s`);
  await Promise.all(crowd.map((one) => one.end()));
  await watcher.end();
});
