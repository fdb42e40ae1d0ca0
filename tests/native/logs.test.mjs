// `logs.tail`: our log alone, and one with OpenClaw's, as the original's command line and ours show it.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import test from "node:test";
import { promisify } from "node:util";
import { startOriginal, startOurs, TOKEN } from "../lib/gateway.mjs";
import { RawClient } from "../lib/raw.mjs";
import { gatewayBinary, nodeBinary, openclawEntry, tempDir, until } from "../lib/tools.mjs";

const run = promisify(execFile);

async function client(t, target) {
  const client = await RawClient.open(target.wsUrl);
  assert.ok((await client.connect({ token: TOKEN })).ok);
  t.after(() => client.socket.terminate());
  return async (params = {}) => {
    const answer = await client.call("logs.tail", params);
    assert.ok(answer.ok, JSON.stringify(answer.error));
    return answer.payload;
  };
}

/** A line in our log: a client that is turned away. */
async function beRefused(target) {
  const stranger = await RawClient.open(target.wsUrl);
  assert.equal((await stranger.connect({ token: "wrong" })).ok, false);
  await stranger.closed;
}

const parsed = (page) => page.lines.map((line) => JSON.parse(line));
const isOurs = (line) => String(line["0"]).startsWith('{"subsystem":"openclaw-rs');
const isRefusal = (line) => isOurs(line) && /token/.test(line.message) && line._meta.logLevelName === "WARN";

test("alone, the original's command line and ours show this gateway's log", async (t) => {
  const ours = await startOurs();
  t.after(() => ours.stop());
  const tail = await client(t, ours);
  const first = await tail();
  assert.equal(first.file, "the standard error of openclaw-gateway");
  assert.equal(first.cursor, first.size);
  await beRefused(ours);
  const next = await until("the refusal", async () => {
    const page = await tail({ cursor: first.cursor });
    return page.lines.length > 0 && page;
  });
  assert.ok(parsed(next).some(isRefusal), next.lines.join("\n"));
  assert.deepEqual((await tail({ cursor: next.cursor })).lines.filter((line) => isRefusal(JSON.parse(line))), [], "each line once");
  assert.equal((await tail({ cursor: next.cursor + 1_000_000 })).reset, true);

  const env = { ...ours.env, OPENCLAW_GATEWAY_PORT: String(ours.port), OPENCLAW_GATEWAY_TOKEN: TOKEN };
  const { stdout } = await run(nodeBinary, [openclawEntry, "logs", "--limit", "200", "--json"], { env });
  const rows = stdout.trim().split("\n").map((line) => JSON.parse(line)).filter(({ type }) => type === "log");
  assert.ok(rows.some(({ level, subsystem, message }) => level === "warn" && subsystem?.startsWith("openclaw-rs") && /token/.test(message)), stdout);
  const own = await run(gatewayBinary(), ["logs"], { env });
  assert.ok(own.stdout.includes("openclaw-rs"), own.stdout);
  assert.ok(!own.stdout.includes(TOKEN) && !stdout.includes(TOKEN), "a secret is in the log");
});

test("with OpenClaw behind, both logs are one in the order of time, and ours is there without it", async (t) => {
  // By itself it writes where every OpenClaw of this machine does.
  const dir = tempDir("logs");
  t.after(() => fs.rmSync(dir, { recursive: true, force: true }));
  const file = path.join(dir, "openclaw.log");
  const original = await startOriginal({ config: { logging: { file } } });
  t.after(() => original.stop());
  const ours = await startOurs({ upstream: { attach: original } });
  t.after(() => ours.stop());
  const tail = await client(t, ours);
  await beRefused(ours);
  const page = await until("lines of both", async () => {
    const page = await tail({ limit: 5_000, maxBytes: 1_000_000 });
    const lines = parsed(page);
    return lines.some(isRefusal) && lines.some((line) => !isOurs(line)) && page;
  });
  assert.equal(page.file, file);
  const times = parsed(page).map(({ time }) => Date.parse(time));
  assert.deepEqual(times, times.toSorted((a, b) => a - b));
  // What happens there from now on is here with the next question, once.
  const direct = await RawClient.open(original.wsUrl);
  assert.equal((await direct.connect({ token: "wrong" })).ok, false);
  const isTheirs = (line) => !isOurs(line) && /unauthorized|token_mismatch/.test(line.message);
  const news = await until("their refusal", async () => {
    const next = await tail({ cursor: page.cursor });
    return parsed(next).some(isTheirs) && next;
  });
  const later = await tail({ cursor: news.cursor });
  assert.deepEqual(later.lines.filter((line) => news.lines.includes(line)), [], "each line once");

  await original.child.stop();
  await beRefused(ours);
  const without = await tail({ cursor: news.cursor });
  assert.ok(parsed(without).some(isRefusal), without.lines.join("\n"));
});
