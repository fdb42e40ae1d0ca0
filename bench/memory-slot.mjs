// `make bench-memory-slot`: memory_search of OpenClaw's agents, by OpenClaw's own engine and by ours in its memory slot
// (plugins/memory), on the same workspace and questions, asked by `tools.invoke` of the same unmodified OpenClaw. One JSON line
// goes to bench/results/<date>-memory-slot.jsonl.
//
//   node bench/memory-slot.mjs [FILES] [QUESTIONS]
//
// The workspace is OpenClaw's own documentation; a question is five words that run on in one of its lines. No embedder: both
// search words and give up to six hits; what each finds is counted by whether the line's own file is among them. The two run one
// after the other.
import { execFileSync } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import { baseConfig, startOriginal, startOurs, TOKEN } from "../tests/lib/gateway.mjs";
import { RawClient } from "../tests/lib/raw.mjs";
import { freePort, gatewayBinary, isolatedEnv, nodeBinary, openclawEntry, openclawPackage, repoRoot, tempDir } from "../tests/lib/tools.mjs";
import { loadAverage } from "./machine.mjs";
import { percentile } from "./numbers.mjs";

const [files = 200, questions = 60] = process.argv.slice(2).map(Number);
const rounded = (value) => Math.round(value * 1000) / 1000;
const spread = (values) => ({ p50: rounded(percentile(values, 0.5)), p95: rounded(percentile(values, 0.95)), max: rounded(percentile(values, 1)) });

/** The same for every run. */
function* dice(seed) {
  for (let state = seed; ; ) yield (state = (state * 1_103_515_245 + 12_345) % 2_147_483_648);
}

function documents() {
  const all = fs.readdirSync(path.join(openclawPackage, "docs"), { recursive: true }).filter((name) => name.endsWith(".md")).sort();
  return all.slice(0, files).map((name) => [name.replaceAll("/", "-"), fs.readFileSync(path.join(openclawPackage, "docs", name), "utf8")]);
}

function asked(all) {
  const numbers = dice(20261130);
  const pick = (list) => list[numbers.next().value % list.length];
  const out = [];
  while (out.length < questions) {
    const [name, text] = pick(all);
    const words = pick(text.split("\n")).match(/[a-z]{3,}/gi) ?? [];
    if (words.length >= 8) out.push({ query: words.slice(1, 6).join(" "), from: `memory/${name}` });
  }
  return out;
}

async function measured(target, all) {
  const client = await RawClient.open(target.wsUrl);
  const hello = await client.connect({ token: TOKEN });
  if (!hello.ok) throw new Error(JSON.stringify(hello));
  const ask = async (query) => {
    const from = performance.now();
    const { ok, payload, error } = await client.call("tools.invoke", { name: "memory_search", args: { query }, agentId: "main" });
    const ms = performance.now() - from;
    if (!ok || !payload.ok) throw new Error(JSON.stringify(error ?? payload));
    return { ms, hits: payload.output.details.results ?? [], details: payload.output.details };
  };
  // The first one reads and indexes the workspace; the original may answer before it is done.
  const begun = performance.now();
  let first = await ask(all[0].query);
  const firstMs = first.ms;
  while (first.hits.length === 0 && performance.now() - begun < 600_000) first = await ask(all[0].query);
  const readyMs = performance.now() - begun;
  const [took, found] = [[], []];
  for (let round = 0; round < 3; round++) {
    for (const { query, from } of all) {
      const { ms, hits } = await ask(query);
      took.push(ms);
      if (round === 0) found.push(hits.some((hit) => hit.path === from));
    }
  }
  await client.end();
  return { firstMs: rounded(firstMs), firstHitsMs: rounded(readyMs), ms: spread(took), ownFileAmongHits: rounded(found.filter(Boolean).length / found.length) };
}

const all = documents();
const list = asked(all);
const fill = (stateDir) => {
  const folder = path.join(stateDir, "workspace-main/memory");
  fs.mkdirSync(folder, { recursive: true });
  for (const [name, text] of all) fs.writeFileSync(path.join(folder, name), text);
};
const config = { memory: { search: { provider: "none" } } };

async function original() {
  const stateDir = tempDir("slot-original");
  const port = await freePort();
  fill(stateDir);
  fs.writeFileSync(path.join(stateDir, "openclaw.json"), JSON.stringify(baseConfig(port, { ...config, agents: { entries: { main: { workspace: path.join(stateDir, "workspace-main") } } } })), { mode: 0o600 });
  return startOriginal({ stateDir, port });
}

async function plugged() {
  const stateDir = tempDir("slot-ours");
  const port = await freePort();
  fill(stateDir);
  const own = { ...config, agents: { entries: { main: { workspace: path.join(stateDir, "workspace-main") } } }, plugins: { entries: { "memory-core": { enabled: false } } } };
  fs.writeFileSync(path.join(stateDir, "openclaw.json"), JSON.stringify(baseConfig(port, own)), { mode: 0o600 });
  execFileSync(nodeBinary, [openclawEntry, "plugins", "install", path.join(repoRoot, "plugins/memory"), "--force", "--accept-capabilities"], { env: isolatedEnv(stateDir), cwd: stateDir });
  return startOurs({ stateDir, port, upstream: "supervise" });
}

const build = gatewayBinary().includes("/release/") ? "release" : "debug";
const line = { kind: "memory-slot", build, files: all.length, bytes: all.reduce((sum, [, text]) => sum + text.length, 0), questions: list.length };
for (const [side, start] of [["original", original], ["slot", plugged]]) {
  const target = await start();
  try {
    line[side] = { ...(await measured(target, list)), load: loadAverage() };
  } finally {
    await target.stop();
  }
}
const results = path.join(repoRoot, "bench/results");
fs.mkdirSync(results, { recursive: true });
fs.appendFileSync(path.join(results, `${new Date().toISOString().slice(0, 10)}-memory-slot.jsonl`), `${JSON.stringify(line)}\n`);
console.log(JSON.stringify(line, null, 2));
