// `memory add|index|search|status|forget|rebuild` from the spawned binary: no configuration, no gateway. The corpus is
// the documentation that the original ships; what must be found is taken from its files by plain string search.
import assert from "node:assert/strict";
import { execFile, spawnSync } from "node:child_process";
import { once } from "node:events";
import fs from "node:fs";
import http from "node:http";
import path from "node:path";
import test from "node:test";
import { fileURLToPath } from "node:url";
import { gatewayBinary, isolatedEnv, tempDir } from "../lib/tools.mjs";

const docs = fs.realpathSync(fileURLToPath(new URL("../node_modules/openclaw/docs/gateway", import.meta.url)));

function memory(env, args, input) {
  const run = spawnSync(gatewayBinary(), ["memory", ...args], { env, input, encoding: "utf8", timeout: 120_000, maxBuffer: 64 * 1024 * 1024 });
  return { code: run.status, out: run.stdout, err: run.stderr };
}

function json(env, args, input) {
  const run = memory(env, [...args, "--json"], input);
  assert.equal(run.code, 0, run.err);
  return JSON.parse(run.out);
}

test("a real folder is indexed and its passages are found", async (t) => {
  const home = tempDir("memory");
  const env = isolatedEnv(home);
  const first = json(env, ["index", docs]);
  const files = fs.readdirSync(docs, { recursive: true }).filter((name) => /\.(md|txt|jsonl)$/.test(name));
  assert.equal(first.kept + first.leftOut, files.length);
  assert.ok(first.kept > 50, `${first.kept} documents`);
  assert.deepEqual(json(env, ["index", docs]), { kept: 0, unchanged: first.kept, leftOut: first.leftOut, forgotten: 0 });
  const status = json(env, ["status"]);
  assert.deepEqual([status.documents, status.pending, status.warning], [first.kept, 0, null]);

  await t.test("a natural question leads to the page about it", () => {
    const paths = json(env, ["search", "how do I approve a pairing request for a direct message?"]).results.map((hit) => hit.path);
    assert.ok(paths.some((name) => name.includes("pairing")), paths.join("\n"));
  });
  await t.test("lines are where the text is", () => {
    for (const hit of json(env, ["search", "gateway.reload.mode", "--limit", "20"]).results) {
      const lines = fs.readFileSync(hit.path, "utf8").split("\n").slice(hit.startLine - 1, hit.endLine);
      assert.ok(lines.join("\n").includes(hit.snippet.trimEnd()), `${hit.path}:${hit.startLine}`);
    }
  });
  await t.test("a phrase is in every hit, and all documents with it are found", () => {
    const phrase = "trusted proxy";
    const found = new Set(json(env, ["search", `"${phrase}"`, "--limit", "1000"]).results.map((hit) => hit.path));
    const plain = (text) => text.replace(/(\p{Ll})(\p{Lu})/gu, "$1 $2").toLowerCase().split(/[^\p{L}\p{N}]+/u).join(" ");
    for (const name of files) {
      const full = path.join(docs, name);
      const lines = fs.readFileSync(full, "utf8").split("\n");
      if (lines.some((line) => ` ${plain(line)} `.includes(` ${phrase} `))) assert.ok(found.has(full), full);
    }
    for (const name of found) assert.ok(plain(fs.readFileSync(name, "utf8")).includes(phrase), name);
  });
  await t.test("every document with a rare identifier is found", () => {
    const found = new Set(json(env, ["search", "OPENCLAW_STATE_DIR", "--limit", "1000"]).results.map((hit) => hit.path));
    for (const name of files) {
      const full = path.join(docs, name);
      if (/(^|[\s`])OPENCLAW_STATE_DIR($|[\s`])/m.test(fs.readFileSync(full, "utf8"))) assert.ok(found.has(full), full);
    }
  });
  await t.test("a broken index is said, answered around, and rebuilt", () => {
    const before = json(env, ["search", "websocket", "--limit", "5"]).results.length;
    const folder = path.join(env.OPENCLAW_STATE_DIR, "openclaw-rs/memory.sqlite.index/1");
    fs.writeFileSync(path.join(folder, "meta.json"), "{");
    const broken = json(env, ["search", "websocket", "--limit", "5"]);
    assert.match(broken.warning, /memory rebuild/);
    assert.equal(broken.results.length, before);
    assert.ok(json(env, ["rebuild"]).chunks > 300);
    assert.equal(json(env, ["search", "websocket"]).warning, null);
  });
});

test("texts are added, found at once, kept apart by agent, and forgotten", () => {
  const env = isolatedEnv(tempDir("memory"));
  const note = json(env, ["add", "The spare key is with Ada"]);
  assert.equal(note.changed, true);
  json(env, ["add", "-", "--path", "piped.md"], "Grüße aus dem Café in 東京都");
  json(env, ["add", "bob's secret key", "--agent", "bob", "--path", "b.md"]);
  const paths = (query, ...more) => json(env, ["search", query, ...more]).results.map((hit) => hit.path);
  assert.deepEqual(paths("where is the key?"), [note.path]);
  assert.deepEqual(paths("cafe"), ["piped.md"]);
  assert.deepEqual(paths("京都"), ["piped.md"]);
  assert.deepEqual(paths("key", "--agent", "bob"), ["b.md"]);
  assert.deepEqual(json(env, ["forget", note.path]), { forgotten: [note.path], missing: 0 });
  assert.deepEqual(paths("key"), []);
  const missing = memory(env, ["forget", "nowhere.md"]);
  assert.deepEqual([missing.code, missing.out.includes("not kept: 1")], [1, true]);
});

test("bad input is a clear error and nothing is lost", () => {
  const home = tempDir("memory");
  const env = isolatedEnv(home);
  const kept = json(env, ["add", "keep me"]);
  for (const [args, input, says] of [
    [["index", path.join(home, "nowhere")], undefined, /cannot read .*nowhere/],
    [["add", "-"], "a\0b", /no text of at most/],
    [["add", "  "], undefined, /nothing in it/],
    [["search", "x", "--agent", " "], undefined, /agent's name/],
  ]) {
    const run = memory(env, args, input);
    assert.equal(run.code, 1, args.join(" "));
    assert.match(run.err, says);
  }
  assert.equal(memory(env, ["search"]).code, 2);
  const file = path.join(env.OPENCLAW_STATE_DIR, "openclaw-rs/memory.sqlite");
  assert.equal(json(env, ["search", "keep"]).results[0].path, kept.path);
  fs.writeFileSync(file, "this is no database at all, and longer than a header would be: ".repeat(20));
  for (const end of ["-wal", "-shm"]) fs.rmSync(file + end, { force: true });
  const run = memory(env, ["search", "keep"]);
  assert.equal(run.code, 1);
  assert.match(run.err, /memory\.sqlite/);
});

// OpenAI's published shape; the vectors count the letters of a text in threes, so that what is written alike is near.
async function embeddings(t, asked) {
  const server = http.createServer(async (request, response) => {
    let body = "";
    for await (const piece of request) body += piece;
    asked.push({ url: request.url, key: request.headers.authorization, ...JSON.parse(body) });
    if (asked.length === 1) return response.writeHead(429, { "retry-after": "0" }).end("{}");
    const data = asked.at(-1).input.map((text, index) => {
      const embedding = new Array(64).fill(0.01);
      for (const three of text.toLowerCase().match(/(?=(...))/gs)?.map((_, at) => text.slice(at, at + 3).toLowerCase()) ?? []) {
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
  const asked = [];
  const server = await embeddings(t, asked);
  const env = { ...isolatedEnv(tempDir("memory")), MY_KEY: "sk-very-secret" };
  const run = (args) => new Promise((resolve) => {
    execFile(gatewayBinary(), ["memory", ...args, "--json"], { env, timeout: 120_000 }, (error, out, err) => {
      assert.ok(!`${out}${err}`.includes("sk-very-secret"));
      assert.equal(error?.code ?? 0, 0, err);
      resolve({ ...JSON.parse(out), err });
    });
  });
  const url = `http://127.0.0.1:${server.address().port}/v1`;
  await run(["add", "deployments happen on fridays", "--path", "memory/a.md"]);
  await run(["add", "the zebra sleeps", "--path", "b.md"]);
  const chosen = await run(["embedder", "openai", "--url", url, "--model", "m", "--key-variable", "MY_KEY"]);
  assert.deepEqual([chosen.provider, chosen.model, chosen.keyVariable], ["openai", "m", "MY_KEY"]);
  const early = await run(["search", "redeployment"]);
  assert.deepEqual([early.results, early.searchMode], [[], "keyword"]);
  await run(["add", "colours of autumn", "--path", "c.md"]);
  assert.deepEqual((await run(["status"])).vectors, { model: "m", dimensions: 64, kept: 3, missing: 0 });
  assert.ok(asked.every((one) => one.url === "/v1/embeddings" && one.key === "Bearer sk-very-secret" && one.model === "m"));
  assert.equal(asked.length, 2, "a busy service is asked again, and once for all texts");
  const found = await run(["search", "redeployment", "--explain"]);
  assert.deepEqual([found.searchMode, found.warning, found.results[0].path], ["hybrid", null, "memory/a.md"]);
  assert.equal(found.results[0].explain.bm25, null);
  assert.ok(found.results[0].vectorScore > 0.3);
  assert.deepEqual((await run(["search", "redeployment", "--words"])).results, []);
  const filtered = await run(["search", "redeployment", "--under", "b"]);
  assert.deepEqual(filtered.results.map((hit) => hit.path), ["b.md"]);
  assert.deepEqual((await run(["search", "zebra", "--before", "2020-01-01"])).results, []);
  server.closeAllConnections();
  server.close();
  const down = await run(["search", "autumn"]);
  assert.deepEqual([down.searchMode, down.results[0].path], ["keyword", "c.md"]);
  assert.match(down.warning, /can't be reached.*the words answer alone/);
});

test("without a choice the user's file says who makes vectors, its key from .env or a SecretRef", async (t) => {
  const asked = [];
  const server = await embeddings(t, asked);
  const env = isolatedEnv(tempDir("memory"));
  const baseUrl = `http://127.0.0.1:${server.address().port}/v1`;
  const run = (args) => new Promise((resolve) => {
    execFile(gatewayBinary(), ["memory", ...args, "--json"], { env, timeout: 120_000 }, (error, out, err) => {
      assert.ok(!`${out}${err}`.includes("sk-very-secret"));
      assert.equal(error?.code ?? 0, 0, err);
      resolve({ ...JSON.parse(out), err });
    });
  });
  const configure = (apiKey, more) => fs.writeFileSync(env.OPENCLAW_CONFIG_PATH, JSON.stringify({
    memory: { search: { provider: "openai-compatible", model: "m", remote: { baseUrl, apiKey } } }, ...more,
  }));
  fs.mkdirSync(path.dirname(env.OPENCLAW_CONFIG_PATH), { recursive: true });
  configure("${MY_MEMORY_KEY}");
  const without = await run(["add", "deployments happen on fridays", "--path", "a.md"]);
  assert.match(without.err, /remote.apiKey names a variable that has no value/);
  assert.equal(asked.length, 0);
  fs.writeFileSync(path.join(env.OPENCLAW_STATE_DIR, ".env"), "MY_MEMORY_KEY=sk-very-secret\n");
  assert.equal((await run(["add", "the zebra sleeps", "--path", "b.md"])).err, "");
  assert.deepEqual((await run(["status"])).vectors, { model: "m", dimensions: 64, kept: 2, missing: 0 });
  configure({ source: "env", provider: "default", id: "MY_MEMORY_KEY" });
  const found = await run(["search", "redeployment"]);
  assert.deepEqual([found.searchMode, found.results[0].path], ["hybrid", "a.md"]);
  assert.ok(asked.length > 0 && asked.every((one) => one.key === "Bearer sk-very-secret"));

  // Whose vectors they are is known without the key, and without running what keeps it.
  const vectors = { model: "m", dimensions: 64, kept: 2, missing: 0 };
  configure("${NOT_SET_ANYWHERE}");
  assert.deepEqual((await run(["status"])).vectors, vectors);
  const command = path.join(tempDir("keeper"), "keeper");
  fs.writeFileSync(command, '#!/bin/sh\n: > "$0.ran"\n', { mode: 0o700 });
  const vault = { source: "exec", command };
  configure({ source: "exec", provider: "vault", id: "memory/key" }, { secrets: { providers: { vault } } });
  const status = await run(["status"]);
  assert.deepEqual([status.vectors, status.err], [vectors, ""]);
  assert.ok(!fs.existsSync(`${command}.ran`));
  assert.match((await run(["search", "redeployment"])).err, /the words answer alone/);
  assert.ok(fs.existsSync(`${command}.ran`));
});
