// `/v1/models`, `/v1/chat/completions` and `/v1/responses` of an agent that runs here: the `openai` client sees what the original shows it.
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
  const http = { endpoints: { chatCompletions: { enabled: true }, responses: { enabled: true } } };
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
  .replace(/chatcmpl_[0-9a-f-]{36}/g, "chatcmpl_<uuid>").replace(/"created":\d{10}/g, '"created":0')
  .replace(/(resp|msg)_[0-9a-f-]{36}/g, "$1_<uuid>").replace(/"created_at":\d{10}/g, '"created_at":0'));

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

test("what is said before a tool's call and after it comes whole, once, streamed or not", async () => {
  const [theirs, own] = await both(async (_target, client) => {
    const ask = 'SCRIPT before read {"path":"AGENTS.md"}';
    const whole = (await client.chat.completions.create(user(ask))).choices[0].message.content;
    let streamed = "";
    for await (const chunk of await client.chat.completions.create(user(ask, { stream: true }))) streamed += chunk.choices[0]?.delta?.content ?? "";
    const events = [];
    for await (const event of await client.responses.create({ model: "openclaw/main", input: ask, stream: true })) events.push(event);
    const pieces = events.filter(({ type }) => type === "response.output_text.delta").map(({ delta }) => delta).join("");
    const done = events.find(({ type }) => type === "response.output_text.done")?.text;
    return { whole, streamed, pieces, done, last: events.at(-1).type };
  });
  assert.deepEqual(own, theirs);
  assert.equal(own.pieces, own.done);
  assert.equal(own.streamed, own.pieces);
  assert.equal(own.streamed, "Let me look.\n\ntool done: read");
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
    // The other side asks the same model meanwhile.
    const sees = (words) => JSON.stringify(model.requests.findLast(({ call }) => JSON.stringify(call.messages).includes(`${mark} ${words}`)).call.messages).split(mark).length - 1;
    await say("one", { user: "Conv:1" });
    await say("two", { user: "Conv:1" });
    await say("three");
    await say("four", {}, { "x-openclaw-session-key": "agent:ops:desk" });
    await say("five", { model: "openclaw/ops" }, { "x-openclaw-session-key": "agent:ops:desk" });
    return ["two", "three", "five"].map(sees);
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
  const large = await raw(ours, "POST", where, { body: JSON.stringify(user("x".repeat(21 << 20))) });
  assert.equal(large.status, 413);
  const failed = await raw(ours, "POST", where, { body: JSON.stringify(user("SCRIPT fail 400")) });
  assert.equal(failed.status, 502);
  assert.match(JSON.parse(failed.text).error.message, /scripted failure/);
});

const input = (words, more = {}) => ({ model: "openclaw/main", input: words, ...more });

test("a response, whole and as events, in the original's order", async () => {
  const [theirs, own] = await both(async (_target, client) => {
    const whole = await client.responses.create(input("SCRIPT say The quick brown fox jumps."));
    const events = [];
    for await (const event of await client.responses.create(input("SCRIPT say The quick brown fox jumps.", { stream: true }))) events.push(event);
    const isDelta = ({ type }) => type === "response.output_text.delta";
    // How the answer is cut is the moment's affair.
    return { whole, text: events.filter(isDelta).map(({ delta }) => delta).join(""), first: events.find(isDelta), events: events.filter((event) => !isDelta(event)) };
  });
  own.first.delta = theirs.first.delta;
  assert.deepEqual(plain(own), plain(theirs));
  assert.equal(own.whole.output_text, "The quick brown fox jumps.");
  assert.deepEqual(own.events.at(-1).type, "response.completed");
});

test("what the model is sent for a response: items, instructions, sampling, pictures", async () => {
  const sent = async (target, client) => {
    const mark = `resp-${target.label}-${process.pid}`;
    await client.responses.create({
      model: "openclaw/main", instructions: "Instruct.", max_output_tokens: 77, temperature: 0.5, top_p: 0.9,
      input: [
        { type: "message", role: "developer", content: "Be brief." },
        { type: "message", role: "user", content: "One" },
        { type: "message", role: "assistant", content: [{ type: "output_text", text: "Two" }] },
        { type: "function_call", call_id: "c1", name: "look", arguments: "{}" },
        { type: "function_call_output", call_id: "c1", output: "seen" },
        { type: "message", role: "user", content: [{ type: "input_text", text: `SCRIPT say ${mark}` }, { type: "input_image", source: { type: "base64", media_type: "image/png", data: PIXEL } }] },
      ],
    });
    const { call } = model.requests.findLast(({ call: { messages } }) => JSON.stringify(messages).includes(mark));
    const message = call.messages.findLast(({ role, content }) => role === "user" && JSON.stringify(content).includes(mark));
    const said = typeof message.content === "string" ? message.content : message.content.map(({ text = "" }) => text).join("");
    const system = call.messages.filter(({ role }) => role === "system" || role === "developer").map(({ content }) => JSON.stringify(content)).join();
    return {
      // The original writes the time before it, and what it runs on behind it; here a picture that the model does not take is a line.
      said: said.replace(/^\[\w{3} \d{4}-\d\d-\d\d \d\d:\d\d UTC\] /, "").replace(mark, "<mark>").replace(/<mark>[^]*$/, "<mark>"), system: system.includes("Instruct.\\n\\nBe brief."),
      sampling: [call.temperature, call.top_p, call.max_completion_tokens ?? call.max_tokens],
    };
  };
  const [theirs, own] = await both(sent);
  assert.deepEqual(own, theirs);
  assert.match(own.said, /User: One\nAssistant: Two\n[^]*Tool:c1: seen\n\n\[Current message - respond to this\]\nUser: SCRIPT say <mark>$/);
});

test("a response is continued by its id, by whom it was given to", async () => {
  const [theirs, own] = await both(async (target, client) => {
    const mark = `cont-${target.label}-${process.pid}`;
    const say = (words, more = {}) => client.responses.create(input(`SCRIPT say ${mark} ${words}`, more));
    const sees = (words) => JSON.stringify(model.requests.findLast(({ call }) => JSON.stringify(call.messages).includes(`${mark} ${words}`)).call.messages).split(mark).length - 1;
    const { id } = await say("one");
    await say("two", { previous_response_id: id });
    await say("three", { previous_response_id: id, model: "openclaw/ops" });
    await say("four", { previous_response_id: "resp_unknown" });
    await say("five", { user: "Conv:1" });
    await say("six", { user: "Conv:1" });
    return ["two", "three", "four", "six"].map(sees);
  });
  assert.deepEqual(own, theirs);
  assert.ok(own[0] > own[1] && own[3] > own[2], `${own}`);
});

test("what is wrong with a response is refused as the original does", async () => {
  const bodies = [
    {}, { model: "openclaw" }, input([]), input(5), input("x", { model: "gpt" }), input("x", { model: 5 }), input("x", { model: "openclaw/nobody" }), input("x", { max_output_tokens: 0 }),
    input("x", { temperature: "hot" }), input("x", { stream: "yes" }), input([{ type: "message", role: "system", content: "Only this." }]),
  ].map((body) => JSON.stringify(body));
  const [theirs, own] = await both((target) => Promise.all([
    ...bodies.map((body) => raw(target, "POST", "/v1/responses", { body })),
    raw(target, "GET", "/v1/responses"), raw(target, "POST", "/v1/responses", { body: "{}", token: "wrong" }),
  ]));
  assert.deepEqual(own, theirs);
  // The reason of a turn that failed is the provider's: here it is no fault of the request.
  const failed = await raw(ours, "POST", "/v1/responses", { body: JSON.stringify(input("SCRIPT fail 400")) });
  assert.deepEqual([failed.status, JSON.parse(failed.text).status, JSON.parse(failed.text).error.code], [502, "failed", "api_error"]);
  const streamed = await raw(ours, "POST", "/v1/responses", { body: JSON.stringify(input("SCRIPT fail 400", { stream: true })) });
  assert.match(streamed.text, /event: response\.failed\ndata: [^\n]*scripted failure[^\n]*\n\ndata: \[DONE\]\n\n$/);
});

test("a tool is invoked without a turn, by either door, and refused, as the original does", async () => {
  const invoke = (target, body, more) => raw(target, "POST", "/tools/invoke", { body: typeof body === "string" ? body : JSON.stringify(body), ...more });
  const [theirs, own] = await both(async (target) => {
    const answers = {};
    for (const [name, body, more] of [
      ["no token", { tool: "sessions_list" }, { token: null }],
      ["not JSON", "{"],
      ["no name", {}],
      ["nobody's", { tool: "sessions_list" }],
      ["unknown", { tool: "no_such_tool", agentId: "main" }],
      ["files", { tool: "read", agentId: "main", args: { path: "x" } }],
      ["commands", { tool: "exec", agentId: "main", args: { command: "true" } }],
      ["another session's turn", { tool: "sessions_send", agentId: "main", args: { sessionKey: "agent:main:main", message: "x" } }],
      ["jobs", { tool: "cron", agentId: "main", args: { action: "list" } }],
      ["no such agent", { tool: "sessions_list", agentId: "nobody" }],
      ["foreign agent", { tool: "sessions_list", sessionKey: "agent:main:main", agentId: "ops" }],
    ]) {
      const { status, text } = await invoke(target, body, more);
      answers[name] = [status, text && JSON.parse(text)];
    }
    answers.method = await raw(target, "GET", "/tools/invoke");
    await raw(target, "POST", "/v1/chat/completions", { body: JSON.stringify(user("SCRIPT say Listed.")), headers: { "x-openclaw-session-key": "agent:main:listed" } });
    const listed = JSON.parse((await invoke(target, { tool: "sessions_list", agentId: "main", args: { search: "listed" } })).text);
    answers.listed = [listed.ok, listed.result.details.count, listed.result.details.sessions.map(({ key, agentId, archived }) => ({ key, agentId, archived })), listed.result.content[0].type];
    const key = listed.result.details.sessions[0].key;
    const history = JSON.parse((await invoke(target, { name: "sessions_history", agentId: "main", args: { sessionKey: key } })).text);
    answers.history = [history.result.details.sessionKey, history.result.details.messages.map(({ role }) => role)];
    return answers;
  });
  const words = ({ "not JSON": syntax, ...rest }) => ({ ...rest, syntax: syntax[0] });
  assert.deepEqual(words(own), words(theirs));
});

test("a client that goes away takes its turn with it, streamed or not", async () => {
  for (const [where, asking, stream] of [["chat/completions", user, true], ["chat/completions", user, false], ["responses", input, true], ["responses", input, false]]) {
    const stopping = new AbortController();
    const words = `Going ${where} ${stream} away now please wait.`;
    const response = fetch(`${ours.url}/v1/${where}`, {
      method: "POST", signal: stopping.signal, body: JSON.stringify(asking(`SCRIPT slow ${words}`, { stream })),
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
  for (const [method, where] of [["POST", "/v1/chat/completions"], ["POST", "/v1/responses"], ["GET", "/v1/models"]]) {
    assert.equal((await raw(plainOurs, method, where, method === "POST" ? { body: JSON.stringify(user("x")) } : {})).status, 404);
  }
  const off = await startOurs({ config: { gateway: { http: { endpoints: { chatCompletions: { enabled: true } } } } } });
  t.after(() => off.stop());
  const unset = await raw(off, "POST", "/v1/chat/completions", { body: JSON.stringify(user("x")) });
  assert.equal(unset.status, 503);
  assert.match(JSON.parse(unset.text).error.message, /no model is configured: set agents\.defaults\.model/);
  assert.ok(path.isAbsolute(off.stateDir));
});

const weather = { name: "get_weather", description: "The weather.", parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] } };
/** A script that calls the caller's tool: the original's model finds it by a tool of its own. */
const calls = (target, kind = "tool") => `SCRIPT ${kind} ${target === original ? 'tool_call {"id":"get_weather","args":{"city":"Oslo"}}' : 'get_weather {"city":"Oslo"}'}`;
const named = (value) => JSON.parse(JSON.stringify(value).replaceAll(/"(id|call_id|item_id|tool_call_id)":"[^"]*"/g, '"$1":"<id>"').replaceAll(/"created(_at)?":\d+/g, '"created":0'));

test("the caller's tools: a call is handed over, whole and streamed, and its result goes on", async () => {
  const tools = [{ type: "function", function: weather }];
  const [theirs, own] = await both(async (target, client) => {
    const ask = { role: "user", content: calls(target) };
    const create = (more) => client.chat.completions.create({ model: "openclaw/main", tools, ...more });
    const first = await create({ messages: [ask] });
    const [{ message }] = first.choices;
    const answer = { role: "tool", tool_call_id: message.tool_calls[0].id, content: "SCRIPT say 5 degrees" };
    const second = await create({ messages: [ask, message, answer] });
    const chunks = [];
    for await (const chunk of await create({ messages: [{ role: "user", content: calls(target, "before") }], stream: true })) chunks.push(chunk.choices[0]);
    const streamed = {
      text: chunks.map(({ delta }) => delta.content ?? "").join(""), finish: chunks.map(({ finish_reason: reason }) => reason).filter(Boolean),
      calls: named(chunks.flatMap(({ delta }) => delta.tool_calls ?? [])),
    };
    const kept = await create({ messages: [{ role: "user", content: calls(target) }], user: `tools-${target.label}` });
    const [call] = kept.choices[0].message.tool_calls;
    const result = await create({ messages: [{ role: "tool", tool_call_id: call.id, content: "SCRIPT say 7 degrees" }], user: `tools-${target.label}` });
    return { first: named(first), second: named(second), streamed, result: result.choices[0].message.content };
  });
  assert.deepEqual(own, theirs);
  // What the model was shown of it: each call has its result.
  const shown = model.requests.findLast(({ call }) => JSON.stringify(call.messages).includes("7 degrees") && call.messages.some(({ tool_calls: made }) => made?.[0].function.name === "get_weather")).call.messages;
  assert.deepEqual(shown.slice(1, 4).map(({ role }) => role), ["user", "assistant", "tool"]);
});

test("the caller's tools: what must be called, what must not, what is none", async () => {
  const tools = [{ type: "function", function: weather }];
  const bodies = (target) => [
    user("SCRIPT say no call", { tools, tool_choice: "required" }),
    user("SCRIPT say no call", { tools, tool_choice: { type: "function", function: { name: "get_weather" } } }),
    user(calls(target), { tools, tool_choice: { type: "function", function: { name: "nope" } } }),
    user("x", { tools: [{ type: "x" }] }), user("x", { tool_choice: "required" }), user("x", { tools, tool_choice: { type: "custom" } }),
    user("SCRIPT say fine", { tools, tool_choice: "none" }), user(calls(target), { tools, tool_choice: "required" }),
    user("SCRIPT say no call", { tools, tool_choice: "required", stream: true }),
  ];
  const [theirs, own] = await both((target) => Promise.all(bodies(target).map(async (body) => {
    const { status, text } = await raw(target, "POST", "/v1/chat/completions", { body: JSON.stringify(body) });
    return [status, text.startsWith("{") ? named(JSON.parse(text)) : text.replaceAll(/chatcmpl_[0-9a-f-]{36}|"created":\d+/g, "")];
  })));
  for (const [n, answer] of theirs.entries()) assert.deepEqual(own[n], answer, String(n));
});

test("the caller's tools in a response: a function_call item, whole and as events, and its output", async () => {
  const tools = [{ type: "function", ...weather }];
  const [theirs, own] = await both(async (target, client) => {
    const create = (more) => client.responses.create({ model: "openclaw/main", tools, ...more });
    const first = await create({ input: calls(target) });
    const item = first.output.find(({ type }) => type === "function_call");
    const second = await create({ previous_response_id: first.id, input: [{ type: "function_call_output", call_id: item.call_id, output: "SCRIPT say 6 degrees" }] });
    const events = [];
    for await (const event of await create({ input: calls(target, "before"), stream: true })) if (event.type !== "response.output_text.delta") events.push(named(event));
    const { status, text } = await raw(target, "POST", "/v1/responses", { body: JSON.stringify({ model: "openclaw/main", input: "SCRIPT say no call", tools, tool_choice: "required" }) });
    return { first: named(first), second: second.output_text, events, required: [status, JSON.parse(text).error?.message] };
  });
  for (const part of ["first", "second", "events", "required"]) assert.deepEqual(own[part], theirs[part], part);
});
