// Starts a gateway (the original or ours) on its own state directory. Both answer to the same shape:
// { url, wsUrl, port, token, stateDir, child, stop(), restart() }.
import fs from "node:fs";
import path from "node:path";
import { Child } from "./child.mjs";
import { freePort, gatewayBinary, isolatedEnv, nodeBinary, openclawEntry, tempDir, until } from "./tools.mjs";

export const TOKEN = "conformance-token-0123456789abcdef";

/**
 * The smallest configuration the original accepts, merged with `extra` one level deep under `gateway`. An installation's
 * heartbeat has its own, random moment within its interval: in a long one it does not fall into a test.
 */
export function baseConfig(port, { gateway = {}, agents = {}, ...rest } = {}) {
  return {
    gateway: { mode: "local", port, bind: "loopback", auth: { mode: "token", token: TOKEN }, ...gateway },
    discovery: { mdns: { mode: "off" } },
    agents: { ...agents, defaults: { heartbeat: { every: "168h" }, ...agents.defaults } },
    ...rest,
  };
}

/** A gateway that starts, with another behind it, on a busy machine. */
const START_MS = 180_000;

async function ready(target, timeoutMs) {
  await until(`${target.child.label} readiness on ${target.url}`, async () => target.child.exit || (await fetch(`${target.url}/readyz`)).status === 200, { timeoutMs });
  if (target.child.exit) throw new Error(`${target.child.label} exited with ${JSON.stringify(target.child.exit)}:\n${target.child.output}`);
  return target;
}

async function start({ label, command, args, config, env, stateDir, port, waitReady = true, timeoutMs = START_MS }) {
  stateDir ??= tempDir(label);
  port ??= await freePort();
  const configPath = path.join(stateDir, "openclaw.json");
  if (!fs.existsSync(configPath)) fs.writeFileSync(configPath, JSON.stringify(config(port), null, 2), { mode: 0o600 });
  const target = {
    label,
    port,
    stateDir,
    token: TOKEN,
    url: `http://127.0.0.1:${port}`,
    wsUrl: `ws://127.0.0.1:${port}`,
    env: isolatedEnv(stateDir, env),
    spawn() {
      this.child = new Child(command, args(this), { env: this.env, cwd: stateDir, label });
      return this.child;
    },
    async restart() {
      await this.child.stop();
      this.spawn();
      return ready(this, timeoutMs);
    },
    async stop({ keepState = false } = {}) {
      await this.child.stop();
      if (!keepState) fs.rmSync(stateDir, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
    },
  };
  target.spawn();
  return waitReady ? ready(target, timeoutMs) : target;
}

/** Where our gateway's figures are, once it has said so: a line of its log comes later than its first answer now and then. */
export async function metricsOf(target) {
  const [address] = await until("the address of the metrics", () => /http:\/\/\S+\/metrics/.exec(target.child.output));
  return address;
}

/** The TypeScript gateway, unmodified, from the pinned package. */
export function startOriginal({ config = {}, env = {}, ...rest } = {}) {
  return start({
    label: "original",
    command: nodeBinary,
    args: () => [openclawEntry, "gateway", "run"],
    config: (port) => baseConfig(port, config),
    env,
    ...rest,
  });
}

/**
 * Our gateway. `upstream`: "off" | "supervise" | {attach: <target of startOriginal>}; settings go into its
 * openclaw-gateway.toml. `toml` is appended as written.
 */
export function startOurs({ config = {}, env = {}, upstream = "off", toml = "", stateDir, ...rest } = {}) {
  stateDir ??= tempDir("ours");
  const own = path.join(stateDir, "openclaw-rs");
  fs.mkdirSync(own, { recursive: true, mode: 0o700 });
  const file = path.join(own, "openclaw-gateway.toml");
  if (!fs.existsSync(file)) {
    const lines = ["[admin]", 'listen = "127.0.0.1:0"', "[upstream]"];
    if (typeof upstream === "string") lines.push(`mode = "${upstream}"`);
    else lines.push('mode = "attach"', `url = "${upstream.attach.wsUrl}"`, `token = "${upstream.attach.token}"`);
    if (upstream === "supervise") {
      lines.push(`command = [${JSON.stringify(nodeBinary)}, ${JSON.stringify(openclawEntry)}]`);
    }
    fs.writeFileSync(file, `${lines.join("\n")}\n${toml}\n`);
  }
  return start({
    label: "ours",
    command: gatewayBinary(),
    args: () => ["run"],
    config: (port) => baseConfig(port, config),
    env,
    stateDir,
    ...rest,
  });
}
