// A model for `make bench-agent`: an OpenAI-compatible server in a thread of its own that notes when each request was
// whole and when each token was written, by the machine's one monotonic clock, so that these times can be subtracted from
// a client's in another thread.
//
// What it answers is named in the person's message: `BENCH <id> <tokens> <gap ms> <group>`. Gap 0: all tokens at once. Else
// the first token comes one gap after the request and the others at their times from there, however late one was. Requests of
// a group (`-`: of none) wait until it is opened; their streams then begin evenly over one gap.
import http from "node:http";
import { isMainThread, parentPort, Worker } from "node:worker_threads";
import { MODEL_ID } from "../tests/lib/model.mjs";

/** Milliseconds of CLOCK_MONOTONIC, the same in every thread. */
export const now = () => Number(process.hrtime.bigint()) / 1e6;

/** Token `k` of an answer: its number is in it, so the end of a text tells how many have arrived. */
export const token = (k) => `${k ? " " : ""}t${String(k).padStart(4, "0")}`;

/** How many tokens a text has. */
export const tokensIn = (text) => {
  const last = /t(\d{4})\s*$/.exec(text ?? "");
  return last ? Number(last[1]) + 1 : 0;
};

export const order = ({ id, tokens, gapMs, group = "-" }) => `BENCH ${id} ${tokens} ${gapMs} ${group}`;

/** `{url, taken(), arrived(group), open(group), stop()}`. */
export async function startBenchModel() {
  const worker = new Worker(new URL(import.meta.url));
  const waiting = [];
  worker.on("message", (answer) => waiting.shift()(answer));
  const ask = (question) => new Promise((resolve) => {
    waiting.push(resolve);
    worker.postMessage(question);
  });
  const port = await ask({ what: "listen" });
  return {
    url: `http://127.0.0.1:${port}`,
    /** What was noted since the last time, by id: `{requests, gotAt, writes}`. */
    taken: () => ask({ what: "taken" }),
    /** How many requests of a group wait. */
    arrived: (group) => ask({ what: "arrived", group }),
    open: (group) => ask({ what: "open", group }),
    stop: () => worker.terminate(),
  };
}

/** From the opening of a group to its first token. */
const OPENING_MS = 100;
const PREFIX = `data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1700000000,"model":"${MODEL_ID}","choices":`;
const piece = (delta, finish = null) => `${PREFIX}[{"index":0,"delta":${JSON.stringify(delta)},"finish_reason":${JSON.stringify(finish)}}]}\n\n`;

function serve() {
  let log = new Map();
  const groups = new Map();
  const opened = new Set();

  const write = (response, entry, k) => {
    const text = piece({ content: token(k) });
    entry.writes[k] = now();
    response.write(text);
  };
  const end = (response, tokens) => {
    response.write(piece({}, "stop"));
    response.write(`${PREFIX}[],"usage":{"prompt_tokens":10,"completion_tokens":${tokens},"total_tokens":${10 + tokens}}}\n\n`);
    response.end("data: [DONE]\n\n");
  };
  /** Token `k` at `from + k * gapMs`. */
  const stream = (response, entry, { tokens, gapMs, from }) => {
    let k = 0;
    const due = () => {
      if (response.destroyed) return;
      while (k < tokens && now() >= from + k * gapMs) write(response, entry, k++);
      if (k === tokens) end(response, tokens);
      else setTimeout(due, Math.max(0, from + k * gapMs - now()));
    };
    due();
  };

  const answer = (response, body) => {
    const gotAt = now();
    const asked = /BENCH ([\w-]+) (\d+) (\d+) ([\w-]+)/.exec(body.toString("utf8", Math.max(0, body.lastIndexOf("BENCH "))));
    const streams = body.includes('"stream":true');
    if (!asked || !streams) {
      const words = { role: "assistant", content: "Noted." };
      response.setHeader("content-type", streams ? "text/event-stream" : "application/json");
      if (!streams) return response.end(JSON.stringify({ id: "chatcmpl-bench", object: "chat.completion", created: 1700000000, model: MODEL_ID, choices: [{ index: 0, finish_reason: "stop", message: words }], usage: { prompt_tokens: 10, completion_tokens: 1, total_tokens: 11 } }));
      response.write(piece(words));
      return end(response, 1);
    }
    const [, id, tokens, gapMs, group] = [...asked.slice(0, 2), Number(asked[2]), Number(asked[3]), asked[4]];
    // Whoever asks again for the same message gets an answer; the times are those of the first.
    const known = log.get(id);
    if (known) known.requests += 1;
    const entry = { requests: 1, gotAt, writes: [] };
    if (!known) log.set(id, entry);
    response.setHeader("content-type", "text/event-stream");
    if (gapMs === 0) {
      for (let k = 0; k < tokens; k++) write(response, entry, k);
      return end(response, tokens);
    }
    if (group === "-" || opened.has(group)) return stream(response, entry, { tokens, gapMs, from: gotAt + gapMs });
    const held = groups.get(group) ?? [];
    held.push((from, phase) => stream(response, entry, { tokens, gapMs, from: from + phase * gapMs }));
    groups.set(group, held);
  };

  const server = http.createServer((request, response) => {
    const parts = [];
    request.on("data", (part) => parts.push(part));
    request.on("end", () => answer(response, Buffer.concat(parts)));
  });
  server.keepAliveTimeout = 600_000;

  parentPort.on("message", ({ what, group }) => {
    const held = groups.get(group) ?? [];
    if (what === "listen") server.listen(0, "127.0.0.1", () => parentPort.postMessage(server.address().port));
    if (what === "arrived") parentPort.postMessage(held.length);
    if (what === "taken") {
      parentPort.postMessage(log);
      log = new Map();
    }
    if (what === "open") {
      const from = now() + OPENING_MS;
      held.forEach((begin, n) => begin(from, n / held.length));
      groups.delete(group);
      opened.add(group);
      parentPort.postMessage(held.length);
    }
  });
}

if (!isMainThread) serve();
