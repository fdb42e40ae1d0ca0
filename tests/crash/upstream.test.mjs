// The TypeScript gateway is killed, stopped and restarted under clients of ours: their sockets stay open, every
// pending call is answered, subscriptions work again, and no event comes twice.
import assert from "node:assert/strict";
import { test } from "node:test";
import { startOriginal, startOurs, TOKEN } from "../lib/gateway.mjs";
import { Device, RawClient } from "../lib/raw.mjs";
import { until } from "../lib/tools.mjs";

const CLIENTS = Number(process.env.CRASH_CLIENTS ?? 100);

async function connectAll(target, count) {
  const clients = [];
  // In batches: both gateways limit unauthenticated sockets per address.
  while (clients.length < count) {
    clients.push(...await Promise.all(Array.from({ length: Math.min(10, count - clients.length) }, async () => {
      const client = await RawClient.open(target.wsUrl);
      const hello = await client.connect({ token: TOKEN });
      assert.equal(hello.payload?.type, "hello-ok", JSON.stringify(hello));
      return client;
    })));
  }
  return clients;
}

function assertNoEventTwice(clients) {
  for (const client of clients) {
    const numbers = client.frames.filter((frame) => frame.type === "event" && frame.seq !== undefined).map((frame) => frame.seq);
    assert.deepEqual(numbers, numbers.map((_, index) => numbers[0] + index), "event numbers run without gap or repetition");
  }
}

/** Until each of them has an answer, in ms. */
async function answered(clients) {
  const since = performance.now();
  await Promise.all(clients.map((client) => until("a call to succeed", async () => (await client.call("sessions.list", { limit: 1 })).ok)));
  return performance.now() - since;
}

/** As long as so many clients take without us between, in ms: what the machine and the original are worth in these moments. */
async function direct(original, count) {
  const since = performance.now();
  const clients = await connectAll(original, count);
  await answered(clients);
  const took = performance.now() - since;
  for (const client of clients) await client.end();
  return took;
}

test("clients outlive the upstream", async (t) => {
  const original = await startOriginal();
  t.after(() => original.stop());
  const ours = await startOurs({ upstream: { attach: original } });
  t.after(() => ours.stop());
  const clients = await connectAll(ours, CLIENTS);
  const device = new Device();
  const relayed = await RawClient.open(ours.wsUrl);
  const paired = await relayed.connect({ token: TOKEN, client: { id: "test", mode: "test" }, device });
  assert.equal(paired.ok, true, JSON.stringify(paired));
  for (const reply of await Promise.all(clients.map((client) => client.call("sessions.subscribe", {})))) {
    assert.equal(reply.ok, true, JSON.stringify(reply));
  }

  await t.test("killed: pending calls are answered, sockets stay open", async () => {
    // A call that may not be sent twice, and one that may.
    const writes = clients.map((client) => client.call("agent.wait", { runId: "no-such-run", timeoutMs: 60_000 }, { timeoutMs: 60_000 }));
    const waiting = relayed.call("agent.wait", { runId: "no-such-run", timeoutMs: 60_000 }, { timeoutMs: 60_000 });
    // Answered only after the waits above were received, since both go through the same upstream socket.
    await Promise.all(clients.map((client) => client.call("gateway.suspend.status")));
    original.child.killTree("SIGKILL");
    for (const reply of await Promise.all([...writes, waiting])) {
      assert.equal(reply.error?.code, "UNAVAILABLE", JSON.stringify(reply));
      assert.equal(reply.error.retryable, true);
    }
    assert.ok(clients.every((client) => !client.close_), "no client was disconnected");
    assert.equal(relayed.close_, undefined, "a relayed client stays while the upstream is down");
    const probe = await until("readiness to say so", async () => {
      const response = await fetch(`${ours.url}/readyz`);
      return response.status === 503 && response.json();
    });
    assert.deepEqual([probe.ready, probe.failing], [false, ["upstream-down"]]);
    assert.equal((await fetch(`${ours.url}/healthz`)).status, 200, "it lives all the same");
    const native = await clients[0].call("health");
    assert.equal(native.ok, true, "what is native goes on");
    const refused = await clients[0].call("cron.run", { id: "none" });
    assert.equal(refused.error?.code, "UNAVAILABLE", JSON.stringify(refused));
  });

  await t.test("restarted: everything works again within 2 s, relayed clients are told 1012 once", async () => {
    const reads = clients.map((client) => client.call("sessions.list", { limit: 1 }, { timeoutMs: 60_000 }));
    await original.restart();
    const [took, alone] = await Promise.all([answered(clients), direct(original, clients.length)]);
    t.diagnostic(`all ${clients.length} clients were served ${Math.round(took)} ms after readiness; ${Math.round(alone)} ms without us`);
    assert.ok(took < 2000 + alone, "2 s beside what connections to the original take in the same moments");
    for (const reply of await Promise.all(reads)) {
      assert.ok(reply.ok || reply.error.code === "UNAVAILABLE", JSON.stringify(reply));
    }
    assert.equal((await relayed.closed).code, 1012);
    assert.ok(clients.every((client) => !client.close_), "no client was disconnected");
  });

  await t.test("stopped for a while: calls wait and are answered, native ones go on", async () => {
    process.kill(original.child.pid, "SIGSTOP");
    const waiting = clients.map((client) => client.call("sessions.list", { limit: 1 }, { timeoutMs: 60_000 }));
    for (let round = 0; round < 20; round++) assert.equal((await clients[round % clients.length].call("health")).ok, true);
    process.kill(original.child.pid, "SIGCONT");
    for (const reply of await Promise.all(waiting)) assert.ok(reply.ok || reply.error.retryable, JSON.stringify(reply));
    assert.ok(clients.every((client) => !client.close_), "no client was disconnected");
  });

  await t.test("late by more than a second: it still judges who comes", async () => {
    process.kill(original.child.pid, "SIGSTOP");
    const coming = RawClient.open(ours.wsUrl);
    const { promise: late, resolve } = Promise.withResolvers();
    setTimeout(resolve, 1500);
    await late;
    process.kill(original.child.pid, "SIGCONT");
    const client = await coming;
    const newcomer = new Device();
    const hello = await client.connect({ token: TOKEN, client: { id: "test", mode: "test" }, device: newcomer });
    assert.equal(hello.ok, true, JSON.stringify(hello));
    await client.end();
    const [witness] = await connectAll(original, 1);
    const { payload } = await witness.call("device.pair.list", {});
    assert.ok(payload.paired.some(({ deviceId }) => deviceId === newcomer.id), `the original did not pair it: ${JSON.stringify(payload).slice(0, 500)}`);
    await witness.end();
  });

  await t.test("subscriptions are in force again, and no event came twice", async () => {
    // Who has never been cut off shows how often each event is sent.
    const [witness] = await connectAll(original, 1);
    assert.equal((await witness.call("sessions.subscribe", {})).ok, true);
    const all = [...clients, witness];
    const from = all.map((client) => client.frames.length);
    const told = (client, index, key) => client.frames.slice(from[index])
      .filter((frame) => frame.event === "sessions.changed" && JSON.stringify(frame.payload).includes(key)).length;
    const keys = [];
    // The second one closes what is told of the first.
    for (const label of ["after the crash", "and another"]) {
      const created = await clients[0].call("sessions.create", { agentId: "main", label });
      assert.equal(created.ok, true, JSON.stringify(created));
      keys.push(created.payload.key);
      await until("everybody to be told", () => all.every((client, index) => told(client, index, created.payload.key) > 0));
    }
    // What is told of the first may come after the first word of the second.
    await until("everybody to be told as often as without us", () => {
      const times = told(witness, clients.length, keys[0]);
      return clients.every((client, index) => told(client, index, keys[0]) === times);
    });
    assertNoEventTwice(clients);
    await witness.end();
  });
});
