// The plugin of the memory slot by itself: what it says while its gateway can't be asked or refuses, whom it shows a token, and
// the turn before a summary. tests/native/memory-slot.test.mjs has it in the real OpenClaw.
import assert from "node:assert/strict";
import fs from "node:fs";
import http from "node:http";
import path from "node:path";
import test from "node:test";
import plugin from "../../plugins/memory/index.js";
import { tempDir } from "../lib/tools.mjs";

/** What the plugin registers with a host of this configuration. */
function registered(pluginConfig, config = {}) {
  const found = { tools: {}, warnings: [] };
  plugin.register({
    pluginConfig, config,
    logger: { warn: (text) => found.warnings.push(text) },
    registerMemoryCapability: (capability) => Object.assign(found, capability),
    registerTool: (make, { names }) => Object.assign(found.tools, { [names[0]]: make }),
  });
  return found;
}

const context = { agentId: "main", sessionKey: "agent:main:main", config: {} };

/** A gateway that answers everything alike, and whom it was asked by. */
async function answering(t, status, body) {
  const seen = [];
  const server = http.createServer(async (request, response) => {
    let text = "";
    for await (const piece of request) text += piece;
    seen.push({ url: request.url, authorization: request.headers.authorization, body: JSON.parse(text) });
    response.writeHead(status, { "content-type": "application/json" }).end(body);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => server.close());
  t.after(() => server.closeAllConnections());
  return { url: `http://127.0.0.1:${server.address().port}`, seen, say: (other) => { body = other; } };
}

const call = async (found, name, args) => (await found.tools[name](context).execute("1", args)).details;

test("without a gateway the tools say so and a turn goes on", async () => {
  for (const [config, why] of [[{}, /address is not known: openclaw config set/], [{ url: "http://127.0.0.1:1" }, /127\.0\.0\.1:1 can't be asked .*: check that it runs/]]) {
    const found = registered(config);
    const search = await call(found, "memory_search", { query: "x" });
    assert.deepEqual([search.results, search.disabled, search.unavailable], [[], true, true]);
    assert.match(search.error, why);
    const get = await call(found, "memory_get", { path: "MEMORY.md" });
    assert.deepEqual([get.status, get.path, get.text], ["error", "MEMORY.md", ""]);
    const { manager, error } = await found.runtime.getMemorySearchManager({ cfg: {}, agentId: "main" });
    assert.equal(manager, null);
    assert.match(error, why);
    assert.ok(found.warnings.some((text) => text.startsWith("memory_search: ")));
  }
});

test("a gateway that refuses, or is none, is told apart", async (t) => {
  const refusing = await answering(t, 401, JSON.stringify({ error: { message: "Unauthorized" } }));
  const refused = await call(registered({ url: refusing.url }, { gateway: { auth: { token: "of-the-file" } } }), "memory_search", { query: "x" });
  assert.match(refused.error, /refused \(401 Unauthorized\): set plugins\.entries\.openclaw-rs-memory\.config\.token/);
  assert.deepEqual(refusing.seen, [{
    url: "/api/memory/tool", authorization: "Bearer of-the-file",
    body: { name: "memory_search", args: { query: "x" }, agentId: "main", sessionKey: "agent:main:main" },
  }]);
  await call(registered({ url: `${refusing.url}/`, token: "of-the-plugin" }, { gateway: { auth: { token: "of-the-file" } } }), "memory_get", { path: "a" });
  assert.deepEqual([refusing.seen[1].url, refusing.seen[1].authorization], ["/api/memory/tool", "Bearer of-the-plugin"]);
  const other = await answering(t, 200, "<html>");
  assert.match((await call(registered({ url: other.url }), "memory_search", { query: "x" })).error, /no JSON: check that/);
});

test("OpenClaw's own secret is the one of its mode, and is shown on this machine and to its supervisor alone", async (t) => {
  const { url, seen } = await answering(t, 200, JSON.stringify({ ok: true, output: { details: {} } }));
  const shown = async (pluginConfig, auth) => {
    await call(registered(pluginConfig, { gateway: { auth } }), "memory_get", { path: "a" });
    return seen.at(-1).authorization;
  };
  const both = { token: "of-the-token", password: "of-the-password" };
  assert.equal(await shown({ url }, { mode: "token", ...both }), "Bearer of-the-token");
  assert.equal(await shown({ url }, { mode: "password", ...both }), "Bearer of-the-password");
  assert.equal(await shown({ url }, both), "Bearer of-the-password");
  assert.equal(await shown({ url }, { token: both.token }), "Bearer of-the-token");
  // The same server under an address that is not this machine's.
  const elsewhere = url.replace("127.0.0.1", "0.0.0.0");
  assert.equal(await shown({ url: elsewhere }, both), undefined);
  assert.equal(await shown({ url: elsewhere, token: "of-the-plugin" }, both), "Bearer of-the-plugin");
  process.env.OPENCLAW_RS_URL = elsewhere;
  t.after(() => delete process.env.OPENCLAW_RS_URL);
  assert.equal(await shown({}, both), "Bearer of-the-password");
  assert.equal(await shown({ url: `${elsewhere}/` }, both), "Bearer of-the-password");
});

test("a warning is none of the index's, and goes with the answer that had it", async (t) => {
  const answer = { ok: true, provider: "none", pending: 0, warning: "one file is left out", fts: { available: true } };
  const server = await answering(t, 200, JSON.stringify(answer));
  const { manager } = await registered({ url: server.url }).runtime.getMemorySearchManager({ cfg: {}, agentId: "main" });
  assert.deepEqual([manager.status().fts, manager.status().custom.warning], [{ enabled: true, available: true }, "one file is left out"]);
  server.say(JSON.stringify({ ok: true, provider: "none", pending: 0, fts: { available: false, error: "broken" } }));
  await manager.sync();
  assert.deepEqual([manager.status().fts, manager.status().custom.warning], [{ enabled: true, available: false, error: "broken" }, undefined]);
});

test("without OpenClaw's record of who wrote a file nothing is called the agent's own", async (t) => {
  const workspace = tempDir("plugin");
  t.after(() => fs.rmSync(workspace, { recursive: true, force: true }));
  fs.writeFileSync(path.join(workspace, "MEMORY.md"), "x");
  fs.mkdirSync(path.join(workspace, "memory/.dreams"), { recursive: true });
  fs.writeFileSync(path.join(workspace, "memory/.dreams/a.md"), "x");
  const hit = (file, originClass) => ({ path: file, source: "memory", snippet: "x", score: 1, provenance: { originClass } });
  const results = [hit("MEMORY.md", "agent"), hit("memory/.dreams/a.md", "agent"), hit("../out.md", "untrusted"), hit("memory/gone.md", "agent")];
  const { url } = await answering(t, 200, JSON.stringify({ ok: true, provider: "none", workspaceDir: workspace, results }));
  const { runtime } = registered({ url });
  const { manager } = await runtime.getMemorySearchManager({ cfg: {}, agentId: "main" });
  const found = await manager.search("x");
  assert.deepEqual(found.map(({ provenance }) => provenance.originClass), ["untrusted", "system", "untrusted", "untrusted"]);
  assert.deepEqual(await manager.search("x", { sources: ["sessions"] }), []);
  await assert.rejects(runtime.classifyWorkspaceMemoryPaths({ workspaceDir: workspace, relativePaths: ["MEMORY.md"] }));
});

test("an agent without memory has no tools, and memory-core beside it is warned of", () => {
  const off = { memory: { search: { enabled: false } } };
  const { tools, warnings } = registered({});
  assert.equal(tools.memory_search({ ...context, config: off }), null);
  assert.ok(tools.memory_search({ ...context, config: { ...off, agents: { entries: { main: { memory: { search: { enabled: true } } } } } } }));
  assert.match(warnings.join(), /openclaw plugins disable memory-core/);
  assert.deepEqual(registered({}, { plugins: { entries: { "memory-core": { enabled: false } } } }).warnings, []);
});

test("notes are kept before a summary by OpenClaw's own keys and figures", () => {
  const { flushPlanResolver } = registered({});
  const plan = (memoryFlush, more = {}) => flushPlanResolver({ cfg: { agents: { defaults: { userTimezone: "Pacific/Kiritimati", compaction: { memoryFlush } } } }, nowMs: Date.UTC(2026, 10, 30, 20), ...more });
  const usual = plan(undefined);
  assert.deepEqual([usual.softThresholdTokens, usual.forceFlushTranscriptBytes, usual.reserveTokensFloor, usual.model, usual.relativePath], [4000, 2_097_152, 20_000, undefined, "memory/2026-12-01.md"]);
  // The window of docs/reference/session-management-compaction/housekeeping.md.
  const { reserveTokensFloor, softThresholdTokens } = plan({}, { contextWindowTokens: 32_768 });
  assert.deepEqual([reserveTokensFloor, softThresholdTokens, 32_768 - reserveTokensFloor - softThresholdTokens], [8192, 4000, 20_576]);
  assert.equal(plan({ enabled: false }), null);
  const own = plan({ softThresholdTokens: 10, forceFlushTranscriptBytes: "1.5 kb", model: " ollama/x " });
  assert.deepEqual([own.softThresholdTokens, own.forceFlushTranscriptBytes, own.model], [10, 1536, "ollama/x"]);
  assert.equal(plan({ forceFlushTranscriptBytes: 0 }).forceFlushTranscriptBytes, 0);
  for (const text of [usual.prompt, usual.systemPrompt]) assert.ok(text.includes("memory/2026-12-01.md") && text.includes("NO_REPLY"), text);
});
