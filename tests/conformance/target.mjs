// The two sides of a comparison. A side is a gateway with the same seeded state as its counterpart:
// "original" alone, "attached" (ours with its own original behind it) or "native" (ours alone).
import fs from "node:fs";
import path from "node:path";
import { startOriginal, startOurs, TOKEN } from "../lib/gateway.mjs";
import { modelConfig } from "../lib/model.mjs";
import { Device } from "../lib/raw.mjs";
import { openclawPackage, tempDir } from "../lib/tools.mjs";

/** What both sides share: device keys and the scripted model, so that answers that show them are equal. */
export function fixtures(model) {
  const devices = new Map();
  return {
    model,
    device(name, options) {
      if (!devices.has(name)) devices.set(name, new Device(options));
      return devices.get(name);
    },
    /** Random-looking strings that must be equal on both sides. */
    keep: () => [...devices.values()].flatMap((d) => [d.id, d.publicKey]),
  };
}

/** The user's configuration of a side, before `gateway` of a variant is merged in. */
export function seedConfig(model, stateDir) {
  return {
    ...modelConfig(model),
    agents: {
      defaults: { model: { primary: "scripted/scripted-1" }, workspace: path.join(stateDir, "workspace"), heartbeat: { every: "0m" }, systemAgent: { agentId: "main" } },
      ownership: "explicit",
      entries: { main: { workspace: path.join(stateDir, "workspace") }, second: { name: "Second" } },
    },
    update: { checkOnStart: false },
    // As the original writes it: an older file it would rewrite at its start.
    talk: { agentId: "main" },
    meta: { migrations: { modelPolicyAllowlist: true, utilityModelSeparation: true }, lastTouchedVersion: "2026.9.6" },
  };
}

/** Both sides get paths of equal length, so that sizes that count them agree. */
function sideDir() {
  const dir = tempDir("side");
  fs.mkdirSync(path.join(dir, "workspace"), { recursive: true });
  fs.writeFileSync(path.join(dir, "workspace/conformance.txt"), "A line to read.\n");
  return dir;
}

const ENV = { TZ: "UTC", OPENCLAW_NO_RESPAWN: "1" };
/** Several gateways start at once, on machines that may be busy. */
const START_MS = 240_000;

/** `kind`: "original" | "attached" | "native"; `gateway`: settings of the variant under test. */
export async function startSide(kind, model, { gateway = {}, token = TOKEN } = {}) {
  const places = [];
  const own = sideDir();
  places.push([own, "<STATE>"]);
  const dirs = [own];
  let target;
  let upstream;
  if (kind === "original") {
    target = await startOriginal({ stateDir: own, config: { ...seedConfig(model, own), gateway }, env: ENV, timeoutMs: START_MS });
  } else if (kind === "attached") {
    const behind = sideDir();
    dirs.push(behind);
    places.push([behind, "<STATE>"]);
    // The upstream keeps the token mode it is attached with; everything else of the variant applies to it too.
    const { auth: _auth, trustedProxies: _proxies, ...rest } = gateway;
    upstream = await startOriginal({ stateDir: behind, config: { ...seedConfig(model, behind), gateway: rest }, env: ENV, timeoutMs: START_MS });
    // The workspace is the upstream's: ours only passes such questions on.
    target = await startOurs({ stateDir: own, config: { ...seedConfig(model, behind), gateway }, upstream: { attach: upstream }, env: ENV, timeoutMs: START_MS });
  } else if (kind === "native") {
    // The build that pages must be of is that of the package, as with the original.
    const toml = `[control_ui]\npackage = ${JSON.stringify(openclawPackage)}`;
    target = await startOurs({ stateDir: own, config: { ...seedConfig(model, own), gateway }, upstream: "off", toml, env: ENV, timeoutMs: START_MS });
  } else {
    throw new Error(`unknown kind of side: ${kind}`);
  }
  for (const gatewayTarget of [target, upstream].filter(Boolean)) {
    // Those of the sandbox and of the browser are counted from its own.
    for (const [more, name] of [[0, "<PORT>"], [1, "<PORT+1>"], [11, "<PORT+11>"]]) {
      places.push([gatewayTarget.port + more, name], [`:${gatewayTarget.port + more}`, `:${name}`], [`"port": ${gatewayTarget.port + more}`, `"port": ${name}`]);
    }
    // A small one may stand for any count.
    if (gatewayTarget.child.pid > 999) places.push([gatewayTarget.child.pid, "<PID>"]);
  }
  places.push([`:${model.port}`, ":<MODEL>"], [model.port, "<MODEL>"]);
  return {
    kind, target, upstream, places, token, stateDir: own,
    /** The shared secret of the variant: a token or a password. */
    secret: gateway.auth?.password ?? token,
    /** What a trusted proxy adds, where one is expected. */
    proxyHeaders: gateway.trustedProxies
      ? { "x-forwarded-user": "warm@example.com", "x-forwarded-for": "203.0.113.1", "x-conformance": "1" } : undefined,
    /** Connect parameters of a caller that knows the secret. */
    secretAuth() {
      const { mode = "token", password } = gateway.auth ?? {};
      return mode === "token" ? { token } : mode === "password" ? { password } : {};
    },
    /** Where the agent files are: on the side of the process that runs agents. */
    workspace: path.join(dirs.at(-1), "workspace"),
    url: target.url,
    wsUrl: target.wsUrl,
    async stop() {
      await target.stop();
      await upstream?.stop();
      for (const dir of dirs) fs.rmSync(dir, { recursive: true, force: true });
    },
  };
}

/** Starts both sides at once; stops the one that came up when the other fails. */
export async function startPair(kinds, model, options) {
  const started = await Promise.allSettled(kinds.map((kind) => startSide(kind, model, options)));
  const failed = started.find((one) => one.status === "rejected");
  if (failed) {
    await Promise.all(started.filter((one) => one.status === "fulfilled").map((one) => one.value.stop()));
    throw failed.reason;
  }
  return started.map((one) => one.value);
}

