// `make bench-agent`: agents that run in our gateway beside the original's, in turn, with the same scripted model. One JSON
// line per measurement goes to bench/results/<date>-agent.jsonl; docs/agent-benchmarks.md is written from it.
//
//   node bench/agent.mjs [--quick|--smoke] [--only NAME,…] [--profile release] [--no-write]
//   node bench/agent.mjs --report bench/results/FILE.jsonl       (writes the document again)
//
// The model is in a thread of its own and notes when it wrote each token (agent-model.mjs), the client when it arrived, both by
// one clock. What the two cost by themselves is measured beside, by reading the model without a gateway.
import fs from "node:fs";
import path from "node:path";
import { parseArgs } from "node:util";
import { startOriginal, startOurs } from "../tests/lib/gateway.mjs";
import { gatewayBinary, repoRoot, until } from "../tests/lib/tools.mjs";
import { Direct, Watcher, within } from "./agent-client.mjs";
import { now, startBenchModel } from "./agent-model.mjs";
import { withModel } from "./baseline.mjs";
import { loadAverage, machine, treeMemory, versions, vmRssMb, watched } from "./machine.mjs";
import { percentile } from "./numbers.mjs";
import { agentReport } from "./report-agent.mjs";

const { values: options } = parseArgs({
  options: {
    quick: { type: "boolean" },
    smoke: { type: "boolean" },
    only: { type: "string" },
    profile: { type: "string", default: "release" },
    "no-write": { type: "boolean" },
    report: { type: "string" },
  },
});
const mode = options.smoke ? "smoke" : options.quick ? "quick" : "full";

/** How much and how often, by mode. `original…`: what the original is asked, which is slower and gets less. */
const PLAN = {
  full: {
    rounds: 5, originalRounds: 3, settleS: 20, warm: 20, first: 200, originalFirst: 15, paced: 40, originalPaced: 10, turns: 5000, originalTurns: 150,
    streams: 200, originalStreams: [200, 100, 50, 20], tokens: 200, gatherS: 150, messages: 10_000, sessions: 10_000, fillS: 900, originalFillS: 900, calls: 200, callsS: 20,
  },
  quick: {
    rounds: 3, originalRounds: 1, settleS: 3, warm: 8, first: 60, originalFirst: 10, paced: 20, originalPaced: 6, turns: 2000, originalTurns: 50,
    streams: 200, originalStreams: [20], tokens: 80, gatherS: 60, messages: 10_000, sessions: 10_000, fillS: 100, originalFillS: 20, calls: 100, callsS: 5,
  },
  smoke: {
    rounds: 1, originalRounds: 1, settleS: 0, warm: 1, first: 4, originalFirst: 1, paced: 2, originalPaced: 1, turns: 50, originalTurns: 2,
    streams: 20, originalStreams: [2], tokens: 10, gatherS: 60, messages: 20, sessions: 60, fillS: 2, originalFillS: 2, calls: 5, callsS: 1,
  },
}[mode];

/** 20 tokens a second. */
const GAP_MS = 50;
const SESSIONS = 50;
/** Turns of one session of `first`, so that the conversations stay short. */
const TURNS_EACH = 10;
const LONG = "agent:main:bench-long";

const began = performance.now();
const say = (text) => process.stderr.write(`[bench ${((performance.now() - began) / 1000).toFixed(0).padStart(4)} s] ${text}\n`);
const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));
const lines = [];
const record = (line) => lines.push(JSON.stringify({ ...line, load: loadAverage() }));
const rounded = (value) => (typeof value === "number" ? Math.round(value * 1000) / 1000 : value);
const spread = (values) => ({ p50: rounded(percentile(values, 0.5)), p99: rounded(percentile(values, 0.99)), max: rounded(percentile(values, 1)), count: values.length });

let counter = 0;
const fresh = (name) => `bench-${name}-${process.pid}-${counter++}`;

/** Each contender in turn, every round in the other direction. */
async function inTurn(kind, contenders, body) {
  for (let round = 0; round < PLAN.rounds; round++) {
    for (const contender of round % 2 ? contenders.toReversed() : contenders) {
      if (contender.side === "original" && round >= PLAN.originalRounds) continue;
      say(`${kind}, ${contender.side}, round ${round + 1}/${contender.side === "original" ? PLAN.originalRounds : PLAN.rounds}`);
      try {
        const { result, ...used } = contender.pid ? await watched(contender.pid, () => body(contender)) : { result: await body(contender) };
        record({ kind, side: contender.side, round, ...result, ...used });
      } catch (error) {
        // What the original does not bear is a figure too.
        if (contender.side !== "original") throw error;
        record({ kind, side: contender.side, round, error: String(error.message).slice(0, 300) });
      }
    }
  }
}

// === measures ===

/** From `chat.send` to the first piece of the answer, less the model's own time; turns one after the other. */
async function firstToken({ client, side }, model, { gapMs, count, tokens, sessionKey }) {
  const runs = [];
  let key = sessionKey;
  for (let n = 0; n < count; n++) {
    if (!sessionKey && n % TURNS_EACH === 0) key = `agent:main:${fresh("first")}`;
    runs.push(await client.turn({ id: fresh("run"), sessionKey: key, tokens, gapMs }));
  }
  const log = await model.taken();
  const parts = { added: [], up: [], down: [], end: [] };
  for (const { id, sentAt, arrivals, endedAt } of runs) {
    const { requests, gotAt, writes } = log.get(id) ?? {};
    if (!requests || (side !== "original" && requests > 1) || arrivals.length !== tokens) throw new Error(`${side}: run ${id} asked the model ${requests} times and brought ${arrivals.length} of ${tokens} tokens`);
    parts.added.push(arrivals[0] - sentAt - (writes[0] - gotAt));
    parts.up.push(gotAt - sentAt);
    parts.down.push(arrivals[0] - writes[0]);
    parts.end.push(endedAt - writes.at(-1));
  }
  return Object.fromEntries(Object.entries(parts).map(([name, values]) => [name, spread(values)]));
}

/** `count` turns, 50 sessions at once, each beginning its next when one has ended. */
async function turns({ client }, model, count) {
  const keys = Array.from({ length: SESSIONS }, () => `agent:main:${fresh("turns")}`);
  let left = count;
  const took = [];
  const from = now();
  await Promise.all(keys.map(async (sessionKey) => {
    while (left-- > 0) {
      const run = await client.turn({ id: fresh("run"), sessionKey, tokens: 8, gapMs: 0 });
      took.push(run.endedAt - run.sentAt);
    }
  }));
  const seconds = (now() - from) / 1000;
  await model.taken();
  return { perSecond: rounded(count / seconds), turns: count, sessions: Math.min(SESSIONS, count), ms: spread(took) };
}

/** Runs that stream at once: none begins before the model has been asked by all, or by as many as ask in time. */
async function streams({ client, side }, model, count) {
  const group = fresh("group");
  const from = now();
  const begun = await Promise.allSettled(Array.from({ length: count }, (_, n) => client.begin({ id: fresh("run"), sessionKey: `agent:main:bench-stream-${n}`, tokens: PLAN.tokens, gapMs: GAP_MS, group })));
  const runs = begun.flatMap(({ value }) => value ?? []);
  let arrived = 0;
  await until("the model to be asked by all", async () => (arrived = await model.arrived(group)) >= runs.length, { timeoutMs: PLAN.gatherS * 1000 }).catch(() => {});
  const gatheredMs = rounded(now() - from);
  await model.open(group);
  const states = await Promise.all(runs.map((run) => within("end", run.ended).catch(() => "late")));
  const log = await model.taken();
  const late = [];
  let [lost, deltas] = [0, 0];
  for (const { id, arrivals, deltas: own } of runs) {
    const { writes } = log.get(id) ?? { writes: [] };
    deltas += own;
    lost += PLAN.tokens - arrivals.length;
    late.push(...arrivals.map((at, k) => at - writes[k]));
  }
  const failed = count - states.filter((state) => state === "final").length;
  if (side !== "original" && (failed || lost)) throw new Error(`${side}: ${failed} of ${count} runs failed, ${lost} tokens were lost`);
  return { streams: count, arrived, failed, lost, tokens: PLAN.tokens, gatheredMs, deltasPerToken: rounded(deltas / (count * PLAN.tokens)), ms: spread(late) };
}

/** One method, again and again; the first call apart, since it may have to read what the others find. */
async function calls({ client }, method, params) {
  const { ms: first } = await client.call(method, params);
  const took = [];
  const from = now();
  while (took.length < PLAN.calls && now() - from < PLAN.callsS * 1000) took.push((await client.call(method, params)).ms);
  return { firstMs: rounded(first), ms: spread(took) };
}

// === what there is to measure on ===

/** `body(n)` for n from 0, `width` at once, until `count` are done or time is up; how many were. */
async function fill({ count, width, seconds }, body) {
  let [next, done] = [0, 0];
  const from = now();
  await Promise.all(Array.from({ length: width }, async () => {
    while (next < count && now() - from < seconds * 1000) {
      await body(next++);
      done += 1;
    }
  }));
  return { done, seconds: rounded((now() - from) / 1000) };
}

/** Ours is filled by turns, as use fills it. */
async function fillOurs({ client }, model) {
  const turn = (sessionKey) => client.turn({ id: fresh("fill"), sessionKey, tokens: 8, gapMs: 0 });
  const messages = await fill({ count: PLAN.messages / 2, width: 1, seconds: PLAN.fillS }, () => turn(LONG));
  const sessions = await fill({ count: PLAN.sessions, width: 32, seconds: PLAN.fillS }, (n) => turn(`agent:main:bench-many-${n}`));
  await model.taken();
  record({ kind: "filled", side: "ours", by: "turns", messages: { ...messages, done: messages.done * 2 }, sessions });
}

/** A turn of the original takes too long for that: `chat.inject` and `sessions.create`. */
async function fillOriginal({ client }) {
  await client.call("sessions.create", { key: LONG, label: "Long" });
  const messages = await fill({ count: PLAN.messages, width: 4, seconds: PLAN.originalFillS }, (n) => client.call("chat.inject", { sessionKey: LONG, message: `Message ${n} of a long conversation.` }));
  const sessions = await fill({ count: PLAN.sessions, width: 4, seconds: PLAN.originalFillS }, (n) => client.call("sessions.create", { key: `agent:main:bench-many-${n}`, label: `Filled ${n}` }));
  record({ kind: "filled", side: "original", by: "chat.inject, sessions.create", messages, sessions });
}

async function memory(contenders, when) {
  await pause(PLAN.settleS);
  for (const { side, pid } of contenders) {
    if (!pid) continue;
    const { rssMb, pssMb, processes } = treeMemory(pid);
    record({ kind: "memory", side, when, rssMb: processes.length === 1 ? vmRssMb(pid) : rssMb, pssMb, processes: processes.length });
  }
}

// === the run ===

async function measure(wanted) {
  const model = await startBenchModel();
  const config = withModel(model);
  // By default the original lets eight runs work at once; here nobody waits for a place.
  config.agents.defaults.maxConcurrent = 512;
  const gateways = [];
  try {
    say("starting ours");
    const ours = await startOurs({ config });
    gateways.push(ours);
    say("starting the original");
    const original = await startOriginal({ config });
    gateways.push(original);
    const both = [
      { side: "ours", pid: ours.child.pid, client: await Watcher.open(ours) },
      { side: "original", pid: original.child.pid, client: await Watcher.open(original) },
    ];
    const all = [...both, { side: "direct", client: new Direct(model) }];

    await memory(both, "after start");
    for (const contender of both) {
      say(`first turns, ${contender.side}`);
      record({ kind: "cold", side: contender.side, ...(await firstToken(contender, model, { gapMs: 0, count: 1, tokens: 8 })) });
      await firstToken(contender, model, { gapMs: 0, count: PLAN.warm, tokens: 8 });
    }
    await memory(both, `after ${PLAN.warm + 1} turns`);

    if (wanted("first")) await inTurn("first", all, (one) => firstToken(one, model, { gapMs: 0, count: one.side === "original" ? PLAN.originalFirst : PLAN.first, tokens: 8 }));
    if (wanted("paced")) await inTurn("paced", all, (one) => firstToken(one, model, { gapMs: GAP_MS, count: one.side === "original" ? PLAN.originalPaced : PLAN.paced, tokens: 4 }));
    if (wanted("turns")) await inTurn("turns", both, (one) => turns(one, model, one.side === "original" ? PLAN.originalTurns : PLAN.turns));
    if (wanted("streams")) {
      await inTurn("streams", [all[0], all[2]], (one) => streams(one, model, PLAN.streams));
      for (const count of PLAN.originalStreams) {
        say(`streams, original, ${count} at once`);
        const { result, ...used } = await watched(original.child.pid, () => streams(both[1], model, count));
        record({ kind: "streams", side: "original", round: 0, ...result, ...used });
        // The most that it bears is looked for, from above.
        if (result.arrived === count && !result.failed && !result.lost) break;
      }
    }
    if (wanted("lists")) {
      say("filling");
      await fillOurs(both[0], model);
      await fillOriginal(both[1]);
      await inTurn("startup", both, (one) => calls(one, "chat.startup", { sessionKey: LONG }));
      await inTurn("list", both, (one) => calls(one, "sessions.list", { limit: 100, includeDerivedTitles: true, includeLastMessage: true }));
      await inTurn("first, long", both, (one) => firstToken(one, model, { gapMs: 0, count: one.side === "original" ? 2 : 20, tokens: 8, sessionKey: LONG }));
      await memory(both, "at the end");
    }
    for (const { client } of all) await client.end();
  } finally {
    for (const gateway of gateways) await gateway.stop();
    await model.stop();
  }
}

function write(text, source) {
  fs.writeFileSync(path.join(repoRoot, "docs/agent-benchmarks.md"), agentReport(text, source));
}

async function main() {
  if (options.report) return write(fs.readFileSync(options.report, "utf8"), path.relative(repoRoot, path.resolve(options.report)));
  if (process.platform !== "linux") throw new Error("the benchmarks read /proc: run them on Linux");
  process.env.GATEWAY_BIN ??= path.join(repoRoot, "target", options.profile, "openclaw-gateway");
  if (!fs.existsSync(gatewayBinary())) throw new Error(`${gatewayBinary()} is missing: build it with \`cargo build --release --locked -p gateway\``);
  const only = options.only?.split(",");
  record({ kind: "conditions", mode, profile: options.profile, date: new Date().toISOString(), machine: machine(), versions: versions(), fsyncMs: fsyncs() });
  await measure((name) => !only || only.includes(name));
  record({ kind: "end", seconds: Math.round((performance.now() - began) / 1000) });
  const text = `${lines.join("\n")}\n`;
  // A smoke run shows that the harness works; its figures are no document. Nor is a part of a run.
  if (options["no-write"] || only || mode === "smoke") {
    const document = agentReport(text, "(not kept)");
    process.stdout.write(`${text}\n${document}`);
    return;
  }
  const source = `bench/results/${new Date().toISOString().slice(0, 10)}-agent.jsonl`;
  fs.mkdirSync(path.join(repoRoot, "bench/results"), { recursive: true });
  fs.writeFileSync(path.join(repoRoot, source), text);
  write(text, source);
  say(`written: ${source}, docs/agent-benchmarks.md`);
}

/** What one small durable write costs where the gateways keep their state: each message that is accepted waits for one. */
function fsyncs() {
  const folder = fs.mkdtempSync(path.join(process.env.TMPDIR ?? "/tmp", "openclaw-rs-fsync-"));
  const file = fs.openSync(path.join(folder, "file"), "w");
  const took = [];
  for (let n = 0; n < 200; n++) {
    const from = now();
    fs.writeSync(file, Buffer.alloc(4096), 0, 4096, n * 4096);
    fs.fdatasyncSync(file);
    took.push(now() - from);
  }
  fs.closeSync(file);
  fs.rmSync(folder, { recursive: true });
  return spread(took);
}

// Ends through `process.exit`, which ends the children too (tests/lib/child.mjs).
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.once(signal, () => process.exit(130));
await main();
process.exit(0);
