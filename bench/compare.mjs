// Ours and its peers in turn (A B C, C B A, …) under the same load, held to the targets.
import { once } from "node:events";
import fs from "node:fs";
import { startOriginal, startOurs, TOKEN } from "../tests/lib/gateway.mjs";
import { startModel } from "../tests/lib/model.mjs";
import { Device, RawClient } from "../tests/lib/raw.mjs";
import { gatewayBinary, until } from "../tests/lib/tools.mjs";
import { withModel } from "./baseline.mjs";
import { IdleLoad, commandLine, startPeer, wrk, wrkArgs, wsLoad } from "./load.mjs";
import { accepts, sends } from "./messages.mjs";
import { hasEnded, loadAverage, tree, treeMemory, vmRssMb, watched } from "./machine.mjs";
import { median, medianOf } from "./numbers.mjs";
import { timeToReady } from "./ready.mjs";

/** Sizes by mode. `original…` are what the original is asked for comparison only. */
const PLANS = {
  full: { rounds: 5, seconds: 6, bridgedSeconds: 20, listeners: 1000, fanoutRounds: 10, ticks: 2, starts: 20, originalStarts: 2, loadedClients: 200, idleClients: 10_000, originalIdleClients: 10_000, uiClients: 1000, uiSeconds: 10, stopClients: 1000, stops: 3, supervisedStops: 2 },
  quick: { rounds: 3, seconds: 2, bridgedSeconds: 5, listeners: 1000, fanoutRounds: 4, ticks: 1, starts: 8, originalStarts: 1, loadedClients: 200, idleClients: 10_000, originalIdleClients: 0, uiClients: 1000, uiSeconds: 5, stopClients: 1000, stops: 1, supervisedStops: 1 },
  smoke: { rounds: 1, seconds: 1, bridgedSeconds: 1, listeners: 50, fanoutRounds: 1, ticks: 0, starts: 2, originalStarts: 0, loadedClients: 20, idleClients: 300, originalIdleClients: 0, uiClients: 20, uiSeconds: 1, stopClients: 50, stops: 1, supervisedStops: 0 },
};

/** A cheap method that only the upstream answers. */
const BRIDGED_METHOD = "question.list";

const MEASURES = [healthz, wsHealth, wsTrivial, bridged, fanout, start, memory, presence, stop, accepts, sends];

export async function compare({ mode, say, only }) {
  const chosen = MEASURES.filter(({ name }) => !only || only.includes(name));
  const unknown = only?.filter((name) => !MEASURES.some((measure) => measure.name === name)) ?? [];
  if (unknown.length) throw new Error(`--only ${unknown.join(",")}: the measures are ${MEASURES.map(({ name }) => name).join(", ")}`);
  if (!fs.existsSync(gatewayBinary())) throw new Error(`${gatewayBinary()} is missing: build it with \`cargo build --release -p gateway\``);
  const field = new Field({ plan: PLANS[mode], say });
  const results = [];
  try {
    for (const measure of chosen) {
      const load = loadAverage();
      const began = performance.now();
      say(measure.name);
      results.push({ name: measure.name, ...(await measure(field)), load, seconds: Math.round((performance.now() - began) / 1000) });
    }
  } finally {
    await field.clear();
  }
  return results;
}

/** The gateways and peers of a run, each started when first needed and kept. */
class Field {
  #running = new Map();

  constructor({ plan, say }) {
    this.plan = plan;
    this.say = say;
  }

  async #once(name, open) {
    if (!this.#running.has(name)) {
      this.say(`starting ${name}`);
      this.#running.set(name, await open());
    }
    return this.#running.get(name);
  }

  ours() {
    return this.#once("ours", () => startOurs());
  }

  /** With the original behind it. */
  bridge() {
    return this.#once("bridge", async () => startOurs({ upstream: { attach: await this.original() } }));
  }

  model() {
    return this.#once("model", () => startModel());
  }

  original() {
    return this.#once("original", async () => startOriginal({ config: withModel(await this.model()), timeoutMs: 180_000 }));
  }

  peer(name) {
    return this.#once(name, () => startPeer(name));
  }

  /** Takes one out to stop it by the caller's own means; the next use starts a new one. */
  async end(name) {
    const running = this.#running.get(name);
    this.#running.delete(name);
    await running?.stop();
  }

  async clear() {
    // In reverse: what was started last leans on what was started first.
    for (const name of [...this.#running.keys()].toReversed()) await this.end(name);
  }

  /** Every contender in turn, in alternating order so that a drift of the machine hits all alike. */
  async rounds(contenders, body) {
    const rows = contenders.map((contender) => ({ ...contender, rounds: [] }));
    for (let round = 0; round < this.plan.rounds; round++) {
      for (const row of round % 2 ? rows.toReversed() : rows) {
        const load = loadAverage();
        const { result, cores, peakRssMb } = await watched(row.pid, () => body(row));
        row.rounds.push({ load, ...result, cores, peakRssMb });
      }
    }
    return rows.map(({ kind, label, rounds }) => ({ kind, label, rounds }));
  }

  /** The contenders of a throughput measure. */
  async contenders(peer) {
    const [ours, original, bare] = [await this.ours(), await this.original(), peer && (await this.peer(peer.binary))];
    return [
      { kind: "ours", label: "ours", authority: `127.0.0.1:${ours.port}`, pid: ours.child.pid },
      { kind: "original", label: "the original", authority: `127.0.0.1:${original.port}`, pid: original.child.pid },
      ...(bare ? [{ kind: "peer", label: peer.label, authority: bare.authority, pid: bare.pid }] : []),
    ];
  }
}

const row = (rows, kind) => rows.find((one) => one.kind === kind);
const atLeast = (what, value, target, unit) => ({ what, value, target, unit, compare: ">=", ok: value !== null && value >= target });
const atMost = (what, value, target, unit) => ({ what, value, target, unit, compare: "<=", ok: value !== null && value <= target });
const below = (what, value, target, unit) => ({ what, value, target, unit, compare: "<", ok: value !== null && value < target });

function ratios(rows, { original, peer }) {
  const rate = (kind) => medianOf(row(rows, kind).rounds, "perSecond");
  return [
    atLeast("against the original", rate("ours") / rate("original"), original, "×"),
    ...(peer ? [atLeast(`against ${row(rows, "peer").label}`, rate("ours") / rate("peer"), peer, "share")] : []),
  ];
}

async function healthz(field) {
  const { seconds } = field.plan;
  const rows = await field.rounds(await field.contenders({ binary: "bare-axum", label: "a bare axum hello" }), ({ authority }) => wrk(`http://${authority}/healthz`, { seconds }));
  return {
    title: "`GET /healthz`, 50 connections",
    command: `wrk ${wrkArgs("http://HOST/healthz", { seconds }).join(" ")}`,
    throughput: rows,
    checks: ratios(rows, { original: 6, peer: 0.8 }),
  };
}

async function wsHealth(field) {
  const options = { connections: 50, method: "health", durationS: field.plan.seconds };
  const rows = await field.rounds(await field.contenders(), ({ authority }) => wsLoad("closed", { target: authority, token: TOKEN, ...options }));
  return {
    title: "WebSocket `health`, 50 connections",
    command: commandLine("closed", { target: "HOST", ...options }),
    throughput: rows,
    checks: [...ratios(rows, { original: 50 }), below("p99", medianOf(row(rows, "ours").rounds, "latencyMs.p99"), 5, "ms")],
  };
}

async function wsTrivial(field) {
  const options = { connections: 50, method: "last-heartbeat", durationS: field.plan.seconds };
  const rows = await field.rounds(await field.contenders({ binary: "bare-echo", label: "a bare WebSocket echo" }), ({ kind, authority }) =>
    wsLoad("closed", { target: authority, token: TOKEN, echo: kind === "peer", ...options }));
  return {
    title: "WebSocket `last-heartbeat` (trivial method), 50 connections",
    command: commandLine("closed", { target: "HOST", ...options }),
    throughput: rows,
    checks: ratios(rows, { original: 5, peer: 0.7 }),
  };
}

/** Both ways are asked within each 5 ms slot, so that both see the same state of the one original behind them. */
async function bridged(field) {
  const [original, bridge] = [await field.original(), await field.bridge()];
  const options = { target: `127.0.0.1:${original.port}`, also: [`127.0.0.1:${bridge.port}`], connections: 4, rate: 200, method: BRIDGED_METHOD, durationS: field.plan.bridgedSeconds };
  const rounds = [];
  for (let round = 0; round < field.plan.rounds; round++) {
    const load = loadAverage();
    const { result, cores } = await watched(bridge.child.pid, () => wsLoad("rate", { token: TOKEN, ...options }));
    const [direct, through] = result.targets;
    rounds.push({ load, direct, through, sentLateMs: result.sentLateMs, cores, added: { p50: through.latencyMs.p50 - direct.latencyMs.p50, p99: through.latencyMs.p99 - direct.latencyMs.p99 } });
  }
  const lost = rounds.reduce((sum, { direct, through }) => sum + direct.unanswered + through.unanswered + direct.errors.count + through.errors.count, 0);
  return {
    title: `Bridged call (\`${BRIDGED_METHOD}\`) at a fixed 200/s, through us and direct`,
    command: commandLine("rate", { ...options, target: "ORIGINAL", also: ["OURS"] }),
    rounds,
    checks: [
      atMost("added at p50", medianOf(rounds, "added.p50"), 0.3, "ms"),
      atMost("added at p99", medianOf(rounds, "added.p99"), 1, "ms"),
      atMost("unanswered or refused", lost, 0, "calls"),
    ],
  };
}

async function fanout(field) {
  const { listeners, fanoutRounds, ticks } = field.plan;
  const options = { connections: listeners, event: "presence", triggerArrival: true, rounds: fanoutRounds, gapMs: 1500 };
  const rows = [];
  for (const [kind, gateway] of [["ours", await field.ours()], ["original", await field.original()]]) {
    const result = await wsLoad("fanout", { target: `127.0.0.1:${gateway.port}`, token: TOKEN, pid: gateway.child.pid, ...options });
    rows.push({ kind, label: kind === "ours" ? "ours" : "the original", event: "presence, when a client arrives", rounds: result.rounds });
  }
  const spreadMs = median(rows[0].rounds.map((round) => round.spreadMs));
  const checks = [atMost("first to last of all clients, `presence`, median", spreadMs, 20, "ms")];
  const command = [commandLine("fanout", { target: "HOST", ...options })];
  if (ticks) {
    const awaited = { connections: listeners, event: "tick", rounds: ticks, gapMs: 0 };
    const ours = await field.ours();
    const result = await wsLoad("fanout", { target: `127.0.0.1:${ours.port}`, token: TOKEN, pid: ours.child.pid, ...awaited });
    rows.push({ kind: "ours", label: "ours", event: "tick", rounds: result.rounds });
    checks.push(atMost("last client after the event's own time stamp, `tick`", Math.max(...result.rounds.map((round) => round.lastSinceTsMs)), 20, "ms"));
    command.push(commandLine("fanout", { target: "HOST", ...awaited }));
  }
  return { title: `Fan-out: one event to ${listeners} clients`, command: command.join("; "), listeners, fanout: rows, checks };
}

async function start(field) {
  const rows = [];
  const ours = await startOurs();
  try {
    rows.push({ kind: "ours", label: "ours, no upstream", starts: await starts(ours, field.plan.starts) });
  } finally {
    await ours.stop();
  }
  if (field.plan.originalStarts) {
    const original = await field.original();
    // Its port stays, so the bridge finds it again.
    rows.push({ kind: "original", label: "the original", starts: await starts(original, field.plan.originalStarts) });
  }
  return {
    title: "Start to `/readyz` 200",
    command: "openclaw-gateway run; from spawn, asked every millisecond",
    starts: rows,
    checks: [atMost("median of ours", medianOf(rows[0].starts, "readyzMs"), 50, "ms")],
  };
}

/** On existing state, which is what a start is on every day but the first. */
async function starts(gateway, count) {
  const all = [];
  for (let n = 0; n < count; n++) {
    await gateway.child.stop();
    gateway.spawn();
    all.push(await timeToReady(gateway));
  }
  return all;
}

async function memory(field) {
  const { loadedClients, idleClients, originalIdleClients, seconds } = field.plan;
  const options = { connections: loadedClients, method: "health", durationS: Math.max(3, seconds) };
  const rows = [];
  const checks = [];
  const ours = await startOurs();
  try {
    await pause(2);
    const idle = vmRssMb(ours.child.pid);
    rows.push({ kind: "ours", label: "ours, idle", rssMb: idle });
    checks.push(atMost("idle", idle, 15, "MB"));
    const loaded = await wsLoad("closed", { target: `127.0.0.1:${ours.port}`, token: TOKEN, pid: ours.child.pid, ...options });
    const peak = Math.round((loaded.usage.serverPeakKb / 1024) * 10) / 10;
    rows.push({ kind: "ours", label: `ours, ${loadedClients} clients under load`, rssMb: peak });
    checks.push(atMost(`${loadedClients} clients under load, at most`, peak, 50, "MB"));
    await ours.restart();
    const load = await IdleLoad.start({ target: `127.0.0.1:${ours.port}`, token: TOKEN, connections: idleClients, pid: ours.child.pid });
    await pause(3);
    const many = vmRssMb(ours.child.pid);
    rows.push({ kind: "ours", label: `ours, ${idleClients} idle clients`, rssMb: many, connectSeconds: load.connected.seconds });
    checks.push(atMost(`${idleClients} idle authenticated backend clients`, many, 100, "MB"));
    await load.end();
  } finally {
    await ours.stop();
  }
  const original = await field.original();
  const pid = original.child.pid;
  const idle = treeMemory(pid);
  rows.push({ kind: "original", label: "the original, idle", ...idle });
  const { peakRssMb } = await watched(pid, () => wsLoad("closed", { target: `127.0.0.1:${original.port}`, token: TOKEN, ...options }));
  rows.push({ kind: "original", label: `the original, ${loadedClients} clients under load`, rssMb: peakRssMb });
  if (originalIdleClients) {
    const load = await IdleLoad.start({ target: `127.0.0.1:${original.port}`, token: TOKEN, connections: originalIdleClients });
    rows.push({ kind: "original", label: `the original, ${originalIdleClients} idle clients`, ...treeMemory(pid), connectSeconds: load.connected.seconds });
    await load.end();
  }
  return {
    title: "Resident memory: ours VmRSS, the original its process tree",
    command: `${commandLine("closed", { target: "HOST", ...options })}; ${commandLine("idle", { target: "HOST", connections: idleClients })}`,
    memory: rows,
    checks,
  };
}

/** UI clients change `presence` when they come and go: everyone hears of it at most once a second. */
async function presence(field) {
  const { uiClients, uiSeconds } = field.plan;
  const ours = await startOurs();
  try {
    const options = { target: `127.0.0.1:${ours.port}`, connections: uiClients, clientId: "openclaw-tui", clientMode: "ui", device: true };
    const load = await IdleLoad.start({ token: TOKEN, pid: ours.child.pid, ...options });
    // Arrivals for the whole time: each alone would be an event to every client.
    const device = new Device();
    const came = [];
    const began = performance.now();
    while (performance.now() - began < uiSeconds * 1000) {
      const client = await RawClient.open(ours.wsUrl);
      const hello = await client.connect({ token: TOKEN, client: { id: "openclaw-tui", mode: "ui", instanceId: `arrival-${came.length}` }, device });
      if (hello.payload?.type !== "hello-ok") throw new Error(`refused: ${JSON.stringify(hello)}`);
      came.push(client);
    }
    const seconds = (performance.now() - began) / 1000;
    const rssMb = vmRssMb(ours.child.pid);
    const seen = await load.end();
    await Promise.all(came.map((client) => client.end()));
    // The connecting took time too, but its events went to those connected so far; a bound on both is what matters.
    const total = load.connected.seconds + seconds;
    const perClientPerSecond = (seen.events.presence ?? 0) / uiClients / total;
    return {
      title: `Presence with ${uiClients} UI clients while others arrive`,
      command: commandLine("idle", { ...options, target: "HOST" }),
      facts: { "clients that stayed": uiClients, "clients that arrived": came.length, seconds: Math.round(total * 10) / 10, "presence events to all": seen.events.presence ?? 0, "events per client and second": Math.round(perClientPerSecond * 1000) / 1000, "event bytes to all": seen.eventBytes, "VmRSS MB": rssMb },
      // One event may be under way at each end of the time.
      checks: [atMost("events per client and second", perClientPerSecond, 1 + 1 / total, "/s"), atLeast("presence events were sent", seen.events.presence ?? 0, 1, "events")],
    };
  } finally {
    await ours.stop();
  }
}

async function stop(field) {
  const { stopClients, stops, supervisedStops } = field.plan;
  const rows = [];
  const checks = [];
  for (let n = 0; n < stops; n++) {
    const ours = await startOurs();
    try {
      rows.push({ kind: "ours", label: `ours, ${stopClients} clients`, ...(await stopped(ours, { connections: stopClients })) });
    } finally {
      await ours.stop();
    }
  }
  checks.push(below(`${stopClients} clients, none in flight, at most`, Math.max(...rows.map((one) => one.exitMs)), 1500, "ms"), toldAll(rows, stopClients));
  const calls = 50;
  const cases = [
    { what: `${calls} bridged \`agent.wait\` in flight`, options: { calls, method: "agent.wait", params: '{"runId":"none-{n}","timeoutMs":120000}' } },
    { what: `${calls} bridged agent runs in flight`, options: { calls, method: "agent", accepts: 1, params: '{"message":"[[slow one two three]]","sessionKey":"agent:main:stop-{n}","idempotencyKey":"stop-{n}"}' } },
  ];
  for (const { what, options } of supervisedStops ? cases : []) {
    const mine = [];
    for (let n = 0; n < supervisedStops; n++) {
      field.say(`${what}, under supervision`);
      const ours = await startOurs({ upstream: "supervise", config: withModel(await field.model()), timeoutMs: 180_000 });
      try {
        await upstreamAnswers(ours);
        mine.push({ kind: "ours", label: `ours, ${what}`, ...(await stopped(ours, { connections: calls, ...options })) });
      } finally {
        await ours.stop();
        (await field.model()).release();
      }
    }
    rows.push(...mine);
    checks.push(below(`${what}, child included, at most`, Math.max(...mine.map((one) => one.goneMs)), 5000, "ms"), toldAll(mine, calls));
  }
  if (supervisedStops) {
    const original = await field.original();
    rows.push({ kind: "original", label: `the original, ${stopClients} clients`, ...(await stopped(original, { connections: stopClients })) });
    await field.end("bridge");
    await field.end("original");
  }
  return { title: "SIGTERM to exit", command: `${commandLine("idle", { target: "HOST", connections: stopClients })}; kill -TERM`, stops: rows, checks };
}

function toldAll(rows, clients) {
  const told = Math.min(...rows.map(({ ended }) => Math.min(ended.events.shutdown ?? 0, ended.closes["1012 service restart"] ?? 0)));
  return atLeast("clients told `shutdown` and closed with 1012", told, clients, "clients");
}

async function upstreamAnswers(gateway) {
  const client = await RawClient.open(gateway.wsUrl);
  await client.connect({ token: TOKEN });
  await until("the supervised original to answer", async () => (await client.call(BRIDGED_METHOD, {})).ok, { timeoutMs: 180_000 });
  await client.end();
}

/** SIGTERM with these clients connected: ms to exit, ms until no process of its tree is left, how the clients ended. */
async function stopped(gateway, options) {
  const load = await IdleLoad.start({ target: `127.0.0.1:${gateway.port}`, token: TOKEN, scopes: "operator.admin,operator.read,operator.write", ...options });
  if (options.calls) {
    await load.step("inFlight", 120_000);
    // Each client's own upstream connection opens with its first call; nothing outside tells when all are through.
    await pause(2);
  }
  const pids = tree(gateway.child.pid);
  const exit = once(gateway.child.process, "exit");
  const began = performance.now();
  gateway.child.kill("SIGTERM");
  const [code, signal] = await exit;
  const exitMs = performance.now() - began;
  await until("its children to be gone", () => pids.every(hasEnded), { everyMs: 5 });
  const goneMs = performance.now() - began;
  const ended = await load.ended();
  return { exitMs: Math.round(exitMs), goneMs: Math.round(goneMs), exit: code ?? signal, ended };
}

function pause(seconds) {
  return new Promise((resolve) => setTimeout(resolve, seconds * 1000));
}
