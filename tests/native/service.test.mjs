// The unit that `service install` writes, judged by systemd's own tools.
import assert from "node:assert/strict";
import { execFileSync, spawn, spawnSync } from "node:child_process";
import fs from "node:fs";
import http from "node:http";
import path from "node:path";
import test from "node:test";
import { baseConfig } from "../lib/gateway.mjs";
import { freePort, gatewayBinary, isolatedEnv, tempDir, until } from "../lib/tools.mjs";

const stateDir = tempDir("service");
const run = (env, ...args) => spawnSync(gatewayBinary(), ["service", ...args], { env, encoding: "utf8" });
const { OPENCLAW_STATE_DIR: _state, OPENCLAW_CONFIG_PATH: _config, ...machine } = isolatedEnv(stateDir);

function judged(text) {
  const unit = path.join(tempDir("unit"), "openclaw-rs.service");
  fs.writeFileSync(unit, text);
  const verified = spawnSync("systemd-analyze", ["verify", unit], { encoding: "utf8" });
  assert.deepEqual([verified.status, verified.stderr.includes("openclaw-rs.service")], [0, false], verified.stderr);
  const report = execFileSync("systemd-analyze", ["security", "--offline=true", unit], { encoding: "utf8" });
  return Number(report.match(/Overall exposure level for \S+: ([\d.]+)/)[1]);
}

test("the system unit is valid and exposed at most 2.0", (t) => {
  const printed = run(machine, "install", "--system", "--dry-run");
  assert.equal(printed.status, 0, printed.stderr);
  assert.match(printed.stdout, /^Type=notify$/m);
  assert.match(printed.stdout, /^User=openclaw$/m);
  assert.match(printed.stdout, /^Environment="OPENCLAW_STATE_DIR=\/var\/lib\/openclaw"$/m);
  const score = judged(printed.stdout);
  t.diagnostic(`exposure ${score}`);
  assert.ok(score <= 2.0, `${score}`);
  const hidden = run({ ...machine, OPENCLAW_STATE_DIR: "/home/somebody/.openclaw" }, "install", "--system", "--dry-run");
  assert.equal(hidden.status, 1);
  assert.match(hidden.stderr, /hidden from a system service; unset OPENCLAW_STATE_DIR/);
  assert.equal(run(machine, "install", "--system", "--dry-run", "--run-as", "a b").status, 1);
});

test("a user's unit: written, valid, told of and removed; Node may make code only where it may be started", () => {
  const env = isolatedEnv(stateDir, { XDG_CONFIG_HOME: path.join(stateDir, "config 100%") });
  const file = path.join(stateDir, "config 100%/systemd/user/openclaw-rs.service");
  const own = path.join(stateDir, "openclaw-rs", "openclaw-gateway.toml");
  fs.mkdirSync(path.dirname(own), { recursive: true });
  const status = () => JSON.parse(run(env, "status", "--json").stdout);
  assert.deepEqual([status().installed, status().unit], [false, file]);
  for (const [mode, denied] of [["off", true], ["supervise", false]]) {
    fs.writeFileSync(own, `[upstream]\nmode = "${mode}"\n`);
    const written = run(env, "install");
    assert.equal(written.status, 0, written.stderr);
    assert.match(written.stdout, /systemctl --user daemon-reload && systemctl --user enable --now openclaw-rs\.service/);
    const text = fs.readFileSync(file, "utf8");
    assert.equal(text.includes("MemoryDenyWriteExecute=yes"), denied, mode);
    assert.ok(!/^User=/m.test(text));
    judged(text);
  }
  assert.equal(status().installed, true);
  assert.equal(run(env, "uninstall").status, 0);
  assert.equal(fs.existsSync(file), false);
  assert.equal(run(env, "uninstall").status, 1);
});

/** Answers the status, or the error's code; a connection of its own each time. */
const ask = (port) => new Promise((resolve) => {
  http.get({ host: "127.0.0.1", port, path: "/healthz", agent: false }, (answer) => answer.resume().on("end", () => resolve(answer.statusCode)))
    .on("error", (error) => resolve(error.code));
});

test("its port held by somebody else, as a socket unit says: whoever connects while it starts anew waits and is answered", { timeout: 300_000 }, async (t) => {
  const port = await freePort();
  const own = tempDir("socket");
  let holder;
  t.after(() => {
    // All of them at once: whoever holds the sockets would start the next life of the gateway.
    try {
      if (holder) process.kill(-holder.pid, "SIGKILL");
    } catch (error) {
      if (error.code !== "ESRCH") throw error;
    } finally {
      fs.rmSync(own, { recursive: true, force: true });
    }
  });
  const env = isolatedEnv(own, { XDG_CONFIG_HOME: path.join(own, "config") });
  fs.writeFileSync(path.join(own, "openclaw.json"), JSON.stringify(baseConfig(port)), { mode: 0o600 });
  fs.mkdirSync(path.join(own, "openclaw-rs"), { mode: 0o700 });
  fs.writeFileSync(path.join(own, "openclaw-rs/openclaw-gateway.toml"), '[admin]\nlisten = "off"\n[upstream]\nmode = "off"\n');

  const installed = run(env, "install", "--socket");
  assert.equal(installed.status, 0, installed.stderr);
  // A socket unit does not start beside a service that runs.
  assert.match(installed.stdout, /stop openclaw-rs\.socket openclaw-rs\.service; systemctl --user enable --now openclaw-rs\.socket openclaw-rs\.service/);
  const units = path.join(own, "config/systemd/user");
  const unit = fs.readFileSync(path.join(units, "openclaw-rs.socket"), "utf8");
  const verified = spawnSync("systemd-analyze", ["verify", path.join(units, "openclaw-rs.socket")], { encoding: "utf8" });
  assert.deepEqual([verified.status, verified.stderr.includes("openclaw-rs.")], [0, false], verified.stderr);
  const addresses = [...unit.matchAll(/^ListenStream=(.*)$/gm)].map(([, address]) => address);
  assert.equal(addresses[0], `127.0.0.1:${port}`);

  // systemd's own program opens the sockets; a shell holds them over two lives of the gateway, as the service manager would.
  const pids = path.join(own, "pids");
  const life = `sh -c 'echo $$ >> "${pids}"; LISTEN_PID=$$ exec "${gatewayBinary()}" run "$@"' life`;
  holder = spawn("systemd-socket-activate", [
    ...addresses.map((address) => `--listen=${address}`), ...Object.keys(env).map((name) => `--setenv=${name}`),
    "sh", "-c", `${life}; ${life}; ${life} --port ${port + 1} 2> "${own}/refused"`,
  ], { env, stdio: "ignore", detached: true });
  const lives = () => fs.existsSync(pids) ? fs.readFileSync(pids, "utf8").trim().split("\n").map(Number) : [];
  const alive = (pid) => fs.existsSync(`/proc/${pid}`);
  const ended = new Promise((resolve) => holder.on("close", resolve));
  await until("the sockets", async () => (await ask(port)) === 200);
  const [first] = lives();
  process.kill(first, "SIGTERM");
  await until("the first to end", () => !alive(first));
  const answers = await Promise.all(Array.from({ length: 20 }, () => ask(port)));
  assert.deepEqual(answers, answers.map(() => 200));
  const [, second] = lives();
  assert.ok(second && second !== first);
  const seen = spawnSync(gatewayBinary(), ["doctor", "--json"], { env, encoding: "utf8" });
  const { what } = JSON.parse(seen.stdout).findings.find(({ check }) => check === "port");
  assert.match(what, new RegExp(`^port ${port} is ours: .*\\(pid ${second}\\)$`), "not who passed it the socket");
  // Nothing that it starts has its port, and one with another port says so.
  process.kill(second, "SIGTERM");
  assert.equal(await ended, 78);
  assert.match(fs.readFileSync(path.join(own, "refused"), "utf8"), new RegExp(`listens on 127\\.0\\.0\\.1:${port} .*for this gateway, which is to listen on 127\\.0\\.0\\.1:${port + 1}.*service install --socket`));
  const again = run(env, "install");
  assert.equal(again.status, 0, again.stderr);
  assert.match(again.stdout, /^removed   .*openclaw-rs\.socket$/m);
  assert.deepEqual(fs.readdirSync(units), ["openclaw-rs.service"]);
  assert.equal(run(env, "install", "--socket").status, 0);
  const removed = run(env, "uninstall");
  assert.equal(removed.status, 0, removed.stderr);
  assert.deepEqual(fs.readdirSync(units), []);
});
