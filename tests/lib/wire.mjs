// A WebSocket as bytes on a TCP socket, so that no library stands between a case and the gateway.
import assert from "node:assert/strict";
import crypto from "node:crypto";
import net from "node:net";
import { TOKEN } from "./gateway.mjs";

export const TEXT = 1;
export const CLOSE = 8;
export const PING = 9;
export const PONG = 10;
const DEADLINE_MS = 60_000;

export function frame(opcode, payload = "", { fin = true, rsv = 0, masked = true } = {}) {
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
export class Wire {
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
