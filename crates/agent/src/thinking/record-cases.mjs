// Records cases.json: the levels that the original offers for a model, and what it tells the model's provider of each.
//   node crates/agent/src/thinking/record-cases.mjs      (after `cargo xtask setup`; some minutes)
import fs from "node:fs";
import { startOriginal, TOKEN } from "../../../../tests/lib/gateway.mjs";
import { startModel } from "../../../../tests/lib/model.mjs";
import { startProviders } from "../../../../tests/lib/providers.mjs";
import { RawClient } from "../../../../tests/lib/raw.mjs";

const [providers, chat] = await Promise.all([startProviders(), startModel()]);
const usual = { reasoning: true, contextWindow: 200_000, maxTokens: 32_000 };
const plain = { reasoning: false };
const effort = { compat: { supportsReasoningEffort: true } };
const format = (thinkingFormat, rest = {}) => ({ compat: { thinkingFormat, ...rest } });
const all = {
  anthropic: ["anthropic-messages", { "claude-sonnet-4-5": {}, "claude-sonnet-4-6": {}, "claude-opus-4-8": {}, "claude-opus-5": {}, "claude-sonnet-5": {}, "claude-3-5-haiku": plain }],
  anthcustom: ["anthropic-messages", { "some-model": {}, "claude-sonnet-4-5": {}, "claude-opus-4-8": {}, small: { maxTokens: 4096 } }],
  // The original asks for 3.1 where 3 is named.
  google: ["google-generative-ai", { "gemini-2.5-flash": {}, "gemini-2.5-pro": {}, "gemini-3.1-pro-preview": {}, "gemini-3-flash-preview": {} }],
  gcustom: ["google-generative-ai", { "scripted-1": {}, "gemini-3-pro-preview": {} }],
  ollama: ["ollama", { "qwen3:8b": {}, "gpt-oss:20b": {}, "llama3.2": plain, "glm-5.2:cloud": {} }],
  openai: ["openai-responses", { "gpt-5": {}, "gpt-5.2": {}, "gpt-5.6-sol": {}, "gpt-4.1": plain, o3: {} }],
  rcustom: ["openai-responses", { "scripted-1": {}, "gpt-5.2": {}, plain }],
  ccustom: ["openai-completions", {
    "scripted-1": {}, eff: effort, xh: { compat: { supportedReasoningEfforts: ["low", "medium", "high", "xhigh"] } }, noeff: { compat: { supportsReasoningEffort: false } },
    qw: format("qwen"), qct: format("qwen-chat-template"), plain, tm: { thinkingLevelMap: { minimal: null, high: "max" } },
  }],
  openrouter: ["openai-completions", { "x/any": {} }],
  vllm: ["openai-completions", { "qwen3-8b": {} }],
  fmt: ["openai-completions", {
    zai: format("zai"), zaie: format("zai", effort.compat), ds: format("deepseek"), dse: format("deepseek", effort.compat), tg: format("together"), or: format("openrouter"),
    xhe: { compat: { ...effort.compat, supportedReasoningEfforts: ["low", "high", "xhigh"] } }, map: { compat: { ...effort.compat, reasoningEffortMap: { high: "ultra-hard", xhigh: "top" } } },
    lm: { ...effort, thinkingLevelMap: { off: null, minimal: "low", xhigh: "max" } }, mt: { compat: { maxTokensField: "max_tokens" } }, "gpt-5.2": effort,
  }],
};
const base = { "openai-completions": `${chat.url}/v1`, "openai-responses": `${providers.url}/v1`, "google-generative-ai": `${providers.url}/v1beta` };
const row = (id, rest) => ({ id, name: id, input: ["text"], cost: { input: 0, output: 0, cacheRead: 0, cacheWrite: 0 }, ...usual, ...rest });
const listed = Object.entries(all).map(([name, [api, models]]) =>
  [name, { api, apiKey: "k", baseUrl: base[api] ?? providers.url, models: Object.entries(models).map(([id, rest]) => row(id, rest)) }]);
const config = { models: { mode: "replace", providers: Object.fromEntries(listed) }, agents: { defaults: { model: { primary: "ccustom/eff" }, skipBootstrap: true } } };

const original = await startOriginal({ config });
const client = await RawClient.open(original.wsUrl);
await client.connect({ token: TOKEN });
const { payload } = await client.call("models.list", {});
const cases = [];
for (const [provider, [api, models]] of Object.entries(all)) {
  for (const [id, rest] of Object.entries(models)) {
    const { thinkingLevels, thinkingDefault } = payload.models.find((one) => one.provider === provider && one.id === id);
    // Its runs of other agents, which are not here.
    const levels = thinkingLevels.map((level) => level.id).filter((level) => level !== "ultra");
    const sessionKey = `agent:main:${cases.length}`;
    await client.call("sessions.patch", { key: sessionKey, model: `${provider}/${id}` });
    const asked = {};
    for (const level of levels) {
      const from = [providers.requests.length, chat.requests.length];
      const { id: call } = await client.call("agent", { sessionKey, message: "SCRIPT say ok.", idempotencyKey: `${sessionKey}-${level}`, thinking: level });
      await client.frame("the outcome", (frame) => frame.type === "res" && frame.id === call && frame.payload?.status !== "accepted");
      // Titles are made beside the turns.
      const sent = [...providers.requests.slice(from[0]), ...chat.requests.slice(from[1])].map((one) => one.call).find((one) => one.max_tokens !== 240);
      const { thinking, output_config, reasoning, include, reasoning_effort, enable_thinking, chat_template_kwargs, think, generationConfig } = sent;
      asked[level] = { thinking, output_config, reasoning, include, reasoning_effort, enable_thinking, chat_template_kwargs, think, thinkingConfig: generationConfig?.thinkingConfig };
    }
    cases.push({ provider, api, model: { id, ...usual, ...rest }, levels, default: thinkingDefault, asked });
  }
}
fs.writeFileSync(new URL("cases.json", import.meta.url), `[\n${cases.map((one) => JSON.stringify(one)).join(",\n")}\n]\n`);
await client.end();
await original.stop();
await Promise.all([providers.stop(), chat.stop()]);
