// A scripted OpenAI-compatible model: what it answers follows from the last user message, so a run is
// deterministic and one server can serve both sides of a comparison.
//
//   SCRIPT say TEXT      streams TEXT word by word               SCRIPT slow TEXT  first word, then holds until release()
//   SCRIPT tool NAME {}  asks for one tool call, then on its result says "tool done: NAME"
//   SCRIPT again NAME {} asks for the same tool call for ever    SCRIPT before NAME {}  as tool, and says "Let me look." with it
//   SCRIPT think TEXT    thinks "Hm." and says TEXT          SCRIPT busy TEXT  refuses (429) every other time (both: lib/providers.mjs,
//                        where `before` thinks "Hm." and says nothing)
//   SCRIPT fail STATUS   answers that HTTP status with an error  SCRIPT drop TEXT  closes the stream after the first word
//   SCRIPT full N TEXT   says TEXT and counts N tokens of prompt  SCRIPT overflow TEXT  refuses as too long until there is a summary
// A request to summarise a conversation is answered by one with the headings that OpenClaw asks for.
// up to the end of the line; anything else: "Hello from the scripted model."
import http from "node:http";

export const MODEL_ID = "scripted-1";
export const DEFAULT_TEXT = "Hello from the scripted model.";

/** `models` and `agents.defaults` settings that make OpenClaw use this server. */
export function modelConfig(model) {
  return {
    models: {
      mode: "replace",
      providers: {
        scripted: {
          baseUrl: `${model.url}/v1`,
          apiKey: "scripted-key",
          api: "openai-completions",
          models: [{
            id: MODEL_ID, name: "Scripted", reasoning: false, input: ["text"],
            cost: { input: 0, output: 0, cacheRead: 0, cacheWrite: 0 }, contextWindow: 128000, maxTokens: 4096,
          }],
        },
      },
    },
  };
}

export const textOf = (content) =>
  typeof content === "string" ? content : (content ?? []).map((part) => part.text ?? "").join("");

const HEADINGS = ["Decisions", "Open TODOs", "Constraints/Rules", "Pending user asks", "Exact identifiers"];

/** What was said, as a summary: every person's line, under the headings that are asked for. */
function summary(conversation) {
  const said = [...conversation.matchAll(/^\[User[^\]]*\]: (.*)$/gm)].map(([, line]) => line.replaceAll("SCRIPT ", "").slice(0, 80));
  return HEADINGS.map((heading, n) => `## ${heading}\n${n === 0 ? said.map((line) => `- ${line}`).join("\n") || "None." : "None."}`).join("\n\n");
}

export const isSummarising = (messages) => /<conversation>/.test(textOf(messages.findLast((m) => m.role === "user")?.content));

export function script(messages) {
  if (isSummarising(messages)) return { kind: "summary", text: summary(textOf(messages.findLast((m) => m.role === "user").content)) };
  // OpenClaw appends messages of its own to the person's and wraps that one; the newest command in it counts.
  const asked = messages.findLastIndex((m) => m.role === "user" && !textOf(m.content).startsWith("<<<BEGIN_OPENCLAW_INTERNAL_CONTEXT>>>"));
  const user = textOf(messages[asked]?.content);
  const toolDone = messages.slice(asked + 1).some((m) => m.role === "tool");
  const command = [...user.matchAll(/SCRIPT (say|slow|think|busy|tool|before|again|fail|drop|full|overflow)(?: (.*))?$/gm)].at(-1);
  if (!command) return { kind: "say", text: DEFAULT_TEXT };
  const [, kind, rest = ""] = command;
  if (kind === "tool" || kind === "again" || kind === "before") {
    const name = rest.split(" ", 1)[0];
    if (toolDone && kind !== "again") return { kind: "say", text: `tool done: ${name}` };
    return { kind: "tool", name, args: rest.slice(name.length + 1) || "{}", ...(kind === "before" ? { text: "Let me look." } : {}) };
  }
  if (kind === "full") {
    const [tokens] = rest.split(" ", 1);
    return { kind: "say", text: rest.slice(tokens.length + 1), tokens: Number(tokens) };
  }
  if (kind === "overflow") {
    const isShort = messages.some((m) => m.role === "user" && textOf(m.content).includes("\n</summary>"));
    return isShort ? { kind: "say", text: rest } : { kind: "fail", text: "400", why: "This model's maximum context length is 128000 tokens. However, your messages resulted in 130000 tokens." };
  }
  return { kind, text: rest };
}

/** `summaries`: what every summary says instead; `holdSummaries`: they wait for release(). */
export async function startModel({ summaries, holdSummaries = false } = {}) {
  const requests = [];
  const held = new Set();
  let holdsAfterTools = false;
  const server = http.createServer(async (request, response) => {
    let body = "";
    for await (const chunk of request) body += chunk;
    if (request.url.endsWith("/models")) {
      response.setHeader("content-type", "application/json");
      response.end(JSON.stringify({ object: "list", data: [{ id: MODEL_ID, object: "model", created: 0, owned_by: "scripted" }] }));
      return;
    }
    const call = body ? JSON.parse(body) : {};
    const plan = script(call.messages ?? []);
    if (plan.kind === "summary") plan.text = summaries ?? plan.text;
    const asked = { path: request.url, headers: request.headers, plan, call, aborted: false };
    requests.push(asked);
    response.once("close", () => {
      asked.aborted = !response.writableFinished;
    });
    const hold = () => new Promise((release) => {
      held.add(release);
      response.once("close", release);
    });
    if ((plan.kind === "summary" && holdSummaries) || (holdsAfterTools && plan.text?.startsWith("tool done:"))) {
      await hold();
      if (response.destroyed) return;
    }
    if (plan.kind === "fail") {
      response.statusCode = Number(plan.text) || 500;
      response.setHeader("content-type", "application/json");
      response.end(JSON.stringify({ error: { message: plan.why ?? "scripted failure", type: "scripted_error", code: "scripted" } }));
      return;
    }
    const base = { id: "chatcmpl-scripted", created: 1700000000, model: MODEL_ID };
    const prompt = plan.tokens ?? 10;
    const usage = { prompt_tokens: prompt, completion_tokens: 5, total_tokens: prompt + 5 };
    const words = (plan.text ?? "").match(/\S+\s*/g) ?? [];
    const toolCalls = plan.kind === "tool"
      ? [{ index: 0, id: "call_scripted_1", type: "function", function: { name: plan.name, arguments: plan.args } }] : undefined;
    if (!call.stream) {
      response.setHeader("content-type", "application/json");
      response.end(JSON.stringify({
        ...base, object: "chat.completion", usage,
        choices: [{ index: 0, finish_reason: toolCalls ? "tool_calls" : "stop", message: { role: "assistant", content: plan.text ?? null, ...(toolCalls ? { tool_calls: toolCalls } : {}) } }],
      }));
      return;
    }
    response.setHeader("content-type", "text/event-stream");
    const emit = (delta, finish = null, extra = {}) =>
      response.write(`data: ${JSON.stringify({ ...base, object: "chat.completion.chunk", choices: [{ index: 0, delta, finish_reason: finish }], ...extra })}\n\n`);
    emit({ role: "assistant", content: "" });
    for (const [i, word] of words.entries()) {
      emit({ content: word });
      if (i === 0 && plan.kind === "drop") return response.destroy();
      if (i === 0 && plan.kind === "slow") {
        await hold();
        if (response.destroyed) return;
      }
    }
    if (toolCalls) emit({ tool_calls: toolCalls });
    emit({}, toolCalls ? "tool_calls" : "stop");
    response.write(`data: ${JSON.stringify({ ...base, object: "chat.completion.chunk", choices: [], usage })}\n\n`);
    response.end("data: [DONE]\n\n");
  });
  await new Promise((resolve, reject) => server.once("error", reject).listen(0, "127.0.0.1", resolve));
  const port = server.address().port;
  return {
    port,
    url: `http://127.0.0.1:${port}`,
    requests,
    /** Lets every held `SCRIPT slow` answer run on. */
    release() {
      for (const resume of held) resume();
      held.clear();
    },
    /** Holds what is said on a tool's result until this is taken back. */
    holdAfterTools(holds) {
      holdsAfterTools = holds;
      if (!holds) this.release();
    },
    async stop() {
      this.release();
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
