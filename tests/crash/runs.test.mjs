// OpenClaw is killed and stopped while it works on runs that clients of ours wait for: none of them ends in silence.
import assert from "node:assert/strict";
import crypto from "node:crypto";
import { test } from "node:test";
import { metricsOf, startOriginal, startOurs, TOKEN } from "../lib/gateway.mjs";
import { modelConfig, startModel } from "../lib/model.mjs";
import { RawClient } from "../lib/raw.mjs";
import { until } from "../lib/tools.mjs";

// `make crash-upstream` has 100 and 20.
const CLIENTS = Number(process.env.CRASH_CLIENTS ?? 25);
const RUNS = Number(process.env.CRASH_RUNS ?? 10);
/** How long OpenClaw hangs: longer than it is believed in. */
const STOPPED_S = Number(process.env.CRASH_STOPPED_S ?? 0);

const isEnd = (frame) => frame.event === "chat" && ["final", "aborted", "error"].includes(frame.payload.state);

async function connect(target) {
  const client = await RawClient.open(target.wsUrl);
  const hello = await client.connect({ token: TOKEN });
  assert.equal(hello.payload?.type, "hello-ok", JSON.stringify(hello));
  return client;
}

/** Starts a run of each of the first clients, and waits until its model has said a first word: `[{ client, runId }]`. */
async function inFlight(clients, label) {
  const runs = clients.slice(0, RUNS).map((client, number) => ({ client, runId: `${label}-${number}-${crypto.randomUUID()}`, sessionKey: `agent:main:${label}-${number}` }));
  await Promise.all(runs.map(async ({ client, runId, sessionKey }) => {
    const reply = await client.call("chat.send", { sessionKey, message: "SCRIPT slow One word and no more", idempotencyKey: runId });
    assert.equal(reply.payload?.status, "started", JSON.stringify(reply));
  }));
  await Promise.all(runs.map(({ client, runId }) =>
    client.frame(`the first word of ${runId}`, (frame) => frame.event === "chat" && frame.payload.runId === runId && frame.payload.state === "delta")));
  return runs;
}

test(`${CLIENTS} clients and ${RUNS} runs outlive OpenClaw`, async (t) => {
  const model = await startModel();
  t.after(() => model.stop());
  const config = modelConfig(model);
  // What OpenClaw takes up again after its death holds places too.
  config.agents = { defaults: { ...config.agents?.defaults, maxConcurrent: 4 * RUNS, model: { primary: "scripted/scripted-1" } } };
  const original = await startOriginal({ config });
  t.after(() => original.stop());
  const ours = await startOurs({ upstream: { attach: original } });
  t.after(() => ours.stop());
  const figures = await metricsOf(ours);
  const clients = [];
  while (clients.length < CLIENTS) {
    clients.push(...await Promise.all(Array.from({ length: Math.min(10, CLIENTS - clients.length) }, () => connect(ours))));
  }
  await Promise.all(clients.map((client) => client.call("sessions.subscribe", {})));
  const noneWasCut = () => assert.ok(clients.every((client) => !client.close_), "no client was disconnected");

  await t.test("killed: each run ends with an error, once, for everyone who was told of it", async () => {
    const runs = await inFlight(clients, "killed");
    original.child.killTree("SIGKILL");
    await Promise.all(clients.flatMap((client) => runs.map(({ runId }) =>
      client.frame(`the end of ${runId}`, (frame) => isEnd(frame) && frame.payload.runId === runId))));
    for (const client of clients) {
      for (const { runId, sessionKey } of runs) {
        const of = client.frames.filter((frame) => frame.payload?.runId === runId && ["chat", "agent"].includes(frame.event));
        const ends = of.filter(isEnd).map((frame) => frame.payload);
        assert.equal(ends.length, 1, JSON.stringify(ends));
        assert.equal(ends[0].state, "error", JSON.stringify(ends));
        assert.equal(ends[0].sessionKey, sessionKey);
        assert.match(ends[0].errorMessage, /OpenClaw gateway behind this one stopped/);
        const chats = of.filter((frame) => frame.event === "chat").map((frame) => frame.payload.seq);
        assert.deepEqual(chats, chats.toSorted((a, b) => a - b), "the end is the last of its run");
        const { payload } = of.findLast((frame) => frame.event === "agent" && frame.payload.stream === "lifecycle");
        assert.equal(payload.data.phase, "error", JSON.stringify(payload));
      }
    }
    noneWasCut();
  });

  await t.test("back: runs begin and end as before", async () => {
    await original.restart();
    model.release();
    const sender = clients.at(-1);
    const runId = crypto.randomUUID();
    await until("a run to be begun", async () =>
      (await sender.call("chat.send", { sessionKey: "agent:main:back", message: "SCRIPT say And on.", idempotencyKey: runId })).ok);
    const { payload } = await sender.frame("its end", (frame) => isEnd(frame) && frame.payload.runId === runId);
    assert.equal(payload.state, "final", JSON.stringify(payload));
    for (const client of clients) {
      const ends = client.frames.filter(isEnd).map((frame) => frame.payload.runId).filter((id) => id.startsWith("killed-"));
      assert.equal(new Set(ends).size, ends.length, "a run that ended ends no second time");
    }
    noneWasCut();
  });

  await t.test("stopped for a while: the runs go on and end as if nothing had been", async () => {
    const runs = await inFlight(clients, "stopped");
    process.kill(original.child.pid, "SIGSTOP");
    const { promise: long, resolve } = Promise.withResolvers();
    setTimeout(resolve, STOPPED_S * 1000);
    // It is no longer believed in.
    await until("the stop to be noticed", async () =>
      /^openclaw_rs_upstream_ready 0$/m.test(await (await fetch(figures)).text()), { everyMs: 250 });
    assert.equal((await clients[0].call("health")).ok, true, "what is native goes on");
    await long;
    process.kill(original.child.pid, "SIGCONT");
    model.release();
    for (const { client, runId } of runs) {
      const { payload } = await client.frame(`the end of ${runId}`, (frame) => isEnd(frame) && frame.payload.runId === runId);
      assert.equal(payload.state, "final", JSON.stringify(payload));
    }
    noneWasCut();
    for (const client of clients) {
      const numbers = client.frames.filter((frame) => frame.type === "event" && frame.seq !== undefined).map((frame) => frame.seq);
      assert.deepEqual(numbers, numbers.map((_, index) => numbers[0] + index), "event numbers run without gap or repetition");
    }
  });

  await t.test("told to end while it works: each run ends, once, and nobody is cut", async () => {
    const runs = await inFlight(clients, "ended");
    original.child.kill("SIGTERM");
    // It waits for what it works on as long as it likes to; then it is gone.
    model.release();
    await original.child.waitExit();
    for (const { client, runId } of runs) {
      await client.frame(`the end of ${runId}`, (frame) => isEnd(frame) && frame.payload.runId === runId);
    }
    await Promise.all(clients.map((client) => client.call("health")));
    for (const client of clients) {
      const ends = client.frames.filter(isEnd).map((frame) => frame.payload.runId).filter((id) => id.startsWith("ended-"));
      assert.equal(new Set(ends).size, ends.length, "a run ends once");
    }
    noneWasCut();
  });

  for (const client of clients) await client.end();
});
