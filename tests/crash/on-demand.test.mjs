// OpenClaw as a child that is there only while somebody needs it, or while it has work of its own.
import assert from "node:assert/strict";
import crypto from "node:crypto";
import fs from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { startOurs, TOKEN } from "../lib/gateway.mjs";
import { MODEL_ID, modelConfig, startModel } from "../lib/model.mjs";
import { RawClient } from "../lib/raw.mjs";
import { until } from "../lib/tools.mjs";

test("on_demand starts OpenClaw at the first call that needs it and stops it when idle, clients stay", async (t) => {
  const model = await startModel();
  t.after(() => model.stop());
  const config = { ...modelConfig(model), agents: { defaults: { model: { primary: `scripted/${MODEL_ID}` } } } };
  // Why it stays awake is said at this level.
  const ours = await startOurs({ upstream: "supervise", toml: "on_demand = true\nidle_stop_s = 10\n[log]\nlevel = \"debug\"", config });
  t.after(() => ours.stop());
  const client = await RawClient.open(ours.wsUrl);
  const hello = await client.connect({ token: TOKEN });
  assert.equal(hello.payload?.type, "hello-ok", JSON.stringify(hello));
  assert.deepEqual(childrenOf(ours.child.pid), [], "nobody asked for it yet");
  const answered = (what) => until(`${what} to be answered`, async () => {
    const answer = await client.call("sessions.list", { limit: 1 }, { timeoutMs: 180_000 });
    return answer.ok && answer;
  }, { timeoutMs: 240_000, everyMs: 200 });
  assert.ok(Array.isArray((await answered("the first bridged call")).payload.sessions));
  assert.equal(childrenOf(ours.child.pid).length, 1);
  // Its own start-up work holds it at the first question; the next come as often as it may be idle.
  await until("the idle child to be stopped", () => childrenOf(ours.child.pid).length === 0, { timeoutMs: 240_000, everyMs: 200 });
  assert.equal(client.close_, undefined, "our client never noticed");
  await answered("the first call after the idle stop");
  const [pid, ...more] = childrenOf(ours.child.pid);
  assert.deepEqual(more, []);
  /** It is asked whether it may sleep, and must not, for this reason. */
  const staysAwake = async (why) => {
    const from = ours.child.output.length;
    await until(`a log line with ${why}`, () => why.test(ours.child.output.slice(from)), { timeoutMs: 240_000, everyMs: 200 });
    assert.deepEqual(childrenOf(ours.child.pid), [pid]);
  };

  const job = { name: "soon", schedule: { kind: "every", everyMs: 60_000 }, sessionTarget: "main", wakeMode: "next-heartbeat", payload: { kind: "systemEvent", text: "tick" } };
  const added = await client.call("cron.add", job, { timeoutMs: 180_000 });
  assert.equal(added.ok, true, JSON.stringify(added));
  await staysAwake(/its next job is due in \d+ s/);
  assert.equal((await client.call("cron.remove", { id: added.payload.id }, { timeoutMs: 180_000 })).ok, true);

  const runId = crypto.randomUUID();
  const started = await client.call("chat.send", { sessionKey: "agent:main:asleep", message: "SCRIPT slow One word and then the rest", idempotencyKey: runId }, { timeoutMs: 180_000 });
  assert.equal(started.payload?.status, "started", JSON.stringify(started));
  const of = (state) => (frame) => frame.event === "chat" && frame.payload.runId === runId && frame.payload.state === state;
  await client.frame("its first word", of("delta"), { timeoutMs: 240_000 });
  await staysAwake(/[1-9]\d* pieces of work are under way/);
  model.release();
  await client.frame("its end", of("final"), { timeoutMs: 240_000 });
  // It has jobs of its own (its heartbeat, in a week), which are no reason to stay: it is started again in time for them.
  await until("the child to be stopped when its run is over", () => childrenOf(ours.child.pid).length === 0, { timeoutMs: 240_000, everyMs: 200 });
  assert.equal(client.close_, undefined);
  await client.end();

  // The next gateway knows of them, and one that is due is not missed.
  const file = path.join(ours.stateDir, "openclaw-rs/upstream-sleep.json");
  const night = JSON.parse(fs.readFileSync(file, "utf8"));
  assert.equal(night.state, "asleep");
  assert.ok(night.wakeAtMs > Date.now() + 3600_000, JSON.stringify(night));
  ours.child.killTree("SIGKILL");
  await ours.child.waitExit();
  fs.writeFileSync(file, JSON.stringify({ ...night, wakeAtMs: Date.now() - 1000 }));
  ours.spawn();
  await until("the child to be started for its job", () => childrenOf(ours.child.pid).length === 1, { timeoutMs: 60_000 });
});

/** Direct children of a process, over all its threads. */
function childrenOf(pid) {
  return fs.readdirSync(`/proc/${pid}/task`).flatMap((task) => fs.readFileSync(`/proc/${pid}/task/${task}/children`, "utf8").trim().split(" ").filter(Boolean).map(Number));
}
