// Executes one scripted run on a side: calls, waits for events, and in the end what each watcher saw, normalised.
import { fill, pick } from "./session.mjs";
import { ALL_SCOPES } from "../lib/raw.mjs";

/** Events a run makes. Their order is compared per name: two names travel through different queues. */
const WATCHED = ["agent", "chat", "session.message", "session.tool"];

const AGENT_FIELDS = new Set(["runId", "sessionKey", "sessionId", "agentId", "stream", "data", "ts", "isHeartbeat"]);

/** What an answer's row says of its run, which ends at that moment: `sessions.list` and `sessions.describe` are compared when it is over. */
const MOVING = [
  "activeModel", "activeModelProvider", "activeRunIds", "agentStatus", "contextBudgetStatus", "endedAt", "estimatedCostUsd", "hasActiveRun", "inputTokens",
  "lastMessagePreview", "lastRunId", "outputTokens", "runtimeMs", "startedAt", "status", "totalTokens", "totalTokensFresh",
];

const WAIT_MS = 60_000;

/** What one client saw of the runs, with streamed text merged: kinds in order and the text each ends with. */
export function normalise(frames, runIds) {
  const seen = Object.fromEntries(WATCHED.map((name) => [name, []]));
  for (const { event, payload } of frames.filter((f) => f.type === "event" && WATCHED.includes(f.event))) {
    const runId = payload.runId ?? payload.message?.__openclaw?.runId;
    if (runId !== undefined && !runIds.has(runId)) continue;
    const list = seen[event];
    const item = structuredClone(payload);
    // Tool events carry the session's row when the gateway has it at hand, and not otherwise.
    if (event === "agent") for (const name of Object.keys(item)) if (!AGENT_FIELDS.has(name)) delete item[name];
    if (event === "agent" && item.stream === "tool") delete item.sessionId;
    if (event === "session.message" && item.message?.role === "assistant") for (const row of [item, item.session ?? {}]) for (const name of MOVING) delete row[name];
    // Numbers of merged pieces and what was in one piece say nothing about the whole.
    delete item.seq;
    const text = event === "agent" && item.stream === "assistant" ? item.data : event === "chat" && item.state === "delta" ? item : undefined;
    if (text) {
      delete text.delta;
      delete text.deltaText;
      const last = list.at(-1);
      if (last && kindOf(event, last) === kindOf(event, item)) list.pop();
    }
    list.push(item);
  }
  return seen;
}

const kindOf = (event, item) => (event === "agent" ? `${item.stream}/${item.data?.phase ?? ""}/${item.data?.itemId ?? ""}` : `${item.state}/${item.runId}`);

/** Frame numbers of a connection: 1, 2, 3, … without a gap. */
function gapless(frames) {
  const numbers = frames.filter((f) => f.type === "event" && f.seq !== undefined).map((f) => f.seq);
  return numbers.every((n, i) => n === i + 1);
}

/** All of a run's events are there: an aborted one is told as `aborted` before it has put itself away. */
async function settled(client, script, name, put) {
  for (const runId of script.runs) {
    const of = (frame) => frame.event === "agent" && frame.payload.runId === runId;
    if (!client.frames.some(of)) continue;
    const isLast = (frame) => of(frame) && frame.payload.stream === "lifecycle" && frame.payload.data.executionSettled === true;
    await client.frame(`${script.id}: the end of ${runId}`, isLast, { timeoutMs: WAIT_MS })
      .catch((error) => put(`runs/${script.id}/${name}-end-of-${runId}`, { failed: error.message }));
  }
}

export async function runScript(session, script, put) {
  const runIds = new Set(script.runs);
  const clients = new Map();
  const open = async (name) => {
    if (clients.has(name)) return clients.get(name);
    const client = await session.open();
    const hello = await client.connect({ ...session.side.secretAuth(), scopes: script.scopes ?? ALL_SCOPES, caps: script.caps ?? ["tool-events"] });
    if (!hello.ok) throw new Error(`${script.id}: ${JSON.stringify(hello.error)}`);
    clients.set(name, client);
    return client;
  };
  for (const name of new Set(["watcher", ...script.steps.flatMap((step) => step.on ?? [])])) await open(name);
  for (const [i, step] of script.steps.entries()) {
    const client = await open(step.on ?? "watcher");
    const id = `runs/${script.id}/${String(i + 1).padStart(2, "0")}-${step.name ?? step.call ?? "wait"}`;
    if (step.until) {
      const matches = (frame) => frame.event === step.until.event
        && Object.entries(step.until.payload ?? {}).every(([key, value]) => JSON.stringify(pick(frame.payload, key)) === JSON.stringify(value));
      await client.frame(`${id}: ${JSON.stringify(step.until)}`, matches, { timeoutMs: WAIT_MS })
        .catch((error) => put(id, { failed: error.message }));
    } else if (step.send) {
      const requestId = `${script.id}-${i}`;
      client.methods.set(requestId, step.send);
      client.send({ type: "req", id: requestId, method: step.send, params: fill(step.params, session.saved) });
    } else {
      const requestId = `${script.id}-${i}`;
      const from = client.frames.length;
      const answer = await client.call(step.call, fill(step.params, session.saved), { id: requestId, timeoutMs: WAIT_MS, ...(step.final ? { final: (f) => !f.ok || f.payload?.status !== "accepted" } : {}) })
        .catch((error) => (error.close ? { closed: error.close } : { failed: error.message }));
      const all = step.final ? client.frames.slice(from).filter((f) => f.type === "res" && f.id === requestId) : [answer];
      put(id, session.mask.with([...(script.mask ?? []), ...(step.mask ?? [])]).apply(all));
    }
  }
  for (const [name, client] of clients) {
    if (script.watch?.[name] === false) continue;
    await settled(client, script, name, put);
    const seen = normalise(client.frames, runIds);
    for (const [event, items] of Object.entries(seen)) {
      put(`runs/${script.id}/${name}-${event}`, session.mask.with(script.eventMask).apply({ events: items }));
    }
    put(`runs/${script.id}/${name}-numbers`, { gapless: gapless(client.frames) });
    await client.end();
  }
}
