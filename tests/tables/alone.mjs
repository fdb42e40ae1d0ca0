// Asks the original, freshly started and never used, what clients ask when they load. Where no agent has run,
// a gateway without an upstream must answer the same.
//   node tests/tables/alone.mjs --write      rewrites crates/gateway/tests/captures/alone.json
import fs from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { startOriginal, TOKEN } from "../lib/gateway.mjs";
import { RawClient } from "../lib/raw.mjs";
import { repoRoot } from "../lib/tools.mjs";

export const file = path.join(repoRoot, "crates/gateway/tests/captures/alone.json");

const KEY = "agent:main:main";

// Automations would run agents while we ask.
const CONFIGS = [
  { cron: { enabled: false } },
  {
    cron: { enabled: false },
    agents: {
      defaults: { model: { primary: "fake/tiny" } },
      entries: {
        zoe: { name: "Zoe", identity: { name: "Zoe Z", emoji: "🦊", theme: "calm" } },
        ada: { workspace: "~/ada-work" },
        main: {},
      },
    },
    models: { providers: { fake: { baseUrl: "http://127.0.0.1:9/v1", api: "openai-completions", apiKey: "k", models: [{ id: "tiny", name: "Tiny" }] } } },
  },
];

const CALLS = [
  ["agent.identity.get", { agentId: "main" }], ["agent.identity.get", { agentId: "zoe" }], ["agent.identity.get", { sessionKey: "agent:ada:x" }], ["agent.identity.get", {}],
  ["agents.list", {}], ["approval.history", {}], ["artifacts.list", { sessionKey: KEY }], ["audit.list", {}],
  ["board.get", { sessionKey: "main" }], ["channels.status", {}], ["chat.abort", { sessionKey: KEY }],
  ["chat.history", { sessionKey: KEY }], ["chat.history", { sessionKey: "main" }], ["chat.startup", { sessionKey: KEY, limit: 80, maxBytes: 262144 }],
  ["chat.metadata", {}], ["commands.list", {}], ["controlUi.sessionPullRequests.subscribe", { sessionKeys: [] }],
  ["cron.list", { agentId: "nobody", limit: 20, offset: 0 }], ["cron.runs", {}], ["cron.status", {}], ["environments.list", {}],
  ["exec.approval.list", {}], ["mentions.list", {}], ["models.authStatus", {}], ["models.list", {}],
  ["openclaw.approval.list", {}], ["plugin.approval.list", {}], ["progressCard.get", { sessionKey: KEY }],
  ["projects.list", {}], ["question.list", {}], ["session.discussion.info", { sessionKey: KEY }],
  ["sessions.branches.list", { sessionKey: KEY }], ["sessions.catalog.list", {}], ["sessions.companion.state", { sessionKey: KEY }],
  ["sessions.describe", { key: KEY }], ["sessions.groups.defaults", {}], ["sessions.groups.list", {}],
  ["sessions.list", {}], ["sessions.list", { configuredAgentsOnly: true, limit: 10000 }], ["sessions.list", { agentId: "main", limit: 3 }],
  ["sessions.messages.subscribe", { key: "Main" }], ["sessions.messages.subscribe", { key: "agent:Ada:Tele:1" }], ["sessions.messages.subscribe", { key: "work" }],
  ["sessions.messages.unsubscribe", { key: KEY }], ["sessions.observer.visibility", { visible: true }],
  ["sessions.preview", { keys: [KEY, "x"] }], ["sessions.resolve", { key: KEY }], ["sessions.resolve", {}], ["sessions.resolve", { key: "nope", allowMissing: true }],
  ["sessions.search", { query: "x" }], ["sessions.subscribe", {}], ["sessions.subscribe", { limit: 10 }],
  ["sessions.viewers.set", { sessionKeys: [KEY, "main", KEY] }],
  ["set-heartbeats", { enabled: false }], ["set-heartbeats", {}], ["set-heartbeats", { enabled: "yes" }],
  ["status", {}], ["status", { includeCliProjection: true }], ["system.info", {}], ["talk.catalog", {}],
  ["taskSuggestions.list", {}], ["tasks.list", {}], ["update.status", {}], ["usage.status"],
  ["users.prefs.get", { keys: ["ui.theme"] }], ["users.self", {}], ["worktrees.list", {}], ["health"],
];

async function answers(config) {
  const target = await startOriginal({ config });
  try {
    const client = await RawClient.open(target.wsUrl);
    const hello = await client.connect({ token: TOKEN });
    const rows = [];
    for (const [method, params] of CALLS) {
      const { ok, payload, error } = await client.call(method, params);
      rows.push({ method, ...(params === undefined ? {} : { params }), ...(ok ? { payload } : { error }) });
    }
    await client.end();
    const scrub = (text) => text.replaceAll(target.stateDir, "/state").replaceAll(String(target.port), "18789");
    // The original rewrites older spellings when it starts, so the file as it is now is what answers follow.
    const { gateway: _gateway, ...own } = JSON.parse(fs.readFileSync(path.join(target.stateDir, "openclaw.json"), "utf8"));
    return scrub(JSON.stringify({ config: own, snapshot: hello.payload.snapshot, rows: "ROWS" })).replace('"ROWS"', `[\n${rows.map((row) => scrub(JSON.stringify(row))).join(",\n")}\n]`);
  } finally {
    await target.stop();
  }
}

export async function record() {
  const recorded = [];
  for (const config of CONFIGS) recorded.push(await answers(config));
  return `[${recorded.join(",\n")}]\n`;
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href && process.argv.includes("--write")) {
  fs.writeFileSync(file, await record());
  console.log(`wrote ${path.relative(repoRoot, file)}`);
}
