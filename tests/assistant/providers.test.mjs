// Providers of an agent that runs here. The scripted server is driven by each provider's own client first, then by us.
import assert from "node:assert/strict";
import fs from "node:fs";
import path from "node:path";
import test, { after, before } from "node:test";
import Anthropic from "@anthropic-ai/sdk";
import { GoogleGenAI } from "@google/genai";
import { Ollama } from "ollama";
import OpenAI from "openai";
import { startOurs, TOKEN } from "../lib/gateway.mjs";
import { MODEL_ID } from "../lib/model.mjs";
import { APIS, startProviders, TOKENS } from "../lib/providers.mjs";
import { RawClient } from "../lib/raw.mjs";

let providers, ours, client;
before(async () => {
  providers = await startProviders();
  const { models } = providers.config;
  const fallbacks = [`ollama/${MODEL_ID}`, `openai-responses/${MODEL_ID}`];
  const gone = { api: "anthropic-messages", baseUrl: "http://127.0.0.1:9", models: [{ id: "m", name: "Gone" }] };
  ours = await startOurs({
    config: {
      models: { ...models, providers: { ...models.providers, gone } },
      agents: { defaults: { model: { primary: "gone/m", fallbacks } } },
    },
  });
  client = await RawClient.open(ours.wsUrl);
  await client.connect({ token: TOKEN });
});
after(async () => {
  await client?.end();
  await ours?.stop();
  await providers.stop();
});

const TOOL = { name: "read", description: "Reads.", parameters: { type: "object", properties: { path: { type: "string" } }, required: ["path"] } };

/** Asks with the provider's own client: what it makes of the answer. */
const asked = {
  async "anthropic-messages"(content) {
    const own = new Anthropic({ apiKey: "judge", baseURL: providers.url, maxRetries: 0 });
    const tools = [{ name: TOOL.name, description: TOOL.description, input_schema: TOOL.parameters }];
    const message = await own.messages.stream({ model: MODEL_ID, max_tokens: 100, tools, messages: [{ role: "user", content }] }).finalMessage();
    const part = (type) => message.content.find((block) => block.type === type);
    const { usage } = message;
    return { text: part("text")?.text, thought: part("thinking")?.thinking, call: part("tool_use") && [part("tool_use").name, part("tool_use").input], tokens: [usage.input_tokens + usage.cache_read_input_tokens, usage.output_tokens] };
  },
  async "google-generative-ai"(contents) {
    const own = new GoogleGenAI({ apiKey: "judge", httpOptions: { baseUrl: providers.url } });
    const config = { tools: [{ functionDeclarations: [{ name: TOOL.name, description: TOOL.description, parametersJsonSchema: TOOL.parameters }] }] };
    const parts = [];
    let usage;
    for await (const chunk of await own.models.generateContentStream({ model: MODEL_ID, contents, config })) {
      parts.push(...chunk.candidates[0].content.parts);
      usage = chunk.usageMetadata;
    }
    const join = (thought) => parts.filter((part) => part.text && Boolean(part.thought) === thought).map((part) => part.text).join("") || undefined;
    const call = parts.find((part) => part.functionCall)?.functionCall;
    return { text: join(false), thought: join(true), call: call && [call.name, call.args], tokens: [usage.promptTokenCount, usage.candidatesTokenCount] };
  },
  async ollama(content) {
    const own = new Ollama({ host: providers.url });
    const out = { text: "", thought: "" };
    for await (const chunk of await own.chat({ model: MODEL_ID, stream: true, tools: [{ type: "function", function: TOOL }], messages: [{ role: "user", content }] })) {
      out.text += chunk.message.content;
      out.thought += chunk.message.thinking ?? "";
      const call = chunk.message.tool_calls?.[0].function;
      if (call) out.call = [call.name, call.arguments];
      if (chunk.done) out.tokens = [chunk.prompt_eval_count, chunk.eval_count];
    }
    return { text: out.text || undefined, thought: out.thought || undefined, call: out.call, tokens: out.tokens };
  },
  async "openai-responses"(input) {
    const own = new OpenAI({ apiKey: "judge", baseURL: `${providers.url}/v1`, maxRetries: 0 });
    const stream = own.responses.stream({ model: MODEL_ID, input, tools: [{ type: "function", strict: false, ...TOOL }] });
    const response = await stream.finalResponse();
    const item = (type) => response.output.find((one) => one.type === type);
    const call = item("function_call");
    return { text: item("message")?.content[0].text, thought: item("reasoning")?.summary[0].text, call: call && [call.name, JSON.parse(call.arguments)], tokens: [response.usage.input_tokens, response.usage.output_tokens] };
  },
};

test("the scripted server is one that each provider's own client takes", async () => {
  const tokens = [TOKENS.input, TOKENS.output];
  for (const api of APIS) {
    const none = { text: undefined, thought: undefined, call: undefined, tokens };
    assert.deepEqual(await asked[api]("SCRIPT say Plain words."), { ...none, text: "Plain words." }, api);
    assert.deepEqual(await asked[api]("SCRIPT think With thought."), { ...none, text: "With thought.", thought: "Hm." }, api);
    assert.deepEqual(await asked[api]('SCRIPT tool read {"path":"x"}'), { ...none, call: ["read", { path: "x" }] }, api);
    await assert.rejects(asked[api]("SCRIPT fail 500"), /scripted failure/, api);
    assert.equal(providers.requests.at(-1).key ?? "none", api === "ollama" ? "none" : "judge", api);
  }
});

const ended = (runId) => (frame) => frame.event === "chat" && frame.payload.runId === runId && !["status", "delta"].includes(frame.payload.state);

/** A session of its own that uses this model. */
async function session(name, model) {
  const key = `agent:main:${name}`;
  const { ok, error } = await client.call("sessions.patch", { key, model: `${model}/${MODEL_ID}` });
  assert.equal(ok, true, JSON.stringify(error));
  return async (message, runId, rest = {}) => {
    await client.call("chat.send", { sessionKey: key, message, idempotencyKey: runId, ...rest });
    const { payload: end } = await client.frame("the end", ended(runId));
    const { payload: history } = await client.call("chat.history", { sessionKey: key });
    return { end, last: history.messages.at(-1), events: client.frames.filter((frame) => frame.event === "agent" && frame.payload.runId === runId) };
  };
}

for (const api of APIS) {
  test(`${api}: words as they come, tokens, thought, key`, async () => {
    const ask = await session(`words-${api}`, api);
    const { end, last, events } = await ask("SCRIPT think One two three.", `w-${api}`);
    assert.equal(end.message.content[0].text, "One two three.");
    assert.deepEqual(last.content, [{ type: "thinking", thinking: "Hm." }, { type: "text", text: "One two three." }]);
    assert.deepEqual([last.api, last.provider, last.model, last.stopReason], [api, api, MODEL_ID, "stop"]);
    const cached = api === "ollama" ? 0 : TOKENS.cached;
    const { input, output, cacheRead, totalTokens } = last.usage;
    assert.deepEqual([input, cacheRead, output, totalTokens], [TOKENS.input - cached, cached, TOKENS.output, TOKENS.input + TOKENS.output]);
    assert.ok(last.usage.cost.total > 0);
    assert.ok(events.some(({ payload }) => payload.stream === "thinking" && payload.data.text === "Hm."));
    assert.equal(events.findLast(({ payload }) => payload.stream === "assistant").payload.data.text, "One two three.");
    assert.equal(providers.requests.at(-1).key, `key-of-${api}`);
  });

  test(`${api}: a tool is called and its result understood, in this turn and the next`, async () => {
    const { workspace } = (await client.call("agents.list", {})).payload.agents[0];
    fs.mkdirSync(workspace, { recursive: true });
    fs.writeFileSync(path.join(workspace, "notes.txt"), "the milk\n");
    const ask = await session(`tool-${api}`, api);
    const { end } = await ask('SCRIPT tool read {"path":"notes.txt"}', `t-${api}`);
    assert.equal(end.message?.content[0].text, "tool done: read", JSON.stringify(end));
    assert.match(JSON.stringify(providers.requests.at(-1).call), /the milk\\n/);
    const names = { "anthropic-messages": (c) => c.tools[0].name, "google-generative-ai": (c) => c.tools[0].functionDeclarations[0].name, ollama: (c) => c.tools[0].function.name, "openai-responses": (c) => c.tools[0].name };
    assert.equal(names[api](providers.requests.at(-1).call), "read");
    await ask("SCRIPT say Next.", `t2-${api}`);
    const roles = {
      "anthropic-messages": (c) => c.messages.map(({ role, content }) => `${role} ${content.map(({ type }) => type)}`),
      "google-generative-ai": (c) => c.contents.map(({ role, parts }) => `${role} ${parts.map((part) => Object.keys(part)[0])}`),
      ollama: (c) => c.messages.slice(1).map(({ role, tool_calls, tool_name }) => `${role} ${tool_name ?? tool_calls?.length ?? ""}`.trim()),
      "openai-responses": (c) => c.input.slice(1).map(({ type, role }) => role ?? type),
    };
    assert.deepEqual(roles[api](providers.requests.at(-1).call), {
      "anthropic-messages": ["user text", "assistant tool_use", "user tool_result", "assistant text", "user text"],
      "google-generative-ai": ["user text", "model functionCall", "user functionResponse", "model text", "user text"],
      ollama: ["user", "assistant 1", "tool read", "assistant", "user"],
      "openai-responses": ["user", "function_call", "function_call_output", "assistant", "user"],
    }[api]);
  });

  test(`${api}: a picture, a refusal in its own words, patience when asked for it`, async () => {
    const ask = await session(`rest-${api}`, api);
    const content = Buffer.from("pixels").toString("base64");
    await ask("SCRIPT say Seen.", `p-${api}`, { attachments: [{ type: "image", mimeType: "image/png", content }] });
    assert.ok(JSON.stringify(providers.requests.at(-1).call).includes(content));
    const { end: refused } = await ask("SCRIPT fail 400", `e-${api}`);
    assert.equal(refused.errorMessage, `${api} refused (400): scripted failure`);
    const { end: busy } = await ask("SCRIPT busy At last.", `b-${api}`);
    assert.equal(busy.message?.content[0].text, "At last.", JSON.stringify(busy));
  });
}

test("the next model answers when the first can't, and the conversation says which it was", async () => {
  const key = "agent:main:fallback";
  await client.call("chat.send", { sessionKey: key, message: "SCRIPT say Here I am.", idempotencyKey: "fb-1" });
  const { payload: end } = await client.frame("the end", ended("fb-1"));
  assert.equal(end.message?.content[0].text, "Here I am.", JSON.stringify(end));
  const { payload: history } = await client.call("chat.history", { sessionKey: key });
  assert.equal(history.messages.at(-1).provider, "ollama");
  const { payload: waited } = await client.call("agent.wait", { runId: "fb-1" });
  const { requested, effective, rerouted } = waited.terminalReceipt;
  assert.deepEqual([requested.provider, effective.provider, rerouted], ["gone", "ollama", true]);
});

test("a model that a person has chosen is not replaced behind their back", async () => {
  const key = "agent:main:strict";
  await client.call("sessions.patch", { key, model: "gone/m" });
  await client.call("chat.send", { sessionKey: key, message: "hi", idempotencyKey: "st-1" });
  const { payload: end } = await client.frame("the end", ended("st-1"));
  assert.equal(end.state, "error");
  assert.match(end.errorMessage, /gone cannot be reached/);
});
