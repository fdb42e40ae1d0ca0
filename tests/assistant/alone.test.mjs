// The whole assistant in one process: what survives a kill, what a workspace says, what a bad model does, and channels.
import assert from "node:assert/strict";
import crypto from "node:crypto";
import fs from "node:fs";
import http from "node:http";
import path from "node:path";
import test from "node:test";
import { startOurs, TOKEN } from "../lib/gateway.mjs";
import { MessageApi } from "../lib/message-api.mjs";
import { modelConfig, startModel, textOf } from "../lib/model.mjs";
import { RawClient } from "../lib/raw.mjs";
import { until } from "../lib/tools.mjs";
import { post, startReceiver, webhookConfig } from "../lib/webhook-receiver.mjs";

const ended = (runId) => (frame) => frame.event === "chat" && frame.payload.runId === runId && !["status", "delta"].includes(frame.payload.state);

async function open(target) {
  const client = await RawClient.open(target.wsUrl);
  const hello = await client.connect({ token: TOKEN });
  assert.equal(hello.ok, true, JSON.stringify(hello));
  return client;
}

async function start(t, { config = {}, ...rest } = {}) {
  const model = await startModel();
  t.after(() => model.stop());
  const ours = await startOurs({ config: { ...modelConfig(model), ...config }, ...rest });
  t.after(() => ours.stop());
  return { model, ours };
}

test("a kill in the middle of a turn: the question is kept, the chat says what happened, the same key begins again", async (t) => {
  const { model, ours } = await start(t);
  let client = await open(ours);
  const params = { sessionKey: "main", message: "SCRIPT slow Never finished.", idempotencyKey: "k-1" };
  await client.call("chat.send", params);
  await client.frame("the first word", (frame) => frame.event === "chat" && frame.payload.state === "delta");
  ours.child.kill("SIGKILL");
  await ours.child.waitExit();
  await ours.restart();
  client = await open(ours);
  const history = async () => (await client.call("chat.history", { sessionKey: "main" })).payload.messages;
  const lines = await until("the chat to say so", async () => {
    const lines = await history();
    return lines.length === 2 && lines;
  });
  assert.equal(lines[0].content, params.message);
  assert.match(lines[1].content[0].text, /the gateway was stopped while it worked on this; send it again/);
  assert.equal((await client.call("agent.wait", { runId: "k-1", timeoutMs: 100 })).payload.status, "error");

  const again = await client.call("chat.send", params);
  assert.equal(again.payload.status, "started", "the same key is no repetition of what never ended");
  await client.frame("the first word", (frame) => frame.event === "chat" && frame.payload.state === "delta");
  model.release();
  await client.frame("the answer", ended("k-1"));
  const after = await history();
  assert.deepEqual(after.map((m) => m.role), ["user", "assistant"], "once each");
  assert.equal(after[1].content[0].text, "Never finished.");
  assert.equal((await client.call("chat.send", params)).payload.status, "ok");
  await client.end();
});

test("the files of the workspace are in the prompt, as they are now", async (t) => {
  const { model, ours } = await start(t);
  const client = await open(ours);
  const { payload } = await client.call("agents.list", {});
  const workspace = payload.agents[0].workspace;
  fs.mkdirSync(workspace, { recursive: true });
  const prompt = async (runId) => {
    await client.call("chat.send", { sessionKey: "main", message: "hi", idempotencyKey: runId });
    await client.frame("the answer", ended(runId));
    return model.requests.at(-1).call.messages[0].content;
  };
  fs.writeFileSync(path.join(workspace, "SOUL.md"), "Speak like a pirate.");
  assert.match(await prompt("w-1"), /# SOUL\.md\n\nSpeak like a pirate\./);
  fs.writeFileSync(path.join(workspace, "SOUL.md"), "Speak like a poet.");
  assert.match(await prompt("w-2"), /Speak like a poet\./);
  await client.end();
});

test("a picture goes to a model that sees, a file of another kind is refused by name", async (t) => {
  const model = await startModel();
  t.after(() => model.stop());
  const config = modelConfig(model);
  config.models.providers.scripted.models[0].input = ["text", "image"];
  const ours = await startOurs({ config });
  t.after(() => ours.stop());
  const client = await open(ours);
  const content = Buffer.from("not really a picture").toString("base64");
  await client.call("chat.send", { sessionKey: "main", message: "what is it?", idempotencyKey: "i-1", attachments: [{ type: "image", mimeType: "image/png", content }] });
  await client.frame("the answer", ended("i-1"));
  const parts = model.requests.at(-1).call.messages.at(-1).content;
  assert.deepEqual(parts, [{ type: "text", text: "what is it?\n[image: image/png]" }, { type: "image_url", image_url: { url: `data:image/png;base64,${content}` } }]);
  const refused = await client.call("chat.send", { sessionKey: "main", message: "and this?", idempotencyKey: "i-2", attachments: [{ type: "file", mimeType: "application/pdf", content }] });
  assert.match(refused.error.message, /attachments\[0\]: application\/pdf can't be shown to a model here/);
  await client.end();
});

/** A provider that answers each request as told. */
async function provider(t, answers) {
  let calls = 0;
  const server = http.createServer((request, response) => {
    request.resume();
    request.on("end", () => answers[Math.min(calls++, answers.length - 1)](response));
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  const config = { models: { providers: { p: { baseUrl: `http://127.0.0.1:${server.address().port}/v1`, apiKey: "sk-very-secret", api: "openai-completions", models: [{ id: "m", name: "M" }] } } } };
  const ours = await startOurs({ config });
  t.after(() => ours.stop());
  return { ours, calls: () => calls };
}

const say = (text) => (response) => {
  response.setHeader("content-type", "text/event-stream");
  response.end(`data: ${JSON.stringify({ choices: [{ delta: { content: text }, finish_reason: "stop" }] })}\n\ndata: [DONE]\n\n`);
};

test("a provider that is busy is asked again as it wishes; one that sends garbage is named and the session stays usable", async (t) => {
  const busy = (response) => {
    response.writeHead(429, { "retry-after": "0" });
    response.end('{"error":{"message":"busy"}}');
  };
  const garbage = (response) => {
    response.setHeader("content-type", "text/event-stream");
    response.end("data: {nope\n\n");
  };
  const endless = (response) => {
    response.setHeader("content-type", "text/event-stream");
    const more = () => response.destroyed || response.write("x".repeat(65536), () => setImmediate(more));
    more();
  };
  const { ours, calls } = await provider(t, [busy, say("At last."), garbage, endless, say("Still here.")]);
  const client = await open(ours);
  const ask = async (runId) => {
    await client.call("chat.send", { sessionKey: "main", message: "hi", idempotencyKey: runId });
    return (await client.frame("the end", ended(runId))).payload;
  };
  assert.equal((await ask("b-1")).message.content[0].text, "At last.");
  assert.equal(calls(), 2);
  assert.match((await ask("b-2")).errorMessage, /p sent what cannot be used: not JSON/);
  assert.match((await ask("b-3")).errorMessage, /a line of more than 1048576 bytes/);
  assert.equal((await ask("b-4")).message.content[0].text, "Still here.");
  assert.doesNotMatch(ours.child.output, /sk-very-secret/);
  await client.end();
});

test("without a model the error names the two ways out; a key without value names the variable", async (t) => {
  const ours = await startOurs({ config: { models: { providers: { p: { baseUrl: "http://127.0.0.1:9/v1", apiKey: { source: "env", provider: "default", id: "NOT_SET_HERE" }, models: [{ id: "m", name: "M" }] } } } } });
  t.after(() => ours.stop());
  const client = await open(ours);
  const refused = await client.call("chat.send", { sessionKey: "main", message: "hi", idempotencyKey: "n-1" });
  assert.match(refused.error.message, /models\.providers\.p\.apiKey: Environment variable "NOT_SET_HERE" is missing or empty/);
  assert.equal((await client.call("models.list", {})).payload.models[0].available, false);
  const { payload } = await client.call("chat.history", { sessionKey: "main" });
  assert.deepEqual(payload.messages, [], "nothing was written");
  await client.end();
});

test("a message over a channel is answered by our own agent, once, over a kill too", async (t) => {
  const receiver = await startReceiver();
  t.after(() => receiver.stop());
  const { model, ours } = await start(t, { config: { channels: { webhook: webhookConfig(receiver) } } });
  const taken = await post(ours, { text: "SCRIPT say An answer by webhook.", from: "bob" });
  assert.equal(taken.status, 202, JSON.stringify(taken.body));
  const answer = await until("the answer", () => receiver.distinct().find((e) => e.text === "An answer by webhook."));
  assert.deepEqual([answer.verified, answer.target], [true, "bob"]);

  await post(ours, { text: "SCRIPT slow Held by the model.", from: "bob" });
  await until("the model to be asked", () => model.requests.some((r) => r.plan.kind === "slow"));
  ours.child.kill("SIGKILL");
  await ours.child.waitExit();
  await ours.restart();
  await until("the model to be asked again", () => model.requests.filter((r) => r.plan.kind === "slow").length === 2);
  model.release();
  await until("the answer", () => receiver.distinct().some((e) => e.text === "Held by the model."));
  assert.equal(receiver.distinct().filter((e) => e.text === "Held by the model.").length, 1);
  assert.equal(receiver.distinct().filter((e) => e.text.includes("stopped while")).length, 0);
  const api = new MessageApi(ours);
  const { body } = await api.call("GET", "/api/sessions");
  assert.ok(body.sessions.some((session) => session.key.includes("webhook") || session.key === "agent:main:main"), JSON.stringify(body));
});

test("an agent says something in a chat by its tool: an operator's anywhere, a chat's in that chat alone, silence after it stays silence", async (t) => {
  const receiver = await startReceiver();
  t.after(() => receiver.stop());
  const { model, ours } = await start(t, { config: { channels: { webhook: webhookConfig(receiver) } } });
  const said = () => receiver.distinct().map(({ target, text }) => [target, text]);
  /** What the model was told of its last call of the tool. */
  const told = (text) => until("the tool's answer", () => {
    const asked = model.requests.findLast(({ call }) => JSON.stringify(call.messages).includes(text) && call.messages.at(-1).role === "tool");
    return asked && textOf(asked.call.messages.at(-1).content);
  });
  const call = (args) => `SCRIPT tool message ${JSON.stringify({ action: "send", ...args })}`;

  const client = await open(ours);
  const turn = async (message) => {
    const { payload, error } = await client.call("agent", { message, sessionKey: "main", idempotencyKey: crypto.randomUUID() }, { final: (f) => f.payload?.status !== "accepted" });
    assert.equal(payload?.status, "ok", JSON.stringify(error ?? payload));
  };
  await turn(call({ channel: "webhook", target: "ann", message: "By the owner." }));
  assert.deepEqual(said(), [["ann", "By the owner."]]);
  const receipt = JSON.parse(await told("By the owner."));
  assert.deepEqual([receipt.ok, receipt.chatId, receipt.channel], [true, "ann", "webhook"]);
  await turn(call({ message: "To nobody." }));
  assert.match(await told("To nobody."), /target: this conversation is held in no chat/);

  await post(ours, { text: call({ message: "Here." }), from: "bob" });
  await until("the answer", () => said().some(([, text]) => text === "tool done: message"));
  assert.deepEqual(said().slice(1), [["bob", "Here."], ["bob", "tool done: message"]]);
  await post(ours, { text: call({ target: "ann", message: "From a stranger." }), from: "bob" });
  await until("the answer", () => said().filter(([, text]) => text === "tool done: message").length === 2);
  assert.match(await told("From a stranger."), /to the chat that this came from alone/);
  await post(ours, { text: "SCRIPT say NO_REPLY", from: "bob" });
  await until("the model to be asked", () => model.requests.some(({ plan }) => plan.text === "NO_REPLY"));
  await post(ours, { text: "SCRIPT say The last.", from: "bob" });
  await until("the answer", () => said().some(([, text]) => text === "The last."));
  assert.deepEqual(said().filter(([, text]) => /NO_REPLY|stranger/.test(text)), []);
  await client.end();
});

test("an agent finds other conversations, reads them, and has one work; as far as the file lets it", async (t) => {
  const { model, ours } = await start(t);
  const client = await open(ours);
  const turn = async (sessionKey, message) => {
    const { payload, error } = await client.call("agent", { message, sessionKey, idempotencyKey: crypto.randomUUID() }, { final: (f) => f.payload?.status !== "accepted" });
    assert.equal(payload?.status, "ok", JSON.stringify(error ?? payload));
  };
  /** What a call of the tool answers, as the model is given it. */
  const called = async (tool, args) => {
    const from = model.requests.length;
    await turn("agent:main:asks", `SCRIPT tool ${tool} ${JSON.stringify(args)}`);
    const asked = model.requests.slice(from).find(({ call }) => call.messages.at(-1).role === "tool");
    return JSON.parse(textOf(asked.call.messages.at(-1).content));
  };
  await turn("agent:main:garden", "SCRIPT say The roses are red.");
  const list = await called("sessions_list", { search: "garden" });
  assert.deepEqual(list.sessions.map(({ key, agentId }) => [key, agentId]), [["agent:main:garden", "main"]]);
  assert.equal(list.hasMore, false);
  const first = await called("sessions_list", { limit: 1 });
  assert.deepEqual([first.count, first.hasMore, first.nextOffset], [1, true, 1]);
  const { messages, truncated } = await called("sessions_history", { sessionKey: "agent:main:garden" });
  assert.deepEqual(messages.map(({ role, content }) => [role, content]), [["user", "SCRIPT say The roses are red."], ["assistant", "The roses are red."]]);
  assert.equal(truncated, false);
  const sent = await called("sessions_send", { sessionKey: "agent:main:garden", message: "SCRIPT say Watered." });
  assert.deepEqual([sent.status, sent.reply, sent.sessionKey], ["ok", "Watered.", "agent:main:garden"]);
  assert.match(JSON.stringify(model.requests.find(({ plan }) => plan.text === "Watered.").call.messages), /\[From session agent:main:asks\]/);
  // Not waited for: it is held by its model, and goes on.
  const held = await called("sessions_send", { sessionKey: "agent:main:garden", message: "SCRIPT slow Later on.", timeoutSeconds: 0 });
  assert.equal(held.status, "accepted");
  await until("the model to be asked", () => model.requests.some(({ plan }) => plan.kind === "slow"));
  model.release();
  await client.frame("its end", (frame) => frame.event === "chat" && frame.payload.runId === held.runId && frame.payload.state === "final");
  assert.match((await called("sessions_send", { sessionKey: "agent:main:asks", message: "me" })).error, /this is the session that asks/);
  assert.match((await called("sessions_history", { sessionKey: "agent:main:nowhere" })).error, /No session found/);
  const { payload: { hash } } = await client.call("config.get", {});
  const patched = await client.call("config.patch", { raw: JSON.stringify({ tools: { sessions: { visibility: "self" } } }), baseHash: hash });
  assert.equal(patched.ok, true, JSON.stringify(patched.error));
  assert.match((await until("the new file to hold", async () => {
    const answer = await called("sessions_history", { sessionKey: "agent:main:garden" });
    return answer.error && answer;
  })).error, /tools\.sessions\.visibility is self/);
  await client.end();
});
