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

/**
 * Below the range from which Linux gives ports to outgoing connections (32768 on): one of those could take a port between
 * here and its listener, or while that is restarted, even one that knocks at it. Source: ip_local_port_range.
 */
const [from, to] = (process.env.TEST_PORTS ?? "20000-32000").split("-").map(Number);
const PORTS = { from, to };
/** OpenClaw derives other ports from its own, up to this many above it. */
const DERIVED = 16;
const given = new Set();

const canListen = (port, host) => new Promise((resolve, reject) => {
  const server = net.createServer().on("error", (error) => {
    if (error.code === "EADDRINUSE") resolve(false);
    // A machine without IPv6 has nobody there.
    else if (["EADDRNOTAVAIL", "EAFNOSUPPORT"].includes(error.code)) resolve(true);
    else reject(error);
  });
  server.listen({ port, host, exclusive: true }, () => server.close(() => resolve(true)));
});

/** Reserves nothing: a port that is free on every address now, and that this process has not given before. */
export async function freePort() {
  for (;;) {
    const port = PORTS.from + Math.floor(Math.random() * (PORTS.to - PORTS.from));
    if ([...given].some((other) => Math.abs(other - port) < DERIVED)) continue;
    if ((await canListen(port, "0.0.0.0")) && (await canListen(port, "::1"))) {
      given.add(port);
      return port;
    }
  }
}

/**
 * How long anything may take that a test waits for, unless it says otherwise. It is there against hanging alone: a machine that
 * is busy with something else takes many times as long as a quiet one.
 */
export const PATIENCE_MS = 90_000;

/** A private directory, removed by `cleanup` in the caller's `after`. */
export function tempDir(label) {
  return fs.mkdtempSync(path.join(os.tmpdir(), `openclaw-rs-${label}-`));
}

/** Polls `probe` until it returns something truthy; fails with `what` after `timeoutMs`. */
export async function until(what, probe, { timeoutMs = PATIENCE_MS, everyMs = 20 } = {}) {
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
