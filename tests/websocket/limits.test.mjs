// Numbers of the protocol, seen from outside on both gateways: sizes, unauthenticated sockets, a reader that does not read,
// and a peer that is there no more.
import assert from "node:assert/strict";
import net from "node:net";
import test, { after, before } from "node:test";
import { startOriginal, startOurs } from "../lib/gateway.mjs";
import { RawClient } from "../lib/raw.mjs";
import { until } from "../lib/tools.mjs";
import { frame, PING, TEXT, Wire } from "../lib/wire.mjs";
import { named } from "./complaints.mjs";

const PAYLOAD_BYTES_MAX = 25 * 1024 * 1024;
const UNAUTHENTICATED_MAX = 32;
/** Of answers that nobody reads: more than may wait, and as much again as the kernels of both ends hold. */
const UNREAD = 120;

const targets = {};
/** Peers that answer no ping, from the start: what becomes of them takes two intervals. */
const silent = {};
before(async () => {
  [targets.original, targets.ours] = await Promise.all([startOriginal(), startOurs()]);
  for (const side of ["original", "ours"]) silent[side] = await halfOpen(targets[side]);
});
after(() => Promise.all(Object.values(targets).map((target) => target.stop())));

async function halfOpen(target) {
  const wire = await Wire.connect(target);
  const { promise, resolve } = Promise.withResolvers();
  const since = performance.now();
  wire.socket.on("close", () => resolve((performance.now() - since) / 1000));
  return { wire, ended: promise };
}

function both(name, run) {
  for (const side of ["original", "ours"]) test(`${name} (${side})`, () => run(targets[side]));
}

const request = (id, size = 0) => JSON.stringify({ type: "req", id, method: "last-heartbeat" }).padEnd(size);

both("a message of 25 MiB is read, and a byte more closes with 1009", async (target) => {
  const wire = await Wire.connect(target);
  wire.write(frame(TEXT, request("large", PAYLOAD_BYTES_MAX)));
  assert.equal((await wire.answer("large")).ok, true);
  wire.write(frame(TEXT, request("larger", PAYLOAD_BYTES_MAX + 1)));
  assert.equal(await wire.closed(), 1009);
});

/** What a socket that only asks for the upgrade is told, and the socket. */
function knock(target) {
  const socket = net.connect(target.port, "127.0.0.1");
  socket.write(`GET / HTTP/1.1\r\nHost: 127.0.0.1:${target.port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: ${Buffer.alloc(16).toString("base64")}\r\nSec-WebSocket-Version: 13\r\n\r\n`);
  return new Promise((resolve, reject) => {
    let text = "";
    const done = () => resolve({ socket, status: Number(text.slice(9, 12)), body: text.split("\r\n\r\n").slice(1).join("") });
    socket.setEncoding("latin1").on("data", (chunk) => {
      text += chunk;
      if (text.startsWith("HTTP/1.1 101")) done();
    }).on("close", done).on("error", reject);
  });
}

test("the 33rd unauthenticated socket of an address is refused, and there is room again when one is gone", async () => {
  const seen = {};
  for (const [side, target] of Object.entries(targets)) {
    // At once: each of them has 15 s.
    const waiting = await Promise.all(Array.from({ length: UNAUTHENTICATED_MAX }, () => knock(target)));
    assert.ok(waiting.every(({ status }) => status === 101), `${side}: ${waiting.map(({ status }) => status)}`);
    const { status, body } = await knock(target);
    seen[side] = { status, body };
    // Whoever is authenticated is none of them.
    await (await Wire.connect(await withRoom(target, waiting))).socket.destroy();
    for (const { socket } of waiting) socket.destroy();
  }
  assert.deepEqual(seen.ours, seen.original);
  assert.equal(seen.ours.status, 503);
  await until("the reason in the log", () => named(targets.ours, /too many unauthenticated sockets/) >= 1);
});

/** Two of them leave, so that one may look for room and leave it to another; answers once the gateway knows. */
async function withRoom(target, waiting) {
  waiting.pop().socket.destroy();
  waiting.pop().socket.destroy();
  for (;;) {
    const { socket, status } = await knock(target);
    socket.destroy();
    if (status === 101) return target;
  }
}

both("a reader that does not read is sent away once 50 MiB wait for it", async (target) => {
  const wire = await Wire.connect(target);
  wire.socket.pause();
  for (let i = 0; i < UNREAD; i++) wire.write(frame(TEXT, JSON.stringify({ type: "req", id: `${i}:${"i".repeat(1 << 20)}`, method: "last-heartbeat" })));
  const { promise: sent, resolve } = Promise.withResolvers();
  // The last byte has left, or the gateway takes no more.
  wire.socket.write("", resolve);
  wire.socket.on("close", resolve);
  await sent;
  const witness = await RawClient.open(target.wsUrl);
  assert.equal((await witness.connect({ token: target.token })).ok, true);
  assert.equal((await witness.call("last-heartbeat")).ok, true);
  await witness.end();
  wire.socket.resume();
  const code = await wire.closed();
  const answers = wire.frames.filter(({ json }) => json?.type === "res" && json.id !== "connect").length;
  assert.ok(answers < UNREAD, "everything was kept for it");
  // None: it came back to read after the second that a close is waited for.
  assert.ok([1008, null].includes(code), `closed with ${code}`);
  if (target.label === "ours") await until("the reason in the log", () => named(target, /slow consumer/) === 1);
});

test("a peer that answers no ping is asked once, told the time, and dropped, as by the original", async () => {
  const seen = {};
  for (const [side, { wire, ended }] of Object.entries(silent)) {
    const seconds = await ended;
    const asked = wire.frames.filter(({ opcode }) => opcode === PING).length;
    // Every 30 s for all at once: one or two of them fall into this time.
    const told = wire.frames.some(({ json }) => json?.event === "tick");
    seen[side] = { asked, told, close: await wire.closed() };
    // A busy event loop is late.
    assert.ok(seconds > 45 && seconds < 150, `${side}: after ${seconds} s`);
  }
  assert.deepEqual(seen.ours, seen.original);
  assert.deepEqual(seen.ours, { asked: 1, told: true, close: null });
});

test("past 256 requests that wait, one that would wait too is told to come again, and what is answered at once goes on (ours)", async () => {
  const client = await RawClient.open(targets.ours.wsUrl);
  assert.equal((await client.connect({ token: targets.ours.token })).ok, true);
  const waits = Array.from({ length: 256 }, () => client.call("agent.wait", { runId: "none", timeoutMs: 5000 }));
  const { error } = await client.call("config.get", {});
  assert.deepEqual([error?.code, error?.message, error?.retryable], ["UNAVAILABLE", "The server is busy. Please try again in a moment.", true]);
  assert.equal((await client.call("health")).ok, true);
  assert.ok((await Promise.all(waits)).every(({ ok, payload }) => ok && payload.status === "timeout"));
  assert.equal((await client.call("config.get", {})).ok, true);
  await client.end();
});
