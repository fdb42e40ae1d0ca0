// A client that notes when what was written arrived, and the model's own reader beside it.
import http from "node:http";
import { TOKEN } from "../tests/lib/gateway.mjs";
import { RawClient } from "../tests/lib/raw.mjs";
import { now, order, tokensIn } from "./agent-model.mjs";

/** Longest that a run may take; the original with hundreds at once takes minutes. */
const RUN_MS_MAX = 400_000;

/** What `promise` brings, or an error with `what` when it takes too long. */
export function within(what, promise, ms = RUN_MS_MAX) {
  let timer;
  const late = new Promise((_, reject) => (timer = setTimeout(() => reject(new Error(`no ${what} within ${ms} ms`)), ms)));
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** What there is of one run: when it was sent, when each token arrived (`arrivals`), how it ended. */
class Run {
  arrivals = [];
  deltas = 0;

  constructor(id) {
    this.id = id;
    this.ended = new Promise((resolve) => (this.end = resolve));
  }

  /** All of the text that has arrived. */
  text(text, at) {
    for (let k = this.arrivals.length, count = tokensIn(text); k < count; k++) this.arrivals.push(at);
  }

  done(state, at) {
    this.endedAt = at;
    this.end(state);
  }
}

/** One connection to a gateway. Of events only `chat` is looked into, so that the client does not slow what it measures. */
export class Watcher {
  #runs = new Map();
  #answers = new Map();
  #nextId = 1;

  static async open(gateway) {
    const watcher = new Watcher();
    const raw = await RawClient.open(gateway.wsUrl);
    const hello = await raw.connect({ token: TOKEN });
    if (!hello.ok) throw new Error(`${gateway.label} refused us: ${JSON.stringify(hello.error)}`);
    watcher.raw = raw;
    raw.socket.removeAllListeners("message");
    raw.socket.on("message", (data) => watcher.#take(data, now()));
    // As the Control UI does: each change of a session is told, too.
    await watcher.call("sessions.subscribe", {});
    return watcher;
  }

  #take(data, at) {
    const head = data.toString("latin1", 0, 48);
    if (head.startsWith('{"type":"event"') && !head.includes('"event":"chat"')) return;
    const frame = JSON.parse(data.toString());
    if (frame.type === "res") {
      this.#answers.get(frame.id)?.(frame, at);
      this.#answers.delete(frame.id);
      return;
    }
    if (frame.event !== "chat") return;
    const { runId, state, message, deltaText } = frame.payload;
    const run = this.#runs.get(runId);
    if (!run || state === "status") return;
    const text = message?.content?.map((part) => part.text ?? "").join("") ?? deltaText;
    run.text(text, at);
    if (state === "delta") {
      run.deltas += 1;
      return;
    }
    this.#runs.delete(runId);
    run.done(state, at);
  }

  /** A method's answer: `{ms, payload}`; throws on an error. */
  async call(method, params) {
    const id = `w${this.#nextId++}`;
    const sentAt = now();
    const answered = new Promise((resolve) => this.#answers.set(id, (frame, at) => resolve({ frame, at })));
    this.raw.send({ type: "req", id, method, params });
    const { frame, at } = await within(`answer to ${method}`, answered);
    if (!frame.ok) throw new Error(`${method}: ${JSON.stringify(frame.error)}`);
    return { ms: at - sentAt, payload: frame.payload };
  }

  /** Begins a run; `run.ended` is its last state. */
  async begin({ id, sessionKey, ...rest }) {
    const run = new Run(id);
    this.#runs.set(id, run);
    run.sentAt = now();
    await this.call("chat.send", { sessionKey, message: order({ id, ...rest }), idempotencyKey: id });
    return run;
  }

  /** A whole run; throws when it ends in anything but an answer. */
  async turn(options) {
    const run = await this.begin(options);
    const state = await within(`end of ${options.id}`, run.ended);
    if (state !== "final") throw new Error(`run ${options.id} ended as ${state}`);
    return run;
  }

  end() {
    return this.raw.end();
  }
}

/** The model read without a gateway: what client and model cost by themselves. */
export class Direct {
  #agent = new http.Agent({ keepAlive: true, maxSockets: 1024 });

  constructor(model) {
    this.url = new URL("/v1/chat/completions", model.url);
  }

  async begin({ id, sessionKey: _none, ...rest }) {
    const run = new Run(id);
    const body = JSON.stringify({ stream: true, messages: [{ role: "user", content: order({ id, ...rest }) }] });
    run.sentAt = now();
    const request = http.request(this.url, { method: "POST", agent: this.#agent, headers: { "content-type": "application/json", "content-length": Buffer.byteLength(body) } });
    request.on("error", () => run.done("error", now()));
    request.on("response", (response) => {
      let text = "";
      let rest = "";
      response.setEncoding("utf8").on("data", (data) => {
        const at = now();
        const lines = (rest + data).split("\n");
        rest = lines.pop();
        for (const line of lines) {
          if (!line.startsWith("data: {")) continue;
          text += JSON.parse(line.slice(6)).choices[0]?.delta?.content ?? "";
        }
        run.text(text, at);
      });
      response.on("end", () => run.done("final", now()));
    });
    request.end(body);
    return run;
  }

  async turn(options) {
    const run = await this.begin(options);
    await within(`end of ${options.id}`, run.ended);
    return run;
  }

  async end() {
    this.#agent.destroy();
  }
}
