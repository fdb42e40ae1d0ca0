// Kill -9 at every named place, and at random under load. What was accepted arrives, in order; a repeat only where it
// was in doubt. Judged by the log of an independent receiver.
//
//   KILLS=1000 SEED=7   length and start of the random run (`make crash-loop`)
import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { startBotApi } from "../lib/bot-api.mjs";
import { startOurs } from "../lib/gateway.mjs";
import { MessageApi } from "../lib/message-api.mjs";
import { until } from "../lib/tools.mjs";
import { startReceiver, webhookConfig } from "../lib/webhook-receiver.mjs";
import { judge, keyOf, random } from "./checker.mjs";

const KILLS = Number(process.env.KILLS ?? 20);
const SEED = Number(process.env.SEED ?? 20260927);

async function gateway(t, channels, env = {}) {
  const ours = await startOurs({ config: { channels }, env });
  t.after(() => ours.stop());
  return { ours, api: new MessageApi(ours) };
}

async function bothChannels(t) {
  const receiver = await startReceiver();
  t.after(() => receiver.stop());
  const telegram = await startBotApi();
  t.after(() => telegram.stop());
  for (let chat = 1; chat <= 8; chat++) telegram.direct(chat);
  const channels = {
    webhook: webhookConfig(receiver),
    telegram: { botToken: telegram.token, apiRoot: telegram.url, dmPolicy: "open", allowFrom: ["*"] },
  };
  return { receiver, telegram, channels };
}

/** Ends with the gateway dead at `point`, and alive again without it. */
async function crashAt(ours, point, act) {
  await ours.child.stop();
  ours.env.OPENCLAW_RS_CRASH_AT = point;
  await start(ours);
  let refused;
  const acted = act().then((answer) => (refused = answer?.status >= 400 && answer), (error) => error);
  await until(`the crash at ${point}`, () => ours.child.exit || refused);
  assert.ok(!refused, JSON.stringify(refused?.body));
  assert.equal(ours.child.exit.signal, "SIGABRT", `${point}: ${JSON.stringify(ours.child.exit)} ${ours.child.output.slice(-1000)}`);
  await acted;
  delete ours.env.OPENCLAW_RS_CRASH_AT;
  await start(ours);
}

async function start(ours) {
  ours.spawn();
  await until("readiness", async () => {
    // It may crash as soon as it runs, which is what the caller waits for.
    if (ours.child.exit) return true;
    return (await fetch(`${ours.url}/readyz`)).status === 200;
  });
}

const OUTBOUND = ["accept.before_commit", "accept.after_commit", "delivery.before_lease", "delivery.after_lease", "delivery.before_send",
  "delivery.after_send", "delivery.between_parts", "delivery.sent_before_ack", "delivery.after_ack"];

test("a crash at each step of a send to a receiver that keeps ids: it arrives once", { timeout: 900_000 }, async (t) => {
  const { receiver, channels } = await bothChannels(t);
  const { ours, api } = await gateway(t, { webhook: channels.webhook });
  for (const [n, point] of OUTBOUND.entries()) {
    await t.test(point, async () => {
      const before = receiver.distinct().length;
      // Two parts, so that there is a place between them.
      const words = Array.from({ length: 17_000 }, (_, k) => `${n}w${k}`).join(" ");
      const body = { channel: "webhook", target: "room", content: words };
      await crashAt(ours, point, () => api.send(body, { key: `key-${n}` }));
      // As a client does that had no answer.
      const again = await api.send(body, { key: `key-${n}` });
      assert.equal(again.status, 200, JSON.stringify(again.body));
      await api.settled(again.body.message_id, ["delivered"]);
      const parts = receiver.distinct().slice(before).map((e) => e.text);
      assert.equal(parts.join(" ").replace(/\s+/g, " "), words, "whole, once, in order");
    });
  }
});

// No service between us and the person tells whether it arrived: held, shown and counted, never sent twice by itself.
const DOUBTFUL = new Set(["delivery.after_lease", "delivery.before_send", "delivery.after_send", "delivery.sent_before_ack"]);

test("a crash at each step of a send to Telegram: it arrives once, or is held in doubt", { timeout: 900_000 }, async (t) => {
  const { telegram, channels } = await bothChannels(t);
  const { ours, api } = await gateway(t, { telegram: channels.telegram });
  const points = [...OUTBOUND.filter((point) => point !== "delivery.between_parts"), "delivery.in_doubt"];
  for (const [n, point] of points.entries()) {
    await t.test(point, async () => {
      const content = `telegram ${n} ${point}`;
      if (point === "delivery.in_doubt") telegram.faults.push({ method: "sendMessage", kind: "lost-answer", times: 1 });
      await crashAt(ours, point, () => api.send({ channel: "telegram", target: "1", content }, { key: `key-${n}` }));
      const again = await api.send({ channel: "telegram", target: "1", content }, { key: `key-${n}` });
      const { message } = await api.settled(again.body.message_id);
      const arrived = telegram.sent.filter((s) => s.text === content).length;
      if (DOUBTFUL.has(point) || point === "delivery.in_doubt") {
        assert.equal(message.state, "in_doubt", JSON.stringify(message));
        assert.ok(arrived <= 1);
        const listed = await api.all({ state: "in_doubt" });
        assert.ok(listed.some((m) => m.id === again.body.message_id), "it is listed");
        const why = await api.call("GET", `/api/why/${again.body.message_id}`);
        assert.ok(why.body.steps.some((s) => s.step === "in doubt"), JSON.stringify(why.body));
      } else {
        assert.equal(message.state, "delivered", JSON.stringify(message));
        assert.equal(arrived, 1);
      }
      // A conversation goes on behind a doubt.
      const next = await api.send({ channel: "telegram", target: "1", content: `after ${n}`, mode: "wait" });
      assert.equal(next.body.status, "delivered", JSON.stringify(next.body));
    });
  }
});

test("a crash while a message comes in: taken once, and the service is told only then", { timeout: 600_000 }, async (t) => {
  const { telegram, channels } = await bothChannels(t);
  const { ours, api } = await gateway(t, { telegram: channels.telegram });
  const ann = telegram.direct(1);
  for (const point of ["inbound.before_commit", "inbound.after_commit"]) {
    await t.test(point, async () => {
      let update;
      await crashAt(ours, point, async () => {
        update = telegram.say(ann, 1, `said at ${point}`);
      });
      await until("the update to be confirmed", () => telegram.updates.length === 0);
      const why = await until("its life", async () => {
        const found = await api.call("GET", `/api/why/${encodeURIComponent(`1/${update.message.message_id}`)}`);
        return found.status === 200 && found.body;
      });
      assert.equal(new Set(why.steps.map((s) => s.subject)).size, 1, "one row");
      // The same update again, as after an answer that got lost, is known.
      telegram.repeat(update);
      await until("the repeat to be confirmed", () => telegram.updates.length === 0);
      const later = await api.call("GET", `/api/why/${encodeURIComponent(`1/${update.message.message_id}`)}`);
      assert.equal(new Set(later.body.steps.map((s) => s.subject)).size, 1, "still one row");
    });
  }
});

/** One conversation after another message, each asked again with the same key until it is answered. */
class Sender {
  accepted = [];
  offered = new Set();
  stopped = false;

  constructor(api, channel, target, lane) {
    Object.assign(this, { api, channel, target, lane });
  }

  async run() {
    for (let n = 0; !this.stopped; n++) {
      const text = `${this.lane} number ${n} ${"x".repeat(1 + (n % 40))}`;
      this.offered.add(keyOf(this.lane, text));
      for (;;) {
        try {
          const { status, body } = await this.api.send({ channel: this.channel, target: this.target, content: text }, { key: `${this.lane}-${n}` });
          if (status === 200) {
            this.accepted.push({ lane: this.lane, n, text, id: body.message_id });
            break;
          }
          assert.ok(status >= 500 || status === 429, `refused: ${status} ${JSON.stringify(body)}`);
        } catch (error) {
          if (error instanceof assert.AssertionError) throw error;
        }
        await delay(5);
      }
      await delay(1);
    }
  }
}

test(`${KILLS} random kills under load`, { timeout: 600_000 + KILLS * 10_000 }, async (t) => {
  const { receiver, telegram, channels } = await bothChannels(t);
  const { ours, api } = await gateway(t, channels);
  const dice = random(SEED);
  t.diagnostic(`seed ${SEED}`);
  // The receiver is not always well either.
  receiver.behave = () => {
    const roll = dice();
    return roll < 0.02 ? { status: 503 } : roll < 0.03 ? "lost" : roll < 0.04 ? "half" : "ok";
  };
  const senders = [];
  for (let k = 1; k <= 4; k++) {
    senders.push(new Sender(api, "webhook", `room-${k}`, `webhook:room-${k}`));
    senders.push(new Sender(api, "telegram", String(k), `telegram:${k}`));
  }
  const running = senders.map((sender) => sender.run());
  const failed = Promise.race(running).then(() => {}, (error) => error);
  for (let kill = 0; kill < KILLS; kill++) {
    await delay(10 + dice() * 300);
    ours.child.kill("SIGKILL");
    await ours.child.waitExit();
    ours.spawn();
    // Half of them die again while they start.
    if (dice() < 0.5) await until("readiness", async () => (await fetch(`${ours.url}/readyz`)).status === 200);
  }
  await until("readiness", async () => (await fetch(`${ours.url}/readyz`)).status === 200);
  for (const sender of senders) sender.stopped = true;
  await Promise.race([Promise.all(running), failed.then((error) => error && Promise.reject(error))]);
  await until("the outbox to be empty", async () =>
    (await api.all({ state: "pending" })).length === 0 && (await api.all({ state: "leased" })).length === 0, { timeoutMs: 300_000, everyMs: 200 });

  const accepted = senders.flatMap((s) => s.accepted);
  const doubtful = new Set((await api.all({ state: "in_doubt" })).map((m) => m.id));
  assert.deepEqual((await api.all({ state: "dead" })).map((m) => m.error), [], "nothing was given up");
  const held = accepted.filter((m) => doubtful.has(m.id));
  assert.ok(held.every((m) => m.lane.startsWith("telegram")), "only a service that can't tell leaves a doubt");
  assert.equal(doubtful.size, held.length, "every doubt was an accepted message");
  const received = [
    ...receiver.distinct().map((e) => ({ lane: `webhook:${e.target}`, text: e.text })),
    ...telegram.sent.map((s) => ({ lane: `telegram:${s.chat}`, text: s.text })),
  ];
  const run = { accepted, offered: new Set(senders.flatMap((s) => [...s.offered])), received };
  // Held ones may have arrived or not, but never twice.
  for (const m of held) {
    const times = telegram.sent.filter((s) => s.text === m.text).length;
    assert.ok(times <= 1, `${m.text} arrived ${times} times before anybody resent it`);
  }
  const wrong = judge({ ...run, excused: new Set(held.map((m) => keyOf(m.lane, m.text))) });
  assert.equal(wrong.length, 0, wrong.slice(0, 20).join("\n"));
  const repeats = receiver.log.filter((e) => e.taken).length - receiver.distinct().length;
  t.diagnostic(`${accepted.length} accepted, ${received.length} arrived, ${held.length} held in doubt, ${repeats} raw repeats at the receiver that keeps ids`);
  for (const m of accepted.filter((m) => receiver.log.filter((e) => e.id === m.id).length > 1).slice(0, 50)) {
    const { body } = await api.call("GET", `/api/why/${m.id}`);
    assert.ok(body.steps.some((s) => ["in doubt", "retry"].includes(s.step)), `a repeat that nothing explains: ${JSON.stringify(body)}`);
  }

  // A person resends what is held: then nothing is missing at all.
  for (const m of held) assert.equal((await api.call("POST", `/api/dead-letters/${m.id}/resend`)).status, 200);
  for (const m of held) await api.settled(m.id, ["delivered"]);
  const texts = new Set(telegram.sent.map((s) => keyOf(`telegram:${s.chat}`, s.text)));
  assert.deepEqual(held.filter((m) => !texts.has(keyOf(m.lane, m.text))), []);
});
