// Where the pinned tools are, free ports, waiting for conditions. No suite sleeps: it waits for a condition.
import fs from "node:fs";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";

export const repoRoot = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "../..");
/** The Node that runs these suites is the pinned one, so OpenClaw runs on it too. */
export const nodeBinary = process.execPath;
export const openclawPackage = fs.realpathSync(path.join(repoRoot, "tests/node_modules/openclaw"));
export const openclawEntry = path.join(openclawPackage, "openclaw.mjs");
/** Our binary under test; `GATEWAY_BIN` overrides (release for benchmarks), read when asked, not when loaded. */
export const gatewayBinary = () =>
  process.env.GATEWAY_BIN ?? path.join(repoRoot, "target/debug/openclaw-gateway");

/** Reserves nothing: asks the kernel for a port that is free on both loopbacks now. */
export async function freePort() {
  for (;;) {
    const port = await new Promise((resolve, reject) => {
      const server = net.createServer().on("error", reject);
      server.listen(0, "127.0.0.1", () => {
        const { port } = server.address();
        server.close(() => resolve(port));
      });
    });
    // OpenClaw derives other ports from its own, so keep away from the top of the range.
    if (port < 60000) return port;
  }
}

/** A private directory, removed by `cleanup` in the caller's `after`. */
export function tempDir(label) {
  return fs.mkdtempSync(path.join(os.tmpdir(), `openclaw-rs-${label}-`));
}

/** Polls `probe` until it returns something truthy; fails with `what` after `timeoutMs`. */
export async function until(what, probe, { timeoutMs = 30_000, everyMs = 20 } = {}) {
  const deadline = Date.now() + timeoutMs;
  let lastError;
  for (;;) {
    try {
      const value = await probe();
      if (value) return value;
    } catch (error) {
      lastError = error;
    }
    if (Date.now() > deadline) {
      throw new Error(`timed out after ${timeoutMs} ms waiting for ${what}`, { cause: lastError });
    }
    await new Promise((resolve) => setTimeout(resolve, everyMs));
  }
}

/** Environment for a child that must not see this machine's own OpenClaw state or secrets. */
export function isolatedEnv(stateDir, extra = {}) {
  const keep = ["PATH", "LANG", "TZ", "TMPDIR"];
  const env = Object.fromEntries(keep.flatMap((k) => (process.env[k] ? [[k, process.env[k]]] : [])));
  return {
    ...env,
    PATH: `${path.dirname(nodeBinary)}:${env.PATH ?? ""}`,
    HOME: stateDir,
    OPENCLAW_STATE_DIR: stateDir,
    OPENCLAW_CONFIG_PATH: path.join(stateDir, "openclaw.json"),
    NO_COLOR: "1",
    ...extra,
  };
}
