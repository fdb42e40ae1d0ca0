// An OpenClaw that is neither well nor dead, by what stands between it and us: it takes calls and says nothing, hangs up on whoever
// comes, talks nonsense, or lets its answers trickle. Whoever asks us for what we answer ourselves notices nothing of it.
import assert from "node:assert/strict";
import net from "node:net";
import { after, before, test } from "node:test";
import { startOriginal, startOurs, TOKEN } from "../lib/gateway.mjs";
import { RawClient } from "../lib/raw.mjs";
import { until } from "../lib/tools.mjs";

const CLIENTS = 20;
/** More than one client may have under way. Source: PENDING_CALLS_MAX. */
const FLOOD = 1500;
const UNDER_WAY_MAX = 1024;
/** A busy machine; what waits for a sick OpenClaw waits until it is well, or longer. */
const NATIVE_MS = 30_000;

let original;
let ours;
let between;
let clients;

/** A TCP relay with a sickness: `well`, `deaf`, `hangs-up`, `nonsense`, `trickles`. */
async function startBetween(port) {
  const open = new Set();
  const sockets = new Set();
  const relay = { sickness: "well" };
  const pump = (from, to, isAnswer) => {
    const waiting = [];
    from.on("data", (bytes) => {
      waiting.push(bytes);
      go();
    });
    const go = () => {
      if (relay.sickness === "deaf") return;
      if (relay.sickness === "trickles" && isAnswer) {
        if (waiting.length) to.write(waiting[0].subarray(0, 1));
        waiting[0] = waiting[0]?.subarray(1);
        if (!waiting[0]?.length) waiting.shift();
        return;
      }
      for (const bytes of waiting.splice(0)) to.write(bytes);
    };
    from.on("close", () => to.destroy());
    from.on("error", () => to.destroy());
    return go;
  };
  const server = net.createServer((socket) => {
    sockets.add(socket);
    socket.on("close", () => sockets.delete(socket));
    if (relay.sickness === "hangs-up") return socket.destroy();
    if (relay.sickness === "nonsense") {
      socket.on("error", () => {});
      return socket.end(Buffer.from("\x16\x03\x01 HTTP/9.9 \xff\xfe 200 maybe\r\n\r\n", "latin1"));
    }
    const up = net.connect(port, "127.0.0.1");
    const pumps = [pump(socket, up, false), pump(up, socket, true)];
    const one = { socket, go: () => pumps.forEach((go) => go()) };
    open.add(one);
    socket.on("close", () => open.delete(one));
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return Object.assign(relay, {
    wsUrl: `ws://127.0.0.1:${server.address().port}`,
    token: TOKEN,
    become(sickness) {
      relay.sickness = sickness;
      for (const one of open) sickness === "well" ? one.go() : ["hangs-up", "nonsense"].includes(sickness) && one.socket.destroy();
    },
    stop: () => new Promise((resolve) => {
      for (const socket of sockets) socket.destroy();
      server.close(resolve);
    }),
  });
}

before(async () => {
  original = await startOriginal();
  between = await startBetween(original.port);
  ours = await startOurs({ upstream: { attach: between } });
  clients = await Promise.all(Array.from({ length: CLIENTS }, async () => {
    const client = await RawClient.open(ours.wsUrl);
    assert.equal((await client.connect({ token: TOKEN })).ok, true);
    return client;
  }));
  await well();
});

after(async () => {
  for (const client of clients ?? []) await client.end();
  await ours?.stop();
  await between?.stop();
  await original?.stop();
});

const well = () => Promise.all(clients.map((client) => until("a bridged call to succeed", async () => (await client.call("sessions.list", { limit: 1 })).ok, { timeoutMs: 60_000 })));

/** What we answer ourselves, to everyone, also to one who comes now. */
async function nativeIsWell() {
  const comes = await RawClient.open(ours.wsUrl);
  assert.equal((await comes.connect({ token: TOKEN })).ok, true);
  const answers = await Promise.all([comes, ...clients].map((client) => client.call("config.get", {}, { timeoutMs: NATIVE_MS })));
  assert.ok(answers.every((answer) => answer.ok), JSON.stringify(answers.find((answer) => !answer.ok)));
  assert.equal((await fetch(`${ours.url}/healthz`, { signal: AbortSignal.timeout(NATIVE_MS) })).status, 200);
  await comes.end();
}

const wait = (client) => client.call("agent.wait", { runId: "no-such-run", timeoutMs: 30_000 }, { timeoutMs: 60_000 });
const nobodyLeft = () => assert.ok(clients.every((client) => !client.close_), "a client was disconnected");

test("it takes calls and says nothing: what it owes waits up to a limit, natives go on, and all is answered when it speaks", async () => {
  between.become("deaf");
  const [greedy, ...others] = clients;
  const owed = others.map((client) => client.call("sessions.list", { limit: 1 }, { timeoutMs: 60_000 }));
  const flood = Array.from({ length: FLOOD }, () => greedy.call("sessions.list", { limit: 1 }, { timeoutMs: 60_000 }));
  // Those past the limit are told so at once, while the others wait.
  let turnedDown = 0;
  for (const one of flood) one.then((answer) => { if (answer.error?.code === "UNAVAILABLE" && answer.error.retryable) turnedDown += 1; });
  await until("the rest of the flood to be turned down", () => turnedDown >= FLOOD - UNDER_WAY_MAX);
  // More of them where the machine is slow to hand them on.
  assert.ok(turnedDown < FLOOD, "none of them waits");
  await nativeIsWell();
  between.become("well");
  // It has a limit of its own, and may say so to what comes at once.
  for (const answer of await Promise.all([...owed, ...flood])) assert.ok(answer.ok || answer.error.retryable, JSON.stringify(answer));
  nobodyLeft();
  await well();
});

for (const sickness of ["hangs-up", "nonsense"]) {
  test(`it ${sickness === "nonsense" ? "talks nonsense" : "hangs up"} on whoever comes: calls are refused, retryable, and it is asked again until it is well`, async () => {
    const owed = clients.map(wait);
    await Promise.all(clients.map((client) => client.call("gateway.suspend.status")));
    between.become(sickness);
    for (const answer of await Promise.all(owed)) {
      assert.deepEqual([answer.error?.code, answer.error?.retryable], ["UNAVAILABLE", true], JSON.stringify(answer));
    }
    await nativeIsWell();
    assert.equal((await wait(clients[0])).error?.code, "UNAVAILABLE");
    nobodyLeft();
    between.become("well");
    await well();
  });
}

test("its answers trickle, a byte for each piece it sends: natives go on, and it is well again by itself", async () => {
  between.become("trickles");
  const owed = clients.map((client) => client.call("sessions.list", { limit: 1 }, { timeoutMs: 60_000 }));
  await nativeIsWell();
  between.become("well");
  assert.equal((await Promise.all(owed)).length, CLIENTS);
  nobodyLeft();
  await well();
});
