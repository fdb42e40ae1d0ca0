// A scripted OpenAI-compatible model on loopback, so that an agent turn costs what the gateway costs and nothing else.
import http from "node:http";
import { once } from "node:events";

const REPLY = "Hello from the scripted model, this is a streamed reply.";

/** Starts the server. `hold()` leaves every later answer unfinished until `release()`. */
export async function startModel({ reply = REPLY } = {}) {
  let held = null;
  let open = 0;
  let served = 0;
  let releaseHeld = () => {};
  const server = http.createServer(async (request, response) => {
    if (request.url.endsWith("/models")) {
      response.setHeader("content-type", "application/json");
      response.end(JSON.stringify({ object: "list", data: [{ id: "scripted", object: "model" }] }));
      return;
    }
    let body = "";
    for await (const chunk of request.setEncoding("utf8")) body += chunk;
    const { stream } = JSON.parse(body);
    open += 1;
    response.on("close", () => (open -= 1));
    served += 1;
    const base = { id: `chatcmpl-${served}`, created: 1_790_000_000, model: "scripted" };
    const usage = { prompt_tokens: 10, completion_tokens: 12, total_tokens: 22 };
    if (!stream) {
      await held;
      response.setHeader("content-type", "application/json");
      const choices = [{ index: 0, message: { role: "assistant", content: reply }, finish_reason: "stop" }];
      response.end(JSON.stringify({ ...base, object: "chat.completion", choices, usage }));
      return;
    }
    response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-cache" });
    const send = (delta, finish = null, extra = {}) =>
      response.write(`data: ${JSON.stringify({ ...base, object: "chat.completion.chunk", choices: [{ index: 0, delta, finish_reason: finish }], ...extra })}\n\n`);
    send({ role: "assistant", content: "" });
    const words = reply.split(/(?<= )/);
    send({ content: words[0] });
    await held;
    for (const word of words.slice(1)) send({ content: word });
    send({}, "stop", { usage });
    response.end("data: [DONE]\n\n");
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    baseUrl: `http://127.0.0.1:${server.address().port}/v1`,
    /** Requests being answered now, and answered or being answered since the start. */
    get open() { return open; },
    get served() { return served; },
    hold() {
      if (!held) held = new Promise((resolve) => (releaseHeld = resolve));
    },
    release() {
      held = null;
      releaseHeld();
    },
    async stop() {
      this.release();
      server.closeAllConnections();
      server.close();
    },
  };
}

/** The part of `openclaw.json` that makes it the default model. */
export function modelConfig(model) {
  return {
    models: {
      mode: "replace",
      providers: {
        scripted: {
          baseUrl: model.baseUrl,
          apiKey: "scripted-key",
          api: "openai-completions",
          models: [{ id: "scripted", name: "Scripted", contextWindow: 128000, maxTokens: 4096, input: ["text"], reasoning: false, cost: { input: 0, output: 0, cacheRead: 0, cacheWrite: 0 } }],
        },
      },
    },
    agents: { defaults: { model: { primary: "scripted/scripted" } } },
  };
}
