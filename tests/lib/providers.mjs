// One scripted model behind four protocols: Anthropic messages, Gemini, Ollama's own and OpenAI responses. What it answers
// follows from the last user message (lib/model.mjs); tests/assistant/providers.test.mjs drives it with each provider's
// own client, so that these protocols are not our imagination.
import http from "node:http";
import { DEFAULT_TEXT, MODEL_ID, script, textOf } from "./model.mjs";

/** Tokens of every answer: read from the prompt, of those cached, written. */
export const TOKENS = { input: 10, cached: 4, output: 5 };
const CALL_ID = "call_scripted_1";

const sse = (response) => {
  if (!response.headersSent) response.setHeader("content-type", "text/event-stream");
  return (data, event) => response.write(`${event ? `event: ${event}\n` : ""}data: ${JSON.stringify(data)}\n\n`);
};

/** Each protocol: where it is asked, what was said, an error in its form, and an answer in its form. */
const protocols = {
  "anthropic-messages": {
    path: /^\/v1\/messages$/,
    key: (headers) => headers["x-api-key"],
    messages: ({ messages }) => messages.flatMap(({ role, content }) => {
      const parts = typeof content === "string" ? [{ type: "text", text: content }] : content;
      return parts.map((part) => ({ role: part.type === "tool_result" ? "tool" : role, content: part.text ?? "" }));
    }),
    error: (status, message) => ({ type: "error", error: { type: status === 429 ? "rate_limit_error" : "api_error", message } }),
    answer(response, { thought, words, call }) {
      const emit = (data) => sse(response)(data, data.type);
      const usage = { input_tokens: TOKENS.input - TOKENS.cached, cache_read_input_tokens: TOKENS.cached, cache_creation_input_tokens: 0, output_tokens: 1 };
      emit({ type: "message_start", message: { id: "msg_1", type: "message", role: "assistant", model: MODEL_ID, content: [], stop_reason: null, stop_sequence: null, usage } });
      emit({ type: "ping" });
      let index = 0;
      const block = (start, deltas) => {
        emit({ type: "content_block_start", index, content_block: start });
        for (const delta of deltas) emit({ type: "content_block_delta", index, delta });
        emit({ type: "content_block_stop", index });
        index += 1;
      };
      if (thought) block({ type: "thinking", thinking: "", signature: "" }, [{ type: "thinking_delta", thinking: thought }, { type: "signature_delta", signature: "c2ln" }]);
      if (words.length) block({ type: "text", text: "" }, words.map((text) => ({ type: "text_delta", text })));
      if (call) {
        const json = JSON.stringify(call.args);
        block({ type: "tool_use", id: CALL_ID, name: call.name, input: {} }, [json.slice(0, 5), json.slice(5)].map((partial_json) => ({ type: "input_json_delta", partial_json })));
      }
      emit({ type: "message_delta", delta: { stop_reason: call ? "tool_use" : "end_turn", stop_sequence: null }, usage: { output_tokens: TOKENS.output } });
      emit({ type: "message_stop" });
      response.end();
    },
  },
  "google-generative-ai": {
    path: /^\/v1beta\/models\/[\w.-]+:streamGenerateContent\?alt=sse$/,
    key: (headers) => headers["x-goog-api-key"],
    messages: ({ contents }) => contents.flatMap(({ role, parts }) =>
      parts.map((part) => ({ role: part.functionResponse ? "tool" : role === "model" ? "assistant" : "user", content: part.text ?? "" }))),
    // Newer models refuse a call that comes back without its signature.
    refuse: ({ contents }) => contents.some(({ parts }) => parts.some((part) => part.functionCall && part.thoughtSignature !== "c2ln"))
      && "Function call is missing a thought_signature in functionCall parts.",
    error: (status, message) => ({ error: { code: status, message, status: status === 429 ? "RESOURCE_EXHAUSTED" : "INTERNAL" } }),
    answer(response, { thought, words, call }) {
      const emit = sse(response);
      const parts = [
        ...(thought ? [{ text: thought, thought: true }] : []),
        ...words.map((text) => ({ text })),
        ...(call ? [{ functionCall: { name: call.name, args: call.args }, thoughtSignature: "c2ln" }] : []),
      ];
      for (const [index, part] of parts.entries()) {
        const last = index === parts.length - 1;
        emit({
          candidates: [{ content: { role: "model", parts: [part] }, index: 0, ...(last ? { finishReason: "STOP" } : {}) }],
          usageMetadata: { promptTokenCount: TOKENS.input, cachedContentTokenCount: TOKENS.cached, candidatesTokenCount: last ? TOKENS.output : 1, totalTokenCount: TOKENS.input + TOKENS.output },
          modelVersion: MODEL_ID, responseId: "gem-1",
        });
      }
      response.end();
    },
  },
  ollama: {
    path: /^\/api\/chat$/,
    key: (headers) => headers.authorization?.slice("Bearer ".length),
    messages: ({ messages }) => messages,
    error: (_status, message) => ({ error: message }),
    answer(response, { thought, words, call }) {
      response.setHeader("content-type", "application/x-ndjson");
      const emit = (message, rest = { done: false }) =>
        response.write(`${JSON.stringify({ model: MODEL_ID, created_at: "2026-01-01T00:00:00Z", message: { role: "assistant", content: "", ...message }, ...rest })}\n`);
      if (thought) emit({ thinking: thought });
      for (const content of words) emit({ content });
      if (call) emit({ tool_calls: [{ function: { name: call.name, arguments: call.args } }] });
      emit({}, { done: true, done_reason: "stop", prompt_eval_count: TOKENS.input, eval_count: TOKENS.output });
      response.end();
    },
  },
  "openai-responses": {
    path: /^\/v1\/responses$/,
    key: (headers) => headers.authorization?.slice("Bearer ".length),
    messages: ({ input }) => (typeof input === "string" ? [{ role: "user", content: input }] : input).map((item) =>
      ({ role: item.type === "function_call_output" ? "tool" : item.role, content: item.content ? textOf(item.content) : "" })),
    error: (_status, message) => ({ error: { message, type: "scripted_error", code: "scripted" } }),
    answer(response, { thought, words, call }) {
      let sequence_number = 0;
      const emit = (data) => sse(response)({ ...data, sequence_number: sequence_number++ }, data.type);
      const base = { id: "resp_1", object: "response", created_at: 1700000000, model: MODEL_ID, output: [], status: "in_progress" };
      emit({ type: "response.created", response: base });
      const output = [];
      const item = (added, done, events) => {
        const output_index = output.length;
        emit({ type: "response.output_item.added", output_index, item: added });
        for (const event of events) emit({ output_index, item_id: added.id, content_index: 0, ...event });
        emit({ type: "response.output_item.done", output_index, item: done });
        output.push(done);
      };
      if (thought) {
        const summary = [{ type: "summary_text", text: thought }];
        item({ id: "rs_1", type: "reasoning", summary: [] }, { id: "rs_1", type: "reasoning", summary, encrypted_content: "ZW5j" }, [
          { type: "response.reasoning_summary_part.added", summary_index: 0, part: { type: "summary_text", text: "" } },
          { type: "response.reasoning_summary_text.delta", summary_index: 0, delta: thought },
        ]);
      }
      if (words.length) {
        const own = { id: "msg_1", type: "message", role: "assistant", status: "in_progress", content: [] };
        const part = (text) => ({ type: "output_text", text, annotations: [] });
        item(own, { ...own, status: "completed", content: [part(words.join(""))] }, [
          { type: "response.content_part.added", part: part("") },
          ...words.map((delta) => ({ type: "response.output_text.delta", delta, logprobs: [] })),
        ]);
      }
      if (call) {
        const own = { id: "fc_1", type: "function_call", status: "in_progress", call_id: CALL_ID, name: call.name, arguments: "" };
        const json = JSON.stringify(call.args);
        item(own, { ...own, status: "completed", arguments: json }, [
          { type: "response.function_call_arguments.delta", delta: json },
          { type: "response.function_call_arguments.done", arguments: json, name: call.name },
        ]);
      }
      const usage = { input_tokens: TOKENS.input, input_tokens_details: { cached_tokens: TOKENS.cached }, output_tokens: TOKENS.output, output_tokens_details: { reasoning_tokens: 0 }, total_tokens: TOKENS.input + TOKENS.output };
      emit({ type: "response.completed", response: { ...base, status: "completed", output, usage } });
      response.end();
    },
  },
};

export const APIS = Object.keys(protocols);

/** What Ollama says it has: a model that makes vectors alone, and one to talk to. */
const TAGS = { models: [
  { name: "nomic-embed-text:latest", model: "nomic-embed-text:latest", details: { family: "nomic-bert", families: ["nomic-bert"] } },
  { name: MODEL_ID, model: MODEL_ID, details: { family: "llama", families: ["llama"] } },
] };

/** `looked` of what it answers: how often somebody asked what Ollama has. */
export async function startProviders({ port = 0 } = {}) {
  const requests = [];
  const looked = [];
  let busy = 0;
  const server = http.createServer(async (request, response) => {
    let body = "";
    for await (const chunk of request) body += chunk;
    if (request.url === "/api/tags") {
      looked.push(request.headers["user-agent"] ?? "");
      return response.setHeader("content-type", "application/json").end(JSON.stringify(TAGS));
    }
    const found = Object.entries(protocols).find(([, { path }]) => path.test(request.url));
    if (!found) return response.writeHead(404).end("no such address");
    const [api, protocol] = found;
    const call = JSON.parse(body);
    const plan = script(protocol.messages(call));
    requests.push({ api, plan, call, key: protocol.key(request.headers), headers: request.headers });
    const refuse = (status, message, headers = {}) =>
      response.writeHead(status, { "content-type": "application/json", ...headers }).end(JSON.stringify(protocol.error(status, message)));
    const wrong = protocol.refuse?.(call);
    if (wrong) return refuse(400, wrong);
    if (plan.kind === "fail") return refuse(Number(plan.text) || 500, "scripted failure");
    if (plan.kind === "busy" && busy++ % 2 === 0) return refuse(429, "slow down", { "retry-after": "0" });
    const isCall = plan.kind === "tool" || plan.kind === "again";
    protocol.answer(response, {
      // SCRIPT before: these think before they call.
      thought: plan.kind === "think" || (isCall && plan.text) ? "Hm." : undefined,
      words: isCall ? [] : (plan.text ?? DEFAULT_TEXT).match(/\S+\s*/g) ?? [],
      call: isCall ? { name: plan.name, args: JSON.parse(plan.args) } : undefined,
    });
  });
  await new Promise((resolve, reject) => server.once("error", reject).listen(port, "127.0.0.1", resolve));
  const url = `http://127.0.0.1:${server.address().port}`;
  return {
    url,
    requests,
    looked,
    /** `models.providers` with one provider for each protocol, named as it. */
    config: {
      models: {
        mode: "replace",
        providers: Object.fromEntries(APIS.map((api) => [api, {
          api, apiKey: `key-of-${api}`,
          baseUrl: url + ({ "openai-responses": "/v1", "google-generative-ai": "/v1beta" }[api] ?? ""),
          models: [{ id: MODEL_ID, name: "Scripted", input: ["text", "image"], cost: { input: 1, output: 1, cacheRead: 1, cacheWrite: 1 }, contextWindow: 64000, maxTokens: 4096 }],
        }])),
      },
    },
    async stop() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
