// Starts the load generators and the bare peers, and reads what they say.
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import path from "node:path";
import { Child } from "../tests/lib/child.mjs";
import { freePort, repoRoot, until } from "../tests/lib/tools.mjs";

let binaries = path.join(repoRoot, "target/release");

/** Where `ws-load`, `bare-axum` and `bare-echo` are: target/<profile>. */
export function useProfile(profile) {
  binaries = path.join(repoRoot, "target", profile);
}

function binary(name) {
  const file = path.join(binaries, name);
  if (!existsSync(file)) throw new Error(`${file} is missing: build it with \`cargo build --release -p bench\``);
  return file;
}

/** Runs a command to its end; answers its standard output, or throws with all it said. */
export async function run(command, args, { env = process.env, timeoutMs = 600_000 } = {}) {
  const child = spawn(command, args, { env, stdio: ["ignore", "pipe", "pipe"], timeout: timeoutMs });
  let out = "";
  let err = "";
  child.stdout.setEncoding("utf8").on("data", (text) => (out += text));
  child.stderr.setEncoding("utf8").on("data", (text) => (err += text));
  const code = await new Promise((resolve, reject) => child.on("error", reject).on("close", (code, signal) => resolve(code ?? signal)));
  if (code !== 0) throw new Error(`${path.basename(command)} ${args.join(" ")} ended with ${code}:\n${err}${out}`);
  return out;
}

/** `{target: "host:port", token, ...}` to arguments; keys become `--kebab-case`, `true` a flag, undefined nothing. */
function flags(options) {
  const list = [];
  for (const [key, value] of Object.entries(options)) {
    if (value === undefined || value === false || value === null) continue;
    const flag = `--${key.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one === true) list.push(flag);
      else list.push(flag, typeof one === "object" ? JSON.stringify(one) : String(one));
    }
  }
  return list;
}

function loadEnv(token) {
  return { ...process.env, WS_LOAD_TOKEN: token ?? "", RUST_BACKTRACE: "0" };
}

/** The command as a reader would type it (the token stays out of it). */
export function commandLine(mode, options) {
  const { token, pid, ...shown } = options;
  const quoted = flags(shown).map((arg) => (/^[\w.:,/-]+$/.test(arg) ? arg : `'${arg}'`));
  return `ws-load ${mode} ${quoted.join(" ")}`;
}

/** One run of `ws-load closed|rate|fanout`; its JSON. */
export async function wsLoad(mode, { token, ...options }) {
  const out = await run(binary("ws-load"), [mode, ...flags(options)], { env: loadEnv(token) });
  return JSON.parse(out.trim().split("\n").at(-1));
}

/** `ws-load idle`: connections that stay until `end()` or until the server closes them. */
export class IdleLoad {
  static async start({ token, ...options }) {
    const load = new IdleLoad();
    load.steps = [];
    load.child = spawn(binary("ws-load"), ["idle", ...flags(options)], { env: loadEnv(token), stdio: ["pipe", "pipe", "pipe"] });
    let text = "";
    load.child.stdout.setEncoding("utf8").on("data", (chunk) => {
      text += chunk;
      const lines = text.split("\n");
      text = lines.pop();
      for (const line of lines) load.steps.push(JSON.parse(line));
    });
    load.errors = "";
    load.child.stderr.setEncoding("utf8").on("data", (chunk) => (load.errors += chunk));
    load.child.stdin.on("error", () => {});
    load.exited = new Promise((resolve) => load.child.on("close", (code) => {
      load.code = code;
      resolve();
    }));
    load.connected = await load.step("connected", 300_000);
    return load;
  }

  async step(name, timeoutMs = 60_000) {
    return until(`ws-load idle: ${name}`, () => {
      const found = this.steps.find((step) => step.step === name);
      // Thrown errors are kept by `until` as the reason of the time-out only, so end it here.
      if (!found && this.code !== undefined) return { failed: true };
      return found;
    }, { timeoutMs }).then((step) => {
      if (step.failed) throw new Error(`ws-load idle ended with ${this.code} before "${name}":\n${this.errors}`);
      return step;
    });
  }

  /** Waits until the server has closed them all; how they ended. */
  async ended(timeoutMs = 60_000) {
    const summary = await this.step("ended", timeoutMs);
    await this.exited;
    return summary;
  }

  /** Ends the connections; what they had seen. */
  async end() {
    this.child.stdin.end();
    return this.ended();
  }

  kill() {
    if (this.code === undefined) this.child.kill("SIGKILL");
  }
}

/** `GET` with wrk: `{perSecond, latencyMs: {p50, p75, p90, p99, max}, errors}`. */
export async function wrk(url, { connections = 50, threads = 1, seconds }) {
  const out = await run("wrk", wrkArgs(url, { connections, threads, seconds }));
  const unit = { us: 1e-3, ms: 1, s: 1000, m: 60_000 };
  const ms = (text) => {
    const found = text?.match(/([\d.]+)(us|ms|s|m)/);
    return found ? Math.round(Number(found[1]) * unit[found[2]] * 1e4) / 1e4 : null;
  };
  const percentile = (percent) => ms(out.match(new RegExp(`^\\s+${percent}%\\s+(\\S+)`, "m"))?.[1]);
  const perSecond = Number(out.match(/Requests\/sec:\s+([\d.]+)/)?.[1]);
  if (!perSecond) throw new Error(`wrk measured nothing:\n${out}`);
  const socket = out.match(/Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)/);
  const refused = Number(out.match(/Non-2xx or 3xx responses: (\d+)/)?.[1] ?? 0);
  return {
    perSecond,
    latencyMs: { p50: percentile(50), p75: percentile(75), p90: percentile(90), p99: percentile(99), max: ms(out.match(/Latency\s+\S+\s+\S+\s+(\S+)/)?.[1]) },
    errors: { count: refused + (socket ? socket.slice(1).reduce((sum, n) => sum + Number(n), 0) : 0) },
  };
}

export function wrkArgs(url, { connections = 50, threads = 1, seconds }) {
  return [`-t${threads}`, `-c${connections}`, `-d${seconds}s`, "--latency", url];
}

/** `bare-axum` or `bare-echo` on a free port: `{port, pid, stop()}`. */
export async function startPeer(name) {
  const port = await freePort();
  const child = new Child(binary(name), [`127.0.0.1:${port}`], { env: process.env, label: name });
  await until(`${name} to listen`, () => child.output.includes("listening"));
  return { port, pid: child.pid, authority: `127.0.0.1:${port}`, stop: () => child.stop() };
}
