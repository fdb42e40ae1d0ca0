// An agent that looks by itself whether something needs a person: the same on the original and on one that runs here.
import assert from "node:assert/strict";
import fs from "node:fs";
import path from "node:path";
import test from "node:test";
import { startOriginal, startOurs, TOKEN } from "../lib/gateway.mjs";
import { modelConfig, startModel, textOf } from "../lib/model.mjs";
import { RawClient } from "../lib/raw.mjs";
import { until } from "../lib/tools.mjs";
import { startReceiver, webhookConfig } from "../lib/webhook-receiver.mjs";

const agents = (heartbeat) => ({ defaults: { model: { primary: "scripted/scripted-1" }, heartbeat: { timeoutSeconds: 120, ...heartbeat } } });

/**
 * A gateway whose heart begins to beat once it has started and is at rest: a beat that falls into the original's own work is put off
 * by a minute there.
 */
async function start(t, begin, { every = "1s", ...heartbeat }, more = {}, rest = {}) {
  const model = await startModel();
  t.after(() => model.stop());
  const gateway = await begin({ config: { ...modelConfig(model), agents: agents({ every: "168h", ...heartbeat }), ...more }, ...rest });
  t.after(() => gateway.stop());
  const client = await RawClient.open(gateway.wsUrl);
  assert.equal((await client.connect({ token: TOKEN })).ok, true);
  t.after(() => client.end());
  if (begin === startOriginal) await until("the original's own jobs", async () => (await client.call("cron.status", {})).payload?.jobs >= 3);
  const last = async () => {
    const { payload: { hash: baseHash } } = await client.call("config.get", {});
    const patched = await client.call("config.patch", { raw: JSON.stringify({ agents: { defaults: { heartbeat: { every } } } }), baseHash });
    assert.equal(patched.ok, true, JSON.stringify(patched));
    return until("a heartbeat", async () => (await client.call("last-heartbeat", {})).payload, { timeoutMs: 240_000 });
  };
  const beats = () => model.requests.map(({ call }) => textOf(call.messages.filter(({ role, content }) => role === "user" && !textOf(content).startsWith("<<<BEGIN")).at(-1).content));
  return { model, gateway, client, last, beats };
}

/** The first turn takes the original seconds; a beat that comes meanwhile, or in the reload that set the time, waits a minute there. */
const both = (t, heartbeat, steps) => Promise.all([startOriginal, startOurs].map(async (begin) => steps(await start(t, begin, { every: "12s", ...heartbeat }), begin)));
const masked = ({ ts, durationMs, ...event }) => ({ ...event, ts: typeof ts, durationMs: typeof durationMs });

test("a beat with nothing to say: the question as configured, an event, nothing in the history", async (t) => {
  const [theirs, own] = await both(t, { target: "none", prompt: "SCRIPT say HEARTBEAT_OK" }, async ({ client, last, beats }) => {
    const event = await last();
    const { payload } = await client.call("chat.history", { sessionKey: "main" });
    const wrong = await client.call("set-heartbeats", {});
    const off = await client.call("set-heartbeats", { enabled: false });
    return { event: masked(event), lines: payload.messages.length, total: payload.totalMessages ?? 0, asked: beats()[0], wrong: wrong.error, off: off.payload };
  });
  for (const part of ["event", "lines", "wrong", "off"]) assert.deepEqual(own[part], theirs[part], part);
  // What is not shown is counted; a slow start may let another beat begin meanwhile.
  for (const side of [theirs, own]) assert.equal(side.total >= 2, true, String(side.total));
  for (const side of [theirs, own]) assert.match(side.asked, /^SCRIPT say HEARTBEAT_OK\nCurrent time: /);
});

test("a beat with news that nobody is told of: the event says why, the answer is in the history", async (t) => {
  const [theirs, own] = await both(t, { target: "none", prompt: "SCRIPT say The disk is full." }, async ({ client, last }) => {
    const event = await last();
    const { payload } = await client.call("chat.history", { sessionKey: "main" });
    return { event: masked(event), lines: payload.messages.map(({ role, content }) => [role, textOf(content)]) };
  });
  assert.deepEqual(own, theirs);
});

test("nobody to tell, and hours of sleep: no model is asked", async (t) => {
  const [theirs, own] = await both(t, {}, async ({ last, model }) => ({ event: masked(await last()), asked: model.requests.length }));
  assert.deepEqual(own.asked, theirs.asked);
  assert.deepEqual(own.event, theirs.event);
  const asleep = await start(t, startOurs, { target: "none", activeHours: { start: "08:00", end: "08:00" } });
  assert.equal((await asleep.last()).reason, "quiet-hours");
  assert.equal(asleep.model.requests.length, 0);
});

test("news go to the chat that is named, once; what to watch is in HEARTBEAT.md, and an empty one asks nobody", async (t) => {
  const receiver = await startReceiver();
  t.after(() => receiver.stop());
  const to = { target: "webhook", to: "ops", prompt: "SCRIPT say Look at the disk." };
  const { last, beats, gateway, model, client } = await start(t, startOurs, to, { channels: { webhook: webhookConfig(receiver) } }, { toml: '[channels]\nnative = ["webhook"]' });
  const event = await last();
  assert.deepEqual([event.status, event.channel, event.to, event.preview], ["sent", "webhook", "ops", "Look at the disk."]);
  await until("the message to arrive", () => receiver.distinct().length > 0);
  assert.deepEqual(receiver.distinct().map(({ target, text }) => [target, text]), [["ops", "Look at the disk."]]);
  assert.equal(beats().length, 1);
  const { payload } = await client.call("agents.list", {});
  const { workspace } = payload.agents[0];
  fs.mkdirSync(workspace, { recursive: true });
  fs.writeFileSync(path.join(workspace, "HEARTBEAT.md"), "# Watch\n\n- the disk\n");
  await gateway.restart();
  await until("the next beat", () => model.requests.length === 2, { timeoutMs: 30_000 });
  assert.match(beats()[1], /# HEARTBEAT\.md\n\n# Watch\n\n- the disk\n/);
  fs.writeFileSync(path.join(workspace, "HEARTBEAT.md"), "# Watch\n\n- [ ]\n");
  await gateway.restart();
  const again = await RawClient.open(gateway.wsUrl);
  await again.connect({ token: TOKEN });
  t.after(() => again.end());
  const skipped = await until("the skipped beat", async () => (await again.call("last-heartbeat", {})).payload, { timeoutMs: 30_000 });
  assert.equal(skipped.reason, "empty-heartbeat-file");
  assert.equal(model.requests.length, 2);
});

test("an agent that is at work is left alone", async (t) => {
  const { client, model, last } = await start(t, startOurs, { target: "none", every: "3s", prompt: "SCRIPT say HEARTBEAT_OK" });
  await client.call("chat.send", { sessionKey: "agent:main:other", message: "SCRIPT slow One two.", idempotencyKey: "busy" });
  await client.frame("the first word", (frame) => frame.event === "chat" && frame.payload.state === "delta");
  assert.equal((await last()).reason, "requests-in-flight");
  model.release();
});
