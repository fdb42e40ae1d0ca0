// Peers that mean harm or are broken: floods of headers, half-sent requests, readers that do not read, huge ids, wrong
// tokens by the thousand. The original gets the same bytes; throughout, another client is answered, ours stays small,
// and its log holds no secret.
import assert from "node:assert/strict";
import fs from "node:fs";
import net from "node:net";
import test, { after, before } from "node:test";
import { startOriginal, startOurs } from "../lib/gateway.mjs";
import { RawClient } from "../lib/raw.mjs";
import { until } from "../lib/tools.mjs";
import { CLOSE, frame, TEXT, Wire } from "../lib/wire.mjs";
import { isNamed, named } from "./complaints.mjs";

const DEADLINE_MS = 60_000;
const RSS_MAX_KB = 200 * 1024;
const HEADER_TIMEOUT_S = 2;

const targets = {};
before(async () => {
  [targets.original, targets.ours] = await Promise.all([
    startOriginal(),
    startOurs({ toml: `[limits]\nhttp_header_timeout_s = ${HEADER_TIMEOUT_S}` }),
  ]);
});
after(() => Promise.all(Object.values(targets).map((target) => target.stop())));

function both(name, run) {
  for (const side of ["original", "ours"]) test(`${name} (${side})`, () => run(targets[side]));
}

const within = (what, promise) => {
  const { promise: late, reject } = Promise.withResolvers();
  const timer = setTimeout(() => reject(new Error(`no ${what} within ${DEADLINE_MS} ms`)), DEADLINE_MS);
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
};

/** Writes these bytes and answers all that comes back until the peer ends the connection. */
function exchange(target, ...parts) {
  const { promise, resolve } = Promise.withResolvers();
  const socket = net.connect(target.port, "127.0.0.1");
  let text = "";
  socket.setEncoding("latin1").on("data", (chunk) => (text += chunk));
  socket.on("error", () => {});
  socket.on("close", () => resolve(text));
  for (const part of parts) socket.write(part);
  return within("end of the connection", promise);
}

const status = (answer) => Number(/^HTTP\/1\.1 (\d{3})/.exec(answer)?.[1] ?? 0);

/** A client that came before the harm, and is answered during and after it. */
async function bystander(target, harm) {
  const client = await RawClient.open(target.wsUrl);
  assert.equal((await client.connect({ token: target.token })).ok, true);
  const ask = async () => assert.equal((await client.call("last-heartbeat")).ok, true);
  await ask();
  await harm(ask);
  await ask();
  assert.equal((await fetch(`${target.url}/healthz`)).status, 200);
  await client.end();
  if (target.label === "ours") {
    const rss = Number(/VmRSS:\s+(\d+)/.exec(fs.readFileSync(`/proc/${target.child.pid}/status`, "utf8"))[1]);
    assert.ok(rss < RSS_MAX_KB, `${rss} kB resident`);
  }
}

const head = `GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n`;
const many = (count) => Array.from({ length: count }, (_, i) => `x-h${i}: 1\r\n`).join("");
// An object holds a difference on purpose: room for more than a hundred headers would cost every request an allocation.
const HEADS = {
  "ninety headers": [200, `${head}${many(90)}\r\n`],
  "five hundred headers": [{ original: 200, ours: 431 }, `${head}${many(500)}\r\n`],
  "a header of 12 KiB": [200, `${head}x-long: ${"a".repeat(12 << 10)}\r\n\r\n`],
  "a header of 20 KiB": [431, `${head}x-long: ${"a".repeat(20 << 10)}\r\n\r\n`],
  "a megabyte of headers": [431, `${head}${`x: ${"a".repeat(1000)}\r\n`.repeat(1000)}\r\n`],
  "a header without a name": [400, `${head}: x\r\n\r\n`],
  "a header with a zero byte": [400, `${head}x: a\0b\r\n\r\n`],
  "no HTTP at all": [400, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"],
  "a length that is no number": [400, `${head}Content-Length: 1e3\r\n\r\n`],
  "two lengths": [400, `${head}Content-Length: 1\r\nContent-Length: 2\r\n\r\nab`],
};
for (const [name, [expected, bytes]] of Object.entries(HEADS)) {
  both(`headers: ${name}`, async (target) => {
    const wanted = expected[target.label] ?? expected;
    const ask = () => exchange(target, Buffer.from(bytes, "latin1"));
    const complaint = { reason: /HTTP that can't be taken/, count: wanted === 200 ? 0 : 1, secret: /x-h\d|x-long|aaaa/ };
    assert.equal(status(await isNamed(target, complaint, ask)), wanted);
  });
}

both("half-sent requests: five hundred sockets that never finish their headers hurt nobody", (target) =>
  bystander(target, async (ask) => {
    const sockets = Array.from({ length: 500 }, () => net.connect(target.port, "127.0.0.1").on("error", () => {}));
    await Promise.all(sockets.map((socket) => new Promise((resolve) => socket.write("GET / HTTP/1.1\r\nHost: x\r\nX-Slow", resolve))));
    await ask();
    for (const socket of sockets) socket.destroy();
  }));

test("half-sent requests: a byte now and then does not keep a socket past the header limit (ours)", () =>
  bystander(targets.ours, async () => {
    const slow = /did not finish its request's head in time/;
    const before = named(targets.ours, slow);
    const started = Date.now();
    const socket = net.connect(targets.ours.port, "127.0.0.1").on("error", () => {});
    socket.resume().write("GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ");
    const drip = setInterval(() => socket.write("a"), 100);
    await within("end of the connection", new Promise((resolve) => socket.on("close", resolve)));
    clearInterval(drip);
    assert.ok(Date.now() - started >= HEADER_TIMEOUT_S * 900, "not at once");
    await until("a line in the log", () => named(targets.ours, slow) > before);
    assert.doesNotMatch(targets.ours.child.output, /X-Slow/i);
  }));

const PREAUTH = {
  "no JSON": "{",
  "bad UTF-8": Buffer.from([0x22, 0xff, 0x22]),
  "sixty thousand open brackets": "[".repeat(60_000),
  "a message past 64 KiB": JSON.stringify({ type: "req", id: "x".repeat(66_000), method: "connect", params: {} }),
  "an id of 60,000 characters": JSON.stringify({ type: "req", id: "x".repeat(60_000), method: "connect", params: {} }),
  "an id that is a number": JSON.stringify({ type: "req", id: 1e300, method: "connect", params: {} }),
  "unknown keys": JSON.stringify({ type: "req", id: "1", method: "connect", params: { minProtocol: 4, maxProtocol: 4, extra: 1 } }),
  "another method first": JSON.stringify({ type: "req", id: "1", method: "health" }),
};
/** Whichever of these it is: one line. */
const REFUSED = /refused a connection|text that is not JSON before the handshake|broke the WebSocket protocol/;
test("before authentication: nonsense ends as with the original", async (t) => {
  const seen = {};
  for (const [side, target] of Object.entries(targets)) {
    seen[side] = {};
    await bystander(target, async () => {
      for (const [name, text] of Object.entries(PREAUTH)) {
        const wire = await Wire.open(target);
        const code = await isNamed(target, { reason: REFUSED, secret: /x{20}|\[{20}/ }, () => {
          wire.write(frame(TEXT, text));
          return wire.closed();
        });
        const answers = wire.frames.filter((f) => f.json?.type === "res").map((f) => f.json);
        const reason = wire.frames.find((f) => f.opcode === CLOSE)?.payload.subarray(2).toString();
        seen[side][name] = { code, reason, answers };
      }
    });
  }
  for (const name of Object.keys(PREAUTH)) {
    await t.test(name, () => assert.deepEqual(seen.ours[name], seen.original[name]));
  }
});

both("huge ids: one of a megabyte comes back whole", async (target) => {
  const client = await RawClient.open(target.wsUrl);
  await client.connect({ token: target.token });
  const id = "i".repeat(1 << 20);
  assert.equal((await client.call("last-heartbeat", undefined, { id })).ok, true);
  await client.end();
});

both("slow readers: one that asks for 80 MB and reads nothing hurts nobody", (target) =>
  bystander(target, async (ask) => {
    const wire = await Wire.connect(target);
    wire.socket.pause();
    for (let i = 0; i < 80; i++) {
      wire.write(frame(TEXT, JSON.stringify({ type: "req", id: `${i}${"i".repeat(1 << 20)}`, method: "last-heartbeat" })));
    }
    for (let i = 0; i < 20; i++) await ask();
    wire.socket.destroy();
  }));

/** How one wrong token ends: the refusal before the upgrade, or the answer and the close. */
async function wrongToken(target, token) {
  let client;
  try {
    client = await RawClient.open(target.wsUrl);
    const { ok, error } = await client.connect({ token });
    return JSON.stringify([ok, error, await client.closed]);
  } catch (error) {
    return JSON.stringify([error.status ?? error.code ?? error.message, error.body ?? error.close]);
  }
}

test("wrong tokens by the thousand end as with the original, and none is logged", async () => {
  const seen = {};
  const from = targets.ours.child.output.length;
  for (const [side, target] of Object.entries(targets)) {
    await bystander(target, async (ask) => {
      const endings = Promise.all(Array.from({ length: 1000 }, (_, i) => wrongToken(target, `wrong-secret-${i}`)));
      for (let i = 0; i < 20; i++) await ask();
      seen[side] = [...new Set(await within("end of a thousand handshakes", endings))].sort();
    });
  }
  assert.deepEqual(seen.ours, seen.original);
  assert.equal(targets.ours.child.output.includes("wrong-secret"), false);
  const lines = targets.ours.child.output.slice(from).split("\n").filter((line) => /token/.test(line));
  assert.ok(lines.length > 0, "but the reason is");
  assert.ok(lines.length < 100, `${lines.length} lines for a thousand`);
  await until("the number of the others", () => /more like it: refused a connection/.test(targets.ours.child.output.slice(from)));
});
