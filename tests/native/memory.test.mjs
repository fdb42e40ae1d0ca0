// `memory add|index|search|status|forget|rebuild` from the spawned binary: no configuration, no gateway. The corpus is
// the documentation that the original ships; what must be found is taken from its files by plain string search.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import test from "node:test";
import { fileURLToPath } from "node:url";
import { gatewayBinary, isolatedEnv, tempDir } from "../lib/tools.mjs";

const docs = fs.realpathSync(fileURLToPath(new URL("../node_modules/openclaw/docs/gateway", import.meta.url)));

function memory(env, args, input) {
  const run = spawnSync(gatewayBinary(), ["memory", ...args], { env, input, encoding: "utf8", timeout: 60_000, maxBuffer: 64 * 1024 * 1024 });
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
