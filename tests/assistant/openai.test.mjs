// `/v1/models` and `/v1/chat/completions` of an agent that runs here: the `openai` client sees what the original shows it.
import assert from "node:assert/strict";
import fs from "node:fs";
import path from "node:path";
import test, { after, before } from "node:test";
import OpenAI from "openai";
import { startOriginal, startOurs, TOKEN } from "../lib/gateway.mjs";
import { modelConfig, startModel } from "../lib/model.mjs";
import { until } from "../lib/tools.mjs";

const PIXEL = fs.readFileSync(new URL("../node_modules/openclaw/dist/control-ui/favicon-32.png", import.meta.url)).toString("base64");

let model, original, ours;
before(async () => {
  model = await startModel();
  const http = { endpoints: { chatCompletions: { enabled: true } } };
  const config = {
    ...modelConfig(model), gateway: { http },
    agents: { defaults: { model: { primary: "scripted/scripted-1" } }, ownership: "explicit", entries: { main: {}, ops: { name: "Ops" } } },
  };
  [original, ours] = await Promise.all([startOriginal({ config }), startOurs({ config })]);
});
after(async () => {
  await Promise.all([original?.stop(), ours?.stop()]);
  await model.stop();
});

const both = (steps) => Promise.all([original, ours].map((target) => steps(target, new OpenAI({ baseURL: `${target.url}/v1`, apiKey: TOKEN, maxRetries: 0 }))));
const plain = (value) => JSON.parse(JSON.stringify(value)
  .replace(/chatcmpl_[0-9a-f-]{36}/g, "chatcmpl_<uuid>").replace(/"created":\d{10}/g, '"created":0'));

async function raw(target, method, where, { body, headers = {}, token = TOKEN } = {}) {
  const response = await fetch(`${target.url}${where}`, {
    method, body, headers: { ...(token ? { authorization: `Bearer ${token}` } : {}), ...(body === undefined ? {} : { "content-type": "application/json" }), ...headers },
  });
  const text = await response.text();
  return { status: response.status, type: response.headers.get("content-type"), allow: response.headers.get("allow"), text };
}

const user = (content, more = {}) => ({ model: "openclaw/main", messages: [{ role: "user", content }], ...more });

test("models are agents", async () => {
  const [theirs, own] = await both(async (target, client) => ({
    list: (await client.models.list()).data,
    one: await client.models.retrieve("openclaw/main"),
    raw: await Promise.all(["/v1/models/openclaw%2Fops", "/v1/models/openclaw%2Fnobody", "/v1/models/gpt-4", "/v1/models/", "/v1/models/%ff"].map((where) => raw(target, "GET", where))),
    post: await raw(target, "POST", "/v1/models", { body: "{}" }),
    refused: await raw(target, "GET", "/v1/models", { token: "wrong" }),
  }));
  assert.deepEqual(plain(own), plain(theirs));
});

test("an answer, whole and in pieces, with usage", async () => {
  const [theirs, own] = await both(async (_target, client) => {
    const whole = await client.chat.completions.create(user("SCRIPT say The quick brown fox jumps."));
    const stream = await client.chat.completions.create(user("SCRIPT say The quick brown fox jumps.", { stream: true, stream_options: { include_usage: true } }));
    const chunks = [];
    for await (const chunk of stream) chunks.push(chunk);
    const text = chunks.map((chunk) => chunk.choices[0]?.delta?.content ?? "").join("");
    // How the answer is cut is the moment's affair.
    return { whole, text, first: chunks[0], last: chunks.slice(-2) };
  });
  assert.deepEqual(plain(own), plain(theirs));
  assert.equal(own.text, "The quick brown fox jumps.");
});

test("what the model is sent: context, systems, sampling, pictures, the chosen agent", async () => {
  const asked = (words) => model.requests.filter(({ call }) => JSON.stringify(call.messages).includes(words)).map(({ call }) => call);
  const requests = {
    context: { messages: [{ role: "system", content: "Answer in French." }, { role: "user", content: "a" }, { role: "assistant", content: "b" }, { role: "user", content: [{ type: "text", text: "SCRIPT say Marked context." }] }] },
    sampling: { ...user("SCRIPT say Marked sampling."), temperature: 0.5, top_p: 0.9, frequency_penalty: 1, presence_penalty: -1, seed: 7, stop: ["END"], max_completion_tokens: 77 },
    picture: user([{ type: "text", text: "SCRIPT say Marked picture." }, { type: "image_url", image_url: { url: `data:image/png;base64,${PIXEL}` } }]),
  };
  const results = {};
  for (const target of [original, ours]) {
    const client = new OpenAI({ baseURL: `${target.url}/v1`, apiKey: TOKEN, maxRetries: 0 });
    const out = {};
    for (const [name, body] of Object.entries(requests)) {
      const before = asked(`Marked ${name}`).length;
      await client.chat.completions.create({ model: "openclaw/main", ...body });
      const call = asked(`Marked ${name}`)[before];
      const last = call.messages.findLast(({ role, content }) => role === "user" && JSON.stringify(content).includes("Marked"));
      const text = typeof last.content === "string" ? last.content : last.content.filter((part) => part.type === "text").map((part) => part.text).join("\n");
      out[name] = {
        // The original puts the time in front of what a person says, and a line about itself behind it.
        text: text.split("\n\nRuntime: agent=")[0].replace(/^\[\w{3} \d{4}-\d\d-\d\d \d\d:\d\d [^\]]*\] /, ""),
        french: JSON.stringify(call.messages[0]).includes("Answer in French."),
        sampling: Object.fromEntries(["temperature", "top_p", "frequency_penalty", "presence_penalty", "seed", "stop"].map((key) => [key, call[key]])),
        cap: call.max_completion_tokens ?? call.max_tokens,
      };
    }
    results[target.label] = out;
  }
  assert.equal(results.ours.sampling.cap, 77);
  assert.deepEqual(results.ours.sampling.sampling, results.original.sampling.sampling);
  assert.deepEqual(results.ours.context, results.original.context);
  assert.equal(results.ours.context.french, true);
  // The scripted model takes no pictures: they are left out, and what was said with them is not.
  assert.match(results.ours.picture.text, /Marked picture/);
});

test("a user keeps a conversation, a fresh call has none, and a key names one", async () => {
  const [theirs, own] = await both(async (target, client) => {
    const mark = `${target.label}-${process.pid}`;
    const say = (words, more = {}, headers = {}) => client.chat.completions.create(user(`SCRIPT say ${mark} ${words}`, more), { headers });
    const sees = () => JSON.stringify(model.requests.at(-1).call.messages).split(mark).length - 1;
    const out = [];
    await say("one", { user: "Conv:1" });
    await say("two", { user: "Conv:1" });
    out.push(sees());
    await say("three");
    out.push(sees());
    await say("four", {}, { "x-openclaw-session-key": "agent:ops:desk" });
    await say("five", { model: "openclaw/ops" }, { "x-openclaw-session-key": "agent:ops:desk" });
    out.push(sees());
    return out;
  });
  assert.deepEqual(own, theirs);
  assert.ok(own[0] > own[1], `${own}`);
});

test("what is wrong is refused as the original does", async () => {
  const where = "/v1/chat/completions";
  const bodies = {
    empty: {}, nobody: { model: "openclaw/main", messages: [] }, owner: { ...user("x"), model: "openclaw" }, model: { ...user("x"), model: "gpt-4" }, agent: { ...user("x"), model: "openclaw/nobody" },
    stream: { ...user("x"), stream: "yes" }, temperature: { ...user("x"), temperature: 3 }, topP: { ...user("x"), top_p: -1 }, seed: { ...user("x"), seed: 1.5 },
    stops: { ...user("x"), stop: ["a", "b", "c", "d", "e"] }, stop: { ...user("x"), stop: [""] }, format: { ...user("x"), response_format: { type: "xml" } },
    picture: user([{ type: "image_url", image_url: { url: "https://example.com/x.png" } }]), list: { model: "openclaw/main", messages: "x" },
  };
  const [theirs, own] = await both(async (target) => {
    const out = {};
    for (const [name, body] of Object.entries(bodies)) out[name] = await raw(target, "POST", where, { body: JSON.stringify(body) });
    out.get = await raw(target, "GET", where);
    out.denied = await raw(target, "POST", where, { body: JSON.stringify(user("x")), token: "wrong" });
    out.reserved = await raw(target, "POST", where, { body: JSON.stringify(user("x")), headers: { "x-openclaw-session-key": "subagent:x" } });
    out.header = await raw(target, "POST", where, { body: JSON.stringify(user("x")), headers: { "x-openclaw-agent-id": "nobody" } });
    return out;
  });
  for (const name of Object.keys(theirs)) assert.deepEqual(own[name], theirs[name], name);

  // In words of our own: the parser's, and what agents of ours can't do.
  const broken = await raw(ours, "POST", where, { body: "{" });
  assert.equal(broken.status, 400);
  assert.match(JSON.parse(broken.text).error.message, /the body is not JSON: .* line 1 column/);
  const tools = await raw(ours, "POST", where, { body: JSON.stringify({ ...user("x"), tools: [{ type: "function", function: { name: "f" } }] }) });
  assert.equal(tools.status, 400);
  assert.match(JSON.parse(tools.text).error.message, /call their own tools only/);
  const large = await raw(ours, "POST", where, { body: JSON.stringify(user("x".repeat(21 << 20))) });
  assert.equal(large.status, 413);
  const failed = await raw(ours, "POST", where, { body: JSON.stringify(user("SCRIPT fail 400")) });
  assert.equal(failed.status, 502);
  assert.match(JSON.parse(failed.text).error.message, /scripted failure/);
});

test("a client that goes away takes its turn with it, streamed or not", async () => {
  for (const stream of [true, false]) {
    const stopping = new AbortController();
    const words = `Going ${stream} away now please wait.`;
    const response = fetch(`${ours.url}/v1/chat/completions`, {
      method: "POST", signal: stopping.signal, body: JSON.stringify(user(`SCRIPT slow ${words}`, { stream })),
      headers: { authorization: `Bearer ${TOKEN}`, "content-type": "application/json" },
    });
    const asked = () => model.requests.find(({ call }) => JSON.stringify(call.messages).includes(words));
    await until("the model to be asked", asked);
    if (stream) await (await response).body.getReader().read();
    stopping.abort();
    await response.catch(() => {});
    await until("the model's request to be ended", () => asked().aborted);
  }
});

test("it is off unless it is switched on", async (t) => {
  const plainOurs = await startOurs({ config: { ...modelConfig(model), agents: { defaults: { model: { primary: "scripted/scripted-1" } } } } });
  t.after(() => plainOurs.stop());
  for (const [method, where] of [["POST", "/v1/chat/completions"], ["GET", "/v1/models"]]) {
    assert.equal((await raw(plainOurs, method, where, method === "POST" ? { body: JSON.stringify(user("x")) } : {})).status, 404);
  }
  const off = await startOurs({ config: { gateway: { http: { endpoints: { chatCompletions: { enabled: true } } } } } });
  t.after(() => off.stop());
  const unset = await raw(off, "POST", "/v1/chat/completions", { body: JSON.stringify(user("x")) });
  assert.equal(unset.status, 503);
  assert.match(JSON.parse(unset.text).error.message, /no model is configured: set agents\.defaults\.model/);
  assert.ok(path.isAbsolute(off.stateDir));
});
