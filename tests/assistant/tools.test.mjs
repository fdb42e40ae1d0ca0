// Tools of an agent that runs here: what may be used, what is out of reach, what a stop in the middle leaves behind.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import fs from "node:fs";
import http from "node:http";
import path from "node:path";
import test, { after, before } from "node:test";
import { startOurs, TOKEN } from "../lib/gateway.mjs";
import { modelConfig, startModel } from "../lib/model.mjs";
import { RawClient } from "../lib/raw.mjs";
import { gatewayBinary, until } from "../lib/tools.mjs";

let model, ours, site, workspace;
before(async () => {
  model = await startModel();
  // Pages of a site that the user lists, and one that never answers.
  site = http.createServer((request, response) => {
    if (request.url === "/silent") return;
    if (request.url === "/away") return response.writeHead(302, { location: `${model.url}/v1/models` }).end();
    response.setHeader("content-type", "text/html");
    response.end("<title>Tides</title><script>alert(1)</script><h1>High water</h1><p>At <b>six</b>.</p>");
  });
  await new Promise((resolve) => site.listen(0, "127.0.0.1", resolve));
  ours = await startOurs({ config: { ...modelConfig(model), tools: { deny: ["edit"], web: { fetch: { ssrfPolicy: { allowedHostnames: ["localhost"] } } } } } });
  workspace = path.join(ours.stateDir, "workspace");
  fs.mkdirSync(workspace, { recursive: true });
});
after(async () => {
  site.closeAllConnections();
  site.close();
  await ours?.stop();
  await model.stop();
});

const ended = (runId) => (frame) => frame.event === "chat" && frame.payload.runId === runId && !["status", "delta"].includes(frame.payload.state);

async function open() {
  const client = await RawClient.open(ours.wsUrl);
  await client.connect({ token: TOKEN, caps: ["tool-events"] });
  return client;
}

/** Sends a message and gives the end of its turn, and the lines of the conversation. */
async function turn(client, session, message, runId) {
  const sessionKey = `agent:main:${session}`;
  await client.call("chat.send", { sessionKey, message, idempotencyKey: runId });
  const { payload: end } = await client.frame("the end", ended(runId));
  const { payload: history } = await client.call("chat.history", { sessionKey });
  return { end, lines: history.messages, result: history.messages.findLast(({ role }) => role === "toolResult")?.content[0].text };
}

const calling = (name, args) => `SCRIPT tool ${name} ${JSON.stringify(args)}`;

test("the model is offered what the user allows, and a tool that is denied does not exist", async () => {
  const client = await open();
  const { result } = await turn(client, "policy", calling("edit", { path: "a", edits: [{ oldText: "a", newText: "b" }] }), "p-1");
  assert.equal(result, "Tool edit not found");
  assert.deepEqual(model.requests.at(-1).call.tools.map(({ function: { name } }) => name), ["read", "write", "ls", "grep", "find", "exec", "process", "memory_search", "memory_get", "web_fetch", "automations", "sessions_list", "sessions_history", "sessions_send"]);
  await client.end();
});

test("nothing outside of the workspace is read or written, whatever leads there", async () => {
  const client = await open();
  fs.writeFileSync(path.join(ours.stateDir, "secret.txt"), "the secret");
  fs.symlinkSync(ours.stateDir, path.join(workspace, "out"));
  fs.symlinkSync("../secret.txt", path.join(workspace, "leak.txt"));
  for (const [index, [name, args]] of [
    ["read", { path: "../secret.txt" }], ["read", { path: path.join(ours.stateDir, "secret.txt") }], ["read", { path: "out/secret.txt" }], ["read", { path: "leak.txt" }],
    ["write", { path: "out/new.txt", content: "x" }], ["write", { path: "leak.txt", content: "x" }], ["ls", { path: "out" }], ["grep", { pattern: "secret", path: "out" }],
  ].entries()) {
    const { result } = await turn(client, "outside", calling(name, args), `o-${index}`);
    assert.match(result, /outside of the workspace|leads out of the workspace/, `${name} ${JSON.stringify(args)}`);
  }
  const { result } = await turn(client, "outside", calling("grep", { pattern: "secret" }), "o-grep");
  assert.equal(result, "No matches found");
  assert.equal(fs.readFileSync(path.join(ours.stateDir, "secret.txt"), "utf8"), "the secret");
  assert.equal(fs.existsSync(path.join(ours.stateDir, "new.txt")), false);
  await client.end();
});

test("a page is fetched, marked as a stranger's, and nothing inside is reached", async () => {
  const client = await open();
  const { port } = site.address();
  const page = await turn(client, "web", calling("web_fetch", { url: `http://localhost:${port}/` }), "f-1");
  const answer = JSON.parse(page.result);
  assert.deepEqual([answer.title, answer.status, answer.externalContent.untrusted], ["Tides", 200, true]);
  assert.match(answer.text, /<<<EXTERNAL_UNTRUSTED_CONTENT id="\w+">>>\nSource: Web Fetch\n---\n# High water\n\nAt six\.\n<<<END/);
  for (const [index, url] of [`${model.url}/v1/models`, "http://169.254.169.254/latest/meta-data/", `http://localhost:${port}/away`].entries()) {
    const before = model.requests.length;
    const { result } = await turn(client, "web", calling("web_fetch", { url }), `f-in-${index}`);
    assert.match(result, /is not on the public internet/, url);
    assert.equal(model.requests.length, before + 2, "the model's own server was asked twice by the turn and by nobody else");
  }
  await client.end();
});

test("the next turn sends calls and results to the model again", async () => {
  const client = await open();
  fs.writeFileSync(path.join(workspace, "notes.txt"), "remember the milk\n");
  await turn(client, "again", calling("read", { path: "notes.txt" }), "n-1");
  await turn(client, "again", "SCRIPT say Well.", "n-2");
  const [, ...messages] = model.requests.at(-1).call.messages;
  assert.deepEqual(messages.map(({ role }) => role), ["user", "assistant", "tool", "assistant", "user"]);
  assert.equal(messages[1].tool_calls[0].id, messages[2].tool_call_id);
  assert.equal(messages[2].content, "remember the milk\n");
  await client.end();
});

test("memory is searched and read, of the workspace and what is kept", async () => {
  const client = await open();
  const text = "The boat is called Zephyrine.\nIt lies in Falmouth.\n";
  execFileSync(gatewayBinary(), ["memory", "add", "-", "--path", "boats.md"], { env: ours.env, input: text });
  const found = JSON.parse((await turn(client, "memory", calling("memory_search", { query: "Zephyrine" }), "m-1")).result);
  assert.deepEqual(found.results.map(({ path, startLine }) => [path, startLine]), [["boats.md", 1]]);
  const read = JSON.parse((await turn(client, "memory", calling("memory_get", { path: "boats.md", from: 2 }), "m-2")).result);
  assert.deepEqual([read.status, read.text], ["ok", "It lies in Falmouth."]);
  assert.equal(JSON.parse((await turn(client, "memory", calling("memory_get", { path: "memory/no.md" }), "m-3")).result).status, "not_found");
  assert.equal(JSON.parse((await turn(client, "memory", calling("memory_get", { path: "no.md" }), "m-4")).result).code, "MEMORY_PATH_NOT_ALLOWED");
  await client.end();
});

test("a model that asks for the same for ever is told so, and then stopped", async () => {
  const client = await open();
  const { end, lines } = await turn(client, "loop", 'SCRIPT again ls {"path":"."}', "l-1");
  assert.equal(end.state, "error");
  assert.match(end.errorMessage, /called ls 10 times with the same arguments and the same result/);
  assert.equal(lines.filter(({ role }) => role === "toolResult").length, 10);
  assert.ok(lines.some(({ role, content }) => role === "toolResult" && /Calling it again changes nothing/.test(content[0].text)));
  assert.equal((await turn(client, "loop", "SCRIPT say Fine.", "l-2")).end.message.content[0].text, "Fine.", "the session stays usable");
  await client.end();
});

const hanging = () => calling("web_fetch", { url: `http://localhost:${site.address().port}/silent` });
const toolBegun = (runId) => (frame) => frame.event === "agent" && frame.payload.runId === runId && frame.payload.stream === "tool";

test("an abort ends a tool that hangs, and the conversation says so", async () => {
  const client = await open();
  await client.call("chat.send", { sessionKey: "agent:main:abort", message: hanging(), idempotencyKey: "a-1" });
  await client.frame("the tool", toolBegun("a-1"));
  const { payload } = await client.call("chat.abort", { sessionKey: "agent:main:abort" });
  assert.deepEqual(payload.runIds, ["a-1"]);
  await client.frame("the end", ended("a-1"));
  const { lines, end } = await turn(client, "abort", "SCRIPT say On we go.", "a-2");
  assert.equal(end.message.content[0].text, "On we go.");
  assert.match(lines[2].content[0].text, /The turn ended while this tool was called; whether it took effect is not known/);
  await client.end();
});

test("a kill while a tool works: what was begun is in the conversation, and the model hears of it before it goes on", async () => {
  let client = await open();
  const params = { sessionKey: "agent:main:kill", message: hanging(), idempotencyKey: "k-1" };
  await client.call("chat.send", params);
  await client.frame("the tool", toolBegun("k-1"));
  ours.child.kill("SIGKILL");
  await ours.child.waitExit();
  await ours.restart();
  client = await open();
  const lines = await until("the chat to say so", async () => {
    const { payload } = await client.call("chat.history", { sessionKey: params.sessionKey });
    return payload.messages.length === 4 && payload.messages;
  });
  assert.deepEqual(lines.map(({ role }) => role), ["user", "assistant", "toolResult", "assistant"]);
  assert.equal(lines[1].content[0].name, "web_fetch");
  assert.match(lines[2].content[0].text, /The gateway was stopped while this tool was called; whether it took effect is not known/);
  assert.match(lines[3].content[0].text, /send it again/);
  const { end } = await turn(client, "kill", params.message, "k-1");
  assert.equal(end.message.content[0].text, "tool done: web_fetch");
  const results = model.requests.at(-1).call.messages.filter(({ role }) => role === "tool");
  assert.equal(results.length, 1, "it was not called again");
  assert.match(results[0].content, /whether it took effect is not known/);
  await client.end();
});
