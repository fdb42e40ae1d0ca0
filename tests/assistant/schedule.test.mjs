// Jobs by the clock of agents that run here: the same calls on the original and on ours, then what only a restart, a chat
// and the unmodified command line can show.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import test, { after, before } from "node:test";
import { promisify } from "node:util";
import { startOriginal, startOurs, TOKEN } from "../lib/gateway.mjs";
import { modelConfig, startModel } from "../lib/model.mjs";
import { RawClient } from "../lib/raw.mjs";
import { isolatedEnv, nodeBinary, openclawEntry, until } from "../lib/tools.mjs";
import { startReceiver, webhookConfig } from "../lib/webhook-receiver.mjs";

let model, original, ours, receiver;
before(async () => {
  model = await startModel();
  receiver = await startReceiver();
  const config = { ...modelConfig(model), agents: { defaults: { model: { primary: "scripted/scripted-1" } } } };
  [original, ours] = await Promise.all([startOriginal({ config }), startOurs({ config: { ...config, channels: { webhook: webhookConfig(receiver) } } })]);
});
after(async () => {
  await Promise.all([original?.stop(), ours?.stop()]);
  await receiver.stop();
  await model.stop();
});

async function open(target) {
  const client = await RawClient.open(target.wsUrl);
  const hello = await client.connect({ token: TOKEN });
  assert.equal(hello.ok, true, JSON.stringify(hello));
  return Object.assign(client, {
    async ok(method, params) {
      const answer = await this.call(method, params);
      assert.equal(answer.ok, true, `${method}: ${JSON.stringify(answer.error)}`);
      return answer.payload;
    },
  });
}

/** What differs from run to run, replaced: ids, times, hashes, and the words for "there is no chat to answer in". */
function masked(value) {
  const text = JSON.stringify(value)
    .replace(/[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}/g, "<uuid>")
    .replace(/"(\w*(?:Ms|At|ts))":\d{13}/g, '"$1":0')
    .replace(/"durationMs":\d+|"lastDurationMs":\d+/g, '"durationMs":0')
    .replace(/manual:<uuid>:\d{13}:\d+/g, "manual:<job>")
    .replace(/"sha256:[\w-]+"/g, '"<hash>"')
    .replace(/no route, will fail-closed: (?:[^"\\]|\\.)*/g, "no route")
    .replace(/(\d+) minutes ago\). Current time: [\d\-T:.]+Z/g, "<n> minutes ago). Current time: <now>");
  return JSON.parse(text);
}

const agentTurn = (message, more = {}) => ({ kind: "agentTurn", message, ...more });
const isolated = { sessionTarget: "isolated", wakeMode: "now" };
const DAILY = { kind: "cron", expr: "0 3 * * *", tz: "Europe/Berlin" };
const HOURLY = { kind: "every", everyMs: 3_600_000 };
const none = { mode: "none" };
/** Late enough for a busy machine to take the job before it is due. */
const SOON_MS = 3000;

test("jobs are added, shown, changed, listed and removed as on the original; what is refused is refused in its words", async () => {
  const sides = await Promise.all([original, ours].map(async (target) => {
    const client = await open(target);
    const seen = {};
    const call = async (name, method, params) => {
      const answer = await client.call(method, params);
      seen[name] = masked(answer.ok ? answer.payload : { refused: answer.error });
      return answer.payload;
    };
    const daily = await call("daily", "cron.add", { name: "daily", schedule: DAILY, ...isolated, payload: agentTurn("say hi"), description: "d" });
    const main = await call("main", "cron.add", { name: "reminder", schedule: HOURLY, sessionTarget: "main", wakeMode: "now", payload: { kind: "systemEvent", text: "look" } });
    const once = await call("once", "cron.add", { name: "once", schedule: { kind: "at", at: "2031-05-05T10:00" }, ...isolated, payload: agentTurn("x", { model: "scripted/scripted-1", timeoutSeconds: 30 }), delivery: none });
    await call("named", "cron.add", { name: "named", schedule: HOURLY, sessionTarget: "session:agent:main:custom", wakeMode: "next-heartbeat", payload: agentTurn("x"), enabled: false });
    await call("explicit", "cron.add", { name: "explicit", schedule: HOURLY, ...isolated, payload: agentTurn("x"), delivery: { mode: "announce", channel: "telegram", to: "1" } });
    for (const [name, schedule] of Object.entries({
      words: { kind: "cron", expr: "hello" }, never: { kind: "cron", expr: "0 0 30 2 *" }, past: { kind: "at", at: "2020-01-01T00:00:00Z" }, notADate: { kind: "at", at: "tomorrow" }, relative: { kind: "at", at: "20m" },
    })) await call(name, "cron.add", { name, schedule, ...isolated, payload: agentTurn("x") });
    await call("turn in main", "cron.add", { name: "m", schedule: HOURLY, sessionTarget: "main", wakeMode: "now", payload: agentTurn("x") });
    await call("event in isolation", "cron.add", { name: "m", schedule: HOURLY, ...isolated, payload: { kind: "systemEvent", text: "x" } });
    await call("unknown agent", "cron.add", { name: "m", agentId: "ghost", schedule: HOURLY, ...isolated, payload: agentTurn("x") });
    await call("no URL", "cron.add", { name: "m", schedule: HOURLY, ...isolated, payload: agentTurn("x"), delivery: { mode: "webhook", to: "nope" } });
    await call("no name", "cron.add", { schedule: HOURLY, ...isolated, payload: agentTurn("x") });
    await call("get", "cron.get", { id: daily.id });
    await call("get unknown", "cron.get", { id: "nope" });
    await call("update", "cron.update", { id: daily.id, patch: { name: "daily2", enabled: false } });
    await call("update schedule", "cron.update", { id: daily.id, patch: { schedule: { kind: "every", everyMs: 120_000 } } });
    await call("update payload", "cron.update", { id: once.id, patch: { payload: { kind: "agentTurn", message: "y", timeoutSeconds: null } } });
    await call("update unknown", "cron.update", { id: "nope", patch: { enabled: false } });
    await call("disabled", "cron.list", { enabled: "disabled", sortBy: "name" });
    await call("by name", "cron.list", { includeDisabled: true, query: "explicit" });
    await call("not due", "cron.run", { id: main.id, mode: "due" });
    await call("not enabled", "cron.run", { id: daily.id, mode: "if-enabled" });
    await call("run unknown", "cron.run", { id: "nope" });
    await call("runs of none", "cron.runs", { id: main.id });
    await call("runs unknown", "cron.runs", { id: "nope" });
    await call("remove", "cron.remove", { id: once.id });
    await call("remove again", "cron.remove", { id: once.id });
    seen.status = Object.keys(await client.ok("cron.status", {})).sort();
    seen.told = client.frames.filter(({ event, payload }) => event === "cron" && !payload.job?.declarationKey).map(({ payload }) => masked(payload));
    for (const job of (await client.ok("cron.list", { includeDisabled: true })).jobs) if (!job.declarationKey) await client.ok("cron.remove", { id: job.id });
    await client.end();
    return seen;
  }));
  for (const name of Object.keys(sides[0])) assert.deepEqual(sides[1][name], sides[0][name], name);
});

test("a run: what is told, what is kept, what the model is given", async () => {
  const sides = await Promise.all([original, ours].map(async (target) => {
    const client = await open(target);
    const job = await client.ok("cron.add", { name: "job", schedule: HOURLY, ...isolated, payload: agentTurn("SCRIPT say done it"), delivery: none });
    const { runId } = await client.ok("cron.run", { id: job.id, mode: "force" });
    const finished = await client.frame("the end of the run", ({ event, payload }) => event === "cron" && payload.action === "finished" && payload.jobId === job.id);
    // The original tells of the end before it has written it down.
    const runs = await until("the run to be kept", async () => {
      const kept = await client.ok("cron.runs", { id: job.id });
      return kept.total > 0 && kept;
    });
    const byRun = await client.ok("cron.runs", { id: job.id, runId });
    assert.equal(byRun.total, 1);
    const asked = model.requests.map(({ call }) => call.messages.findLast(({ role, content }) => role === "user" && JSON.stringify(content).includes(job.id))).find(Boolean);
    assert.ok(asked, JSON.stringify(finished.payload));
    assert.match(JSON.stringify(asked), new RegExp(`\\[cron:${job.id} job\\] SCRIPT say done it`));
    const get = await client.ok("cron.get", { id: job.id });
    const actions = client.frames.filter(({ event, payload }) => event === "cron" && payload.jobId === job.id).map(({ payload }) => payload.action);
    const session = runs.entries[0].sessionKey;
    assert.match(session, new RegExp(`^agent:main:cron:${job.id}:run:`));
    await client.ok("cron.remove", { id: job.id });
    await client.end();
    return { finished: masked(finished.payload), runs: masked(runs), get: masked(get), actions: [...new Set(actions)] };
  }));
  for (const side of sides) {
    // Which route an answer might have taken is told in more words there.
    for (const place of [side.finished, side.runs.entries[0]]) delete place.delivery;
  }
  assert.deepEqual(sides[1], sides[0]);
});

test("an answer goes to the chat that was named, once, and silence to nobody", async () => {
  const client = await open(ours);
  const at = () => new Date(Date.now() + SOON_MS).toISOString();
  const delivery = { mode: "announce", channel: "webhook", to: "room-1" };
  const job = await client.ok("cron.add", { name: "tell", schedule: { kind: "at", at: at() }, ...isolated, payload: agentTurn("SCRIPT say the tide is high"), delivery });
  const ended = (id) => client.frame("the end of a run", ({ event, payload }) => event === "cron" && payload.action === "finished" && payload.jobId === id);
  const { payload } = await ended(job.id);
  assert.equal(payload.deliveryStatus, "delivered", JSON.stringify(payload));
  await client.frame("the job to be gone", ({ event, payload: { action, jobId } = {} }) => event === "cron" && action === "removed" && jobId === job.id);
  assert.deepEqual(receiver.distinct().map(({ target, text }) => [target, text]), [["room-1", "the tide is high"]]);
  const quiet = await client.ok("cron.add", { name: "quiet", schedule: { kind: "at", at: at() }, ...isolated, payload: agentTurn("SCRIPT say NO_REPLY"), delivery });
  assert.equal((await ended(quiet.id)).payload.deliverySuppressionReason, "silent");
  assert.equal(receiver.log.length, 1);
  // Nobody has written from a chat yet: there is no last one, and the run says so.
  const lost = await client.ok("cron.add", { name: "lost", schedule: HOURLY, ...isolated, payload: agentTurn("SCRIPT say hello") });
  await client.ok("cron.run", { id: lost.id });
  const { payload: missed } = await ended(lost.id);
  assert.equal(missed.status, "error");
  assert.match(missed.error, /delivery\.channel/);
  await client.ok("cron.remove", { id: lost.id });
  await client.end();
});

test("a new name moves no time, a run ahead of its time does not use it up, and what was done is not done again", async () => {
  const client = await open(ours);
  const ended = (id) => client.frame("the end of a run", ({ event, payload }) => event === "cron" && payload.action === "finished" && payload.jobId === id);
  const future = { schedule: { kind: "at", at: "2031-05-05T10:00:00Z" }, ...isolated, payload: agentTurn("SCRIPT say early"), delivery: none };
  const once = await client.ok("cron.add", { name: "once", ...future });
  const off = await client.ok("cron.add", { name: "off", ...future, enabled: false });
  const often = await client.ok("cron.add", { name: "often", schedule: HOURLY, ...isolated, payload: agentTurn("SCRIPT say x"), delivery: none });
  for (const { id } of [once, off]) {
    await client.ok("cron.run", { id });
    assert.equal((await ended(id)).payload.status, "ok");
  }
  await client.ok("cron.update", { id: once.id, patch: { name: "renamed", schedule: null } });
  assert.equal((await client.ok("cron.get", { id: once.id })).nextRunAtMs, once.nextRunAtMs);
  assert.equal((await client.ok("cron.get", { id: off.id })).enabled, false);
  await client.ok("cron.update", { id: often.id, patch: { name: "renamed", schedule: { kind: "every", everyMs: 3_600_000 } } });
  assert.equal((await client.ok("cron.get", { id: often.id })).nextRunAtMs, often.nextRunAtMs);
  for (const { id } of [once, off, often]) await client.ok("cron.remove", { id });
  // Done, and the answer got nowhere: it is told, not repeated.
  const soon = new Date(Date.now() + SOON_MS).toISOString();
  const lost = await client.ok("cron.add", { name: "lost", schedule: { kind: "at", at: soon }, ...isolated, payload: agentTurn("SCRIPT say mailed it") });
  assert.equal((await ended(lost.id)).payload.status, "error");
  const after = await client.ok("cron.get", { id: lost.id });
  assert.deepEqual([after.enabled, after.nextRunAtMs, after.lastRunStatus], [false, undefined, "error"]);
  await client.ok("cron.remove", { id: lost.id });
  await client.end();
});

test("kill -9 at work: the run is told as failed, what is due once is not done twice, what came due meanwhile is done once", async () => {
  let client = await open(ours);
  const soon = new Date(Date.now() + SOON_MS).toISOString();
  const once = await client.ok("cron.add", { name: "once", schedule: { kind: "at", at: soon }, ...isolated, payload: agentTurn("SCRIPT slow one two"), delivery: none });
  const often = await client.ok("cron.add", { name: "often", schedule: HOURLY, ...isolated, payload: agentTurn("SCRIPT slow one two"), delivery: none });
  await client.ok("cron.run", { id: often.id });
  await until("both to be at work", () => model.requests.filter(({ plan }) => plan.text === "one two").length === 2);
  const missed = await client.ok("cron.add", { name: "missed", schedule: { kind: "at", at: new Date(Date.now() + 2 * SOON_MS).toISOString() }, ...isolated, payload: agentTurn("SCRIPT say late but here"), delivery: none, deleteAfterRun: false });
  ours.child.kill("SIGKILL");
  await ours.child.waitExit();
  await until("the missed one to be due", () => Date.now() > missed.nextRunAtMs);
  ours.spawn();
  client = await until("the gateway to be back", () => open(ours));
  const entries = async (id) => (await client.ok("cron.runs", { id })).entries;
  const late = await until("the missed run", async () => (await entries(missed.id))[0]);
  assert.equal(late.summary, "late but here");
  for (const id of [once.id, often.id]) {
    const [entry, ...more] = await entries(id);
    assert.deepEqual([entry.status, entry.completionStatus, more.length], ["error", "failed", 0]);
    assert.match(entry.error, /stopped while this job was at work/);
  }
  const after = await client.ok("cron.get", { id: once.id });
  assert.deepEqual([after.enabled, after.nextRunAtMs], [false, undefined]);
  assert.ok((await client.ok("cron.get", { id: often.id })).nextRunAtMs > Date.now());
  assert.equal((await client.ok("cron.get", { id: missed.id })).enabled, false);
  assert.equal(model.requests.filter(({ plan }) => plan.text === "one two").length, 2, "nothing was begun again");
  model.release();
  for (const id of [once.id, often.id, missed.id]) await client.ok("cron.remove", { id });
  await client.end();
});

test("the unmodified command line adds, lists, runs and removes", async () => {
  const env = isolatedEnv(ours.stateDir, { OPENCLAW_GATEWAY_PORT: String(ours.port) });
  const openclaw = async (...args) => (await promisify(execFile)(nodeBinary, [openclawEntry, "cron", ...args], { env, cwd: ours.stateDir, timeout: 240_000 })).stdout;
  const added = JSON.parse((await openclaw("add", "--name", "nightly", "--cron", "0 3 * * *", "--session", "isolated", "--message", "SCRIPT say hi", "--no-deliver", "--json")).match(/\{[^]*\}/)[0]);
  assert.equal(added.name, "nightly");
  assert.match(await openclaw("list"), /nightly/);
  assert.match(await openclaw("run", added.id, "--wait"), /"status": "ok"|succeeded/);
  assert.match(await openclaw("runs", "--id", added.id), /"summary": "hi"/);
  await openclaw("rm", added.id);
  assert.doesNotMatch(await openclaw("list"), /nightly/);
});

test("an agent sees to its own jobs, and to nobody else's", async () => {
  const client = await open(ours);
  let count = 0;
  const call = async (args, who = {}) => {
    const runId = `tool-${++count}`;
    await client.ok("chat.send", { sessionKey: "agent:main:tooling", message: `SCRIPT tool automations ${JSON.stringify(args)}`, idempotencyKey: runId, ...who });
    await client.frame("the end", ({ event, payload }) => event === "chat" && payload.runId === runId && payload.state === "final");
    const { messages } = await client.ok("chat.history", { sessionKey: "agent:main:tooling" });
    return messages.findLast(({ role }) => role === "toolResult").content[0].text;
  };
  const added = JSON.parse(await call({ action: "add", name: "look", schedule: { kind: "every", everyMs: 3_600_000 }, message: "SCRIPT say looked", delivery: none }));
  assert.deepEqual([added.name, added.sessionTarget, added.agentId, added.payload.kind], ["look", "isolated", "main", "agentTurn"]);
  const reminder = JSON.parse(await call({ action: "add", name: "tea", schedule: { kind: "at", at: "2031-01-01T16:00:00Z" }, text: "tea time" }));
  assert.deepEqual([reminder.sessionTarget, reminder.payload.text], ["main", "tea time"]);
  assert.deepEqual(JSON.parse(await call({ action: "list" })).jobs.map(({ name }) => name).sort(), ["look", "tea"]);
  assert.equal(JSON.parse(await call({ action: "update", id: reminder.id, enabled: false })).enabled, false);
  const { runId } = JSON.parse(await call({ action: "run", id: added.id }));
  await client.frame("the end of the run", ({ event, payload }) => event === "cron" && payload.action === "finished" && payload.runId === runId);
  assert.equal(JSON.parse(await call({ action: "runs", id: added.id })).entries[0].summary, "looked");
  for (const { id } of [added, reminder]) assert.equal(JSON.parse(await call({ action: "remove", id })).removed, true);
  assert.match(await call({ action: "remove", id: added.id }), /no job .* of this agent/);
  assert.match(await call({ action: "add", schedule: { kind: "cron", expr: "hello" }, text: "x" }), /five, six, or seven/);
  assert.match(await call({ action: "add", schedule: { kind: "at", at: "2031-01-01" } }), /one of text .* and message/);
  await client.end();
});
