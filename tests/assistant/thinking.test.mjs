// How hard models think: the levels that clients see, what a session keeps of them, and what each provider is told. The same
// on the original and here, with the same scripted models.
import assert from "node:assert/strict";
import fs from "node:fs";
import path from "node:path";
import test, { after, before } from "node:test";
import { startOriginal, startOurs, TOKEN } from "../lib/gateway.mjs";
import { startModel } from "../lib/model.mjs";
import { startProviders } from "../lib/providers.mjs";
import { RawClient } from "../lib/raw.mjs";

const row = (id, rest = {}) => ({ id, name: id, reasoning: true, input: ["text"], cost: { input: 0, output: 0, cacheRead: 0, cacheWrite: 0 }, contextWindow: 200_000, maxTokens: 32_000, ...rest });

/** Providers by name, each model with the levels it is asked with; crates/agent/src/thinking/cases.json has many more. */
const models = ({ providers, chat }) => ({
  anthropic: { api: "anthropic-messages", baseUrl: providers, models: [[row("claude-sonnet-4-5"), ["high"]], [row("claude-sonnet-5"), ["off"]]] },
  // Of its own models' older thoughts Anthropic takes none; others are sent them all.
  relay: { api: "anthropic-messages", baseUrl: providers, models: [[row("any")]] },
  google: { api: "google-generative-ai", baseUrl: `${providers}/v1beta`, models: [[row("gemini-2.5-flash"), ["adaptive"]], [row("gemini-3-flash-preview"), ["off"]]] },
  ollama: { api: "ollama", baseUrl: providers, models: [[row("qwen3:8b"), ["max"]]] },
  other: { api: "openai-responses", baseUrl: `${providers}/v1`, models: [[row("any"), ["off"]]] },
  local: { api: "openai-completions", baseUrl: `${chat}/v1`, models: [
    [row("effort", { compat: { supportsReasoningEffort: true } }), ["off"]], [row("few", { compat: { supportedReasoningEfforts: ["low", "high", "xhigh"], supportsReasoningEffort: true } }), ["xhigh"]],
    [row("plain", { reasoning: false }), []],
  ] },
});

let providers, chat, original, ours, config;
before(async () => {
  [providers, chat] = await Promise.all([startProviders(), startModel()]);
  const all = models({ providers: providers.url, chat: chat.url });
  const listed = Object.entries(all).map(([name, { models: rows, ...rest }]) => [name, { apiKey: "k", ...rest, models: rows.map(([one]) => one) }]);
  // With a setting for one model the original takes those alone that have some.
  const every = Object.fromEntries(listed.flatMap(([name, { models: rows }]) => rows.map(({ id }) => [`${name}/${id}`, {}])));
  config = {
    models: { mode: "replace", providers: Object.fromEntries(listed) },
    agents: { defaults: { model: { primary: "local/effort" }, models: { ...every, "local/few": { params: { thinking: "high" } } }, skipBootstrap: true } },
  };
  [original, ours] = await Promise.all([startOriginal({ config }), startOurs({ config })]);
});
after(async () => {
  await Promise.all([original?.stop(), ours?.stop()]);
  await Promise.all([providers?.stop(), chat?.stop()]);
});

/** Runs the same steps on one side after the other: they share the scripted servers. */
async function both(steps) {
  const results = [];
  for (const target of [original, ours]) {
    const client = await RawClient.open(target.wsUrl);
    assert.equal((await client.connect({ token: TOKEN })).ok, true);
    results.push(await steps(client));
    await client.end();
  }
  return results;
}

const ended = (runId) => (frame) => frame.event === "chat" && frame.payload.runId === runId && !["status", "delta"].includes(frame.payload.state);

/** Says something in a session: how it ended, and what the models were asked for it. */
async function say(client, sessionKey, message, rest = {}) {
  const id = `${sessionKey}-${client.frames.length}`;
  const from = [providers.requests.length, chat.requests.length];
  const sent = await client.call("chat.send", { sessionKey, message, idempotencyKey: id, ...rest });
  assert.equal(sent.ok, true, JSON.stringify(sent.error));
  const { payload } = await client.frame("the end", ended(id));
  // The original has titles made beside the turns.
  const asked = [...providers.requests.slice(from[0]), ...chat.requests.slice(from[1])].filter(({ call }) => call.max_tokens !== 240);
  return { text: payload.message?.content?.[0]?.text, error: payload.errorMessage, asked: asked.map(({ call }) => call) };
}

/** Of a request, what it says of thinking. */
function thinking({ thinking: own, output_config, reasoning, include, reasoning_effort, enable_thinking, chat_template_kwargs, think, generationConfig }) {
  const said = { own, output_config, reasoning, include, reasoning_effort, enable_thinking, chat_template_kwargs, think, config: generationConfig?.thinkingConfig };
  return JSON.parse(JSON.stringify(said));
}

test("each model has its levels, and its provider is told of them as the original does", async () => {
  const all = models({ providers: "", chat: "" });
  const [theirs, own] = await both(async (client) => {
    const seen = {};
    const { payload } = await client.call("models.list", {});
    for (const { provider, id, reasoning, thinkingLevels, thinkingDefault } of payload.models) seen[`${provider}/${id}`] = { reasoning, thinkingLevels, thinkingDefault };
    for (const [provider, { models: rows }] of Object.entries(all)) {
      for (const [{ id }, levels] of rows) {
        if (!levels) continue;
        const key = `agent:main:${provider}-${id}`.replaceAll(/[.:]/g, "-").replace("agent-main-", "agent:main:");
        const { ok, error } = await client.call("sessions.patch", { key, model: `${provider}/${id}` });
        assert.equal(ok, true, JSON.stringify(error));
        for (const level of [undefined, ...levels]) {
          const { asked, error: why } = await say(client, key, "SCRIPT say ok.", level ? { thinking: level } : {});
          assert.equal(asked.length, 1, `${provider}/${id} ${level}: ${why}`);
          seen[`${provider}/${id} ${level ?? "by itself"}`] = thinking(asked[0]);
        }
      }
    }
    return seen;
  });
  assert.equal(Object.keys(theirs).length, 27);
  for (const [name, seen] of Object.entries(theirs)) assert.deepEqual(own[name], seen, name);
});

test("/think and /reasoning answer and are kept; a level for one message is no part of it", async () => {
  const key = "agent:main:words";
  const [theirs, own] = await both(async (client) => {
    const seen = [];
    for (const message of [
      "/think", "/think:high", "SCRIPT say kept.", "/thinking big", "/think xhigh", "/t off", "/think default", "/think high SCRIPT say inline.",
      "SCRIPT say tail. /think low", "/reasoning", "/reasoning on", "/reason wat", "/think: low",
    ]) {
      const { text, asked } = await say(client, key, message);
      const { payload } = await client.call("sessions.describe", { key });
      const { thinkingLevel, thinkingLevels, thinkingOptions, thinkingDefault, reasoningLevel } = payload.session;
      const last = asked.map(({ messages }) => messages.findLast(({ role, content }) => role === "user" && JSON.stringify(content).includes("SCRIPT")).content);
      const words = last.map((content) => (typeof content === "string" ? content : content.map((part) => part.text).join("")).replace(/^\[[^\]]*\] /, ""));
      // Commands stand before it in the same message here.
      seen.push({ message, text, told: asked.map(thinking), words: words.map((all) => all.split("\n").at(-1)), thinkingLevel, thinkingLevels, thinkingOptions, thinkingDefault, reasoningLevel });
    }
    const { payload: history } = await client.call("chat.history", { sessionKey: key });
    const { payload: list } = await client.call("sessions.list", {});
    const { thinkingLevels, thinkingOptions, thinkingDefault } = list.defaults;
    return { seen, history: history.thinkingLevel, defaults: { thinkingLevels, thinkingOptions, thinkingDefault } };
  });
  assert.deepEqual(own, theirs);
});

test("sessions.patch keeps levels that the model has, and says which those are", async () => {
  const key = "agent:main:patched";
  const [theirs, own] = await both(async (client) => {
    const seen = [];
    for (const patch of [
      { thinkingLevel: "high" }, { thinkingLevel: "ultrathink" }, { thinkingLevel: "nope" }, { thinkingLevel: "xhigh" }, { thinkingLevel: null }, { thinkingLevel: "high" },
      { model: "local/plain" }, { thinkingLevel: "low" }, { model: null }, { thinkingLevel: "low" }, { reasoningLevel: "stream" }, { reasoningLevel: "bad" }, { reasoningLevel: null }, { label: "one" },
    ]) {
      const { ok, error, payload } = await client.call("sessions.patch", { key, ...patch });
      const { payload: { session } } = await client.call("sessions.describe", { key });
      const { thinkingLevel, reasoningLevel, thinkingDefault, label, displayName } = session;
      const resolved = ok && { level: payload.resolved?.thinkingLevel, levels: payload.resolved?.thinkingLevels };
      seen.push({ patch, ok, error, resolved, thinkingLevel, reasoningLevel, thinkingDefault, label, displayName });
    }
    const taken = await client.call("sessions.patch", { key: "agent:main:another", label: " one " });
    const again = await client.call("sessions.patch", { key, label: "one" });
    return { seen, taken: taken.error, again: again.ok };
  });
  assert.deepEqual(own, theirs);
});

test("what a turn can't think is said, in the chat and as an error", async () => {
  const key = "agent:main:beyond";
  const [theirs, own] = await both(async (client) => {
    await client.call("sessions.patch", { key, model: "local/effort" });
    const beyond = await say(client, key, "SCRIPT say x.", { thinking: "xhigh" });
    const { asked } = await say(client, key, "SCRIPT say x.", { thinking: "bogus" });
    const call = { sessionKey: key, message: "SCRIPT say y.", idempotencyKey: "beyond-1", thinking: "max" };
    const first = await client.call("agent", call);
    const { error } = await client.frame("the outcome", (frame) => frame.type === "res" && frame.id === first.id && frame.payload?.status !== "accepted");
    return { beyond, bogus: asked.map(thinking), code: error.code, message: error.message };
  });
  assert.deepEqual(own, theirs);
});

test("what was thought goes back with the call it led to, signed, and is shown without", async () => {
  const steps = ['SCRIPT before read {"path":"notes.txt"}', "SCRIPT think Next.", "SCRIPT say Last."];
  const asks = { relay: "any", google: "gemini-3-flash-preview", ollama: "qwen3:8b", other: "any" };
  const [theirs, own] = await both(async (client) => {
    const { workspace } = (await client.call("agents.list", {})).payload.agents[0];
    fs.mkdirSync(workspace, { recursive: true });
    fs.writeFileSync(path.join(workspace, "notes.txt"), "the milk\n");
    const seen = {};
    for (const [provider, id] of Object.entries(asks)) {
      const key = `agent:main:back-${provider}`;
      await client.call("sessions.patch", { key, model: `${provider}/${id}`, thinkingLevel: "low" });
      const asked = [];
      for (const message of steps) asked.push(...(await say(client, key, message)).asked);
      const said = ({ messages, contents, input }) => (messages ?? contents ?? input)
        .filter(({ role, type }) => ["assistant", "model"].includes(role) || type === "reasoning" || type === "function_call")
        .flatMap(({ content, parts, ...rest }) => (Array.isArray(parts ?? content) ? (parts ?? content) : [{ content, ...rest }]))
        // Ids are each side's own; while a turn goes on the original sends the summary too.
        .map(({ type, thinking: thought, signature, text, thought: isThought, thoughtSignature, encrypted_content, functionCall, name, input: args, content, tool_calls }) =>
          JSON.parse(JSON.stringify({ type, thought, signature, text, isThought, thoughtSignature, encrypted_content, call: functionCall?.name ?? name, args, content: content || undefined, calls: tool_calls?.map((call) => call.function) })));
      const { payload: history } = await client.call("chat.history", { sessionKey: key });
      const lines = history.messages.filter(({ role }) => role === "assistant").map(({ content }) => content.map(({ type, thinking: thought, thinkingSignature, name, text }) => ({ type, thought, thinkingSignature, name, text })));
      seen[provider] = { asked: asked.map(said), lines };
    }
    return seen;
  });
  for (const provider of Object.keys(asks)) assert.deepEqual(own[provider], theirs[provider], provider);
});

test("a call that was made without a thought is followed by none where a provider would refuse it", async () => {
  const client = await RawClient.open(ours.wsUrl);
  await client.connect({ token: TOKEN });
  const key = "agent:main:resumed";
  await client.call("sessions.patch", { key, model: "anthropic/claude-sonnet-4-5", thinkingLevel: "high" });
  const { asked } = await say(client, key, 'SCRIPT tool read {"path":"notes.txt"}');
  assert.deepEqual(asked.map(({ thinking: { type } }) => type), ["enabled", "disabled"]);
  await client.end();
});
