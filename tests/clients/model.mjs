// A scripted OpenAI-compatible model: every answer is known beforehand, and a test decides when a held answer goes on.
import assert from "node:assert/strict";
import http from "node:http";
import { once } from "node:events";

/** The whole answer; it is streamed in these pieces. A held answer stops after the first three. */
export const PIECES = ["The scripted ", "model answers ", "in small ", "pieces, ", "one after ", "another."];
export const ANSWER = PIECES.join("");
export const TITLE = "Scripted title";
export const FIRST_HALF = PIECES.slice(0, 3).join("").trim();

const textOf = (content) =>
  typeof content === "string" ? content : (content ?? []).map((part) => part.text ?? "").join("\n");

/** What the person said last: OpenClaw adds its own context as further messages of the same role. */
function lastSaid(messages) {
  const said = messages.filter((message) => message.role === "user").map((message) => textOf(message.content));
  return said.findLast((text) => !text.startsWith("<<<BEGIN_OPENCLAW_INTERNAL_CONTEXT>>>")) ?? "";
}

/**
 * `config` is what goes into openclaw.json under `models` and `agents`. `requests` are the bodies received, in order.
 * A user message with the word HOLD is answered by half, until `release()`.
 */
export async function startModel() {
  const requests = [];
  const held = new Set();
  const server = http.createServer(async (request, response) => {
    let body = "";
    for await (const chunk of request.setEncoding("utf8")) body += chunk;
    if (request.method === "GET") {
      response.writeHead(200, { "content-type": "application/json" });
      return response.end(JSON.stringify({ object: "list", data: [{ id: "scripted-1", object: "model" }] }));
    }
    const asked = JSON.parse(body);
    requests.push(asked);
    // A request without tools asks for the title of a conversation.
    const pieces = asked.tools?.length ? PIECES : [TITLE];
    const base = { id: "chatcmpl-scripted", created: 1_700_000_000, model: asked.model };
    const usage = { prompt_tokens: 10, completion_tokens: 5, total_tokens: 15 };
    if (!asked.stream) {
      response.writeHead(200, { "content-type": "application/json" });
      const choices = [{ index: 0, message: { role: "assistant", content: pieces.join("") }, finish_reason: "stop" }];
      return response.end(JSON.stringify({ ...base, object: "chat.completion", choices, usage }));
    }
    response.writeHead(200, { "content-type": "text/event-stream" });
    const send = (delta, finish = null, rest = {}) => {
      const chunk = { ...base, object: "chat.completion.chunk", choices: [{ index: 0, delta, finish_reason: finish }], ...rest };
      response.write(`data: ${JSON.stringify(chunk)}\n\n`);
    };
    send({ role: "assistant", content: "" });
    for (const [index, content] of pieces.entries()) {
      if (index === 3 && /\bHOLD\b/.test(lastSaid(asked.messages))) await new Promise((go) => held.add(go));
      if (response.destroyed) return;
      send({ content });
    }
    send({}, "stop", { usage });
    response.end("data: [DONE]\n\n");
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const baseUrl = `http://127.0.0.1:${server.address().port}/v1`;
  return {
    requests,
    baseUrl,
    /** Lets held answers go on. That one is held shows that what the client has seen came while it was being made. */
    release() {
      assert.ok(held.size > 0, "no answer is held: what was seen is not a stream");
      for (const go of held) go();
      held.clear();
    },
    config: {
      models: {
        mode: "merge",
        providers: {
          scripted: {
            baseUrl,
            apiKey: "scripted-key",
            api: "openai-completions",
            models: [{ id: "scripted-1", name: "Scripted 1", contextWindow: 128_000, maxTokens: 4096, input: ["text"] }],
          },
        },
      },
      agents: { defaults: { model: { primary: "scripted/scripted-1" } } },
    },
    async stop() {
      for (const go of held) go();
      server.closeAllConnections();
      server.close();
    },
  };
}
