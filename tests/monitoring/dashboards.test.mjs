// A real Prometheus scrapes a real gateway with a real OpenClaw behind, under load: what `deploy/monitoring/` ships has
// data in every panel, and real faults set its alerts off.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { Child } from "../lib/child.mjs";
import { metricsOf, startOurs, TOKEN } from "../lib/gateway.mjs";
import { MessageApi } from "../lib/message-api.mjs";
import { RawClient } from "../lib/raw.mjs";
import { freePort, isolatedEnv, repoRoot, tempDir, until } from "../lib/tools.mjs";
import { startReceiver, webhookConfig } from "../lib/webhook-receiver.mjs";

const SHIPPED = path.join(repoRoot, "deploy/monitoring");
const dashboards = fs.readdirSync(path.join(SHIPPED, "grafana")).map((file) => JSON.parse(fs.readFileSync(path.join(SHIPPED, "grafana", file), "utf8")));
const rules = fs.readFileSync(path.join(SHIPPED, "rules.yml"), "utf8");
const alerts = [...rules.matchAll(/- alert: (\w+)/g)].map(([, name]) => name);

function promtool(...args) {
  const { status, stdout, stderr } = spawnSync("promtool", args, { cwd: SHIPPED, encoding: "utf8" });
  assert.equal(status, 0, stdout + stderr);
  return stdout;
}

/** Prometheus with the shipped configuration, faster and on that address. */
async function startPrometheus(target) {
  const dir = tempDir("prometheus");
  const shipped = fs.readFileSync(path.join(SHIPPED, "prometheus.yml"), "utf8");
  assert.ok(shipped.includes('"127.0.0.1:18689"') && shipped.includes("15s"), "what is replaced below");
  const config = shipped.replaceAll("15s", "250ms").replace("127.0.0.1:18689", target).replace("- rules.yml", `- ${path.join(SHIPPED, "rules.yml")}`);
  fs.writeFileSync(path.join(dir, "prometheus.yml"), config);
  const port = await freePort();
  const child = new Child("prometheus", [
    `--config.file=${dir}/prometheus.yml`, `--storage.tsdb.path=${dir}/data`, `--web.listen-address=127.0.0.1:${port}`, "--log.level=warn",
  ], { env: isolatedEnv(dir), cwd: dir, label: "prometheus" });
  const api = async (what) => {
    if (child.exit) throw new Error(`prometheus ended: ${child.output}`);
    const answer = await (await fetch(`http://127.0.0.1:${port}/api/v1/${what}`)).json();
    assert.equal(answer.status, "success", JSON.stringify(answer));
    return answer.data;
  };
  return {
    query: async (expr) => (await api(`query?query=${encodeURIComponent(expr)}`)).result,
    firing: async () => (await api("alerts")).alerts.filter((alert) => alert.state === "firing"),
    stop: async () => {
      await child.stop();
      fs.rmSync(dir, { recursive: true, force: true });
    },
  };
}

test("rules pass promtool, each alert has a case that fires and a runbook", () => {
  promtool("check", "config", "prometheus.yml");
  assert.match(promtool("test", "rules", "rules.test.yml"), /SUCCESS/);
  const cases = fs.readFileSync(path.join(SHIPPED, "rules.test.yml"), "utf8");
  const operations = fs.readFileSync(path.join(repoRoot, "docs/operations.md"), "utf8");
  for (const alert of alerts) {
    assert.match(cases, new RegExp(`alertname: ${alert}\\n +eval_time: \\w+\\n +exp_alerts:\\n +- exp_labels`), `${alert} has no case`);
    assert.ok(rules.includes(`runbook_url: docs/operations.md#${alert.toLowerCase()}`), `${alert} has no runbook`);
    assert.match(operations, new RegExp(`^### ${alert}\\n\\n\\S`, "m"), `docs/operations.md lacks ${alert}`);
  }
});

test("every panel has data under load, and faults set alerts off", async (t) => {
  const receiver = await startReceiver();
  t.after(() => receiver.stop());
  receiver.behave = (entry) => (entry.text === "bad" ? { status: 410, body: "" } : "ok");
  // A channel that OpenClaw does not know, so it is in our own file.
  const stateDir = tempDir("monitored");
  fs.mkdirSync(path.join(stateDir, "openclaw-rs"), { mode: 0o700 });
  fs.writeFileSync(path.join(stateDir, "openclaw-rs/channels.json"), JSON.stringify({ webhook: webhookConfig(receiver) }));
  const faults = path.join(stateDir, "faults");
  const ours = await startOurs({
    stateDir,
    upstream: "supervise",
    toml: '[channels]\nnative = ["webhook"]\n[rollout]\nshadow_percent = 100\n[rollout.guard]\nwindow_s = 10\ncalls_min = 20',
    env: { OPENCLAW_RS_FAULTS: faults },
  });
  t.after(() => ours.stop());
  const { host: admin } = new URL(await metricsOf(ours));
  const prometheus = await startPrometheus(admin);
  t.after(() => prometheus.stop());

  const api = new MessageApi(ours);
  const client = await RawClient.open(ours.wsUrl);
  assert.equal((await client.connect({ token: TOKEN })).ok, true);
  let loading = true;
  let calls = 0;
  const load = (async () => {
    for (; loading; calls += 1) {
      await client.call("health", {});
      await client.call("sessions.list", { limit: 1 });
      await client.call("no.such.method", {});
      if (calls % 10 === 0) {
        await api.send({ channel: "webhook", target: "room", content: `message ${calls}` });
        const other = await RawClient.open(ours.wsUrl);
        await other.connect({ token: TOKEN });
        await other.end();
      }
    }
  })();

  // Each panel's queries as Grafana sends them, for every gateway and a short interval.
  const queries = dashboards.flatMap((dashboard) => {
    assert.ok(dashboard.panels.length >= 8, dashboard.title);
    return dashboard.panels.flatMap((panel) => panel.targets.map(({ expr }) => ({ what: `"${panel.title}" of ${dashboard.title}`, expr })));
  });
  await Promise.all(queries.map(async ({ what, expr }) => {
    const asked = expr.replaceAll("$instance", ".+").replaceAll("$__rate_interval", "5s");
    assert.ok(!asked.includes("$"), asked);
    // A method that nobody calls now has no quantile, which is NaN.
    await until(`data for ${what}: ${asked}`, async () =>
      (await prometheus.query(asked)).some((series) => Number.isFinite(Number(series.value[1]))), { everyMs: 200 });
  }));
  t.diagnostic(`${queries.length} queries of ${dashboards.length} dashboards, ${calls} rounds of load`);
  const [memory] = await prometheus.query("openclaw_rs_upstream_memory_bytes");
  assert.ok(Number(memory.value[1]) > 50 * 2 ** 20, `a Node with OpenClaw in it: ${memory.value[1]} bytes`);
  assert.deepEqual(await prometheus.firing(), [], "nothing is wrong yet");

  // Faults: a configuration that can't be used, a message that its service refuses for good, a crash, a row that fails.
  const own = path.join(ours.stateDir, "openclaw-rs/openclaw-gateway.toml");
  const good = fs.readFileSync(own, "utf8");
  fs.writeFileSync(own, good.replace("[rollout]", '[rollout]\npercent = "all"'));
  assert.equal((await api.send({ channel: "webhook", target: "room", content: "bad", mode: "wait" })).body.status, "dead");
  const status = await (await fetch(`${ours.url}/api/upstream`, { headers: { authorization: `Bearer ${TOKEN}` } })).json();
  // The guard judges only while OpenClaw answers, so it comes first.
  fs.writeFileSync(faults, "health fail\n");
  await until("the guard's alert to fire", async () => (await prometheus.firing()).some((alert) => alert.labels.alertname === "OpenClawGuardTripped"));
  process.kill(status.pid, "SIGKILL");
  const expected = ["OpenClawConfigRefused", "OpenClawDeadLetters", "OpenClawGuardTripped", "OpenClawUpstreamRestarted"];
  let firing = [];
  await until(`${expected} to fire`, async () => {
    firing = await prometheus.firing();
    return expected.every((name) => firing.some((alert) => alert.labels.alertname === name));
  });
  const dead = firing.find((alert) => alert.labels.alertname === "OpenClawDeadLetters");
  assert.equal(dead.annotations.summary, "1 messages on webhook could not be delivered.");
  assert.equal(client.close_, undefined, "the client stayed over the crash");
  loading = false;
  await load;
  await client.end();
});
