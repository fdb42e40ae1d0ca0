// OpenClaw's memory slot, answered by openclaw-gateway: the tools of agents, the prompt's section on them, and the search
// runtime that OpenClaw's own pages and plugins ask. Nothing is kept here; every question goes to `/api/memory`.
import fs from "node:fs/promises";
import path from "node:path";
import { flushPlan } from "./flush.js";

const ID = "openclaw-rs-memory";
const TIMEOUT_MS = 20_000;
const STATUS_TIMEOUT_MS = 5_000;
/** An index is made in one call. */
const INDEX_TIMEOUT_MS = 600_000;
const WHY_CHARS_MAX = 500;

// === the way to the gateway ===

/** Whether an address is one of this machine. */
function isLocal(url) {
  if (!URL.canParse(url)) return false;
  const { hostname } = new URL(url);
  return hostname === "localhost" || hostname === "[::1]" || /^127(\.\d+){3}$/.test(hostname);
}

/**
 * Where it is and what is shown there. A supervised OpenClaw is told by its gateway. OpenClaw's own secret is shown to the gateway
 * that supervises it and on this machine; whoever else is configured gets the token that is configured beside it.
 */
function gateway(api) {
  const { url, token, timeoutMs = TIMEOUT_MS } = api.pluginConfig ?? {};
  const current = api.runtime?.config?.current?.() ?? api.config;
  const auth = current?.gateway?.auth ?? {};
  const text = (value) => (typeof value === "string" && value.trim() ? value.trim() : undefined);
  const plain = (value) => text(value)?.replace(/\/+$/, "");
  const supervisor = plain(process.env.OPENCLAW_RS_URL);
  const at = plain(url) ?? supervisor;
  const { OPENCLAW_GATEWAY_TOKEN, OPENCLAW_GATEWAY_PASSWORD } = process.env;
  // A mode that is not configured is inferred: whoever has a password means it.
  const hasPassword = text(auth.password) ?? (text(auth.token) ? undefined : text(OPENCLAW_GATEWAY_PASSWORD));
  const byPassword = auth.mode === "password" || (!auth.mode && hasPassword !== undefined);
  const own = () => (byPassword ? (text(auth.password) ?? text(OPENCLAW_GATEWAY_PASSWORD)) : (text(auth.token) ?? text(OPENCLAW_GATEWAY_TOKEN)));
  return { url: at, secret: text(token) ?? (at && (at === supervisor || isLocal(at)) ? own() : undefined), timeoutMs };
}

/** The answer of `POST /api/memory/WHAT`; throws in words for whoever runs the gateway. */
async function ask(api, what, params, { signal, timeoutMs } = {}) {
  const { url, secret, timeoutMs: patience } = gateway(api);
  if (!url) {
    throw new Error(`the memory gateway's address is not known: openclaw config set plugins.entries.${ID}.config.url http://127.0.0.1:18789`);
  }
  const limit = AbortSignal.timeout(timeoutMs ?? patience);
  let response;
  let text;
  try {
    response = await fetch(`${url}/api/memory/${what}`, {
      method: "POST",
      headers: { "content-type": "application/json", ...(secret ? { authorization: `Bearer ${secret}` } : {}) },
      body: JSON.stringify(params),
      redirect: "error",
      signal: signal ? AbortSignal.any([signal, limit]) : limit,
    });
    text = await response.text();
  } catch (error) {
    if (signal?.aborted) throw error;
    const why = limit.aborted ? `no answer within ${timeoutMs ?? patience} ms` : (error.cause?.message ?? error.message);
    throw new Error(`openclaw-gateway at ${url} can't be asked (${why}): check that it runs, and plugins.entries.${ID}.config.url`, { cause: error });
  }
  let answer;
  try {
    answer = JSON.parse(text);
  } catch {
    throw new Error(`${url} answered ${response.status} and no JSON: check that plugins.entries.${ID}.config.url is an openclaw-gateway with /api/memory`);
  }
  if (response.ok) return answer;
  const said = String(answer.error?.message ?? answer.error ?? "no reason given").slice(0, WHY_CHARS_MAX);
  const hint = response.status === 401 || response.status === 403 ? `: set plugins.entries.${ID}.config.token to a token of that gateway` : "";
  throw new Error(`openclaw-gateway at ${url} refused (${response.status} ${said})${hint}`);
}

// === where a memory comes from ===

let recorded;

/** OpenClaw's own record of who wrote a file of a workspace. */
async function recordOf(place) {
  recorded ??= import("openclaw/plugin-sdk/memory-core-host-runtime-core").then((sdk) => {
    if (typeof sdk.readMemoryArtifactProvenance !== "function") throw new Error("this OpenClaw has no record of who wrote memory files");
    return sdk.readMemoryArtifactProvenance;
  });
  return (await recorded)(place);
}

/** The rules of docs/concepts/memory-architecture.md: what is not known to be the agent's own is not trusted. */
async function originOf(workspaceDir, file) {
  const parts = file.split("/");
  if (path.posix.isAbsolute(file) || path.win32.isAbsolute(file) || parts.includes("..") || file.includes("\\")) return "untrusted";
  if (/^dreams\.md$/i.test(file) || (parts[0] === "memory" && ["dreaming", ".dreams"].includes(parts[1]))) return "system";
  const isMemory = ["MEMORY.md", "memory.md", "USER.md"].includes(file) || /^users\/[a-zA-Z0-9][\w-]{0,127}\/USER\.md$/.test(file) || (parts[0] === "memory" && file.endsWith(".md"));
  if (!isMemory) return "untrusted";
  return (await recordOf({ workspaceDir, relativePath: file }))?.originClass ?? "agent";
}

/** A file's path from its workspace on, without links; undefined when it is not there or elsewhere. */
async function canonical(workspaceDir, file) {
  try {
    const [root, full] = await Promise.all([fs.realpath(workspaceDir), fs.realpath(path.resolve(workspaceDir, file))]);
    const inside = path.relative(root, full).replaceAll(path.sep, "/");
    return inside && !inside.startsWith("../") && !path.isAbsolute(inside) ? inside : undefined;
  } catch {
    return undefined;
  }
}

async function originHere(workspaceDir, file) {
  const inside = workspaceDir && (await canonical(workspaceDir, file));
  return inside ? originOf(workspaceDir, inside) : "untrusted";
}

/** What the engine calls the agent's own is so only if OpenClaw has no other record of it. */
async function withOrigins(hits, workspaceDir) {
  return Promise.all(hits.map(async (hit) => {
    if (!hit.provenance || hit.provenance.originClass === "untrusted") return hit;
    const originClass = await originHere(workspaceDir, hit.path).catch(() => "untrusted");
    return { ...hit, provenance: { ...hit.provenance, originClass } };
  }));
}

// === the tools of agents ===

const corpora = (...names) => ({ type: "string", enum: names });
const positive = { type: "integer", minimum: 1 };
const TOOLS = {
  memory_search: {
    label: "Memory Search",
    description:
      "Searches what was remembered: MEMORY.md, USER.md, the notes under memory/ and what was kept beside them. Use it before answering anything " +
      "about earlier work, decisions, dates, people, preferences or open tasks. Whole questions are fine; \"words in quotes\" must occur, and beginn* finds " +
      "words that begin so. Hits have a path and lines for memory_get. A warning means that the result is not complete: say so.",
    parameters: {
      type: "object",
      properties: { query: { type: "string" }, maxResults: positive, minScore: { type: "number" }, corpus: corpora("memory", "wiki", "all", "sessions") },
      required: ["query"],
      additionalProperties: false,
    },
  },
  memory_get: {
    label: "Memory Get",
    description:
      "Reads lines of one memory file that memory_search has named. Without from and lines it reads its beginning; nextFrom says where to go on. " +
      "status is ok, not_found or error; error means that reading failed, not that there is no memory.",
    parameters: {
      type: "object",
      properties: { path: { type: "string" }, from: positive, lines: positive, corpus: corpora("memory", "wiki", "all") },
      required: ["path"],
      additionalProperties: false,
    },
  },
};

const isOff = (config, agentId) =>
  (config?.agents?.entries?.[agentId]?.memory?.search?.enabled ?? config?.memory?.search?.enabled) === false;

/** What a tool says when the gateway can't be asked; search as OpenClaw's own says it. */
function unavailable(name, args, error) {
  const why = { error, warning: "Memory can't be searched now.", action: "Tell the user that memory was not available, and why." };
  if (name === "memory_search") return { results: [], disabled: true, unavailable: true, ...why, debug: why };
  return { path: String(args.path ?? ""), text: "", status: "error", ...why };
}

function tool(api, name, context) {
  const config = context.getRuntimeConfig?.() ?? context.runtimeConfig ?? context.config;
  if (isOff(config, context.agentId)) return null;
  return {
    name,
    ...TOOLS[name],
    async execute(_callId, args, signal) {
      let details;
      try {
        const answer = await ask(api, "tool", { name, args: args ?? {}, agentId: context.agentId, sessionKey: context.sessionKey }, { signal });
        if (answer.ok !== true) throw new Error(answer.error?.message ?? "the gateway gave no reason");
        details = answer.output.details;
        if (details.results) details = { ...details, results: await withOrigins(details.results, context.workspaceDir) };
      } catch (error) {
        if (signal?.aborted) throw error;
        api.logger?.warn?.(`${name}: ${error.message}`);
        details = unavailable(name, args ?? {}, error.message);
      }
      return { content: [{ type: "text", text: JSON.stringify(details, null, 2) }], details };
    },
  };
}

function promptSection({ availableTools, citationsMode }) {
  const [search, get] = [availableTools.has("memory_search"), availableTools.has("memory_get")];
  if (!search && !get) return [];
  return [
    "## Memory",
    search
      ? `Before you answer what concerns earlier work, decisions, dates, people, preferences or open tasks, call memory_search${get ? ", then memory_get for the lines you need" : ""}. If you are still not sure, say that you looked.`
      : "What concerns earlier work, decisions, dates, people, preferences or open tasks may stand in a memory file: read it with memory_get when one is named.",
    "Tell the user when memory could not be searched, or not all of it.",
    citationsMode === "off" ? "Name no files or lines in answers unless you are asked to." : "Name the source (file#line) where it helps to check what you say.",
    "",
  ];
}

// === the runtime that OpenClaw itself searches by ===

function manager(api, agentId, workspaceDir, status) {
  let state = status;
  const refresh = async () => {
    state = await ask(api, "status", { agentId }, { timeoutMs: STATUS_TIMEOUT_MS });
  };
  const byMeaning = () => ({ ok: state.provider !== "none", ...(state.provider === "none" ? { error: "no embedder is chosen: openclaw-gateway memory embedder" } : {}) });
  return {
    async search(query, { maxResults, minScore, lexicalOnly, sources, signal } = {}) {
      const params = { query, agentId, maxResults, minScore, ...(lexicalOnly ? { lexicalOnly: true } : {}) };
      const answer = await ask(api, "search", params, { signal });
      const hits = answer.results.map((hit) => ({ ...hit, source: hit.source === "sessions" ? "sessions" : "memory" }));
      return withOrigins(hits.filter((hit) => !sources || sources.includes(hit.source)), workspaceDir);
    },
    readFile: ({ relPath, from, lines }) => ask(api, "get", { path: relPath, agentId, from, lines }),
    status: () => ({
      backend: "builtin", provider: state.provider, ...(state.model ? { model: state.model } : {}), files: state.files, chunks: state.chunks,
      dirty: state.pending > 0, workspaceDir: state.workspaceDir, fts: { enabled: true, available: state.fts?.available !== false, ...(state.fts?.error ? { error: state.fts.error } : {}) },
      vector: { enabled: state.provider !== "none", available: state.provider !== "none", ...(state.vectors?.dimensions ? { dims: state.vectors.dimensions } : {}) },
      custom: { engine: "openclaw-gateway", ...(state.warning ? { warning: state.warning } : {}) },
    }),
    async sync() {
      state = await ask(api, "index", { agentId }, { timeoutMs: INDEX_TIMEOUT_MS });
    },
    async probeEmbeddingAvailability() {
      await refresh();
      return byMeaning();
    },
    probeVectorAvailability: async () => byMeaning().ok,
    close: async () => {},
  };
}

const runtime = (api) => ({
  async getMemorySearchManager({ cfg, agentId }) {
    if (isOff(cfg, agentId)) return { manager: null, error: "memory search is off for this agent" };
    try {
      const status = await ask(api, "status", { agentId }, { timeoutMs: STATUS_TIMEOUT_MS });
      return { manager: manager(api, agentId, status.workspaceDir, status), debug: { backend: "builtin" } };
    } catch (error) {
      return { manager: null, error: error.message };
    }
  },
  resolveMemoryBackendConfig: () => ({ backend: "builtin" }),
  supportsWorkspaceMemoryReadSources: true,
  classifyWorkspaceMemoryPaths: ({ workspaceDir, relativePaths, readSources }) =>
    Promise.all(relativePaths.map(async (relativePath) => {
      if (!readSources) return { relativePath, originClass: await originHere(workspaceDir, relativePath) };
      const file = readSources.find((source) => source.relativePath === relativePath)?.canonicalRelativePath;
      return { relativePath, originClass: file ? await originOf(workspaceDir, file) : "untrusted" };
    })),
});

export default {
  id: ID,
  name: "openclaw-gateway memory",
  description: "Answers memory_search and memory_get from the memory engine of openclaw-gateway.",
  kind: "memory",
  register(api) {
    api.registerMemoryCapability({
      deterministicRecallToolName: "memory_search",
      promptBuilder: promptSection,
      flushPlanResolver: flushPlan,
      runtime: runtime(api),
    });
    const plugins = (api.runtime?.config?.current?.() ?? api.config)?.plugins;
    if (plugins?.entries?.["memory-core"]?.enabled !== false && !plugins?.deny?.includes("memory-core")) {
      api.logger?.warn?.("memory-core is on too, and its memory_search and memory_get come first: openclaw plugins disable memory-core");
    }
    for (const name of Object.keys(TOOLS)) api.registerTool((context) => tool(api, name, context), { names: [name] });
  },
};
