// `adopt` and `uninstall --restore`: a real OpenClaw that somebody started by hand gives its port to us and gets it back, with all
// it knew; and the orders that the service manager is given, in order, carried out and undone.
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import test from "node:test";
import { baseConfig, startOriginal, startOurs, TOKEN } from "../lib/gateway.mjs";
import { Device, RawClient } from "../lib/raw.mjs";
import { freePort, gatewayBinary, isolatedEnv, nodeBinary, openclawEntry, tempDir, until } from "../lib/tools.mjs";

const AT_MOST = { timeout: 60_000, killSignal: "SIGKILL" };
const TUI = { id: "openclaw-tui", mode: "ui" };
/** The command line in the way of `execFile`, so that this process can answer meanwhile. */
function cli(env, ...args) {
  return new Promise((resolve) => {
    const child = spawn(gatewayBinary(), args, { env, cwd: env.HOME, stdio: ["ignore", "pipe", "pipe"], timeout: 300_000, killSignal: "SIGKILL" });
    const said = { out: "", err: "" };
    child.stdout.on("data", (text) => (said.out += text));
    child.stderr.on("data", (text) => (said.err += text));
    child.on("close", (code) => resolve({ code, ...said, all: said.out + said.err }));
  });
}

/** A `systemctl` on PATH. */
function withSystemctl(dir, script) {
  fs.writeFileSync(path.join(dir, "systemctl"), `#!${nodeBinary}\n${script}`, { mode: 0o755 });
  return dir;
}

const NOBODY = `console.error("Failed to connect to bus: No medium found"); process.exit(1);`;

/** What a client sees of the state: devices and conversations. */
async function known(url) {
  const client = await RawClient.open(url);
  const hello = await client.connect({ token: TOKEN });
  assert.equal(hello.ok, true, JSON.stringify(hello.error));
  const devices = (await client.call("device.pair.list")).payload.paired.filter((row) => row.madeBy !== "local");
  const sessions = (await client.call("sessions.list", {})).payload.sessions;
  await client.end();
  return {
    devices: devices.map(({ deviceId, publicKey, roles, scopes, approvedAtMs }) => ({ deviceId, publicKey, roles, scopes, approvedAtMs })),
    sessions: sessions.map(({ key, sessionId, label }) => ({ key, sessionId, label })),
  };
}

async function pair(url, device, scopes = ["operator.read"]) {
  const client = await RawClient.open(url);
  const answer = await client.connect({ token: TOKEN, client: TUI, device, scopes });
  await client.end();
  return answer;
}

const lock = (stateDir) => JSON.parse(fs.readFileSync(path.join(stateDir, `tmp/openclaw-${process.getuid()}/gateway.state.lock`), "utf8"));
function lives(pid) {
  try {
    return !/^State:\s+Z/m.test(fs.readFileSync(`/proc/${pid}/status`, "utf8"));
  } catch (error) {
    if (["ENOENT", "ESRCH"].includes(error.code)) return false;
    throw error;
  }
}

test("a real OpenClaw started by hand: its port changes hands and comes back, with its devices and conversations", { timeout: 900_000 }, async (t) => {
  const stateDir = tempDir("adopt");
  const PATH = `${withSystemctl(tempDir("systemctl"), NOBODY)}:${process.env.PATH}`;
  // A device that this gateway paired while there was no OpenClaw.
  const alone = await startOurs({ stateDir, upstream: "off", env: { PATH } });
  const local = new Device();
  assert.equal((await pair(alone.wsUrl, local)).ok, true);
  await alone.stop({ keepState: true });
  const own = path.join(stateDir, "openclaw-rs/openclaw-gateway.toml");
  fs.writeFileSync(own, `[admin]\nlisten = "127.0.0.1:0"\n[upstream]\ncommand = [${JSON.stringify(nodeBinary)}, ${JSON.stringify(openclawEntry)}]\n`);

  const original = await startOriginal({ stateDir, port: alone.port, env: { PATH, MARK: "of its shell" } });
  // Whoever holds the port when this ends.
  t.after(async () => {
    try {
      spawnSync(gatewayBinary(), ["uninstall"], { env: original.env, ...AT_MOST });
      const { pid } = fs.existsSync(path.join(stateDir, `tmp/openclaw-${process.getuid()}/gateway.state.lock`)) ? lock(stateDir) : {};
      if (pid && lives(pid)) process.kill(pid, "SIGTERM");
      await until("it to end", () => !pid || !lives(pid)).catch(() => process.kill(pid, "SIGKILL"));
    } catch (error) {
      // It ended by itself meanwhile.
      if (error.code !== "ESRCH") throw error;
    } finally {
      await original.stop();
    }
  });
  assert.equal((await pair(original.wsUrl, new Device())).ok, true);
  const admin = await RawClient.open(original.wsUrl);
  await admin.connect({ token: TOKEN });
  assert.equal((await admin.call("sessions.create", { key: "agent:main:kept", label: "kept" })).ok, true);
  await admin.end();
  const before = await known(original.wsUrl);
  assert.ok(before.devices.length >= 1 && before.sessions.some(({ label }) => label === "kept"), JSON.stringify(before));

  const files = () => fs.readdirSync(path.join(stateDir, "openclaw-rs")).sort();
  const [pid, had] = [lock(stateDir).pid, files()];
  const dry = await cli(original.env, "adopt", "--dry-run");
  assert.equal(dry.code, 0, dry.all);
  assert.match(dry.out, new RegExp(`^1  keep who served before.*\\n2  ask OpenClaw's gateway \\(pid ${pid}\\) to stop.*\\n3  start openclaw-gateway run.*\\nnothing was changed$`, "m"));
  assert.deepEqual([lock(stateDir).pid, files()], [pid, had]);

  const adopted = await cli(original.env, "adopt");
  assert.equal(adopted.code, 0, adopted.all);
  t.diagnostic(`adopt: ${/done in (\S+) s/.exec(adopted.out)?.[1]} s`);
  assert.equal(lives(pid), false, "the original went");
  const status = JSON.parse((await cli(original.env, "upstream", "status", "--json")).out);
  assert.deepEqual([status.state, status.supervised], ["ready", true]);
  assert.match(fs.readFileSync(`/proc/${status.pid}/environ`, "utf8"), /MARK=of its shell/, "what it had from its shell it has behind us");
  assert.deepEqual(await known(original.wsUrl), before, "through us");
  const log = (name) => fs.readFileSync(path.join(stateDir, "openclaw-rs", name), "utf8");
  await until("its log", () => log("gateway.log").includes("openclaw is ready"));
  assert.equal((await cli(original.env, "adopt")).out.includes("this gateway's already"), true);

  const plan = await cli(original.env, "uninstall", "--restore", "--dry-run");
  assert.match(plan.out, /^1  ask this gateway \(pid \d+\) to stop\n2  start openclaw gateway run.*\n3  hand over 1 devices.*\n4  forget who served before\nnothing was changed$/m, plan.all);
  const restored = await cli(original.env, "uninstall", "--restore");
  assert.equal(restored.code, 0, restored.all);
  t.diagnostic(`uninstall --restore: ${/done in (\S+) s/.exec(restored.out)?.[1]} s`);
  assert.match(restored.out, new RegExp(`^paired here alone: ${local.id}`, "m"));
  assert.equal(lock(stateDir).port, original.port);
  assert.match(log("openclaw.log"), /gateway/i);
  assert.deepEqual(await known(original.wsUrl), before, "through itself again");
  assert.ok(!fs.existsSync(path.join(stateDir, "openclaw-rs/adopted.json")));
  // Handed over: OpenClaw pairs it now, and nothing of ours claims it.
  assert.equal((await pair(original.wsUrl, local)).ok, true);
  assert.ok((await known(original.wsUrl)).devices.some(({ deviceId }) => deviceId === local.id));
  assert.equal(fs.readFileSync(path.join(stateDir, "openclaw-rs/devices.json"), "utf8").includes(local.id), false);
});

/** A service manager: it starts what `ExecStart=` says, with the unit's and its drop-ins' environment, and keeps a record. A socket unit
 * is one word to it, and does not start beside its service. */
const MANAGER = `
const fs = require("node:fs"), path = require("node:path"), { spawn } = require("node:child_process");
const dir = process.env.MANAGER_DIR, units = path.join(process.env.XDG_CONFIG_HOME, "systemd/user");
const args = process.argv.slice(2).filter((arg) => arg !== "--user");
const [verb] = args, now = args.includes("--now"), name = args.slice(1).find((arg) => !arg.startsWith("--"));
const has = (what) => fs.existsSync(path.join(dir, [what, verb, name].filter(Boolean).join(" ")));
if (!verb.startsWith("show")) fs.appendFileSync(path.join(dir, "orders"), args.join(" ") + "\\n");
const at = (what) => path.join(dir, name + "." + what);
const file = name && path.join(units, name), drops = file + ".d";
const pid = () => fs.existsSync(at("pid")) ? Number(fs.readFileSync(at("pid"), "utf8")) : 0;
const lives = () => { try { return pid() > 0 && !/^State:\\s+Z/m.test(fs.readFileSync("/proc/" + pid() + "/status", "utf8")); } catch { return false; } };
const isSocket = Boolean(name) && name.endsWith(".socket");
const isUp = () => isSocket ? fs.existsSync(at("up")) : lives();
const extra = () => fs.existsSync(drops) ? fs.readdirSync(drops).map((one) => path.join(drops, one)) : [];
if (verb === "show" && !name) { console.log("Version=255"); process.exit(0); }
if (verb === "show") {
  console.log("LoadState=" + (fs.existsSync(file) ? "loaded" : "not-found"));
  const loops = fs.existsSync(at("loops"));
  console.log("ActiveState=" + (isUp() ? "active" : loops ? "activating" : "inactive") + "\\nSubState=" + (isUp() ? "running" : loops ? "auto-restart" : "dead"));
  console.log("MainPID=" + (lives() ? pid() : 0) + "\\nNRestarts=" + (loops ? 9 : 0));
  console.log("UnitFileState=" + (fs.existsSync(at("enabled")) ? "enabled" : "disabled"));
  console.log("FragmentPath=" + file + "\\nDropInPaths=" + extra().join(" "));
  process.exit(0);
}
while (has("hold")) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 10);
if (has("refuse")) { console.error("Job for " + name + " failed."); process.exit(1); }
if (verb === "enable") fs.writeFileSync(at("enabled"), "");
if (verb === "disable") fs.rmSync(at("enabled"), { force: true });
const unquoted = (word) => word.replace(/^"(.*)"$/, "$1").replaceAll("%%", "%");
if (isSocket && ((verb === "enable" && now) || verb === "start")) {
  const pidFile = path.join(dir, name.replace(/socket$/, "service") + ".pid");
  if (fs.existsSync(pidFile)) { console.error("Socket service already active, refusing."); process.exit(1); }
  fs.writeFileSync(at("up"), "");
} else if ((verb === "enable" && now) || verb === "start") {
  if (!lives()) {
    const text = [file, ...extra()].map((one) => fs.readFileSync(one, "utf8")).join("\\n");
    const env = Object.fromEntries([...text.matchAll(/^Environment=(.*)$/gm)].map(([, pair]) => unquoted(pair).split(/=(.*)/s).slice(0, 2)));
    const [program, ...rest] = /^ExecStart=(.*)$/m.exec(text)[1].match(/"[^"]*"|\\S+/g).map(unquoted);
    const log = fs.openSync(at("log"), "a");
    const child = spawn(program, rest, { env: { HOME: process.env.HOME, PATH: process.env.PATH, ...env }, detached: true, stdio: ["ignore", log, log] });
    fs.writeFileSync(at("pid"), String(child.pid));
    child.unref();
  }
}
if ((verb === "disable" && now) || verb === "stop") {
  fs.rmSync(at("loops"), { force: true });
  fs.rmSync(at("up"), { force: true });
  if (lives()) process.kill(pid(), "SIGTERM");
  const until = Date.now() + 30000;
  const wait = () => {
    if (!lives()) {
      fs.rmSync(at("pid"), { force: true });
      process.exit(0);
    }
    if (Date.now() > until) process.kill(pid(), "SIGKILL");
    setTimeout(wait, 10);
  };
  wait();
}
`;
/** Listens as OpenClaw's gateway would, under its name: here the unit is what matters. */
const STAND_IN = `process.title = "openclaw-gateway";
require("node:http").createServer((_, answer) => answer.end(JSON.stringify({ ready: true }))).listen(Number(process.env.OPENCLAW_GATEWAY_PORT), "127.0.0.1");`;

/** A state directory, a user's service manager, and in it OpenClaw's unit, which is neither enabled nor started. */
async function machine(t) {
  const [stateDir, managerDir, port] = [tempDir("adopt-service"), tempDir("manager"), await freePort()];
  const config = path.join(stateDir, "config");
  const env = isolatedEnv(stateDir, { XDG_CONFIG_HOME: config, MANAGER_DIR: managerDir, PATH: `${withSystemctl(managerDir, MANAGER)}:${process.env.PATH}` });
  t.after(() => {
    for (const name of ["openclaw-rs", "openclaw-gateway"]) spawnSync("systemctl", ["stop", `${name}.service`], { env, ...AT_MOST });
    for (const dir of [stateDir, managerDir]) fs.rmSync(dir, { recursive: true, force: true });
  });
  fs.writeFileSync(path.join(stateDir, "openclaw.json"), JSON.stringify(baseConfig(port)), { mode: 0o600 });
  fs.mkdirSync(path.join(stateDir, "openclaw-rs"), { mode: 0o700 });
  fs.writeFileSync(path.join(stateDir, "openclaw-rs/openclaw-gateway.toml"), '[admin]\nlisten = "off"\n[upstream]\nmode = "off"\n');
  const units = path.join(config, "systemd/user");
  fs.mkdirSync(units, { recursive: true });
  const standIn = path.join(stateDir, "openclaw.cjs");
  fs.writeFileSync(standIn, STAND_IN);
  fs.writeFileSync(path.join(units, "openclaw-gateway.service"), `[Unit]
Description=OpenClaw Gateway
[Service]
ExecStart=${nodeBinary} ${standIn}
Environment=OPENCLAW_STATE_DIR=${stateDir}
Environment=OPENCLAW_GATEWAY_PORT=${port}
Environment="MODEL_API_KEY=a key with 100%% of it"
Environment=OPENCLAW_SERVICE_MARKER=openclaw
[Install]
WantedBy=default.target
`);
  const orders = () => {
    const file = path.join(managerDir, "orders");
    const text = fs.existsSync(file) ? fs.readFileSync(file, "utf8") : "";
    fs.rmSync(file, { force: true });
    return text.trim().split("\n").filter(Boolean);
  };
  const answers = () => until("the port", async () => (await fetch(`http://127.0.0.1:${port}/readyz`)).status === 200);
  return { env, port, stateDir, managerDir, units, standIn, orders, answers };
}

test("its service: stopped and disabled, ours in its place with its environment; a step that fails is undone, and all of it comes back", { timeout: 300_000 }, async (t) => {
  const { env, stateDir, managerDir, units, orders, answers } = await machine(t);
  spawnSync("systemctl", ["--user", "enable", "--now", "openclaw-gateway.service"], { env });
  await answers();
  orders();

  const ours = path.join(units, "openclaw-rs.service");
  const dry = await cli(env, "adopt", "--dry-run");
  assert.equal(dry.code, 0, dry.all);
  assert.deepEqual([orders(), fs.existsSync(ours)], [[], false]);
  assert.match(dry.out, /^2  stop openclaw-gateway\.service and keep it from starting with the machine/m);

  // Ours does not start: the original serves again, as it did.
  const refusal = path.join(managerDir, "refuse enable openclaw-rs.service");
  fs.writeFileSync(refusal, "");
  const failed = await cli(env, "adopt");
  assert.equal(failed.code, 1, failed.all);
  assert.match(failed.err, /enable --now openclaw-rs\.service failed: Job for openclaw-rs\.service failed\./);
  assert.deepEqual(orders(), [
    "disable --now openclaw-gateway.service", "daemon-reload", "enable --now openclaw-rs.service",
    "disable --now openclaw-rs.service", "daemon-reload", "enable --now openclaw-gateway.service",
  ]);
  assert.deepEqual([fs.existsSync(ours), fs.existsSync(path.join(stateDir, "openclaw-rs/adopted.json"))], [false, false]);
  await answers();
  fs.rmSync(refusal);

  const adopted = await cli(env, "adopt");
  assert.equal(adopted.code, 0, adopted.all);
  assert.deepEqual(orders(), ["disable --now openclaw-gateway.service", "daemon-reload", "enable --now openclaw-rs.service"]);
  const dropIn = `${ours}.d/10-adopted.conf`;
  assert.match(fs.readFileSync(dropIn, "utf8"), /^Environment="MODEL_API_KEY=a key with 100%% of it"$/m);
  assert.doesNotMatch(fs.readFileSync(dropIn, "utf8"), /SERVICE_MARKER/);
  const pid = fs.readFileSync(path.join(managerDir, "openclaw-rs.service.pid"), "utf8");
  assert.match(fs.readFileSync(`/proc/${pid}/environ`, "utf8"), /MODEL_API_KEY=a key with 100% of it/);

  const restored = await cli(env, "uninstall", "--restore");
  assert.equal(restored.code, 0, restored.all);
  assert.deepEqual(orders(), ["disable --now openclaw-rs.service", "enable --now openclaw-gateway.service", "daemon-reload"]);
  assert.deepEqual([fs.existsSync(ours), fs.existsSync(dropIn), lives(pid)], [false, false, false]);
  await answers();
  const again = await cli(env, "uninstall", "--restore");
  assert.match(again.out, /nothing of this gateway is installed or runs/);

  // It serves again: what fails after that takes nothing back, and the rest is done.
  assert.equal((await cli(env, "adopt")).code, 0);
  orders();
  const refusedReload = path.join(managerDir, "refuse daemon-reload");
  fs.writeFileSync(refusedReload, "");
  const late = await cli(env, "uninstall", "--restore");
  assert.equal(late.code, 1, late.all);
  assert.match(late.err, /daemon-reload failed/);
  assert.deepEqual(orders(), ["disable --now openclaw-rs.service", "enable --now openclaw-gateway.service", "daemon-reload"]);
  assert.deepEqual([fs.existsSync(ours), fs.existsSync(path.join(stateDir, "openclaw-rs/adopted.json"))], [false, false]);
  await answers();
  fs.rmSync(refusedReload);

  // One that did not start with the machine does not after it came back.
  spawnSync("systemctl", ["--user", "disable", "openclaw-gateway.service"], { env });
  assert.equal((await cli(env, "adopt")).code, 0);
  orders();
  assert.equal((await cli(env, "uninstall", "--restore")).code, 0);
  assert.deepEqual(orders(), ["disable --now openclaw-rs.service", "start openclaw-gateway.service", "daemon-reload"]);
  await answers();
});

test("a socket unit of ours: started before the service, stopped before it and removed with it; a step that fails gives it back", { timeout: 300_000 }, async (t) => {
  const { env, units, managerDir, stateDir, orders, answers } = await machine(t);
  spawnSync("systemctl", ["--user", "enable", "--now", "openclaw-gateway.service"], { env });
  await answers();
  assert.equal((await cli(env, "service", "install", "--socket")).code, 0);
  orders();
  const adopted = await cli(env, "adopt");
  assert.equal(adopted.code, 0, adopted.all);
  assert.deepEqual(orders(), ["disable --now openclaw-gateway.service", "daemon-reload", "enable --now openclaw-rs.socket", "enable --now openclaw-rs.service"]);

  const refusal = path.join(managerDir, "refuse enable openclaw-gateway.service");
  fs.writeFileSync(refusal, "");
  const failed = await cli(env, "uninstall", "--restore");
  assert.equal(failed.code, 1, failed.all);
  assert.deepEqual(orders(), [
    "disable --now openclaw-rs.socket", "disable --now openclaw-rs.service", "enable --now openclaw-gateway.service",
    "disable --now openclaw-gateway.service", "stop openclaw-rs.service", "enable --now openclaw-rs.socket", "enable --now openclaw-rs.service",
  ]);
  await answers();
  fs.rmSync(refusal);

  const restored = await cli(env, "uninstall", "--restore");
  assert.equal(restored.code, 0, restored.all);
  assert.match(restored.out, /remove openclaw-rs\.socket and openclaw-rs\.service; openclaw-rs\/ stays/);
  assert.deepEqual(orders(), ["disable --now openclaw-rs.socket", "disable --now openclaw-rs.service", "enable --now openclaw-gateway.service", "daemon-reload"]);
  assert.deepEqual(fs.readdirSync(units), ["openclaw-gateway.service"]);
  await answers();
  assert.ok(!fs.existsSync(path.join(stateDir, "openclaw-rs/adopted.json")));
});

test("its service is enabled and another one was started by hand: the service is started beside it neither when that is taken over nor when it is undone", { timeout: 300_000 }, async (t) => {
  const { env, port, units, managerDir, standIn, orders, answers } = await machine(t);
  spawnSync("systemctl", ["--user", "enable", "openclaw-gateway.service"], { env });
  const byHand = spawn(nodeBinary, [standIn], { env: { ...env, OPENCLAW_GATEWAY_PORT: String(port) }, stdio: "ignore" });
  t.after(() => byHand.kill());
  await answers();
  orders();
  fs.writeFileSync(path.join(managerDir, "refuse disable openclaw-gateway.service"), "");
  const failed = await cli(env, "adopt");
  assert.equal(failed.code, 1, failed.all);
  assert.deepEqual(orders(), ["disable --now openclaw-gateway.service", "enable openclaw-gateway.service"]);
  assert.deepEqual([lives(byHand.pid), fs.existsSync(path.join(units, "openclaw-rs.service"))], [true, false]);
  fs.rmSync(path.join(managerDir, "refuse disable openclaw-gateway.service"));

  const adopted = await cli(env, "adopt");
  assert.equal(adopted.code, 0, adopted.all);
  assert.deepEqual(orders(), ["disable --now openclaw-gateway.service", "daemon-reload", "enable --now openclaw-rs.service"]);
  await until("the one by hand to go", () => !lives(byHand.pid));
});

test("its service comes to nothing, again and again, while another one was started by hand: both end, and neither keeps the port", { timeout: 300_000 }, async (t) => {
  const { env, port, managerDir, standIn, orders, answers } = await machine(t);
  spawnSync("systemctl", ["--user", "enable", "openclaw-gateway.service"], { env });
  fs.writeFileSync(path.join(managerDir, "openclaw-gateway.service.loops"), "");
  const byHand = spawn(nodeBinary, [standIn], { env: { ...env, OPENCLAW_GATEWAY_PORT: String(port) }, stdio: "ignore" });
  t.after(() => byHand.kill());
  await answers();
  orders();
  const adopted = await cli(env, "adopt");
  assert.equal(adopted.code, 0, adopted.all);
  assert.match(adopted.out, new RegExp(`ask OpenClaw's gateway \\(pid ${byHand.pid}\\) to stop`));
  assert.deepEqual([orders(), lives(byHand.pid)], [["disable --now openclaw-gateway.service", "daemon-reload", "enable --now openclaw-rs.service"], false]);
});

test("Ctrl-C while nobody has the port: what was done is undone, and the original serves again", { timeout: 300_000 }, async (t) => {
  const { env, managerDir, units, stateDir, orders, answers } = await machine(t);
  spawnSync("systemctl", ["--user", "enable", "--now", "openclaw-gateway.service"], { env });
  await answers();
  orders();
  const hold = path.join(managerDir, "hold disable openclaw-gateway.service");
  fs.writeFileSync(hold, "");
  const child = spawn(gatewayBinary(), ["adopt"], { env, cwd: env.HOME, stdio: ["ignore", "pipe", "pipe"] });
  const said = { out: "", err: "" };
  child.stdout.on("data", (text) => (said.out += text));
  child.stderr.on("data", (text) => (said.err += text));
  const code = new Promise((resolve) => child.on("close", resolve));
  const order = path.join(managerDir, "orders");
  await until("the original to be stopped", () => fs.existsSync(order));
  child.kill("SIGINT");
  await until("the signal to be taken", () => said.err.includes("would leave the port with nobody"));
  // Once more while it is undone: that is done to its end all the same.
  const undoing = path.join(managerDir, "hold enable openclaw-gateway.service");
  fs.writeFileSync(undoing, "");
  fs.rmSync(hold);
  await until("the original to be started again", () => fs.readFileSync(order, "utf8").includes("enable --now openclaw-gateway.service"));
  child.kill("SIGINT");
  await until("the second signal to be taken", () => said.err.includes("undoing what was done, please wait"));
  fs.rmSync(undoing);
  assert.equal(await code, 1, said.out + said.err);
  assert.match(said.err, /^openclaw-gateway: interrupted$/m);
  assert.doesNotMatch(said.err, /could not be undone/);
  assert.deepEqual(orders(), ["disable --now openclaw-gateway.service", "enable --now openclaw-gateway.service"]);
  await answers();
  assert.deepEqual([fs.existsSync(path.join(units, "openclaw-rs.service")), fs.existsSync(path.join(stateDir, "openclaw-rs/adopted.json"))], [false, false]);
});

test("what a service keeps that is not seen here, or has another port, is left alone", { timeout: 300_000 }, async (t) => {
  const { env, port, standIn, orders, answers } = await machine(t);
  const kept = spawn(nodeBinary, [standIn], {
    env: { ...env, OPENCLAW_GATEWAY_PORT: String(port), OPENCLAW_SERVICE_MARKER: "openclaw", OPENCLAW_SYSTEMD_UNIT: "claw.service" },
    stdio: "ignore",
  });
  t.after(() => kept.kill());
  await answers();
  const refused = await cli(env, "adopt");
  assert.notEqual(refused.code, 0);
  assert.match(refused.err, /was started by claw\.service \(OPENCLAW_SERVICE_MARKER=openclaw\)/);
  const other = await cli({ ...env, OPENCLAW_GATEWAY_PORT: String(await freePort()) }, "adopt");
  assert.notEqual(other.code, 0);
  assert.match(other.err, new RegExp(`openclaw-gateway\\.service has port ${port}, .*set gateway\\.port to ${port}`));
  assert.deepEqual([orders(), lives(kept.pid)], [[], true]);
});
