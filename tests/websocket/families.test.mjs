// The case families 1-7, 9 and 10 of the Autobahn list, written as bytes on a TCP socket, so that no library stands
// between the case and the gateway. A gateway does not echo: the id of a request comes back in its answer, which shows
// that the text arrived whole. The original (npm `ws`) gets the same bytes and must end in the same way.
import assert from "node:assert/strict";
import crypto from "node:crypto";
import net from "node:net";
import test, { after, before } from "node:test";
import WebSocketOfNpm from "ws";
import { startOriginal, startOurs, TOKEN } from "../lib/gateway.mjs";

const TEXT = 1;
const CLOSE = 8;
const PING = 9;
const PONG = 10;
const DEADLINE_MS = 60_000;

const targets = {};
before(async () => {
  [targets.original, targets.ours] = await Promise.all([startOriginal(), startOurs()]);
});
after(() => Promise.all(Object.values(targets).map((target) => target.stop())));

function frame(opcode, payload = "", { fin = true, rsv = 0, masked = true } = {}) {
  const body = Buffer.from(payload);
  const head = [(fin ? 0x80 : 0) | (rsv << 4) | opcode];
  const mark = masked ? 0x80 : 0;
  if (body.length < 126) head.push(mark | body.length);
  else if (body.length < 65_536) head.push(mark | 126, body.length >> 8, body.length & 255);
  else {
    const length = Buffer.alloc(8);
    length.writeBigUInt64BE(BigInt(body.length));
    head.push(mark | 127, ...length);
  }
  if (!masked) return Buffer.concat([Buffer.from(head), body]);
  const mask = crypto.randomBytes(4);
  return Buffer.concat([Buffer.from(head), mask, body.map((byte, i) => byte ^ mask[i & 3])]);
}

/** A WebSocket spoken by hand: the frames received, in order, and whether the peer has ended the connection. */
class Wire {
  frames = [];
  ended = false;
  #wake = () => {};

  static async open(target) {
    const wire = new Wire();
    wire.socket = net.connect(target.port, "127.0.0.1");
    let bytes = Buffer.alloc(0);
    let upgraded = false;
    wire.socket.on("data", (chunk) => {
      bytes = Buffer.concat([bytes, chunk]);
      if (!upgraded) {
        const end = bytes.indexOf("\r\n\r\n");
        if (end < 0) return;
        assert.match(bytes.subarray(0, end).toString(), /^HTTP\/1\.1 101 /);
        bytes = bytes.subarray(end + 4);
        upgraded = true;
      }
      bytes = wire.#parse(bytes);
      wire.#wake();
    });
    // A reset is an end too: the peer may close while bytes of ours are still on their way.
    wire.socket.on("error", () => {});
    wire.socket.on("close", () => {
      wire.ended = true;
      wire.#wake();
    });
    const key = crypto.randomBytes(16).toString("base64");
    wire.socket.write(
      `GET / HTTP/1.1\r\nHost: 127.0.0.1:${target.port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n` +
        `Sec-WebSocket-Key: ${key}\r\nSec-WebSocket-Version: 13\r\n\r\n`,
    );
    await wire.until("the challenge", (f) => f.json?.event === "connect.challenge");
    return wire;
  }

  /** Opened and authenticated. */
  static async connect(target) {
    const wire = await Wire.open(target);
    const client = { id: "gateway-client", version: "2026.9.6", platform: "linux", mode: "backend" };
    const params = { minProtocol: 4, maxProtocol: 4, client, caps: [], role: "operator", scopes: ["operator.read"], auth: { token: TOKEN } };
    wire.write(frame(TEXT, JSON.stringify({ type: "req", id: "connect", method: "connect", params })));
    const hello = await wire.answer("connect");
    assert.equal(hello.ok, true, JSON.stringify(hello));
    return wire;
  }

  #parse(bytes) {
    for (;;) {
      if (bytes.length < 2) return bytes;
      assert.equal(bytes[1] & 0x80, 0, "a server does not mask");
      let length = bytes[1] & 127;
      let at = 2;
      if (length === 126) [length, at] = [bytes.length < 4 ? Infinity : bytes.readUInt16BE(2), 4];
      else if (length === 127) [length, at] = [bytes.length < 10 ? Infinity : Number(bytes.readBigUInt64BE(2)), 10];
      if (bytes.length < at + length) return bytes;
      const payload = bytes.subarray(at, at + length);
      const opcode = bytes[0] & 15;
      this.frames.push({ opcode, payload, ...(opcode === TEXT ? { json: JSON.parse(payload.toString()) } : {}) });
      bytes = bytes.subarray(at + length);
    }
  }

  write(...buffers) {
    this.socket.write(Buffer.concat(buffers));
  }

  async #wait(what, look) {
    const { promise, resolve, reject } = Promise.withResolvers();
    const timer = setTimeout(() => reject(new Error(`no ${what} within ${DEADLINE_MS} ms`)), DEADLINE_MS);
    this.#wake = () => {
      const found = look();
      if (found) resolve(found);
      else if (this.ended) reject(new Error(`connection ended before ${what}`));
    };
    this.#wake();
    return promise.finally(() => clearTimeout(timer));
  }

  until(what, match) {
    return this.#wait(what, () => this.frames.find(match));
  }

  async answer(id) {
    return (await this.until(`an answer to ${id.slice(0, 40)}`, (f) => f.json?.type === "res" && f.json.id === id)).json;
  }

  /** The close code the peer sent (null: the connection ended without one). */
  async closed() {
    await this.#wait("the end", () => this.ended);
    const close = this.frames.find((f) => f.opcode === CLOSE);
    return close ? (close.payload.length ? close.payload.readUInt16BE(0) : 1005) : null;
  }
}

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
