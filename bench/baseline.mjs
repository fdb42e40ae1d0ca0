// The original alone: what it costs, how fast it answers, and which of its operations are slowest under the same load.
import path from "node:path";
import { startOriginal, TOKEN } from "../tests/lib/gateway.mjs";
import { MODEL_ID, modelConfig, startModel } from "../tests/lib/model.mjs";
import { RawClient } from "../tests/lib/raw.mjs";
import { IdleLoad, commandLine, wrk, wrkArgs, wsLoad } from "./load.mjs";
import { loadAverage, treeMemory, watched } from "./machine.mjs";
import { timeToReady } from "./ready.mjs";

const SEEDED = 20;
const MAIN = "agent:main:seed-1";

/** How long and how often, by mode. */
const PLANS = {
  full: { rounds: 3, seconds: 8, starts: 3, turns: 20, concurrentTurns: 20, operationSeconds: 3, longestSeconds: 45, settleSeconds: 30, idleSeconds: 10, profiles: true },
  quick: { rounds: 3, seconds: 3, starts: 1, turns: 6, concurrentTurns: 8, operationSeconds: 1, longestSeconds: 15, settleSeconds: 10, idleSeconds: 3, profiles: true },
  smoke: { rounds: 1, seconds: 1, starts: 1, turns: 1, concurrentTurns: 2, operationSeconds: 0.3, longestSeconds: 1, settleSeconds: 1, idleSeconds: 1, profiles: false },
};

/** Methods under the standard load of 50 connections. */
const CORE = [
  ["last-heartbeat", {}],
  ["health", {}],
  ["sessions.list", { limit: 50 }],
  ["config.get", {}],
  ["models.list", {}],
];

/** Reading operations of every area; the table of the slowest comes from these. */
const OPERATIONS = [
  ...CORE,
  ["status", {}],
  ["system-presence", {}],
  ["system.info", {}],
  ["gateway.identity.get", {}],
  ["diagnostics.stability", {}],
  ["diagnostics.lanes", {}],
  ["doctor.memory.status", {}],
  ["logs.tail", { limit: 200 }],
  ["channels.status", {}],
  ["usage.status", {}],
  ["usage.cost", {}],
  ["sessions.usage", {}],
  ["tts.status", {}],
  ["tts.providers", {}],
  ["config.schema", {}],
  ["config.schema.lookup", { path: "gateway.port" }],
  ["talk.catalog", {}],
  ["commands.list", {}],
  ["models.authStatus", {}],
  ["tools.catalog", {}],
  ["tools.effective", { sessionKey: MAIN }],
  ["agents.list", {}],
  ["agent.identity.get", {}],
  ["agents.files.list", { agentId: "main" }],
  ["audit.list", {}],
  ["tasks.list", {}],
  ["environments.list", {}],
  ["worktrees.list", {}],
  ["skills.status", {}],
  ["hooks.status", {}],
  ["plugins.list", {}],
  ["voicewake.get", {}],
  ["question.list", {}],
  ["sessions.preview", { keys: [MAIN] }],
  ["sessions.describe", { key: MAIN }],
  ["chat.history", { sessionKey: MAIN, limit: 100 }],
  ["chat.startup", { sessionKey: MAIN, limit: 100 }],
  ["chat.metadata", {}],
  ["sessions.catalog.list", {}],
  ["sessions.storage.status", {}],
  ["node.list", {}],
  ["device.pair.list", {}],
  ["cron.list", {}],
  ["cron.status", {}],
  ["update.status", {}],
  ["transcripts.list", {}],
  ["webSearch.status", {}],
  ["themes.list", {}],
];

export async function baseline({ mode, say }) {
  const plan = PLANS[mode];
  const model = await startModel();
  const started = [];
  let gateway;
  try {
    say("start of the original on fresh state");
    gateway = await startOriginal({ config: withModel(model), waitReady: false });
    started.push({ state: "fresh", ...(await timeToReady(gateway)) });
    for (let again = 0; again < plan.starts; again++) {
      say(`start again ${again + 1}/${plan.starts}`);
      await gateway.child.stop();
      gateway.spawn();
      started.push({ state: "existing", ...(await timeToReady(gateway)) });
    }
    const pid = gateway.child.pid;
    const authority = `127.0.0.1:${gateway.port}`;
    const client = await RawClient.open(gateway.wsUrl);
    const hello = await client.connect({ token: TOKEN });
    if (hello.payload?.type !== "hello-ok") throw new Error(`the original refused us: ${JSON.stringify(hello)}`);
    await call(client, "health", {});

    say("idle");
    const memory = [{ when: "idle, after start", ...treeMemory(pid) }];
    const idleCpu = await watched(pid, () => pause(plan.idleSeconds));

    say("seeding sessions and agent turns");
    const turns = await agentTurns({ client, plan, pid, model });
    memory.push({ when: `after ${turns.done} agent turns`, ...treeMemory(pid) });

    const throughput = [];
    say("GET /healthz");
    const healthz = await rounds(plan.rounds, async () => {
      const { result, cores, peakRssMb } = await watched(pid, () => wrk(`${gateway.url}/healthz`, { seconds: plan.seconds }));
      return { ...result, cores, peakRssMb };
    });
    throughput.push({ name: "GET /healthz", command: `wrk ${wrkArgs("http://HOST/healthz", { seconds: plan.seconds }).join(" ")}`, rounds: healthz });
    for (const [method, params] of CORE) {
      say(`${method}, 50 connections`);
      const options = { target: authority, connections: 50, method, params, durationS: plan.seconds, atLeast: 100, longestS: plan.longestSeconds };
      const measured = await rounds(plan.rounds, async () => {
        const { result, cores, peakRssMb } = await watched(pid, () => wsLoad("closed", { token: TOKEN, ...options }));
        return { ...result, cores, peakRssMb };
      });
      throughput.push({ name: `WS ${method}`, command: commandLine("closed", { ...options, target: "HOST" }), rounds: measured });
    }
    memory.push({ when: "right after throughput load", ...treeMemory(pid) });

    const profiles = [];
    if (plan.profiles) {
      for (const [method, params] of CORE) {
        say(`CPU profile under ${method}`);
        profiles.push({ method, ...(await profiled({ client, authority, method, params })) });
      }
    }

    const operations = [];
    for (const [method, params] of OPERATIONS) {
      say(`operation ${method}`);
      operations.push(await operation({ authority, method, params, plan, pid }));
    }
    memory.push({ when: "right after every reading operation", ...treeMemory(pid) });
    await pause(plan.settleSeconds);
    memory.push({ when: `${plan.settleSeconds} s later`, ...treeMemory(pid) });

    say("200 idle clients");
    const idlers = await IdleLoad.start({ target: authority, token: TOKEN, connections: mode === "smoke" ? 50 : 200 });
    memory.push({ when: `with ${idlers.connected.connections} idle clients`, ...treeMemory(pid) });
    await idlers.end();

    say("SIGTERM");
    await client.end();
    const stopping = performance.now();
    await gateway.child.stop(60_000);
    const stopMs = Math.round(performance.now() - stopping);
    return { plan, starts: started, idleCores: idleCpu.cores, turns, throughput, operations, memory, profiles, stopMs };
  } finally {
    await gateway?.stop();
    await model.stop();
  }
}

/** Settings of a gateway whose only and default model is the scripted one. */
export function withModel(model) {
  return { ...modelConfig(model), agents: { defaults: { model: { primary: `scripted/${MODEL_ID}` } } } };
}

async function agentTurns({ client, plan, pid, model }) {
  for (let seed = 0; seed < SEEDED; seed++) await call(client, "sessions.create", { key: `agent:main:seed-${seed}`, label: `Seeded ${seed}` });
  const turn = async (name, sessionKey) => {
    const started = performance.now();
    const answer = await client.call("agent", { message: "Say hello.", sessionKey, idempotencyKey: `turn-${name}` }, { timeoutMs: 180_000, final: (frame) => frame.payload?.status !== "accepted" });
    if (answer.payload?.status !== "ok") throw new Error(`agent turn failed: ${JSON.stringify(answer).slice(0, 500)}`);
    return Math.round(performance.now() - started);
  };
  const firstMs = await turn("first", MAIN);
  const { result: sequentialMs, cores } = await watched(pid, async () => {
    const all = [];
    for (let n = 0; n < plan.turns; n++) all.push(await turn(`sequential-${n}`, MAIN));
    return all;
  });
  // Its own session for each: turns of one session queue behind each other by design.
  const started = performance.now();
  const concurrentMs = await Promise.all(Array.from({ length: plan.concurrentTurns }, (_, n) => turn(`concurrent-${n}`, `agent:main:seed-${n % SEEDED}`)));
  const seconds = (performance.now() - started) / 1000;
  return {
    seededSessions: SEEDED,
    modelRequests: model.requests.length,
    firstMs,
    sequentialMs,
    sequentialCores: cores,
    concurrentMs,
    concurrentPerSecond: Math.round((plan.concurrentTurns / seconds) * 100) / 100,
    done: 1 + plan.turns + plan.concurrentTurns,
  };
}

/** One method alone (1 connection) and under the standard load (50 connections). */
async function operation({ authority, method, params, plan, pid }) {
  const options = { target: authority, token: TOKEN, method, params, durationS: plan.operationSeconds, warmupS: 0 };
  const alone = await wsLoad("closed", { ...options, connections: 1, atLeast: 5, longestS: plan.longestSeconds });
  const { result: loaded, cores } = await watched(pid, () => wsLoad("closed", { ...options, connections: 50, atLeast: 100, longestS: plan.longestSeconds }));
  return { method, params, alone, loaded, cores };
}

/** The original samples its own main thread for 5 s (`diagnostics.cpuProfile`) while the load runs. */
async function profiled({ client, authority, method, params }) {
  const load = wsLoad("closed", { target: authority, token: TOKEN, connections: 50, method, params, warmupS: 0, durationS: 7 });
  const answer = await client.call("diagnostics.cpuProfile", {}, { timeoutMs: 60_000 });
  await load;
  if (!answer.ok) return { error: answer.error.message };
  const { nodes, samples, timeDeltas } = answer.payload.profile;
  const byId = new Map(nodes.map((node) => [node.id, node]));
  const self = new Map();
  let total = 0;
  samples.forEach((id, index) => {
    const { functionName, url } = byId.get(id).callFrame;
    const file = url ? path.basename(url).replace(/-[\w-]{8}\.m?js$/, "") : "";
    const name = `${functionName || "(anonymous)"}${file ? ` · ${file}` : ""}`;
    self.set(name, (self.get(name) ?? 0) + timeDeltas[index]);
    total += timeDeltas[index];
  });
  const top = [...self].toSorted((a, b) => b[1] - a[1]).slice(0, 12).map(([name, micros]) => ({ name, share: Math.round((micros / total) * 1000) / 1000 }));
  return { seconds: Math.round(answer.payload.actualDurationMs / 100) / 10, top };
}

async function rounds(count, body) {
  const all = [];
  for (let round = 0; round < count; round++) all.push({ load: loadAverage(), ...(await body()) });
  return all;
}

async function call(client, method, params) {
  const answer = await client.call(method, params, { timeoutMs: 60_000 });
  if (!answer.ok) throw new Error(`${method} failed: ${JSON.stringify(answer.error)}`);
  return answer.payload;
}

function pause(seconds) {
  return new Promise((resolve) => setTimeout(resolve, seconds * 1000));
}
