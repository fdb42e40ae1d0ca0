// config.get|set|patch|apply: one owner of the user's file, with and without OpenClaw behind.
import assert from "node:assert/strict";
import fs from "node:fs";
import path from "node:path";
import test from "node:test";
import { startOurs, TOKEN } from "../lib/gateway.mjs";
import { RawClient } from "../lib/raw.mjs";
import { freePort, tempDir, until } from "../lib/tools.mjs";

/** A file as people write them. The port is the environment's affair here. */
const COMMENTED = `// mine, by hand
{
  gateway: { mode: 'local', bind: 'loopback', auth: { mode: 'token', token: '${TOKEN}' } }, // the door
  discovery: { mdns: { mode: 'off' } },
  messages: { $include: './messages.json5' },
  agents: {
    // the first of them
    entries: { main: {} },
  },
}
`;

async function start(upstream) {
  const stateDir = tempDir("config-rpc");
  fs.writeFileSync(path.join(stateDir, "openclaw.json"), COMMENTED, { mode: 0o600 });
  fs.writeFileSync(path.join(stateDir, "messages.json5"), "{ ackReaction: 'x' } // apart\n", { mode: 0o600 });
  const port = await freePort();
  const ours = await startOurs({ upstream, stateDir, port, env: { OPENCLAW_GATEWAY_PORT: String(port) } });
  return Object.assign(ours, { read: (name) => fs.readFileSync(path.join(stateDir, name), "utf8") });
}

async function open(ours) {
  const client = await RawClient.open(ours.wsUrl);
  const hello = await client.connect({ token: TOKEN });
  assert.equal(hello.ok, true, JSON.stringify(hello));
  return Object.assign(client, { hello: hello.payload });
}

const ok = (answer) => (assert.equal(answer.ok, true, JSON.stringify(answer.error)), answer.payload);

test("without OpenClaw: a patch is written into the person's text, applied, and told", async (t) => {
  const ours = await start("off");
  t.after(() => ours.stop());
  const client = await open(ours);
  const before = ok(await client.call("config.get", {}));
  assert.equal(before.path, path.join(ours.stateDir, "openclaw.json"));
  assert.equal(before.appliedConfigHash, before.configRevisionHash, "what is written is in force");
  assert.equal(client.hello.snapshot.appliedConfigHash, before.appliedConfigHash);
  assert.doesNotMatch(JSON.stringify(before), new RegExp(TOKEN), "no secret is shown");
  assert.match(before.raw, /mine, by hand/);

  const raw = "{ agents: { entries: { main: { name: 'Otto' } } }, messages: { ackReaction: 'y' } }";
  const patched = ok(await client.call("config.patch", { raw, baseHash: before.hash }));
  assert.deepEqual(patched.changedPaths.toSorted(), ["agents.entries.main.name", "messages.ackReaction"].toSorted());
  assert.match(ours.read("openclaw.json"), /\/\/ the first of them\n {4}entries: \{ main: \{\n/);
  assert.match(ours.read("openclaw.json"), /^\/\/ mine, by hand\n/);
  assert.equal(ours.read("messages.json5"), "{ ackReaction: \"y\" } // apart\n", "the included part went into its own file");
  const agents = ok(await client.call("agents.list", {}));
  assert.equal(agents.agents[0].name, "Otto", "in force when the answer comes");
  const event = await client.frame("config.changed", (frame) => frame.event === "config.changed");
  assert.equal(event.payload.path, before.path);

  const stale = await client.call("config.patch", { raw: "{}", baseHash: before.hash });
  assert.equal(stale.error.message, "config changed since last load; re-run config.get and retry");
  const after = ok(await client.call("config.get", {}));
  assert.equal(after.appliedConfigHash, after.configRevisionHash);
  assert.notEqual(after.hash, before.hash);
  assert.equal(after.hash, event.payload.hash);

  assert.match(after.raw, /\$include: '\.\/messages\.json5'/);
  const wrong = await client.call("config.set", { raw: after.raw.replace("'off'", "'loud'"), baseHash: after.hash });
  assert.match(wrong.error.message, /^invalid config: discovery\.mdns\.mode: /);
  const set = await client.call("config.set", { raw: after.raw.replace("'off'", "'minimal' /* quiet */"), baseHash: after.hash });
  ok(set);
  assert.match(ours.read("openclaw.json"), /'minimal' \/\* quiet \*\//, "the text that was sent is the file");
  assert.match(ours.read("openclaw.json"), new RegExp(TOKEN), "with the secret that it did not show");
  await client.end();
});

test("a change of an included file is noticed", async (t) => {
  const ours = await start("off");
  t.after(() => ours.stop());
  const client = await open(ours);
  fs.writeFileSync(path.join(ours.stateDir, "messages.json5"), "{ ackReaction: 'z' }");
  await client.frame("config.changed", (frame) => frame.event === "config.changed");
  const now = ok(await client.call("config.get", {}));
  assert.equal(now.config.messages.ackReaction, "z");
  assert.equal(now.appliedConfigHash, now.configRevisionHash);
  await client.end();
});

test("with reload off a write waits for the next start", async (t) => {
  const ours = await start("off");
  t.after(() => ours.stop());
  const client = await open(ours);
  const call = async (raw) => ok(await client.call("config.patch", { raw, baseHash: ok(await client.call("config.get", {})).hash }));
  await call("{ gateway: { reload: { mode: 'off' } } }");
  const answer = await call("{ agents: { entries: { main: { name: 'Later' } } } }");
  assert.equal(answer.sentinel.payload.stats.requiresRestart, true);
  const state = ok(await client.call("config.get", {}));
  assert.notEqual(state.appliedConfigHash, state.configRevisionHash, "the page shows that a restart is pending");
  assert.equal(ok(await client.call("agents.list", {})).agents[0].name, undefined);
  ours.child.kill("SIGHUP");
  await until("the order to be followed", async () => ok(await client.call("agents.list", {})).agents[0].name === "Later");
  await client.end();
});

test("with OpenClaw behind: the file is the person's, and the child follows it", async (t) => {
  const ours = await start("supervise");
  t.after(() => ours.stop());
  const client = await open(ours);
  await until("the child", async () => (await client.call("sessions.list", { limit: 1 })).ok, { timeoutMs: 180_000 });
  const before = ok(await client.call("config.get", {}));
  assert.equal(before.path, path.join(ours.stateDir, "openclaw.json"), "not the child's overlay");
  assert.match(before.raw, /mine, by hand/);
  assert.equal(before.config.gateway.bind, "loopback");
  const raw = "{ agents: { entries: { main: {}, ops: { name: 'Ops' } }, ownership: 'explicit' } }";
  ok(await client.call("config.patch", { raw, baseHash: before.hash }));
  assert.match(ours.read("openclaw.json"), /mine, by hand/);
  await until("the child to follow", async () => ok(await client.call("agents.list", {})).agents.some((agent) => agent.id === "ops"));
  assert.equal(client.frames.filter((frame) => frame.event === "config.changed").length, 1, "told once, by us");
  const after = ok(await client.call("config.get", {}));
  assert.equal(after.appliedConfigHash, after.configRevisionHash);

  // What only the installed plugins know is checked too, in the original's words, and their secrets are hidden.
  const telegram = (account) => JSON.stringify({ channels: { telegram: { enabled: false, ...account } } });
  const refused = await client.call("config.patch", { raw: telegram({ dmPolicy: "loud" }), baseHash: after.hash });
  assert.match(refused.error?.message ?? "", /^invalid config: channels\.telegram\.dmPolicy: /, JSON.stringify(refused));
  ok(await client.call("config.patch", { raw: telegram({ botToken: "123:abc-secret" }), baseHash: after.hash }));
  const shown = ok(await client.call("config.get", {}));
  assert.equal(shown.config.channels.telegram.botToken, "__OPENCLAW_REDACTED__");
  assert.doesNotMatch(JSON.stringify(shown), /abc-secret/);
  assert.match(ours.read("openclaw.json"), /abc-secret/);

  const other = await open(ours);
  assert.equal(other.hello.snapshot.appliedConfigHash, shown.appliedConfigHash);
  await other.end();
  await client.end();
});
