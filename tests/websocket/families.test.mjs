// The case families 1-7, 9 and 10 of the Autobahn list, written as bytes on a TCP socket, so that no library stands
// between the case and the gateway. A gateway does not echo: the id of a request comes back in its answer, which shows
// that the text arrived whole. The original (npm `ws`) gets the same bytes and must end in the same way.
import assert from "node:assert/strict";
import crypto from "node:crypto";
import test, { after, before } from "node:test";
import WebSocketOfNpm from "ws";
import { startOriginal, startOurs } from "../lib/gateway.mjs";
import { CLOSE, frame, PING, PONG, TEXT, Wire } from "../lib/wire.mjs";

const BINARY = 2;

const targets = {};
before(async () => {
  [targets.original, targets.ours] = await Promise.all([startOriginal(), startOurs()]);
});
after(() => Promise.all(Object.values(targets).map((target) => target.stop())));

const request = (id, pad = 0) => JSON.stringify({ type: "req", id, method: "last-heartbeat" }) + " ".repeat(pad);

function both(name, run) {
  for (const side of ["original", "ours"]) test(`${name} (${side})`, () => run(targets[side]));
}

/** After these frames the peer closes with this code. */
function closes(name, code, ...frames) {
  both(name, async (target) => {
    const wire = await Wire.connect(target);
    wire.write(...frames);
    assert.equal(await wire.closed(), code);
  });
}

/** These frames end in an answer to the request `id`. */
function answers(name, id, ...frames) {
  both(name, async (target) => {
    const wire = await Wire.connect(target);
    wire.write(...frames);
    assert.equal((await wire.answer(id)).ok, true);
    wire.socket.destroy();
  });
}

for (const size of [125, 126, 127, 128, 65_535, 65_536, 1 << 20]) {
  const pad = size - request("one").length;
  answers(`1: a text of ${size} bytes`, "one", frame(TEXT, request("one", pad)));
}

for (const size of [0, 5, 125]) {
  both(`2: a ping of ${size} bytes comes back`, async (target) => {
    const wire = await Wire.connect(target);
    const payload = crypto.randomBytes(size);
    wire.write(frame(PING, payload));
    const pong = await wire.until("the pong", (f) => f.opcode === PONG);
    assert.deepEqual(pong.payload, payload);
    wire.socket.destroy();
  });
}
/** A message that is no request: what comes of it (an answer without an id, a close or nothing) is compared, and a request after it. */
function alike(name, opcode, payload) {
  test(name, async () => {
    const seen = {};
    for (const [side, target] of Object.entries(targets)) {
      const wire = await Wire.connect(target);
      wire.write(frame(opcode, payload), frame(TEXT, request("after")));
      // Both are ends: the answer, or the close.
      const after = await wire.answer("after").catch(() => null);
      const odd = wire.frames.filter(({ json }) => json?.type === "res" && !["connect", "after"].includes(json.id)).map(({ json }) => json);
      seen[side] = { goesOn: after?.ok ?? false, odd, close: after ? "none" : await wire.closed() };
      wire.socket.destroy();
    }
    assert.deepEqual(seen.ours, seen.original);
  });
}
alike("1.1.1: an empty text", TEXT, "");
alike("1.2.1: an empty binary message", BINARY, "");
for (const size of [125, 126, 127, 128, 65_535, 65_536]) {
  answers(`1.2: a binary message of ${size} bytes is read as text`, "binary", frame(BINARY, request("binary", size - request("binary").length)));
}

/** Each of these bytes, or few of them, is a write of its own that the peer reads by itself. */
async function trickle(wire, bytes, size) {
  wire.socket.setNoDelay(true);
  for (let at = 0; at < bytes.length; at += size) {
    await new Promise((resolve) => wire.socket.write(bytes.subarray(at, at + size), resolve));
    await new Promise((resolve) => setTimeout(resolve, 1));
  }
}

for (const size of [1, 7]) {
  both(`2, 5: pings and a text in fragments, ${size} bytes a segment`, async (target) => {
    const wire = await Wire.connect(target);
    const text = Buffer.from(request("chopped-κόσμε"));
    const ping = crypto.randomBytes(125);
    const frames = [frame(TEXT, text.subarray(0, 40), { fin: false }), frame(PING, ping), frame(0, text.subarray(40))];
    await trickle(wire, Buffer.concat(frames), size);
    assert.equal((await wire.answer("chopped-κόσμε")).ok, true);
    const pong = await wire.until("the pong", (f) => f.opcode === PONG);
    assert.deepEqual(pong.payload, ping);
    wire.socket.destroy();
  });
}

closes("2: a ping of 126 bytes", 1002, frame(PING, Buffer.alloc(126)));
answers("2: a pong that nobody asked for", "after", frame(PONG, "x"), frame(TEXT, request("after")));

for (const rsv of [1, 2, 3, 4, 5, 6, 7]) closes(`3: reserved bits ${rsv}`, 1002, frame(TEXT, request("r"), { rsv }));
for (const opcode of [3, 4, 5, 6, 7, 11, 12, 13, 14, 15]) closes(`4: opcode ${opcode}`, 1002, frame(opcode, "x"));

closes("5: a ping in two fragments", 1002, frame(PING, "a", { fin: false }), frame(0, "b"));
closes("5: a continuation of nothing", 1002, frame(0, "x"));
closes("5: a text inside a text", 1002, frame(TEXT, "{", { fin: false }), frame(TEXT, "}"));
closes("5: a frame without a mask", 1002, frame(TEXT, request("m"), { masked: false }));
{
  const text = Buffer.from(request("pieces-κόσμε-😀"));
  // One byte in each: every character of more than one byte is cut, which 6 asks for.
  const pieces = [...text].map((byte, i) => frame(i ? 0 : TEXT, [byte], { fin: i === text.length - 1 }));
  answers("5, 6: a text of one byte in each fragment", "pieces-κόσμε-😀", ...pieces);
  answers("5: pings between fragments", "pieces-κόσμε-😀", ...pieces.flatMap((piece) => [frame(PING, "p"), piece]));
  answers("10: a text cut into 1,300 bytes a fragment", "cut", ...cut(Buffer.from(request("cut", 65_536)), 1300));
  answers("9: 4 MiB in fragments of 64 KiB", "cut", ...cut(Buffer.from(request("cut", 4 << 20)), 65_536));
}

function cut(text, size) {
  const count = Math.ceil(text.length / size);
  return Array.from({ length: count }, (_, i) =>
    frame(i ? 0 : TEXT, text.subarray(i * size, (i + 1) * size), { fin: i === count - 1 }));
}

const BAD_UTF8 = { "lone continuation": [0x80], overlong: [0xc0, 0xaf], surrogate: [0xed, 0xa0, 0x80], "past U+10FFFF": [0xf4, 0x90, 0x80, 0x80], "cut short": [0xce] };
for (const [name, bytes] of Object.entries(BAD_UTF8)) closes(`6: ${name}`, 1007, frame(TEXT, [0x22, ...bytes]));

const code = (number, reason = "") => Buffer.concat([Buffer.from([number >> 8, number & 255]), Buffer.from(reason)]);
for (const number of [1000, 1001, 1003, 1007, 1011, 3000, 4999]) closes(`7: close ${number} is answered`, number, frame(CLOSE, code(number)));
for (const number of [0, 999, 1004, 1005, 1006, 1015, 2999, 5000]) closes(`7: close ${number} is no code`, 1002, frame(CLOSE, code(number)));
closes("7: a close of one byte", 1002, frame(CLOSE, [3]));
closes("7: a close of 126 bytes", 1002, frame(CLOSE, Buffer.alloc(126)));
closes("7: a reason that is no UTF-8", 1007, frame(CLOSE, Buffer.concat([code(1000), Buffer.from([0xff])])));

/** Two clients that we did not write, each with its own framing. */
for (const [name, Client] of [["npm ws", WebSocketOfNpm], ["the WebSocket of Node", WebSocket]]) {
  both(`1, 7: ${name} talks and closes`, async (target) => {
    const socket = new Client(target.wsUrl);
    const first = Promise.withResolvers();
    const closed = Promise.withResolvers();
    socket.addEventListener("message", (event) => first.resolve(JSON.parse(event.data)));
    socket.addEventListener("close", (event) => closed.resolve(event));
    socket.addEventListener("error", () => first.reject(new Error("socket error")));
    assert.equal((await first.promise).event, "connect.challenge");
    socket.close(1000, "done");
    const { code: seen, wasClean } = await closed.promise;
    assert.deepEqual({ seen, wasClean }, { seen: 1000, wasClean: true });
  });
}
