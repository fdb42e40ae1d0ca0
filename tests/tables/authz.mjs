// Asks the original's own scope functions about every method and many params; crates/wire answers the same.
//   node tests/tables/authz.mjs --write      rewrites crates/wire/tests/captures/authz.json
import fs from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { openclawPackage, repoRoot } from "../lib/tools.mjs";

export const file = path.join(repoRoot, "crates/wire/tests/captures/authz.json");

const SCOPE_SETS = [
  [],
  ["operator.read"],
  ["operator.write"],
  ["operator.sessions.read"],
  ["operator.sessions.write"],
  ["operator.approvals", "operator.questions", "operator.pairing"],
  ["operator.read", "operator.talk.secrets"],
  ["operator.pairing", "operator.sessions.write"],
  ["operator.talk"],
  ["operator.admin"],
  ["not.a.scope"],
];

const move = (target, more = {}) => ({
  key: "agent:main:main", expected: { generation: 1, environmentId: "env-1", ownerEpoch: 2 }, target, ...more,
});
const profile = { kind: "profile", profileId: "aws" };
const device = { kind: "device", deviceId: "d1" };

const PARAMS = {
  agent: ["/new", "/reset now", "/NEW\nx", "/newer", " /new", "/reset\u00a0x", "hello /new", "/reset\ufeff", 7, null].map((message) => ({ message })),
  "node.invoke": [
    { command: "system.run" }, { command: "system.execApprovals.set" }, { command: "browser.proxy" }, { command: "browser.proxy.upload.v1" },
    { command: " browser.proxy" }, { command: "fs.listDir" }, { command: "terminal.upload" }, { command: "canvas.show" }, { command: 4 },
    ...["POST", "post ", "DELETE", "GET"].flatMap((method) =>
      ["/profiles/create", "profiles/create//", "/reset-profile", "/profiles/x", "/profiles/x/y", "/profiles/", "/", "  "].map((p) => ({ command: "browser.proxy", params: { method, path: p } }))),
    { command: "browser.proxy", params: [] }, { command: "browser.proxy", params: "POST" },
  ],
  "sessions.create": [
    { agentId: "main" }, { incognito: true }, { incognito: "true" }, { key: "agent:main:dashboard:incognito-1" }, { key: " AGENT:Main:Subagent:INCOGNITO-x " },
    { key: "agent:main:dashboard:incognito-" }, { key: "agent:main:main:incognito-1" }, { key: "agent::dashboard:incognito-1" }, { key: "agent:a:dashboard:incognito-1:2" },
    { parentSessionKey: "agent:main:internal-session-effects:incognito-1" }, { execNode: null }, { toolOverrides: {} },
    { permissionMode: "full" }, { permissionMode: "ask" },
  ],
  "sessions.patch": [
    { key: "a", label: "x" }, { key: "a", pinned: true, archived: false, unread: true, model: "m", thinkingLevel: "low", fastMode: true, agentRuntime: "x", permissionMode: "ask", icon: "i", color: "c", category: "g" },
    { key: "a", permissionMode: "full" }, { key: "a", sandboxMode: "off" }, { key: "a", execHost: "x" }, { key: "a", expectedSessionId: "s", agentId: "main" }, { key: "a", spawnDepth: 1 },
  ],
  "sessions.patchMany": [
    { keys: [], patch: { label: "x" } }, { patch: { key: "a" } }, { patch: { permissionMode: "full" } }, { patch: { sandboxMode: null } }, { patch: [] }, { patch: { archived: true }, anything: 1 },
  ],
  "sessions.delete": [
    { key: "a" }, { key: "a", archivedOnly: true }, { key: "a", archivedOnly: 1 }, { key: "a", archivedOnly: true, deleteTranscript: true, expectedSessionId: "s", agentId: "m" }, { key: "a", archivedOnly: true, force: true },
  ],
  "sessions.dispatch": [
    { key: "a" }, { key: "a", profileId: "p" }, { key: "a", deviceId: "d" }, { key: "a", autoDevice: true }, { key: "a", autoDevice: false }, { key: "a", profileId: "p", deviceId: "d" },
    { key: "a", profileId: "p", machineClass: "big", os: "linux" }, { key: "a", machineClass: "big" }, { key: "a", deviceId: "d", os: "linux" }, { profileId: "p" }, { key: "", profileId: "p" },
    { key: "a", profileId: "p", os: "x".repeat(65) }, { key: "a", profileId: "p", machineClass: "x".repeat(128) }, { key: "a", x: 1 }, { key: 1 }, { key: "a", agentId: "" },
  ],
  "sessions.move": [
    move(profile), move(device), move({ kind: "gateway" }), move(profile, { abandonSource: true }), move(device, { abandonSource: true }), move(profile, { extra: 1 }),
    move({ ...profile, machineClass: "c", os: "o" }), move({ ...profile, profileId: " a" }), move({ ...profile, profileId: "a\nb" }), move({ ...profile, deviceId: "d" }),
    { ...move(profile), expected: { generation: -1, environmentId: "e", ownerEpoch: 1 } }, { ...move(profile), expected: { generation: 1.5, environmentId: "e", ownerEpoch: 1 } },
    { ...move(profile), expected: { generation: 0, environmentId: "e", ownerEpoch: 0 } }, { ...move(profile), expected: { generation: 0, environmentId: "e" } }, { key: "a", target: profile },
    move(profile, { agentId: "main" }), move(profile, { agentId: "" }),
  ],
  "talk.config": [{ includeSecrets: true }, { includeSecrets: "true" }, {}],
  "fs.listDir": [{ path: "/" }, { nodeId: null }, { nodeId: "n" }],
  "channels.pairing.approve": [{ bootstrapCommandOwner: true }, { bootstrapCommandOwner: false }],
  "plugins.sessionAction": [{ pluginId: "p", actionId: "a" }, { pluginId: " ", actionId: "a" }, { pluginId: "p" }, {}],
  "environments.list": [{ runtimeId: "r" }, { runtimeId: "" }, { runtimeId: 3 }, {}],
  "sessions.recover": [{ key: "a" }],
  "question.resolve": [{ id: "q" }],
};

export async function cases() {
  const dist = path.join(openclawPackage, "dist");
  const bundle = fs.readdirSync(dist).find((name) => name.startsWith("method-scopes-") && fs.readFileSync(path.join(dist, name), "utf8").includes("//#region src/gateway/method-scopes.ts"));
  const exported = await import(pathToFileURL(path.join(dist, bundle)));
  const named = (name) => Object.values(exported).find((value) => typeof value === "function" && value.name === name);
  const authorize = named("authorizeOperatorScopesForMethod");
  const required = named("resolveLeastPrivilegeOperatorScopesForMethod");
  const isNode = named("isNodeRoleMethod");
  const core = named("listCoreGatewayMethodNames")();
  const calls = core.filter((name) => name !== "health" && !isNode(name)).flatMap((name) => {
    const shapes = [{}, { params: [] }, { params: "text" }, ...(PARAMS[name] ?? []).map((params) => ({ params }))];
    return (PARAMS[name] ? shapes : shapes.slice(0, 1)).map((shape) => ({ method: name, ...shape }));
  });
  for (const name of ["nope", "config.unknown", "wizard.nope", "update.x", "exec.approvals.x"]) calls.push({ method: name });
  const rows = calls.map(({ method, params }) => {
    const least = required(method, params);
    const answers = SCOPE_SETS.map((scopes) => {
      const { allowed, missingScope, sessionScope } = authorize(method, scopes, params);
      return allowed ? (sessionScope ? { sessionScope } : true) : missingScope;
    });
    // Requests carry parsed JSON, so what is recorded is what JSON can say.
    return { method, ...(params === undefined ? {} : { params }), required: least, answers };
  });
  return `${JSON.stringify({ scopeSets: SCOPE_SETS, nodeMethods: core.filter(isNode) }).slice(0, -1)},"rows":[\n${rows.map((row) => JSON.stringify(row)).join(",\n")}\n]}\n`;
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href && process.argv.includes("--write")) {
  fs.mkdirSync(path.dirname(file), { recursive: true });
  fs.writeFileSync(file, await cases());
  console.log(`wrote ${path.relative(repoRoot, file)}`);
}
