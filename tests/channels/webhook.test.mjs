// The webhook channel, judged by the package `standardwebhooks`: what comes in must be signed and fresh.
import assert from "node:assert/strict";
import { test } from "node:test";
import { startOurs } from "../lib/gateway.mjs";
import { MessageApi } from "../lib/message-api.mjs";
import { until } from "../lib/tools.mjs";
import { SECRET, post, startReceiver, webhookConfig } from "../lib/webhook-receiver.mjs";

async function fixture(t, webhook = {}) {
  const receiver = await startReceiver();
  t.after(() => receiver.stop());
  const ours = await startOurs({ config: { channels: { webhook: webhookConfig(receiver, webhook) } } });
  t.after(() => ours.stop());
  return { receiver, ours, api: new MessageApi(ours) };
}

test("a signed message is taken once; a repeat is known", async (t) => {
  const { ours, api } = await fixture(t);
  const message = { text: "hi", from: { id: "ann", name: "Ann" } };
  const first = await post(ours, message, { id: "msg_1" });
  assert.equal(first.status, 202, JSON.stringify(first.body));
  assert.equal(first.body.duplicate, false);
  const again = await post(ours, message, { id: "msg_1" });
  assert.deepEqual([again.status, again.body.duplicate], [202, true]);
  const why = await api.call("GET", `/api/why/${first.body.id}`);
  assert.equal(why.status, 200);
  assert.equal(new Set(why.body.steps.map((s) => s.subject)).size, 1);
});

test("unsigned, stale, altered and malformed messages are refused", async (t) => {
  const { ours } = await fixture(t);
  const good = { text: "hi", from: "ann" };
  const hour = 3_600_000;
  const cases = [
    [401, good, { secret: `whsec_${Buffer.alloc(32).toString("base64")}` }],
    [401, good, { at: new Date(Date.now() - hour) }],
    [401, good, { at: new Date(Date.now() + hour) }],
    [401, good, { headers: { "webhook-signature": "v1,bm8=" } }],
    [401, good, { headers: { "webhook-id": "another" } }],
    [400, "{", {}],
    [400, { from: "ann" }, {}],
    [400, { text: "hi" }, {}],
    [404, good, { account: "nobody" }],
    [413, { text: "x".repeat(2 << 20), from: "ann" }, {}],
  ];
  for (const [status, body, options] of cases) {
    const answer = await post(ours, body, options);
    assert.equal(answer.status, status, `${JSON.stringify(body).slice(0, 60)} ${JSON.stringify(options)}: ${JSON.stringify(answer.body)}`);
  }
  // Signed with several secrets while one is being changed.
  const rotated = await post(ours, good, { id: "rot", secret: SECRET });
  assert.equal(rotated.status, 202);
});

test("a private address is not reached unless that is allowed", async (t) => {
  const { receiver, api } = await fixture(t, { allowPrivateNetwork: false });
  const { body } = await api.send({ channel: "webhook", target: "x", content: "to a private address" });
  const { message } = await api.settled(body.message_id);
  assert.equal(message.state, "dead", JSON.stringify(message));
  assert.match(message.error, /private|not allowed|address/i);
  assert.deepEqual(receiver.log, []);
});

test("an account without a secret does not start, says which key, and the others run", async (t) => {
  const receiver = await startReceiver();
  t.after(() => receiver.stop());
  const ours = await startOurs({ config: { channels: { webhook: { accounts: {
    good: webhookConfig(receiver), blank: webhookConfig(receiver, { secret: " " }),
  }, allowPrivateNetwork: true } } } });
  t.after(() => ours.stop());
  const api = new MessageApi(ours);
  assert.equal((await api.send({ channel: "webhook", account: "good", target: "x", content: "runs", mode: "wait" })).body.status, "delivered");
  const status = await until("the status", async () => (await api.call("GET", "/api/channels")).body.channels?.webhook);
  const blank = status.find((a) => a.accountId === "blank");
  assert.match(JSON.stringify(blank), /channels\.webhook\.accounts\.blank\.secret/);
  assert.equal((await post(ours, { text: "x", from: "a" }, { account: "blank" })).status, 404);
});
