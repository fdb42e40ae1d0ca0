// The unit that `service install` writes, judged by systemd's own tools.
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import test from "node:test";
import { gatewayBinary, isolatedEnv, tempDir } from "../lib/tools.mjs";

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
