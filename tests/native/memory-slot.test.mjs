// The memory slot of the unmodified OpenClaw, answered by this gateway: the plugin is installed by OpenClaw's own command, and
// an agent of OpenClaw's, behind us, calls the tools with a scripted model.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import test, { after, before } from "node:test";
import { promisify } from "node:util";
import { baseConfig, startOurs, TOKEN } from "../lib/gateway.mjs";
import { MODEL_ID, modelConfig, startModel, textOf } from "../lib/model.mjs";
import { RawClient } from "../lib/raw.mjs";
import { freePort, gatewayBinary, isolatedEnv, nodeBinary, openclawEntry, repoRoot, tempDir } from "../lib/tools.mjs";

const run = promisify(execFile);
const PLUGIN = "openclaw-rs-memory";

let model;
let ours;
let client;
before(async () => {
  model = await startModel();
  const stateDir = tempDir("slot");
  const workspace = path.join(stateDir, "workspace-main");
  fs.mkdirSync(path.join(workspace, "memory"), { recursive: true });
  fs.writeFileSync(path.join(workspace, "MEMORY.md"), "- The lighthouse is painted vermilion.\n");
  fs.writeFileSync(path.join(workspace, "memory/2026-11-20.md"), "# Friday\n\nThe zebra service went to production.\n");
  const port = await freePort();
  const config = baseConfig(port, {
    ...modelConfig(model),
    // The schemas themselves, instead of a tool that looks for tools.
    tools: { toolSearch: false },
    // Its tools have the same names, and it is loaded for its dreaming whoever has the slot.
    plugins: { entries: { "memory-core": { enabled: false } } },
    agents: { ownership: "explicit", defaults: { model: `scripted/${MODEL_ID}`, skipBootstrap: true }, entries: { main: {}, quiet: { memory: { search: { enabled: false } } } } },
  });
  fs.writeFileSync(path.join(stateDir, "openclaw.json"), JSON.stringify(config), { mode: 0o600 });
  const env = isolatedEnv(stateDir);
  await run(nodeBinary, [openclawEntry, "plugins", "install", path.join(repoRoot, "plugins/memory"), "--force", "--accept-capabilities"], { env, cwd: stateDir });
  ours = await startOurs({ stateDir, port, upstream: "supervise" });
  client = await RawClient.open(ours.wsUrl);
  const hello = await client.connect({ token: TOKEN });
  assert.equal(hello.ok, true, JSON.stringify(hello));
});
after(async () => {
  await client?.end();
  await ours?.stop();
  await model?.stop();
});

async function turn(message, runId, session = "main:slot") {
  await client.call("chat.send", { sessionKey: `agent:${session}`, message, idempotencyKey: runId });
  await client.frame(`the end of ${runId}`, (frame) => frame.event === "chat" && frame.payload?.runId === runId && ["final", "error"].includes(frame.payload.state));
  return model.requests.at(-1).call;
}

/** What the model was told of the tool that it called. */
async function called(name, args, runId) {
  const { messages } = await turn(`SCRIPT tool ${name} ${JSON.stringify(args)}`, runId);
  const answer = messages.findLast(({ role }) => role === "tool");
  return JSON.parse(textOf(answer.content));
}

async function search(query, agentId = "main") {
  const { ok, payload, error } = await client.call("memory.search", { query, agentId });
  assert.ok(ok, JSON.stringify(error));
  return payload;
}

test("OpenClaw's command installs the plugin into the memory slot", () => {
  const { plugins } = JSON.parse(fs.readFileSync(path.join(ours.stateDir, "openclaw.json"), "utf8"));
  assert.equal(plugins.slots.memory, PLUGIN);
  assert.equal(plugins.entries[PLUGIN].enabled, true);
});

test("memory_search and memory_get of OpenClaw's agent are answered by this gateway's engine", async () => {
  // OpenClaw's own engine has no way to know this one.
  await run(gatewayBinary(), ["memory", "add", "the quokka's code word is marzipan", "--path", "by-hand.md"], { env: ours.env });
  const found = await called("memory_search", { query: "what is the code word of the quokka?" }, "s-1");
  const best = ({ results: [hit] }) => [hit?.path, hit?.citation, hit?.provenance.originClass];
  assert.deepEqual(best(found), ["by-hand.md", "by-hand.md#L1", "untrusted"]);
  assert.match(found.results[0].snippet, /marzipan/);
  const own = await called("memory_search", { query: "zebras in production" }, "s-2");
  assert.deepEqual(best(own), ["memory/2026-11-20.md", "memory/2026-11-20.md#L1-L4", "agent"]);
  const read = await called("memory_get", { path: "by-hand.md" }, "s-3");
  assert.deepEqual([read.status, read.text], ["ok", "the quokka's code word is marzipan"]);
  const none = await called("memory_get", { path: "/etc/passwd" }, "s-4");
  assert.deepEqual([none.status, none.code], ["error", "MEMORY_PATH_NOT_ALLOWED"]);
});

test("an edit is in the agent's next search, and what a link leads to is not put into a prompt", async () => {
  const file = path.join(ours.stateDir, "workspace-main/MEMORY.md");
  fs.appendFileSync(file, "- The ferry leaves at a quarter past nine.\n");
  const found = await called("memory_search", { query: "when does the ferry leave?" }, "e-1");
  const { path: where, snippet, provenance } = found.results[0];
  assert.deepEqual([where, /quarter past nine/.test(snippet), provenance.originClass], ["MEMORY.md", true, "agent"]);
  // A link leads to what nobody vouches for.
  const elsewhere = path.join(ours.stateDir, "elsewhere.md");
  fs.renameSync(file, elsewhere);
  fs.symlinkSync(elsewhere, file);
  const { messages } = await turn("SCRIPT say hello", "e-2", "main:linked");
  fs.unlinkSync(file);
  fs.renameSync(elsewhere, file);
  assert.doesNotMatch(messages.map(({ content }) => textOf(content)).join("\n"), /vermilion/);
});

test("MEMORY.md still begins a session, the prompt says what the tools are for", async () => {
  const { messages, tools } = await turn("SCRIPT say hello again", "p-1", "main:begun");
  const prompt = messages.map(({ content }) => textOf(content)).join("\n");
  assert.match(prompt, /painted vermilion/);
  assert.match(prompt, /call memory_search, then memory_get/);
  assert.deepEqual(tools.map((tool) => tool.function.name).filter((name) => name.startsWith("memory")).sort(), ["memory_get", "memory_search"]);
  const quiet = await turn("SCRIPT say hello", "p-2", "quiet:slot");
  assert.ok(!quiet.tools?.some((tool) => tool.function.name.startsWith("memory")));
});

test("OpenClaw's own memory.search asks the plugin, and gets what the gateway would answer", async () => {
  const bridged = await search("quokka");
  assert.deepEqual([bridged.agentId, bridged.provider, bridged.results.map((hit) => hit.path)], ["main", "none", ["by-hand.md"]]);
});

test("/api/memory asks who is there and refuses what it does not know", async () => {
  const post = async (what, body, token = TOKEN, method = "POST") => {
    const response = await fetch(`${ours.url}/api/memory/${what}`, { method, headers: token ? { authorization: `Bearer ${token}` } : {}, body: method === "POST" ? body : undefined });
    return [response.status, (await response.json()).error?.code];
  };
  const question = JSON.stringify({ query: "quokka", agentId: "main" });
  assert.equal((await post("search", question, null))[0], 401);
  assert.deepEqual(await post("search", question), [200, undefined]);
  assert.deepEqual(await post("search", "{"), [400, "INVALID_REQUEST"]);
  assert.deepEqual(await post("search", JSON.stringify({ query: "x", agentId: "nobody" })), [400, "INVALID_REQUEST"]);
  assert.deepEqual(await post("tool", JSON.stringify({ name: "web_fetch", args: {} })), [400, "INVALID_REQUEST"]);
  assert.deepEqual(await post("nothing", "{}"), [404, "NOT_FOUND"]);
  assert.deepEqual(await post("search", undefined, TOKEN, "GET"), [405, "METHOD_NOT_ALLOWED"]);
  assert.deepEqual(await post("search", JSON.stringify({ query: "x".repeat(300_000) })), [413, "TOO_LARGE"]);
});
