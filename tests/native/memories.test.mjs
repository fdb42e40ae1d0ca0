// Memories over the wire: the same files and the same calls, on the original and on ours alone; then what is ours only,
// an embedder, and ours with the original behind it.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { once } from "node:events";
import fs from "node:fs";
import http from "node:http";
import path from "node:path";
import test, { after, before } from "node:test";
import { startOriginal, startOurs, TOKEN } from "../lib/gateway.mjs";
import { RawClient } from "../lib/raw.mjs";
import { gatewayBinary, tempDir, until } from "../lib/tools.mjs";

const extraPaths = ["../team", { path: "../shared", pattern: "runbooks/**/*.md" }, "../only.md", "../linked", "../none"];
const config = { agents: { entries: { main: {}, ada: { memory: { search: { extraPaths } } } } } };
const LONG = Array.from({ length: 300 }, (_, at) => `entry ${at + 1} of a long note`);

function write(target, file, text, agent = "main") {
  const full = path.join(target.stateDir ?? target, `workspace-${agent}`, file);
  fs.mkdirSync(path.dirname(full), { recursive: true });
  fs.writeFileSync(full, text);
  return full;
}

function fill(stateDir) {
  write(stateDir, "MEMORY.md", "# Memory\n\n- The spare key is with Ada.\n- The router is in the attic.\n  Its lamp is green.\n");
  write(stateDir, "USER.md", "# User\n\nLikes tea with lemon.\n");
  write(stateDir, "memory/2026-11-20.md", "# Friday\n\nDeployed the zebra service to production.\n");
  write(stateDir, "memory/sub/plan.md", "# Plan\n\nBuy another router for the office.\n");
  write(stateDir, "memory/crlf.md", "one giraffe\r\ntwo\r\n");
  write(stateDir, "memory/open.md", "an elephant walks");
  write(stateDir, "memory/long.md", `${LONG.join("\n")}\n`);
  write(stateDir, "memory/line.md", `${"wide ".repeat(4000)}\nend\n`);
  write(stateDir, "memory/notes.txt", "a giraffe that is no Markdown\n");
  write(stateDir, "notes.md", "a giraffe that is no memory\n");
  write(stateDir, "MEMORY.md", "- Bob's giraffe is a secret.\n", "ada");
  for (const file of ["team/rota.md", "team/deep/plan.md", "team/notes.txt", "shared/runbooks/a/b.md", "shared/other.md", "only.md", "real/far.md"]) {
    fs.mkdirSync(path.dirname(path.join(stateDir, file)), { recursive: true });
    fs.writeFileSync(path.join(stateDir, file), `A walrus in ${path.basename(file)}.\n`);
  }
  fs.symlinkSync(path.join(stateDir, "real"), path.join(stateDir, "linked"));
  fs.symlinkSync(path.join(stateDir, "real/far.md"), path.join(stateDir, "team/far.md"));
  const workspace = path.join(stateDir, "workspace-main");
  fs.symlinkSync(path.join(workspace, "notes.md"), path.join(workspace, "memory/link.md"));
  fs.mkdirSync(path.join(workspace, "memory/folder.md"));
}

async function open(target, options = {}) {
  const client = await RawClient.open(target.wsUrl);
  const hello = await client.connect({ token: TOKEN, ...options });
  assert.equal(hello.ok, true, JSON.stringify(hello));
  client.hello = hello.payload;
  client.ask = async (method, params) => {
    const { ok, payload, error } = await client.call(method, params);
    return ok ? payload : { error };
  };
  client.paths = async (query, agentId = "main") => {
    const found = await client.ask("memory.search", { query, agentId });
    return found.results?.map((hit) => hit.path) ?? found;
  };
  return client;
}

const targets = {};
const clients = {};
before(async () => {
  for (const [label, start] of [["original", startOriginal], ["ours", startOurs]]) {
    const stateDir = tempDir(label);
    fill(stateDir);
    targets[label] = await start({ stateDir, config });
    clients[label] = await open(targets[label]);
  }
});
after(async () => {
  for (const client of Object.values(clients)) await client.end();
  for (const target of Object.values(targets)) await target.stop();
});

/** What may differ: scores (each has its own), times, what the original says of its own index and provider. */
function masked(value, stateDir) {
  const walk = (value, key) => {
    if (key === "score" || key === "textScore") return value > 0 && value <= 1 ? "score" : value;
    if (/^(observedAt|managerMs|searchMs|toolMs|outsideSearchMs)$/.test(key)) return typeof value;
    if (Array.isArray(value)) return value.map((one) => walk(one, ""));
    if (typeof value === "string") return value.replaceAll(stateDir, "$STATE");
    if (value === null || typeof value !== "object") return value;
    const entries = Object.entries(value)
      .filter(([key, value]) => key !== "embeddingBootstrap" && !(key === "warning" && /^Automatic memory index repair/.test(value)))
      .map(([key, value]) => [key, walk(value, key)]);
    return Object.fromEntries(entries);
  };
  return walk(value, "");
}

async function both(method, params) {
  const answers = [];
  for (const label of ["original", "ours"]) {
    const { stateDir } = targets[label];
    const asked = params && JSON.parse(JSON.stringify(params).replaceAll("$STATE", stateDir));
    const { ok, payload, error } = await clients[label].call(method, asked);
    const { content, details } = payload?.output ?? {};
    if (content) {
      assert.deepEqual(content.map((part) => part.type), ["text"]);
      assert.equal(content[0].text, JSON.stringify(details, null, 2), `${label}: the text is the details`);
      payload.output.content = "the details as text";
    }
    const results = details?.results ?? payload?.results;
    // Which of two equals is first is each one's own affair.
    results?.sort((a, b) => (a.path < b.path ? -1 : 1));
    answers.push(masked(ok ? payload : { error }, stateDir));
  }
  assert.deepEqual(answers[1], answers[0], `${method} ${JSON.stringify(params)}`);
  return answers[1];
}

test("memory.search finds what the original finds, in its shape", async () => {
  const agentId = "main";
  const found = {};
  for (const query of ["router", "tea", "zebra", "giraffe", "elephant", "Ada spare key", "green lamp", "nothingofthekind"]) {
    found[query] = (await both("memory.search", { query, agentId })).results.map((hit) => hit.path);
  }
  assert.deepEqual(found.router, ["MEMORY.md", "memory/sub/plan.md"]);
  assert.deepEqual(found.giraffe, ["memory/crlf.md"]);
  assert.deepEqual(found.nothingofthekind, []);
  await both("memory.search", { query: "tea", agentId: " Main ", maxResults: 1.7, minScore: 0, more: 1 });
  await both("memory.search", { query: "tea", agentId, maxResults: -4 });
  await both("memory.search", { query: "giraffe", agentId: "ada" });
});

test("memory.search refuses in the original's words", async () => {
  const agentId = "main";
  for (const params of [
    undefined, {}, { query: "" }, { query: "  " }, { query: 5 }, { query: "x" }, { query: "x", maxResults: "5", agentId },
    { query: "x", minScore: null, agentId }, { query: "x", agentId: 5 }, { query: "x", agentId: null }, { query: "x", agentId: "" },
    { query: "x", agentId: "nobody" }, { query: "x", agentId: "!!" }, { query: "", agentId: 5, maxResults: "a" },
    { query: "x", agentId: 5, maxResults: "a" },
  ]) {
    const { error } = await both("memory.search", params);
    assert.equal(error?.code, "INVALID_REQUEST", JSON.stringify(params));
  }
});

const invoke = (name, args, more = { agentId: "main" }) => both("tools.invoke", { name, args, ...more });

test("memory_search by tools.invoke answers like the original's", async () => {
  const found = await invoke("memory_search", { query: "router" });
  assert.deepEqual(found.output.details.results.map((hit) => hit.citation), ["MEMORY.md#L4-L6", "memory/sub/plan.md#L1-L4"]);
  const group = await invoke("memory_search", { query: "router" }, { sessionKey: "agent:main:telegram:group:5" });
  assert.deepEqual(group.output.details.results.map((hit) => hit.citation), [undefined, undefined]);
  for (const args of [
    { query: "tea", maxResults: 1 }, { query: "tea", max_results: "2" }, { query: "tea", corpus: "memory" }, { query: "tea", corpus: "all" },
    { query: "tea", corpus: "wiki" }, { query: "tea", corpus: "sessions" }, { query: "nothingofthekind" },
    {}, { query: "" }, { query: "x", maxResults: 0 }, { query: "x", maxResults: 1.5 }, { query: "x", maxResults: "a" },
    { query: "x", minScore: "a" }, { query: "x", corpus: "nope" },
  ]) await invoke("memory_search", args);
});

test("memory_get by tools.invoke answers like the original's", async () => {
  const read = await invoke("memory_get", { path: "memory/long.md", from: 100, lines: 3 });
  assert.equal(read.output.details.nextFrom, 103);
  for (const path of [
    "MEMORY.md", "./USER.md", "memory/long.md", "memory/line.md", "memory/crlf.md", "memory/open.md", "memory/none.md", "memory/no/ne.md",
    "DREAMS.md", "notes.md", "../x.md", "/etc/passwd", "memory/../notes.md", "memory", "memory/notes.txt", "memory/link.md",
    "memory/folder.md", "$STATE/workspace-main/MEMORY.md", "$STATE/workspace-ada/MEMORY.md",
  ]) await invoke("memory_get", { path });
  for (const args of [
    { from: 400 }, { from: 300 }, { lines: 1 }, { lines: "2" }, { lines: " " }, { from: 0 }, { lines: -1 }, { corpus: "wiki" }, { corpus: "all" },
    { corpus: "memory" }, { corpus: "sessions" },
  ]) await invoke("memory_get", { path: "memory/long.md", ...args });
  await invoke("memory_get", { path: "notes.md", corpus: "all" });
  await invoke("memory_get", {});
  await invoke("memory_get", { path: " " });
});

test("what memory.search.extraPaths names is searched and read as by the original", async () => {
  const { results } = await both("memory.search", { query: "walrus", agentId: "ada" });
  assert.deepEqual(results.map((hit) => hit.path), ["../only.md", "../shared/runbooks/a/b.md", "../team/deep/plan.md", "../team/rota.md"]);
  assert.deepEqual((await both("memory.search", { query: "walrus", agentId: "main" })).results, []);
  for (const path of [
    "../team/rota.md", "$STATE/team/deep/plan.md", "../team/none.md", "../team/notes.txt", "../team/far.md", "../shared/runbooks/a/b.md",
    "../shared/other.md", "../only.md", "../linked/far.md", "../real/far.md", "../none/x.md", "../team",
  ]) await invoke("memory_get", { path }, { agentId: "ada" });
  await invoke("memory_get", { path: "../team/rota.md" });
});

test("tools.invoke takes agents and sessions as the original does", async () => {
  const args = { path: "MEMORY.md" };
  for (const more of [
    {}, { sessionKey: "main" }, { sessionKey: "agent:main:main" }, { sessionKey: "agent:ada:main" }, { sessionKey: "agent:bob:main" },
    { sessionKey: "agent::" }, { sessionKey: "foo" }, { agentId: "nobody" }, { agentId: "Main" }, { agentId: "main", sessionKey: "agent:ada:main" },
    { agentId: "ada", sessionKey: "main" }, { agentId: "main", idempotencyKey: "k", confirm: true },
  ]) await invoke("memory_get", args, more);
  for (const params of [undefined, {}, { name: "" }, { name: " " }, { name: 5 }, { name: "memory_get", args: [1] }, { name: "memory_get", more: 1 }]) {
    const { error } = await both("tools.invoke", params);
    assert.equal(error?.code, "INVALID_REQUEST", JSON.stringify(params));
  }
  const other = await clients.ours.ask("tools.invoke", { name: "web_fetch", args: {} });
  // Tools of an agent that runs here are there too.
  assert.match(other.error.message, /url: must have required properties url/);
  const none = await clients.ours.ask("tools.invoke", { name: "nodes", args: {} });
  assert.deepEqual(none.error, { code: "not_found", message: "Tool not available: nodes" });
});

test("an agent without memory, or without the tool, is told so as by the original", async (t) => {
  const { server, asked } = await gemini(t);
  const off = (label) => {
    const remote = { baseUrl: `http://127.0.0.1:${server.address().port}/${label}/v1beta`, apiKey: "gm-very-secret" };
    const entries = { main: {}, ada: { memory: { search: { enabled: false } } }, gem: { memory: { search: { provider: "gemini", outputDimensionality: 128, remote } } } };
    return { agents: { entries }, memory: { citations: "off" }, tools: { deny: ["memory_get"] } };
  };
  const before = { targets: { ...targets }, clients: { ...clients } };
  t.after(async () => {
    for (const label of ["original", "ours"]) {
      await clients[label].end();
      await targets[label].stop();
      [targets[label], clients[label]] = [before.targets[label], before.clients[label]];
    }
  });
  for (const [label, start] of [["original", startOriginal], ["ours", startOurs]]) {
    const stateDir = tempDir(label);
    fill(stateDir);
    write(stateDir, "MEMORY.md", "- The kestrel nests in the tower.\n- Bread is baked on Sundays.\n", "gem");
    targets[label] = await start({ stateDir, config: off(label) });
    clients[label] = await open(targets[label]);
  }
  await both("memory.search", { query: "giraffe", agentId: "ada" });
  await both("memory.search", { query: "giraffe", agentId: "main" });
  await invoke("memory_search", { query: "giraffe" }, { agentId: "ada" });
  await invoke("memory_search", { query: "giraffe" });
  await invoke("memory_get", { path: "MEMORY.md" });

  // Whom memory.search.provider names is asked as the original asks it.
  await clients.ours.ask("memory.index", { agentId: "gem" });
  for (const label of ["original", "ours"]) {
    const isAsked = (verb) => asked[label].some(({ path }) => path.endsWith(verb));
    const found = await until(`vectors by Gemini of ${label}`, async () => {
      const { results } = await clients[label].ask("memory.search", { query: "where does the kestrel nest?", agentId: "gem" });
      return isAsked(":batchEmbedContents") && isAsked(":embedContent") && results?.[0]?.vectorScore > 0 && results;
    });
    assert.match(found[0].snippet, /kestrel/);
  }
  const told = (label) => {
    const of = (verb) => asked[label].filter(({ path }) => path.endsWith(verb));
    const documents = of(":batchEmbedContents").flatMap(({ body }) => body.requests).sort((a, b) => (a.content.parts[0].text < b.content.parts[0].text ? -1 : 1));
    return { documents, question: of(":embedContent").at(-1).body, paths: [...new Set(asked[label].map(({ path }) => path))].sort(), keys: [...new Set(asked[label].map(({ key }) => key))] };
  };
  assert.deepEqual(told("ours"), told("original"));
  assert.deepEqual(told("ours").keys, ["gm-very-secret"]);
});

/** Gemini's published shapes, for whoever's path begins with its name; vectors count letters, as below. */
async function gemini(t) {
  const asked = { original: [], ours: [] };
  const values = (text) => Array.from({ length: 128 }, (_, at) => 0.1 + [...text].filter((c) => c.codePointAt(0) % 128 === at).length);
  const server = http.createServer(async (request, response) => {
    let text = "";
    for await (const piece of request) text += piece;
    const [, label, ...rest] = request.url.split("/");
    const body = JSON.parse(text);
    asked[label].push({ path: rest.join("/"), key: request.headers["x-goog-api-key"], body });
    const one = ({ content }) => ({ values: values(content.parts[0].text) });
    response.writeHead(200, { "content-type": "application/json" });
    response.end(JSON.stringify(body.requests ? { embeddings: body.requests.map(one) } : { embedding: one(body) }));
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => server.closeAllConnections());
  t.after(() => server.close());
  return { server, asked };
}

test("what is written, changed or removed is so in the next search", async () => {
  const { ours } = clients;
  const file = write(targets.ours, "memory/new.md", "the platypus swims\n");
  assert.deepEqual(await ours.paths("platypus"), ["memory/new.md"]);
  write(targets.ours, "memory/new.md", "the wallaby swims\n");
  assert.deepEqual(await ours.paths("platypus"), []);
  assert.deepEqual(await ours.paths("wallaby"), ["memory/new.md"]);
  fs.rmSync(file);
  assert.deepEqual(await ours.paths("wallaby"), []);
});

test("what is written, renamed or removed is read without a search", async () => {
  const { ours } = clients;
  // The first search of an agent begins it. The command line reads what is kept, no files.
  assert.deepEqual(await ours.paths("tea"), ["USER.md"]);
  const kept = async (query) => (await memory(targets.ours, ["search", query])).results.map((hit) => hit.path);
  const becomes = (query, paths) => until(`${query} in ${paths}`, async () => JSON.stringify(await kept(query)) === JSON.stringify(paths));
  const inside = (file) => path.join(targets.ours.stateDir, "workspace-main/memory", file);
  write(targets.ours, "memory/trips/2026/oslo.md", "the narwhal surfaced\n");
  await becomes("narwhal", ["memory/trips/2026/oslo.md"]);
  fs.renameSync(inside("trips"), inside("journeys"));
  fs.writeFileSync(inside("draft.tmp"), "the dugong surfaced\n");
  fs.renameSync(inside("draft.tmp"), inside("draft.md"));
  await becomes("dugong", ["memory/draft.md"]);
  await becomes("narwhal", ["memory/journeys/2026/oslo.md"]);
  // Its folder has another name, and is watched under that.
  fs.writeFileSync(inside("journeys/2026/oslo.md"), "the beluga surfaced\n");
  await becomes("beluga", ["memory/journeys/2026/oslo.md"]);
  fs.rmSync(inside("journeys"), { recursive: true });
  fs.rmSync(inside("draft.md"));
  await becomes("surfaced", []);
});

test("memory.index, status, get and forget say what there is", async () => {
  const { ours } = clients;
  const agentId = "main";
  const indexed = await ours.ask("memory.index", { agentId });
  assert.deepEqual([indexed.files, indexed.pending, indexed.leftOut, indexed.warning], [8, 0, 0, undefined]);
  const status = await ours.ask("memory.status", { agentId });
  assert.deepEqual([status.agentId, status.documents, status.files, status.provider], ["main", 8, 8, "none"]);
  assert.equal(status.workspaceDir, path.join(targets.ours.stateDir, "workspace-main"));
  assert.deepEqual(await ours.ask("memory.get", { agentId, path: "memory/long.md", from: 299 }), {
    status: "ok", text: LONG.slice(298).join("\n"), path: "memory/long.md", from: 299, lines: 2, agentId,
  });
  const { error } = await ours.ask("memory.get", { agentId, path: "notes.md" });
  assert.deepEqual([error.code, error.message], ["INVALID_REQUEST", "path is not an allowed Markdown memory file"]);

  await memory(targets.ours, ["add", "a quokka smiles", "--path", "by-hand.md"]);
  assert.deepEqual(await ours.paths("quokka"), ["by-hand.md"]);
  assert.equal((await ours.ask("memory.get", { agentId, path: "by-hand.md" })).text, "a quokka smiles");
  const forgotten = await ours.ask("memory.forget", { agentId, paths: ["by-hand.md", "nowhere.md", "MEMORY.md"] });
  assert.deepEqual(forgotten, { agentId, forgotten: ["by-hand.md"], missing: ["nowhere.md"], files: ["MEMORY.md"] });
  assert.deepEqual(await ours.paths("quokka"), []);

  const refused = async (method, params, message) => {
    const { error } = await ours.ask(method, params);
    assert.deepEqual([error?.code, error?.message], ["INVALID_REQUEST", message], method);
  };
  await refused("memory.get", { agentId }, "invalid memory.get params: must have required property 'path'");
  await refused("memory.get", { agentId, path: "a", from: 0 }, "invalid memory.get params: at /from: must be >= 1");
  await refused("memory.forget", { agentId, paths: [] }, "invalid memory.forget params: at /paths: must not have fewer than 1 items");
  await refused("memory.status", { agentId: "nobody" }, "unknown agentId");
  await refused("memory.index", { agentId, more: 1 }, "invalid memory.index params: at root: unexpected property 'more'");
});

test("no agent sees or changes another's, and no reader writes", async () => {
  const { ours } = clients;
  await memory(targets.ours, ["add", "ada's own quokka", "--path", "ada.md", "--agent", "ada"]);
  assert.deepEqual(await ours.paths("quokka"), []);
  assert.deepEqual(await ours.paths("quokka", "ada"), ["ada.md"]);
  assert.deepEqual(await ours.paths("secret"), []);
  const ask = (method, params) => ours.ask(method, { agentId: "main", ...params });
  assert.match((await ask("memory.get", { path: "ada.md" })).error.message, /not an allowed/);
  assert.deepEqual((await ask("memory.forget", { paths: ["ada.md"] })).missing, ["ada.md"]);
  assert.deepEqual(await ours.paths("quokka", "ada"), ["ada.md"]);
  // An agent that nobody has configured leaves no trace.
  const ghost = await ours.ask("tools.invoke", { name: "memory_search", args: { query: "quokka" }, sessionKey: "agent:ghost:main" });
  assert.deepEqual(ghost.output.details.results, []);

  const reader = await open(targets.ours, { scopes: ["operator.read"] });
  assert.equal((await reader.ask("memory.status", { agentId: "main" })).agentId, "main");
  assert.deepEqual(await reader.paths("tea"), ["USER.md"]);
  for (const [method, params] of [["memory.index", {}], ["memory.forget", { paths: ["x"] }], ["tools.invoke", { name: "memory_get", args: {} }]]) {
    assert.equal((await reader.ask(method, params)).error.message, "missing scope: operator.write", method);
  }
  await reader.end();
});

/** Runs a command of ours on a target's own memory. */
function memory(target, args) {
  return new Promise((resolve, reject) => {
    execFile(gatewayBinary(), ["memory", ...args, "--json"], { env: target.env, timeout: 120_000 }, (error, out, err) => {
      if (error) reject(new Error(err, { cause: error }));
      else resolve(JSON.parse(out));
    });
  });
}

/** OpenAI's published shape: vectors count the letters of a text in threes, so that what is written alike is near. */
async function embeddings(t, keys) {
  const server = http.createServer(async (request, response) => {
    let body = "";
    for await (const piece of request) body += piece;
    keys.add(request.headers.authorization);
    const data = JSON.parse(body).input.map((text, index) => {
      const embedding = new Array(64).fill(0.01);
      for (let at = 0; at + 3 <= text.length; at++) {
        const three = text.slice(at, at + 3).toLowerCase();
        embedding[[...three].reduce((sum, c) => (sum * 31 + c.codePointAt(0)) % 9973, 7) % 64] += 1;
      }
      return { object: "embedding", index, embedding };
    });
    response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify({ object: "list", data, model: "m" }));
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  t.after(() => server.close());
  return server;
}

test("with an embedder a search is by meaning too, and without its answer by words", async (t) => {
  const keys = new Set();
  const server = await embeddings(t, keys);
  const stateDir = tempDir("ours");
  fill(stateDir);
  write(stateDir, "memory/deploy.md", "deployments happen on fridays\n");
  const target = await startOurs({ stateDir, config, env: { MY_KEY: "sk-very-secret" } });
  t.after(() => target.stop());
  const client = await open(target);
  t.after(() => client.end());
  const agentId = "main";
  const url = `http://127.0.0.1:${server.address().port}/v1`;
  await memory(target, ["embedder", "openai", "--url", url, "--model", "m", "--key-variable", "MY_KEY"]);
  const early = await client.ask("memory.search", { query: "redeployment", agentId });
  assert.deepEqual([early.provider, early.searchMode, early.results], ["openai", "fts-only", []]);
  assert.match(early.warning, /memory index/);
  const indexed = await client.ask("memory.index", { agentId });
  assert.deepEqual([indexed.provider, indexed.model, indexed.vectors.missing, indexed.warning], ["openai", "m", 0, undefined]);
  assert.equal(indexed.vectors.kept, indexed.chunks);
  const found = await client.ask("memory.search", { query: "redeployment", agentId });
  assert.deepEqual([found.searchMode, found.warning, found.results[0].path], ["hybrid", undefined, "memory/deploy.md"]);
  assert.ok(found.results[0].vectorScore > 0.3);
  const invoked = await client.ask("tools.invoke", { name: "memory_search", args: { query: "redeployment" }, agentId });
  const { provider, model, mode, results } = invoked.output.details;
  assert.deepEqual([provider, model, mode, results[0].path], ["openai", "m", "hybrid", "memory/deploy.md"]);
  write(target, "memory/late.md", "the platypus swims\n");
  const late = await client.ask("memory.search", { query: "platypus", agentId });
  assert.ok(late.results.some((hit) => hit.path === "memory/late.md"));
  assert.match(late.warning, /1 passages have no vector yet/);
  assert.deepEqual([...keys], ["Bearer sk-very-secret"]);
  server.closeAllConnections();
  server.close();
  const down = await client.ask("memory.search", { query: "fridays", agentId });
  assert.deepEqual([down.searchMode, down.results[0].path], ["fts-only", "memory/deploy.md"]);
  assert.match(down.warning, /can't be reached.*the words answer alone/);
  assert.ok(!JSON.stringify(client.frames).includes("sk-very-secret"));
});

test("with the original behind it is the original that is asked, until memory.native says otherwise", async (t) => {
  const target = await startOurs({ config, upstream: { attach: targets.original } });
  t.after(() => target.stop());
  write(target, "MEMORY.md", "- only ours knows the numbat\n");
  const client = await open(target);
  t.after(() => client.end());
  assert.deepEqual(client.hello.features.methods, clients.original.hello.features.methods);
  assert.deepEqual(await client.paths("numbat"), []);
  assert.deepEqual(await client.paths("tea"), ["USER.md"]);
  const got = async () => (await client.ask("tools.invoke", { name: "memory_get", args: { path: "MEMORY.md" }, agentId: "main" })).output.details.text;
  assert.match(await got(), /router/);
  // Only we have these, so nobody else is asked.
  assert.equal((await client.ask("memory.index", { agentId: "main" })).files, 1);

  fs.appendFileSync(path.join(target.stateDir, "openclaw-rs/openclaw-gateway.toml"), "\n[memory]\nnative = true\n");
  await until("memory.native in force", async () => (await client.paths("numbat")).length === 1);
  assert.deepEqual(await client.paths("tea"), []);
  assert.match(await got(), /numbat/);
  const other = await client.ask("tools.invoke", { name: "no_such_tool", args: {}, agentId: "main" });
  assert.deepEqual(other, { ok: false, toolName: "no_such_tool", error: { code: "not_found", message: "Tool not available: no_such_tool" } });
});
