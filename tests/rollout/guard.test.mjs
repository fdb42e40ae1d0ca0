// The rollout's guard: planted delays, errors and differences make it go back by itself, on live connections, and stay back
// until a person promotes; a healthy gateway under the same load goes on.
import assert from "node:assert/strict";
import fs from "node:fs";
import test from "node:test";
import { startOriginal } from "../lib/gateway.mjs";
import { until } from "../lib/tools.mjs";
import { Devices, guarded, metric, rollout, startPlanted, status } from "./load.mjs";

const WINDOW_S = 5;
const TOML = `[rollout]
percent = 50
shadow_percent = 100
[rollout.guard]
window_s = ${WINDOW_S}
calls_min = 50
`;

const signal = (seen, name) => seen.guard.signals.find((one) => one.signal === name);

test("past a bound it goes back by itself, says why, and stays back until a person promotes", { timeout: 600_000 }, async (t) => {
  const original = await startOriginal();
  t.after(() => original.stop());
  const ours = await startPlanted(t, original, TOML);
  const identities = Devices.spread(12);
  let devices = await Devices.open(ours, identities);

  await until("half of them to be served here", async () => (await devices.bridged()) === 6);
  assert.equal((await status(ours)).guard.state, "watching", "a few calls are no verdict");
  assert.equal(await metric(ours, "openclaw_rs_rollout_guard_tripped"), 0);
  assert.equal(await metric(ours, 'openclaw_rs_rollout_guard_value{signal="p99",side="upstream"}'), 0);
  assert.equal(await metric(ours, 'openclaw_rs_shadow_moving_total{result="different"}'), 0);

  // Healthy, for more than two windows of load.
  devices.load();
  const began = Date.now();
  const healthy = await until("two windows of health", async () => {
    const now = await status(ours);
    assert.notEqual(now.guard.state, "tripped", JSON.stringify(now.guard));
    const compared = signal(now, "mismatch").native !== null;
    return now.guard.state === "ok" && compared && Date.now() - began > 2 * WINDOW_S * 1000 && now;
  }, { everyMs: 200 });
  assert.equal(healthy.effective, 50);
  for (const one of healthy.guard.signals) assert.equal(one.past, false, JSON.stringify(one));
  assert.ok(healthy.guard.calls.native >= 50 && healthy.guard.calls.upstream >= 50, JSON.stringify(healthy.guard.calls));
  assert.ok(signal(healthy, "p99").native < signal(healthy, "p99").bound);
  t.diagnostic(`healthy: ${JSON.stringify(healthy.guard.calls)} calls in ${WINDOW_S} s, ${healthy.guard.signals.map((one) => `${one.signal} ${one.text.native}, ${one.text.upstream}, bound ${one.text.bound}`).join("; ")}`);
  const shown = await rollout(ours, "status");
  assert.match(shown.stdout, /guard {6}(ok|watching).* calls here and \d+ at OpenClaw in 5 s\)\n {2}errors +0\.0 % here/);

  // Wrong bounds are named and change nothing.
  const good = fs.readFileSync(ours.own, "utf8");
  fs.writeFileSync(ours.own, good.replace("calls_min = 50", "calls_min = 3"));
  await until("the refusal in the log", () => /openclaw-gateway\.toml:\d+:1: rollout\.guard\.calls_min: expected a whole number from 10 to/.test(ours.child.output));
  assert.equal((await status(ours)).guard.callsMin, 50);
  fs.writeFileSync(ours.own, good.replace("calls_min = 50", "calls_min = 40"));
  await until("the new bound", async () => (await status(ours)).guard.callsMin === 40);

  // Slow here.
  await guarded(ours, "ok");
  ours.plant("health delay 4000");
  let planted = Date.now();
  const slow = await guarded(ours, "tripped");
  t.diagnostic(`delay: back after ${Date.now() - planted} ms: ${slow.guard.trip.text}`);
  assert.deepEqual([slow.percent, slow.effective, slow.guard.trip.signal, slow.guard.trip.percent], [50, 0, "p99", 50]);
  assert.match(slow.reason, /^rolled back by the guard: p99 \d+ ms here, \S+ ms at OpenClaw, bound \d+ ms$/);
  assert.match(slow.guard.trip.todo, /rollout promote/);
  await devices.rest();
  assert.equal(await devices.bridged(), devices.clients.length, "all are served by OpenClaw");
  assert.equal(devices.lost(), 0, "nobody was disconnected");
  await until("the log to say so", () => /the rollout's guard went back to 0 %: p99 /.test(ours.child.output));
  assert.equal(await metric(ours, "openclaw_rs_rollout_guard_tripped"), 1);
  assert.equal(await metric(ours, 'openclaw_rs_rollout_guard_trips_total{signal="p99"}'), 1);
  assert.equal(await metric(ours, "openclaw_rs_rollout_effective_percent"), 0);
  assert.equal(await metric(ours, "openclaw_rs_rollout_percent"), 50);
  assert.match((await rollout(ours, "status")).stdout, /effective {2}0\nreason {5}rolled back by the guard: p99 [^]+guard {6}tripped[^]+ {2}tripped {2}\d+ s ago at 50 %: p99 [^]+ {2}todo {5}find the cause/);

  // Over a restart, and without a gateway; a percent written by hand is no promotion.
  ours.plant();
  await devices.end();
  await ours.child.stop();
  const stopped = JSON.parse((await rollout(ours, "status", "--json")).stdout);
  assert.deepEqual([stopped.running, stopped.effective, stopped.guard.state], [false, 0, "tripped"]);
  fs.writeFileSync(ours.own, fs.readFileSync(ours.own, "utf8").replace("percent = 50", "percent = 60"));
  await ours.restart();
  const again = await status(ours);
  assert.deepEqual([again.percent, again.effective, again.guard.state, again.guard.trip.signal], [60, 0, "tripped", "p99"]);
  devices = await Devices.open(ours, identities);
  assert.equal(await devices.bridged(), devices.clients.length);

  // A person promotes: from 0, a step at a time, or to a percent at once.
  const promoted = await rollout(ours, "promote");
  assert.equal(promoted.code, 0, promoted.stderr);
  assert.match(promoted.stdout, /percent {4}5\neffective {2}5\nreason {5}promoted from 0 % by hand/);
  assert.equal((await rollout(ours, "set", "50")).code, 0);
  await until("half of them to be served here again", async () => (await devices.bridged()) === 6);

  // Failures here; those that a client earns are none.
  devices.load();
  await guarded(ours, "ok");
  ours.plant("health fail");
  planted = Date.now();
  const failing = await guarded(ours, "tripped");
  t.diagnostic(`errors: back after ${Date.now() - planted} ms: ${failing.guard.trip.text}`);
  assert.equal(failing.guard.trip.signal, "errors");
  ours.plant();
  assert.equal((await rollout(ours, "set", "50")).code, 0);
  await guarded(ours, "ok");

  // Answers that differ.
  ours.plant("health differ");
  planted = Date.now();
  const differing = await guarded(ours, "tripped");
  t.diagnostic(`mismatch: back after ${Date.now() - planted} ms: ${differing.guard.trip.text}`);
  assert.deepEqual([differing.guard.trip.signal, differing.effective], ["mismatch", 0]);
  assert.match(differing.guard.trip.text, /^mismatch \d+\.\d % here, bound 20\.0 %$/);
  assert.ok(await metric(ours, 'openclaw_rs_shadow_moving_total{result="different"}') >= 10);

  // Switched off it watches nothing; what it took back stays back.
  ours.plant();
  fs.writeFileSync(ours.own, fs.readFileSync(ours.own, "utf8").replace("[rollout.guard]", "[rollout.guard]\nenabled = false"));
  assert.equal((await rollout(ours, "pause")).code, 0);
  assert.deepEqual([(await status(ours)).effective, (await status(ours)).guard.state], [0, "tripped"]);
  assert.equal((await rollout(ours, "set", "50")).code, 0);
  await guarded(ours, "off");
  ours.plant("health fail");
  const failed = devices.answers.failed;
  await until("failures that nobody watches", () => devices.answers.failed > failed + 100);
  assert.deepEqual([(await status(ours)).effective, (await status(ours)).guard.state], [50, "off"]);
  await devices.rest();
  assert.equal(devices.lost(), 0, "nobody was disconnected, whatever happened");
  await devices.end();
});
