// Programs that speak to a gateway through published libraries: @openclaw/gateway-client, openclaw-node, the openai
// client on /v1, and curl.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import crypto from "node:crypto";
import fs from "node:fs";
import path from "node:path";
import { promisify } from "node:util";
import { GatewayClient } from "@openclaw/gateway-client";
import OpenAI from "openai";
import { OpenClawClient } from "openclaw-node";
import { TOKEN } from "../lib/gateway.mjs";
import { Device, RawClient } from "../lib/raw.mjs";
import { tempDir, until } from "../lib/tools.mjs";
import { maskJson, maskText } from "./masks.mjs";
import { ANSWER, FIRST_HALF } from "./model.mjs";
import { compareSides } from "./sides.mjs";

/** Keys of a run's payload that vary: ids of messages, positions, hashes. */
const RUN_KEYS = ["timestamp", "recordTimestampMs", "source", "deltaCursor", "seq", "rawSeq", "acceptedAt", "hash", "sessionId", "created", "created_at"];

async function referenceClient(side, options = {}) {
  const events = [];
  const { promise: hello, resolve, reject } = Promise.withResolvers();
  const client = new GatewayClient({
    url: side.target.wsUrl,
    token: TOKEN,
    minProtocol: 4,
    maxProtocol: 4,
    scopes: ["operator.admin", "operator.read", "operator.write"],
    ...options,
    onHelloOk: resolve,
    onConnectError: reject,
    onEvent: (event) => events.push(event),
    onGap: (gap) => events.push({ event: "GAP", payload: gap }),
  });
  client.start();
  return { client, events, hello: await hello };
}

/** A hello without what is this connection's own; lists are compared as sets, in their order. */
const helloOf = (hello, side) => {
  const { server, snapshot, pluginSurfaceUrls, auth, ...rest } = hello;
  return {
    ...maskJson(rest, side),
    auth: maskJson({ ...auth, recoveryScope: typeof auth.recoveryScope, deviceToken: typeof auth.deviceToken }, side, ["issuedAtMs"]),
    server: { keys: Object.keys(server).sort(), version: server.version },
    snapshot: Object.keys(snapshot).sort(),
    sessionDefaults: snapshot.sessionDefaults,
    surfaces: Object.keys(pluginSurfaceUrls ?? {}),
  };
};

/** The kinds of event in the order of their first appearance, as `event/stream/state`; without those that come by the clock. */
const kindsOf = (events) => [...new Set(events
  .filter(({ event }) => !["tick", "health", "presence", "cron", "update.available"].includes(event))
  .map(({ event, payload }) => [event, payload?.stream, payload?.data?.phase, payload?.state, payload?.phase].filter(Boolean).join("/")))];

const gatewayClient = {
  "gateway-client: hello": async (side) => {
    const { client, hello } = await referenceClient(side);
    await client.stopAndWait();
    return helloOf(hello, side);
  },
  "gateway-client: calls and errors": async (side) => {
    const { client } = await referenceClient(side, { scopes: ["operator.read"] });
    const answer = async (method, params) => {
      try {
        return maskJson(await client.request(method, params), side, RUN_KEYS);
      } catch (error) {
        return { name: error.name, message: error.message, code: error.gatewayCode ?? error.code, details: error.details, retryable: error.retryable };
      }
    };
    const observed = {};
    for (const [method, params] of [
      ["health"], ["last-heartbeat", {}], ["agents.list", {}], ["models.list", {}], ["sessions.list", { limit: 5 }], ["cron.status", {}],
      ["chat.history", { sessionKey: "agent:main:nothing-here" }], ["chat.history", {}], ["config.set", { raw: "{}" }], ["nope.method", {}],
    ]) {
      observed[`${method} ${JSON.stringify(params)}`] = await answer(method, params);
    }
    await client.stopAndWait();
    return observed;
  },
  "gateway-client: who is here": async (side) => {
    const { client } = await referenceClient(side);
    const tui = await RawClient.open(side.target.wsUrl);
    const who = { id: "openclaw-tui", mode: "ui", version: "2026.9.6", platform: "linux", instanceId: "who-1" };
    assert.equal((await tui.connect({ token: TOKEN, client: who, device: new Device(), scopes: ["operator.read"] })).ok, true);
    await client.request("system-event", { text: "Node: desk (10.0.0.9) · app 1.0 · mode local · reason periodic", instanceId: "beacon-1" });
    const shown = (row) => row.mode === "gateway" || ["who-1", "beacon-1"].includes(row.instanceId);
    const rows = await until("the three of them", async () => {
      const found = (await client.request("system-presence", {})).filter(shown);
      return found.length >= 3 && found;
    });
    await tui.end();
    await client.stopAndWait();
    // The person behind a page is in the original's own book of people: its row says who, ours which program.
    const connection = ({ user, onlineSince, text, ...row }) => (row.mode === "ui" ? row : { ...row, text });
    const own = (row) => (row.mode === "gateway" ? ["instanceId"] : []);
    return rows.map((row) => maskJson(connection(row), side, ["deviceId", ...own(row)])).sort((a, b) => (a.mode < b.mode ? -1 : 1));
  },
  "gateway-client: wrong token": async (side) => {
    const error = await referenceClient(side, { token: "not-the-token" }).then(({ client }) => client.stop(), (refused) => refused);
    assert.ok(error instanceof Error, "a wrong token was accepted");
    return { message: error.message, code: error.gatewayCode ?? error.code, details: maskJson(error.details ?? null, side) };
  },
  "gateway-client: a run, streamed, then its history": async (side) => {
    const { client, events } = await referenceClient(side, { caps: ["tool-events"] });
    const sessionKey = "agent:main:reference";
    await client.request("sessions.subscribe", {});
    await client.request("sessions.messages.subscribe", { key: sessionKey });
    const idempotencyKey = crypto.randomUUID();
    const sent = await client.request("chat.send", { sessionKey, message: "HOLD the line", idempotencyKey });
    const ours = ({ payload }) => payload?.runId === idempotencyKey;
    const streamed = (event) => event.event === "chat" && ours(event) && event.payload.state === "delta";
    await until("the first half of the answer, while the model waits", () =>
      events.findLast(streamed)?.payload.message.content[0].text.trim() === FIRST_HALF);
    const again = await client.request("chat.send", { sessionKey, message: "HOLD the line", idempotencyKey });
    side.model.release();
    const final = await until("the final event", () => events.find((event) => event.event === "chat" && ours(event) && event.payload.state === "final"));
    const wait = await client.request("agent.wait", { runId: idempotencyKey, timeoutMs: 10_000 });
    const history = await until("both messages in the history", async () => {
      const page = await client.request("chat.history", { sessionKey, limit: 10 });
      return page.messages.length >= 2 && page;
    });
    await client.stopAndWait();
    assert.equal(final.payload.message.content[0].text, ANSWER);
    assert.equal(events.filter(({ event }) => event === "GAP").length, 0, "a numbered event was lost");
    return {
      sent: maskJson(sent, side), again: maskJson(again, side), final: maskJson(final.payload, side, RUN_KEYS), wait: maskJson(wait, side, RUN_KEYS),
      kinds: kindsOf(events).sort(),
      history: history.messages.map(({ role, content, __openclaw }) => maskJson({ role, content, sender: __openclaw?.transport, owner: __openclaw?.senderIsOwner }, side)),
    };
  },
  "gateway-client: an aborted run": async (side) => {
    const { client, events } = await referenceClient(side);
    const [sessionKey, idempotencyKey] = ["agent:main:aborted", crypto.randomUUID()];
    await client.request("chat.send", { sessionKey, message: "HOLD until aborted", idempotencyKey });
    await until("a first piece", () => events.some(({ event, payload }) => event === "chat" && payload.runId === idempotencyKey && payload.state === "delta"));
    const abort = await client.request("chat.abort", { sessionKey, runId: idempotencyKey });
    const aborted = await until("the aborted event", () => events.find(({ event, payload }) => event === "chat" && payload.runId === idempotencyKey && payload.state === "aborted"));
    side.model.release();
    await client.stopAndWait();
    return { abort: maskJson(abort, side), aborted: maskJson(aborted.payload, side, RUN_KEYS) };
  },
};

async function nodeClient(side, run, options = {}) {
  const deviceIdentityPath = path.join(side.stateDir, `openclaw-node-${options.clientId ?? "default"}.json`);
  const client = new OpenClawClient({ url: side.target.wsUrl, token: TOKEN, autoReconnect: false, deviceIdentityPath, ...options });
  client.on("error", () => {}); // The promise of the call says the same.
  const hello = await client.connect();
  try {
    return await run(client, hello);
  } finally {
    await client.disconnect();
  }
}

const openclawNode = {
  "openclaw-node: connects": (side) => nodeClient(side, (_client, hello) => helloOf(hello, side)),
  "openclaw-node: pairs, and comes back with its device token alone": async (side) => {
    const first = await nodeClient(side, (_client, hello) => helloOf(hello, side), { clientId: "test" });
    const kept = fs.readFileSync(path.join(side.stateDir, "openclaw-node-test.json"), "utf8");
    assert.match(kept, /deviceToken/, "no device token was kept");
    const second = await nodeClient(side, (_client, hello) => helloOf(hello, side), { clientId: "test", token: undefined });
    return { first: first.auth, second: second.auth };
  },
  "openclaw-node: a streamed chat": (side) => nodeClient(side, async (client) => {
    const chunks = [];
    for await (const chunk of client.chat("HOLD for the library", { sessionKey: "agent:main:node-client" })) {
      chunks.push(chunk);
      if (chunks.filter(({ type }) => type === "text").map(({ text }) => text).join("").trim() === FIRST_HALF) side.model.release();
    }
    const text = chunks.filter(({ type }) => type === "text").map((chunk) => chunk.text).join("");
    assert.equal(text, ANSWER);
    return { types: [...new Set(chunks.map(({ type }) => type))], text, runs: new Set(chunks.map(({ runId }) => runId)).size };
  }),
  "openclaw-node: its other verbs": (side) => nodeClient(side, async (client) => {
    const outcome = async (call) => {
      try {
        return maskJson(await call(), side, [...RUN_KEYS, "id"]);
      } catch (error) {
        return { error: maskText(error.message, side) };
      }
    };
    return {
      chatSync: await outcome(() => client.chatSync("all at once", { sessionKey: "agent:main:node-sync" })),
      health: Object.keys(await client.health()).sort(),
      agents: await outcome(() => client.agents.list()),
      channels: await outcome(() => client.channels.status()),
      describe: await outcome(async () => Object.keys((await client.sessions.describe("agent:main:node-sync")) ?? {}).sort()),
      history: await outcome(async () => (await client.sessions.history("agent:main:node-sync", { limit: 5 })).messages.map(({ role, content }) => ({ role, content }))),
      send: await outcome(() => client.sessions.send("agent:main:node-sync", "hi")),
      pairing: await outcome(() => client.pairing.list("telegram")),
      agentWait: await outcome(() => client.agentWait("nothing", { timeoutMs: 50 })),
      abort: await outcome(() => client.chatAbort("agent:main:node-sync")),
    };
  }),
};

const openai = (side, options = {}) => new OpenAI({ baseURL: `${side.target.url}/v1`, apiKey: TOKEN, maxRetries: 0, timeout: 120_000, ...options });
const ask = { model: "openclaw", messages: [{ role: "user", content: "hello over http" }] };
const refusal = async (promise, side) => {
  const error = await promise.then(() => assert.fail("was accepted"), (refused) => refused);
  return { name: error.constructor.name, status: error.status, body: maskJson(error.error ?? null, side) };
};

const openaiClient = {
  "openai: models": async (side) => {
    const list = (await openai(side).models.list()).data;
    return { list, one: await openai(side).models.retrieve("openclaw") };
  },
  "openai: chat completion": async (side) => {
    const answer = await openai(side).chat.completions.create(ask);
    assert.equal(answer.choices[0].message.content, ANSWER);
    return maskJson({ ...answer, id: answer.id.replace(/_.*/, "_") }, side, RUN_KEYS);
  },
  "openai: chat completion, streamed": async (side) => {
    const chunks = [];
    const messages = [{ role: "user", content: "HOLD over http" }];
    let text = "";
    for await (const chunk of await openai(side).chat.completions.create({ ...ask, messages, stream: true, stream_options: { include_usage: true } })) {
      chunks.push(chunk);
      text += chunk.choices[0]?.delta.content ?? "";
      // Only a stream that is not held back gets past here: the model waits for this.
      if (text.trim() === FIRST_HALF) side.model.release();
    }
    assert.equal(text, ANSWER);
    const [first, last] = [chunks[0], chunks.at(-1)].map((chunk) => maskJson({ ...chunk, id: chunk.id.replace(/_.*/, "_") }, side, RUN_KEYS));
    return { first, last, finish: chunks.map((chunk) => chunk.choices[0]?.finish_reason).filter(Boolean) };
  },
  "openai: response": async (side) => {
    const answer = await openai(side).responses.create({ model: "openclaw", input: "hello" });
    assert.equal(answer.output_text, ANSWER);
    return maskJson({ ...answer, id: answer.id.replace(/_.*/, "_"), output: answer.output.map((item) => ({ ...item, id: item.id.replace(/_.*/, "_") })) }, side, RUN_KEYS);
  },
  "openai: response, streamed": async (side) => {
    const types = [];
    let text = "";
    for await (const event of await openai(side).responses.create({ model: "openclaw", input: "HOLD the response", stream: true })) {
      if (types.at(-1) !== event.type) types.push(event.type);
      if (event.type === "response.output_text.delta") text += event.delta;
      if (text.trim() === FIRST_HALF) side.model.release();
    }
    assert.equal(text, ANSWER);
    return types;
  },
  "openai: refusals": async (side) => ({
    token: await refusal(openai(side, { apiKey: "wrong" }).chat.completions.create(ask), side),
    model: await refusal(openai(side).chat.completions.create({ ...ask, model: "gpt-4" }), side),
    empty: await refusal(openai(side).chat.completions.create({ ...ask, messages: [] }), side),
    embeddings: await refusal(openai(side).embeddings.create({ model: "gpt-4", input: "x" }), side),
    response: await refusal(openai(side).responses.create({ model: "openclaw" }), side),
  }),
};

/** Of the connection and not of the answer, or of the moment. */
const HOP_HEADERS = /^(date|connection|keep-alive|transfer-encoding):/i;

/** One curl call: its status line, headers (names in lower case: HTTP does not tell them apart) and body. */
async function curl(side, args, route) {
  const { stdout } = await promisify(execFile)("curl", ["-sS", "-i", "--max-time", "120", ...args, `${side.target.url}${route}`], { maxBuffer: 64 << 20 });
  const [head, ...body] = stdout.split("\r\n\r\n");
  const [status, ...lines] = head.split("\r\n");
  const text = body.join("\r\n\r\n");
  const json = /content-type: application\/json/i.test(head) && text !== "";
  const headers = lines
    .filter((line) => !HOP_HEADERS.test(line) && !(json && /^content-length:/i.test(line)))
    .map((line) => maskText(line.replace(/^[^:]+/, (name) => name.toLowerCase()), side)[0]);
  return { status, headers: headers.sort(), body: json ? maskJson(JSON.parse(text), side, [...RUN_KEYS, "id"]) : maskText(text, side) };
}

const bearer = ["-H", `Authorization: Bearer ${TOKEN}`];
const post = (body) => ["-H", "Content-Type: application/json", "-d", typeof body === "string" ? body : JSON.stringify(body)];
const requests = {
  "GET /healthz": [[], "/healthz"],
  "HEAD /health": [["-I"], "/health"],
  "POST /health": [["-X", "POST"], "/health"],
  "GET /readyz": [[], "/readyz"],
  "GET /startupz": [[], "/startupz"],
  "GET /v1/models without a token": [[], "/v1/models"],
  "GET /v1/models": [bearer, "/v1/models"],
  "POST /v1/chat/completions": [[...bearer, ...post(ask)], "/v1/chat/completions"],
  "POST /v1/chat/completions, bad JSON": [[...bearer, ...post("{")], "/v1/chat/completions"],
  "GET /v1/chat/completions": [bearer, "/v1/chat/completions"],
  "POST /tools/invoke, no name": [[...bearer, ...post({})], "/tools/invoke"],
  "POST /tools/invoke, unknown": [[...bearer, ...post({ tool: "nope" })], "/tools/invoke"],
  "GET history of no session": [bearer, "/sessions/agent:main:none/history"],
  "GET /control-ui-config.json without a token": [[], "/control-ui-config.json"],
  "GET /control-ui-config.json": [bearer, "/control-ui-config.json"],
  "GET /": [[], "/"],
  "GET /, compressed": [["-H", "Accept-Encoding: br", "-o", "/dev/null", "-D", "-"], "/"],
  "GET /chat/main": [["-o", "/dev/null", "-D", "-"], "/chat/main"],
  "GET /favicon.svg": [[], "/favicon.svg"],
  "GET /sw.js": [["-o", "/dev/null", "-D", "-"], "/sw.js"],
  "GET /manifest.webmanifest": [[], "/manifest.webmanifest"],
  "GET /assets/none.js": [[], "/assets/none.js"],
  "GET /robots.txt": [[], "/robots.txt"],
  "GET /metrics": [["-o", "/dev/null", "-D", "-"], "/metrics"],
  "GET /api": [[], "/api"],
  "GET /hooks/wake": [[], "/hooks/wake"],
  "GET /avatar/main": [[...bearer], "/avatar/main?meta=1"],
  "a forwarded header from loopback": [["-H", "X-Forwarded-For: 203.0.113.9", ...bearer], "/v1/models"],
  "a path that climbs": [["--path-as-is"], "/assets/../../package.json"],
};
/** What the original takes on this route. Source: `DEFAULT_BODY_BYTES` of tools-invoke-http at 2026.9.6. */
const INVOKE_BYTES_MAX = 2 * 1024 * 1024;
/** A call without a tool, padded to this many bytes: read whole, then turned down. Sent at once, without asking whether to go on. */
const padded = (bytes) => {
  const file = path.join(tempDir("uploads"), `${bytes}.json`);
  fs.writeFileSync(file, "{}".padEnd(bytes));
  return ["-H", "Content-Type: application/json", "-H", "Expect:", "--data-binary", `@${file}`];
};
requests["POST /tools/invoke, the largest body"] = [[...bearer, ...padded(INVOKE_BYTES_MAX)], "/tools/invoke"];
requests["POST /tools/invoke, a byte more"] = [[...bearer, ...padded(INVOKE_BYTES_MAX + 1)], "/tools/invoke"];
const curled = Object.fromEntries(Object.entries(requests).map(([name, [args, route]]) => [`curl: ${name}`, (side) => curl(side, args, route)]));

/** The last: its caller has no more writes for a minute. */
const budget = {
  "more than 30 writes of a kind within a minute": async (side) => {
    const raw = await RawClient.open(side.target.wsUrl);
    await raw.connect({ token: TOKEN });
    const answers = [];
    while (answers.length < 32) answers.push(await raw.call("config.apply", {}));
    const other = await raw.call("config.patch", {});
    await raw.end();
    return [answers[0], ...answers.slice(29), other].map(({ ok, error }) => {
      const { retryAfterMs, message, ...rest } = error;
      if (retryAfterMs !== undefined) assert.ok(retryAfterMs > 0 && retryAfterMs <= 60_000, JSON.stringify(error));
      return { ok, ...rest, message: message.replace(/after \d+s/, "after <seconds>"), waits: typeof retryAfterMs };
    });
  },
};

compareSides("sdk", [{ steps: gatewayClient }, { steps: openclawNode }, { steps: openaiClient }, { steps: curled, atOnce: 2 }, { steps: budget }]);
