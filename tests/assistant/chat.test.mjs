// An agent that this gateway runs itself: the same chat on the original and here, with the same scripted model.
import assert from "node:assert/strict";
import fs from "node:fs";
import path from "node:path";
import test, { after, before } from "node:test";
import { startOriginal, startOurs, TOKEN } from "../lib/gateway.mjs";
import { modelConfig, startModel } from "../lib/model.mjs";
import { Device, RawClient } from "../lib/raw.mjs";

let model, original, ours;
before(async () => {
  model = await startModel();
  const config = { ...modelConfig(model), agents: { defaults: { model: { primary: "scripted/scripted-1" } } } };
  [original, ours] = await Promise.all([startOriginal({ config }), startOurs({ config })]);
});
after(async () => {
  await Promise.all([original?.stop(), ours?.stop()]);
  await model.stop();
});

/** What a client sees of a run: kinds, phases and states in order; pieces of the answer joined. */
function seen(frames, runId) {
  const rows = [];
  for (const frame of frames) {
    if (frame.type !== "event" || frame.payload?.runId !== runId) continue;
    const { stream, state, data, phase } = frame.payload;
    if (frame.event === "agent") rows.push(stream === "assistant" ? "agent assistant" : `agent ${stream} ${data.phase ?? ""}`.trim());
    if (frame.event === "chat") rows.push(`chat ${state} ${phase ?? ""}`.trim());
  }
  // How an answer is cut into pieces is the moment's affair.
  const pieces = /^(agent assistant|chat delta)$/;
  const first = rows.findIndex((row) => pieces.test(row));
  return rows.filter((row, index) => !pieces.test(row) || index === first);
}

const mask = (value) => JSON.parse(JSON.stringify(value)
  .replace(/"[0-9a-f]{8}-[0-9a-f-]{27}(:\d+)?"/g, '"<uuid>"')
  .replace(/"(startedAt|endedAt|timestamp|ts|acceptedAt|recordTimestampMs)":\d{13}/g, '"$1":0'));

const ended = (runId) => (frame) => frame.event === "chat" && frame.payload.runId === runId && !["status", "delta"].includes(frame.payload.state);

/** Runs the same steps on both sides and hands both results to `check`. */
async function both(steps, connect = {}) {
  return Promise.all([original, ours].map(async (target) => {
    const client = await RawClient.open(target.wsUrl);
    const hello = await client.connect({ token: TOKEN, ...connect });
    assert.equal(hello.ok, true, JSON.stringify(hello));
    const result = await steps(client);
    await client.end();
    return result;
  }));
}

test("a streamed answer: events, waiting, repeating, history", async () => {
  const [theirs, own] = await both(async (client) => {
    const params = { sessionKey: "agent:main:one", message: "SCRIPT say The quick brown fox jumps.", idempotencyKey: "run-1" };
    const sent = await client.call("chat.send", params);
    const last = await client.frame("the end", ended("run-1"));
    const waited = await client.call("agent.wait", { runId: "run-1", timeoutMs: 5000 });
    const again = await client.call("chat.send", params);
    const conflict = await client.call("chat.send", { ...params, message: "something else" });
    const { payload: history } = await client.call("chat.history", { sessionKey: "agent:main:one" });
    return { sent, last, waited, again, conflict, history, events: seen(client.frames, "run-1") };
  });
  assert.deepEqual(own.events, theirs.events);
  for (const name of ["sent", "again", "conflict"]) assert.deepEqual({ ...own[name], id: 0 }, { ...theirs[name], id: 0 }, name);
  assert.deepEqual(mask(own.last.payload.message), mask(theirs.last.payload.message));
  const waited = ({ payload: { livenessState: _state, startedAt: _at, ...rest } }) => mask(rest);
  assert.deepEqual(waited(own.waited), waited(theirs.waited));
  const lines = ({ messages }) => messages.map(({ role, content, stopReason, provider, model: id, usage, idempotencyKey, responseId, api }) => ({ role, content, stopReason, provider, id, usage, idempotencyKey, responseId, api }));
  assert.deepEqual(lines(own.history), lines(theirs.history));
  for (const key of ["key", "kind", "classification", "agentId", "isMain", "modelProvider", "model", "contextTokens", "inputTokens", "outputTokens", "status", "hasActiveRun", "activeRunIds", "lastRunId", "archived", "abortedLastRun"]) {
    assert.deepEqual(own.history.sessionInfo[key], theirs.history.sessionInfo[key], key);
  }
  assert.deepEqual(own.history.defaults, theirs.history.defaults);
  const shape = ({ totalMessages, hasMore, pendingInputs, sessionKey, thinkingLevel }) => ({ totalMessages, hasMore, pendingInputs, sessionKey, thinkingLevel });
  assert.deepEqual(shape(own.history), shape(theirs.history));
});

test("an abort keeps what was said and stops the model's work", async () => {
  const [theirs, own] = await both(async (client) => {
    const params = { sessionKey: "agent:main:two", message: "SCRIPT slow One two three.", idempotencyKey: "run-2" };
    await client.call("chat.send", params);
    await client.frame("the first word", (frame) => frame.event === "chat" && frame.payload.runId === "run-2" && frame.payload.state === "delta");
    const inFlight = await client.call("chat.send", params);
    const { payload: meanwhile } = await client.call("chat.history", { sessionKey: "agent:main:two" });
    const wrong = await client.call("chat.abort", { sessionKey: "agent:main:two", runId: "nope" });
    const abort = await client.call("chat.abort", { sessionKey: "agent:main:two", runId: "run-2" });
    const last = await client.frame("the end", ended("run-2"));
    const waited = await client.call("agent.wait", { runId: "run-2", timeoutMs: 5000 });
    const { payload: history } = await client.call("chat.history", { sessionKey: "agent:main:two" });
    return { inFlight, wrong, abort, last, waited, history, meanwhile };
  });
  for (const name of ["inFlight", "wrong", "abort"]) assert.deepEqual(own[name].payload, theirs[name].payload, name);
  const { seq: _a, ...ownLast } = mask(own.last.payload);
  const { seq: _b, ...theirLast } = mask(theirs.last.payload);
  assert.deepEqual(ownLast, theirLast);
  assert.deepEqual(mask(own.waited.payload), mask(theirs.waited.payload));
  assert.equal(own.meanwhile.inFlightRun.runId, theirs.meanwhile.inFlightRun.runId);
  assert.match(own.meanwhile.inFlightRun.text, /^One/);
  assert.equal(own.meanwhile.sessionInfo.status, theirs.meanwhile.sessionInfo.status);
  const lines = ({ messages }) => messages.map(({ role, content, openclawAbort, idempotencyKey }) => ({ role, content, openclawAbort, idempotencyKey }));
  assert.deepEqual(lines(own.history), lines(theirs.history));
});

test("`agent` answers twice, and repeats its answer", async () => {
  const [theirs, own] = await both(async (client) => {
    const params = { sessionKey: "agent:main:three", message: "SCRIPT say Agent says hello.", idempotencyKey: "run-3" };
    const first = await client.call("agent", params);
    const final = await client.frame("the outcome", (frame) => frame.type === "res" && frame.id === first.id && frame.payload?.status === "ok");
    const again = await client.call("agent", params);
    const unknown = await client.call("agent", { message: "hi", agentId: "nobody", idempotencyKey: "run-4" });
    return { first, final, again, unknown, events: seen(client.frames, "run-3") };
  });
  assert.deepEqual(mask(own.first.payload), mask(theirs.first.payload));
  const outcome = ({ runId, status, summary, result }) => ({ runId, status, summary, payloads: result.payloads, usage: result.meta.agentMeta.usage, receipt: mask(result.meta.agentMeta.terminalReceipt) });
  assert.deepEqual(outcome(own.final.payload), outcome(theirs.final.payload));
  assert.deepEqual(outcome(own.again.payload), outcome(theirs.again.payload));
  assert.deepEqual({ ...own.unknown, id: 0 }, { ...theirs.unknown, id: 0 });
  assert.deepEqual(own.events, theirs.events);
});

test("a model that refuses is told, in the chat and to those who wait", async () => {
  const [theirs, own] = await both(async (client) => {
    await client.call("chat.send", { sessionKey: "agent:main:four", message: "SCRIPT fail 400", idempotencyKey: "run-5" });
    const last = await client.frame("the end", ended("run-5"));
    const waited = await client.call("agent.wait", { runId: "run-5", timeoutMs: 5000 });
    const { payload: history } = await client.call("chat.history", { sessionKey: "agent:main:four" });
    return { last, waited, history };
  });
  assert.equal(own.last.payload.state, theirs.last.payload.state);
  assert.match(own.last.payload.errorMessage, /scripted refused \(400\): scripted failure/, "in the provider's own words");
  assert.equal(own.waited.payload.status, theirs.waited.payload.status);
  assert.deepEqual(own.history.messages.map((m) => [m.role, m.stopReason]), theirs.history.messages.map((m) => [m.role, m.stopReason]));
});

/** A tool's events in order, without what the moment decides. */
const toolEvents = (frames, runId) => frames
  .filter((frame) => frame.event === "agent" && frame.payload.runId === runId && ["tool", "item"].includes(frame.payload.stream))
  .map(({ payload: { stream, data, sessionKey } }) => ({ stream, sessionKey, data: { ...data, startedAt: 0, endedAt: 0 } }));

/** What a run asked the model: the calls and results among the messages. Whose request it was tells the conversation. */
const asked = (requests, words) => requests
  .filter(({ call }) => JSON.stringify(call.messages).includes(words)).at(-1).call.messages
  .filter(({ role, tool_calls }) => role === "tool" || tool_calls)
  // The original strips ids of what some providers refuse.
  .map((message) => JSON.parse(JSON.stringify(message).replaceAll("call_scripted_1", "callscripted1")))
  .map(({ role, content, tool_calls, tool_call_id }) => ({ role, content, tool_calls, tool_call_id }));

test("tools of the workspace: events, results, files, history and what the model is sent", async () => {
  const files = { "notes.txt": "line one\nline two\n", "long.txt": Array.from({ length: 3000 }, (_, n) => `number ${n}\n`).join("") };
  const calls = {
    read: { path: "notes.txt" }, "read:part": { path: "notes.txt", offset: 1, limit: 1 }, "read:missing": { path: "nope.txt" }, "read:invalid": { pth: 1 },
    "read:optional": { path: "nope.txt", optional: true }, "read:beyond": { path: "notes.txt", offset: 9 },
    write: { path: "sub/new.txt", content: "alpha\nbeta\n" }, "write:same": { path: "sub/new.txt", content: "alpha\nbeta\n" },
    edit: { path: "notes.txt", edits: [{ oldText: "line two", newText: "line 2" }] },
    ls: { path: "sub" }, frobnicate: { a: 1 },
  };
  const [theirs, own] = await both(async (client) => {
    const { workspace } = (await client.call("agents.list", {})).payload.agents[0];
    fs.mkdirSync(workspace, { recursive: true });
    for (const [name, text] of Object.entries(files)) fs.writeFileSync(path.join(workspace, name), text);
    const plain = (value) => JSON.parse(JSON.stringify(value).replaceAll(workspace, "<workspace>"));
    const out = {};
    for (const [name, args] of Object.entries(calls)) {
      const [runId, key] = [`tool-${name}`, `agent:main:tool-${name}`];
      const message = `SCRIPT tool ${name.split(":")[0]} ${JSON.stringify(args)}`;
      await client.call("chat.send", { sessionKey: key, message, idempotencyKey: runId });
      const last = await client.frame("the end", ended(runId));
      const { payload: history } = await client.call("chat.history", { sessionKey: key });
      const { payload: waited } = await client.call("agent.wait", { runId, timeoutMs: 5000 });
      out[name] = plain({
        order: seen(client.frames, runId), events: toolEvents(client.frames, runId), state: last.payload.state, text: last.payload.message.content,
        // Which of the two asked is told by the workspace in its prompt.
        asked: asked(model.requests.filter(({ call }) => JSON.stringify(call.messages[0]).includes(workspace)), JSON.stringify(message).slice(1, -1)),
        history: history.messages.map(({ role, content, stopReason, toolName, toolCallId, isError, details }) => ({ role, content, stopReason, toolName, toolCallId, isError, details })),
        receipt: mask(waited.terminalReceipt),
      });
    }
    out.files = ["notes.txt", "sub/new.txt"].map((name) => fs.readFileSync(path.join(workspace, name), "utf8"));
    return out;
  }, { caps: ["tool-events"] });
  // A page of a file: what clients are told of how it was cut is not repeated here, its text is.
  for (const side of [own, theirs]) for (const { data } of side["read:part"].events) delete data.result?.details;
  // The original's history leaves out that a tool was wished for that does not exist; here a reader sees what the error
  // answers.
  const [wish] = own.frobnicate.history.splice(1, 1);
  assert.deepEqual([wish.role, wish.content.map((part) => [part.type, part.name])], ["assistant", [["toolCall", "frobnicate"]]]);
  for (const name of Object.keys(theirs)) {
    for (const part of Object.keys(theirs[name])) assert.deepEqual(own[name][part], theirs[name][part], `${name}: ${part}`);
  }
});

test("who did not ask for tool events is told of items alone", async () => {
  const [theirs, own] = await both(async (client) => {
    await client.call("chat.send", { sessionKey: "agent:main:items", message: 'SCRIPT tool ls {}', idempotencyKey: "items-1" });
    await client.frame("the end", ended("items-1"));
    return seen(client.frames, "items-1");
  });
  assert.deepEqual(own, theirs);
  assert.ok(own.includes("agent item start") && !own.some((row) => row.startsWith("agent tool")));
});

test("a session is made with its first message, once for each idempotency key", async () => {
  const device = new Device();
  const [theirs, own] = await both(async (client) => {
    const params = { label: "Begun with words", message: "SCRIPT say Begun.", idempotencyKey: "create-1" };
    const first = await client.call("sessions.create", params);
    await client.frame("the end", ended(first.payload.runId));
    const again = await client.call("sessions.create", params);
    const other = await client.call("sessions.create", { ...params, message: "SCRIPT say Another." });
    const unknown = await client.call("sessions.create", { colour: "blue" });
    const empty = await client.call("sessions.create", { attachments: [{ type: "image" }] });
    const bare = await client.call("sessions.create", { agentId: "main" });
    const { payload: history } = await client.call("chat.history", { sessionKey: first.payload.key });
    await client.call("sessions.patch", { key: first.payload.key, model: "scripted/scripted-1" });
    const forked = await client.call("sessions.create", { parentSessionKey: first.payload.key, fork: true });
    const { payload: child } = await client.call("sessions.describe", { key: forked.payload.key });
    const { payload: copy } = await client.call("chat.history", { sessionKey: forked.payload.key });
    const orphan = await client.call("sessions.create", { fork: true });
    const cut = await client.call("sessions.create", { parentSessionKey: first.payload.key, forkFrom: "last-completed" });
    const lost = await client.call("sessions.create", { parentSessionKey: "agent:main:nowhere", fork: true });
    const taken = await client.call("sessions.create", { label: "Begun with words" });
    // Made once: what was changed since stays.
    await client.call("sessions.patch", { key: first.payload.key, label: "Renamed" });
    await client.call("sessions.create", params);
    const { payload: described } = await client.call("sessions.describe", { key: first.payload.key });
    return { first, again, other, unknown, empty, bare, history, child, copy, orphan, cut, lost, taken, described };
  }, { device });
  const shape = ({ first, again, other, unknown, empty, bare, history, child, copy, orphan, cut, lost, taken, described }) => ({
    first: mask({ ...first.payload, key: first.payload.key.replace(/[^:]+$/, "*"), entry: undefined, resolved: undefined }), keys: Object.keys(first.payload).filter((name) => name !== "resolved").sort(),
    same: [again.payload.key === first.payload.key, again.payload.runId === first.payload.runId, again.payload.runStarted],
    errors: [other, unknown, empty, orphan, cut, lost, taken].map(({ error }) => error),
    copied: copy.messages.map(({ role, content }) => [role, content]), label: described.session.label,
    child: [child.session.parentSessionKey === first.payload.key, child.session.modelProvider, child.session.model],
    bare: [bare.payload.runStarted, bare.payload.runId], lines: history.messages.map(({ role, content }) => [role, content]),
  });
  assert.deepEqual(shape(own), shape(theirs));
  assert.equal(own.first.payload.runStarted, true);
  const client = await RawClient.open(ours.wsUrl);
  await client.connect({ token: TOKEN });
  // Nothing is kept of what asked not to be.
  const { error } = await client.call("sessions.create", { incognito: true });
  assert.match(error.message, /^sessions\.create: incognito is not supported/);
  await client.end();
});

test("who waits for many runs at once keeps nobody from calling", async () => {
  const patient = await RawClient.open(ours.wsUrl);
  await patient.connect({ token: TOKEN });
  for (let i = 0; i < 256; i += 1) patient.send({ type: "req", id: `w-${i}`, method: "agent.wait", params: { runId: `never-${i}`, timeoutMs: 600_000 } });
  const one = await patient.call("agent.wait", { runId: "one-more", timeoutMs: 600_000 });
  assert.deepEqual([one.ok, one.error.code, one.error.retryable], [false, "UNAVAILABLE", true]);
  const other = await RawClient.open(ours.wsUrl);
  await other.connect({ token: TOKEN });
  for (const method of ["config.get", "sessions.list"]) assert.equal((await other.call(method, {})).ok, true, method);
  await patient.end();
  await other.end();
});

test("sessions: listed, described, labelled, begun anew, deleted", async () => {
  const client = await RawClient.open(ours.wsUrl);
  await client.connect({ token: TOKEN });
  const ok = async (method, params = {}) => {
    const answer = await client.call(method, params);
    assert.equal(answer.ok, true, `${method}: ${JSON.stringify(answer.error)}`);
    return answer.payload;
  };
  await ok("sessions.subscribe");
  const { key } = await ok("sessions.create", { label: "Plans" });
  assert.match(key, /^agent:main:dashboard:/);
  const answered = async (message, runId) => {
    await ok("chat.send", { sessionKey: key, message, idempotencyKey: runId });
    return (await client.frame(`the end of ${runId}`, ended(runId))).payload;
  };
  await answered("SCRIPT say First.", "s-1");
  await client.frame("the list to change", (frame) => frame.event === "sessions.changed" && frame.payload.sessionKey === key && frame.payload.session.status === "done");
  const { sessions } = await ok("sessions.list", { includeLastMessage: true });
  const row = sessions.find((one) => one.key === key);
  assert.deepEqual([row.label, row.lastMessagePreview, row.status], ["Plans", "First.", "done"]);
  assert.equal((await ok("sessions.describe", { key })).session.sessionId, row.sessionId);
  assert.equal((await ok("sessions.resolve", { key })).key, key);
  assert.deepEqual((await ok("sessions.preview", { keys: [key] })).previews[0].items.map((i) => i.text), ["SCRIPT say First.", "First."]);

  // What was said before is part of the next prompt.
  await answered("SCRIPT say Second.", "s-2");
  const sent = (words) => model.requests.findLast(({ call }) => JSON.stringify(call.messages).includes(words)).call.messages;
  assert.deepEqual(sent("Second.").map((m) => m.role), ["system", "user", "assistant", "user"]);
  const reset = await answered("/new", "s-3");
  assert.match(reset.message.content[0].text, /New session started/);
  await answered("SCRIPT say Third.", "s-4");
  assert.doesNotMatch(JSON.stringify(sent("Third.")), /First\./);
  assert.notEqual((await ok("sessions.describe", { key })).session.sessionId, row.sessionId);

  assert.match((await answered("/status", "s-5")).message.content[0].text, /scripted\/scripted-1/);
  assert.match((await answered("/model nope/none", "s-6")).message.content[0].text, /not among models\.providers/);
  assert.equal((await client.call("sessions.delete", { key: "main" })).ok, false);
  assert.equal((await ok("sessions.delete", { key })).deleted, true);
  assert.equal((await ok("sessions.describe", { key })).session, null);
  const refused = await client.call("chat.send", { sessionKey: "agent:nobody:main", message: "x", idempotencyKey: "s-7" });
  assert.match(refused.error.message, /unknown agent id "nobody"/);
  await client.end();
});

test("turns of one session follow each other, turns of others do not wait", async () => {
  const client = await RawClient.open(ours.wsUrl);
  await client.connect({ token: TOKEN });
  const send = (session, message, runId) => client.call("chat.send", { sessionKey: `agent:main:${session}`, message, idempotencyKey: runId });
  await send("lane-a", "/queue followup", "l-0");
  await client.frame("the mode", ended("l-0"));
  await send("lane-a", "SCRIPT slow Held back.", "l-1");
  await client.frame("the first word", (frame) => frame.event === "chat" && frame.payload.runId === "l-1" && frame.payload.state === "delta");
  await send("lane-a", "SCRIPT say After it.", "l-2");
  await send("lane-b", "SCRIPT say Beside it.", "l-3");
  await client.frame("the other session", ended("l-3"));
  assert.equal(client.frames.some((frame) => frame.event === "chat" && frame.payload.runId === "l-2"), false, "it waits");
  model.release();
  await client.frame("the second turn", ended("l-2"));
  const order = client.frames.filter((frame) => frame.event === "chat" && frame.payload.state === "final").map((frame) => frame.payload.runId);
  assert.deepEqual(order, ["l-0", "l-3", "l-1", "l-2"]);
  await client.end();
});

test("a conversation goes another way and back, and forks", async () => {
  const key = "agent:main:ways";
  const [theirs, own] = await both(async (client) => {
    const say = async (message, id) => {
      await client.call("chat.send", { sessionKey: key, message, idempotencyKey: id });
      await client.frame("the end", ended(id));
    };
    const history = async (sessionKey = key) => (await client.call("chat.history", { sessionKey })).payload.messages;
    const lines = async (sessionKey) => (await history(sessionKey)).map(({ role, content }) => [role, typeof content === "string" ? content : content[0].text]);
    const outcome = async (method, params) => {
      const { ok, payload, error } = await client.call(method, { sessionKey: key, ...params });
      return { ok, error, payload };
    };
    const ways = async () => (await outcome("sessions.branches.list")).payload.branches.map(({ headline, messageCount, active, updatedAt, leafEntryId }) => ({ headline, messageCount, active, updatedAt: typeof updatedAt, leaf: typeof leafEntryId }));
    const unread = async (value) => {
      const { ok } = await client.call("sessions.patch", { key, unread: value });
      return [ok, (await client.call("sessions.describe", { key })).payload.session.unread];
    };
    const nobody = await client.call("sessions.branches.list", { sessionKey: "agent:main:nobody" });
    await say("SCRIPT say First.", "way-1");
    await say("SCRIPT say Second.", "way-2");
    const [, first, second] = await history();
    const wrong = [
      await outcome("sessions.rewind", { entryId: "nope" }),
      await outcome("sessions.rewind", { sessionKey: "agent:main:nobody", entryId: "nope" }),
      await outcome("sessions.branches.switch", { leafEntryId: (await outcome("sessions.branches.list")).payload.branches[0].leafEntryId }),
      await outcome("sessions.branches.switch", { leafEntryId: first.__openclaw.id }),
    ].map(({ ok, error }) => ({ ok, error: error.message.replace(/: [\w:-]+$/, ": <id>") }));
    const assistant = await outcome("sessions.rewind", { entryId: first.__openclaw.id });
    const fork = await outcome("sessions.fork", { entryId: second.__openclaw.id });
    const child = await lines(fork.payload.sessionKey);
    const before = await ways();
    const rewound = await outcome("sessions.rewind", { entryId: second.__openclaw.id });
    const seen = [await lines(), await ways()];
    await say("SCRIPT say Another.", "way-3");
    seen.push(await lines(), await ways());
    const { payload: { branches } } = await outcome("sessions.branches.list");
    const back = await outcome("sessions.branches.switch", { leafEntryId: branches.find(({ active }) => !active).leafEntryId });
    seen.push(await lines(), await ways());
    await say("SCRIPT say Third.", "way-4");
    const marks = [await unread(true), await unread(true), await unread(false)];
    const asked = model.requests.findLast(({ plan }) => plan.text === "Third.").call.messages.filter(({ role }) => role === "assistant").map(({ content }) => content);
    return { nobody: nobody.payload, wrong, assistant: assistant.error.message.replace(/: .*/, ""), fork: fork.payload.editorText, place: fork.payload.sessionKey.replace(/[0-9a-f-]{36}/, ""), child, before, rewound: rewound.payload, back: back.payload, seen, asked, marks };
  });
  assert.deepEqual(own, theirs);
});

test("conversations are searched by words", async () => {
  const [theirs, own] = await both(async (client) => {
    const say = async (name, message, id) => {
      await client.call("chat.send", { sessionKey: `agent:main:${name}`, message, idempotencyKey: id });
      await client.frame("the end", ended(id));
    };
    await say("garden", "Please look for the ultramarine umbrella in the garden, and then tell me everything about it at great length.", "find-1");
    await say("garden", "SCRIPT say The zebra answers here.", "find-2");
    await say("zoo", "the ultramarine elephant\nsecond line", "find-3");
    const seen = [];
    for (const params of [
      { query: "ultramarine" }, { query: "ULTRAMARINE umbrella" }, { query: "zebra answers" }, { query: "nothingatall" }, { query: "ultramar" }, { query: "ultramarine", limit: 1 },
      { query: "ultramarine", sessionKeys: ["agent:main:garden"] }, { query: "\"ultramarine elephant\"" }, { query: "\"elephant ultramarine\"" }, { query: "" }, { query: "  " },
      { query: "ultramarine", agentId: "main" }, { query: "ultramarine", agentId: "nobody" },
      { query: "ultramarine", limit: 25, scope: {} }, { query: "ultramarine", scope: { agentId: "main" } }, { query: "ultramarine", scope: { archived: true } },
    ]) {
      const { ok, payload, error } = await client.call("sessions.search", params);
      const results = payload?.results.map(({ sessionKey, role, snippet, score, timestamp, sessionId, messageId }) => ({ sessionKey, role, snippet, kinds: [typeof score, typeof timestamp, typeof sessionId, typeof messageId] }));
      seen.push({ params, ok, error, truncated: payload?.truncated, results, sessions: payload?.sessions?.map(({ key }) => key) });
    }
    return seen;
  });
  assert.deepEqual(own, theirs);
});
