// The drill: up by 5, 25, 50 and 100 percent with messages in flight and a fault at every step, and each time back at 0 % in
// seconds. What was accepted arrives once, in order, judged by an independent receiver.
import assert from "node:assert/strict";
import fs from "node:fs";
import path from "node:path";
import test from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { startOriginal } from "../lib/gateway.mjs";
import { MessageApi } from "../lib/message-api.mjs";
import { tempDir, until } from "../lib/tools.mjs";
import { startReceiver, webhookConfig } from "../lib/webhook-receiver.mjs";
import { judge, keyOf } from "../messages/checker.mjs";
import { Devices, guarded, rollout, startPlanted, status } from "./load.mjs";

const TOML = `[channels]
native = ["webhook"]
[rollout]
percent = 5
[rollout.guard]
window_s = 5
calls_min = 50
`;
/** Back in seconds, whoever went back. */
const BACK_WITHIN_MS = 10_000;

/** One conversation: a message after the other, each asked again with its key until it is answered. */
class Sender {
  accepted = [];
  offered = new Set();
  stopped = false;
  /** The test ended: nobody answers any more. */
  abandoned = false;

  constructor(api, lane) {
    Object.assign(this, { api, lane });
  }

  async run() {
    for (let n = 0; !this.stopped; n += 1) {
      const text = `${this.lane} number ${n}`;
      this.offered.add(keyOf(this.lane, text));
      while (!this.abandoned) {
        // While the gateway is down nobody answers, and the sender asks again.
        const answer = await this.api.send({ channel: "webhook", target: this.lane, content: text }, { key: `${this.lane}-${n}` }).catch(() => ({ status: 503 }));
        if (answer.status === 200) {
          this.accepted.push({ lane: this.lane, n, text });
          break;
        }
        assert.ok(answer.status >= 500 || answer.status === 429, JSON.stringify(answer.body));
        await delay(20);
      }
      await delay(10);
    }
  }
}

const ready = (target) => until(`${target.label} to be ready`, async () => (await fetch(`${target.url}/readyz`)).status === 200, { timeoutMs: 90_000 });

test("5, 25, 50 and 100 percent, a fault at each, and back: nothing is lost or doubled", { timeout: 900_000 }, async (t) => {
  const receiver = await startReceiver();
  t.after(() => receiver.stop());
  const original = await startOriginal();
  t.after(() => original.stop());
  // A channel that OpenClaw does not know, so it is in our own file.
  const stateDir = tempDir("drill");
  fs.mkdirSync(path.join(stateDir, "openclaw-rs"), { mode: 0o700 });
  fs.writeFileSync(path.join(stateDir, "openclaw-rs/channels.json"), JSON.stringify({ webhook: webhookConfig(receiver) }));
  const ours = await startPlanted(t, original, TOML, { stateDir });
  const identities = Devices.spread(20);
  // Their first handshake is relayed, since OpenClaw pairs them; from the second on their connection outlives OpenClaw.
  await (await Devices.open(ours, identities)).end();
  let devices = await Devices.open(ours, identities);

  const senders = ["one", "two", "three"].map((lane) => new Sender(new MessageApi(ours), lane));
  const stopSending = () => senders.forEach((sender) => (sender.stopped = true));
  t.after(() => senders.forEach((sender) => (sender.stopped = sender.abandoned = true)));
  const sending = Promise.all(senders.map((sender) => sender.run()));

  /** To a percent: as many of the devices are served here. */
  const up = async (percent) => {
    const { code, stderr } = await rollout(ours, "set", String(percent));
    assert.equal(code, 0, stderr);
    await until(`${percent} % to be served here`, async () => (await devices.bridged()) === (20 * (100 - percent)) / 100);
    devices.load();
  };
  /** Everybody is served by OpenClaw, in time, on connections that stayed. */
  const isBack = async (what, since) => {
    const seen = await until("0 % in force", async () => {
      const now = await status(ours);
      return now.effective === 0 && now;
    });
    const took = Date.now() - since;
    await devices.rest();
    assert.equal(await devices.bridged(), 20);
    assert.equal(devices.lost(), 0, "nobody was disconnected");
    assert.ok(took < BACK_WITHIN_MS, `${what}: back after ${took} ms`);
    t.diagnostic(`${what}: back after ${took} ms, ${receiver.log.length} messages so far`);
    return seen;
  };
  const rollback = async (what) => {
    const since = Date.now();
    assert.equal((await rollout(ours, "rollback")).code, 0);
    await isBack(what, since);
  };

  // OpenClaw dies: no fault of ours, so the guard stays out of it, and a person goes back.
  await up(5);
  original.child.killTree("SIGKILL");
  await original.child.waitExit();
  await until("the gateway to notice", async () => (await status(ours)).upstream !== "ready");
  assert.notEqual((await guarded(ours, "watching")).effective, 0);
  original.spawn();
  await ready(original);
  await until("the upstream to be ready", async () => (await status(ours)).upstream === "ready");
  await rollback("5 %, OpenClaw killed, rolled back by hand");

  // A row becomes slow.
  await up(25);
  await guarded(ours, "ok");
  ours.plant("health delay 4000");
  const slow = await isBack("25 %, a row slow, the guard", Date.now());
  assert.deepEqual([slow.guard.state, slow.guard.trip.signal], ["tripped", "p99"]);
  ours.plant();

  // We die, with messages and calls under way.
  await up(50);
  await devices.rest();
  ours.child.kill("SIGKILL");
  await ours.child.waitExit();
  ours.spawn();
  await ready(ours);
  assert.equal((await status(ours)).effective, 50, "as it was");
  devices = await Devices.open(ours, identities);
  await until("half of them to be served here", async () => (await devices.bridged()) === 10);
  devices.load();
  await rollback("50 %, this gateway killed, rolled back by hand");

  // A row panics, with nobody left at OpenClaw to compare with.
  await up(100);
  await guarded(ours, "ok");
  ours.plant("health panic");
  const failing = await isBack("100 %, a row panics, the guard", Date.now());
  assert.deepEqual([failing.guard.state, failing.guard.trip.signal], ["tripped", "errors"]);

  // More conversations than are carried at a time, and a receiver that answers none: the rest is due and not taken up.
  ours.plant();
  fs.writeFileSync(ours.own, fs.readFileSync(ours.own, "utf8").replace("calls_min = 50", "calls_min = 50\nqueue_age_s = 2"));
  await up(50);
  await until("the new bound", async () => (await status(ours)).guard.signals.find((one) => one.signal === "queue").bound === 2);
  let answer;
  const answered = new Promise((resolve) => (answer = resolve));
  receiver.behave = () => answered.then(() => "ok");
  t.after(() => answer());
  const more = new Sender(new MessageApi(ours), "more");
  for (let n = 0; n < 40; n += 1) {
    const lane = `late-${n}`;
    assert.equal((await more.api.send({ channel: "webhook", target: lane, content: "late" }, { key: lane })).status, 200);
    more.offered.add(keyOf(lane, "late"));
    more.accepted.push({ lane, n: 0, text: "late" });
  }
  senders.push(more);
  const late = await guarded(ours, "tripped");
  assert.equal(late.guard.trip.signal, "queue");
  await isBack(`50 %, messages not taken up, the guard (${late.guard.trip.text})`, Date.now());
  answer();
  receiver.behave = () => "ok";

  stopSending();
  await sending;
  const accepted = senders.flatMap((sender) => sender.accepted);
  assert.ok(accepted.length > 100, `${accepted.length} messages`);
  await until("everything to be delivered", () => receiver.distinct().length >= accepted.length);
  const received = receiver.distinct().map(({ target, text }) => ({ lane: target, text }));
  const offered = new Set(senders.flatMap((sender) => [...sender.offered]));
  assert.deepEqual(judge({ accepted, offered, received }), []);
  t.diagnostic(`${accepted.length} messages accepted, ${receiver.log.length} requests at the receiver, nothing lost or doubled`);
  await devices.end();
});
