// A raw client: one WebSocket, JSON as it is. Shares nothing with our own client code.
import crypto from "node:crypto";
import WebSocket from "ws";
import { PATIENCE_MS } from "./tools.mjs";

export const ALL_SCOPES = [
  "operator.admin", "operator.read", "operator.write", "operator.approvals",
  "operator.questions", "operator.pairing", "operator.talk.secrets",
];

export class RawClient {
  /** Every frame received, in order. */
  frames = [];
  /** The method called under each request id. */
  methods = new Map();
  #waiters = new Set();
  #nextId = 1;

  static async open(wsUrl, { headers = {}, path = "/", agent } = {}) {
    const client = new RawClient();
    const socket = new WebSocket(new URL(path, wsUrl), { headers, perMessageDeflate: false, maxPayload: 64 << 20, agent });
    client.socket = socket;
    client.closed = new Promise((resolve) => {
      socket.on("close", (code, reason) => {
        client.close_ = { code, reason: reason.toString() };
        client.#wake();
        resolve(client.close_);
      });
    });
    socket.on("message", (data) => {
      const text = data.toString();
      let frame;
      try {
        frame = JSON.parse(text);
      } catch {
        frame = { unparsed: text };
      }
      client.frames.push(frame);
      client.#wake();
    });
    await new Promise((resolve, reject) => {
      socket.once("open", resolve);
      socket.once("unexpected-response", (_request, response) => {
        let body = "";
        response.on("data", (chunk) => (body += chunk));
        response.on("end", () => reject(Object.assign(new Error(`HTTP ${response.statusCode}`), { status: response.statusCode, body })));
      });
      socket.once("error", reject);
    });
    return client;
  }

  #wake() {
    for (const waiter of this.#waiters) waiter();
  }

  /** The first frame at or after `from` that `match` accepts; rejects when the socket closes or time is up. */
  async frame(what, match, { from = 0, timeoutMs = PATIENCE_MS } = {}) {
    let next = from;
    return new Promise((resolve, reject) => {
      const finish = (settle, value) => {
        clearTimeout(timer);
        this.#waiters.delete(look);
        settle(value);
      };
      const look = () => {
        for (; next < this.frames.length; next++) {
          if (match(this.frames[next])) return finish(resolve, this.frames[next]);
        }
        if (this.close_) finish(reject, Object.assign(new Error(`closed while waiting for ${what}: ${JSON.stringify(this.close_)}`), { close: this.close_ }));
      };
      const timer = setTimeout(() => finish(reject, new Error(`no ${what} within ${timeoutMs} ms`)), timeoutMs);
      this.#waiters.add(look);
      look();
    });
  }

  challenge() {
    return this.frame("connect.challenge", (f) => f.event === "connect.challenge");
  }

  send(frame) {
    this.socket.send(typeof frame === "string" ? frame : JSON.stringify(frame));
  }

  /** Sends a request and answers the whole response frame (ok or not). */
  async call(method, params, { id = `r${this.#nextId++}`, timeoutMs = PATIENCE_MS, final = () => true } = {}) {
    const from = this.frames.length;
    this.methods.set(id, method);
    this.send({ type: "req", id, method, ...(params === undefined ? {} : { params }) });
    return this.frame(`response to ${method}`, (f) => f.type === "res" && f.id === id && final(f), { from, timeoutMs });
  }

  /** Completes the handshake; answers the response frame of `connect` (hello-ok or the error). */
  async connect({ token, password, role = "operator", scopes = ALL_SCOPES, client = {}, caps = [], device, override, minProtocol = 4, maxProtocol = 4, auth, ...rest } = {}) {
    const { payload: challenge } = await this.challenge();
    const info = { id: "gateway-client", version: "2026.9.6", platform: "linux", mode: "backend", ...client };
    const credentials = auth ?? (token === undefined && password === undefined ? undefined : { ...(token === undefined ? {} : { token }), ...(password === undefined ? {} : { password }) });
    const params = { minProtocol, maxProtocol, client: info, caps, role, ...(scopes === null ? {} : { scopes }), ...(credentials ? { auth: credentials } : {}), ...rest };
    if (device) {
      params.device = device.sign({ challenge, client: info, role, scopes: scopes ?? [], token: credentials?.token ?? credentials?.deviceToken ?? credentials?.bootstrapToken ?? "", override });
    }
    return this.call("connect", params);
  }

  async end() {
    this.socket.close(1000);
    return this.closed;
  }
}

/** An Ed25519 device identity, signing as the reference client does (payload v3; `version: 2` for old clients). */
export class Device {
  constructor({ version = 3 } = {}) {
    this.version = version;
    const { publicKey, privateKey } = crypto.generateKeyPairSync("ed25519");
    this.privateKey = privateKey;
    const raw = publicKey.export({ format: "der", type: "spki" }).subarray(-32);
    this.publicKey = raw.toString("base64url");
    this.id = crypto.createHash("sha256").update(raw).digest("hex");
  }

  sign({ challenge, client, role, scopes, token, override = {} }) {
    // `override`: {version, signedAt, nonce} are signed as given, `fields` replace what was signed.
    const signedAt = override.signedAt ?? challenge.ts;
    const nonce = override.nonce ?? challenge.nonce;
    const lower = (text) => (text ?? "").trim().replace(/[A-Z]/g, (c) => c.toLowerCase());
    const version = override.version ?? this.version;
    const parts = [`v${version}`, this.id, client.id, client.mode, role, scopes.join(","), signedAt, token, nonce];
    if (version === 3) parts.push(lower(client.platform), lower(client.deviceFamily));
    const signature = crypto.sign(null, Buffer.from(parts.join("|")), this.privateKey).toString("base64url");
    return { id: this.id, publicKey: this.publicKey, signature, signedAt, nonce, ...override.fields };
  }
}
