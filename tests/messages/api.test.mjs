// `POST /api/message` and what shows a message's life, without an OpenClaw behind: a webhook account carries.
import assert from "node:assert/strict";
import fs from "node:fs";
import { test } from "node:test";
import { startOurs } from "../lib/gateway.mjs";
import { MessageApi } from "../lib/message-api.mjs";
import { tempDir, until } from "../lib/tools.mjs";
import { startReceiver, webhookConfig } from "../lib/webhook-receiver.mjs";

async function fixture(t, { webhook = {}, ...options } = {}) {
  const receiver = await startReceiver();
  t.after(() => receiver.stop());
  const ours = await startOurs({ config: { channels: { webhook: webhookConfig(receiver, webhook) } }, ...options });
  t.after(() => ours.stop());
  return { receiver, ours, api: new MessageApi(ours) };
}

const hello = (more = {}) => ({ channel: "webhook", target: "room", content: "hello", ...more });

test("a message is accepted, carried, and its life can be read", async (t) => {
  const { receiver, api } = await fixture(t);
  const sent = await api.send(hello({ thread: "th", replyTo: "r1", subject: "s", account: "default" }));
  assert.equal(sent.status, 200, JSON.stringify(sent.body));
  assert.equal(sent.body.success, true);
  assert.equal(sent.body.error, null);
  const id = sent.body.message_id;
  assert.equal(typeof id, "string");
  const { message } = await api.settled(id);
  assert.equal(message.state, "delivered");
  assert.equal(message.attempts, 1);
  assert.equal(receiver.log.length, 1);
  assert.equal(receiver.log[0].verified, true, receiver.log[0].why);
  const { body } = receiver.log[0];
  assert.deepEqual([body.type, body.target, body.text, body.thread, body.replyTo, body.subject], ["message", "room", "hello", "th", "r1", "s"]);
  assert.equal(receiver.log[0].id, id, "the id under which it was delivered is the one that was answered");
  const why = await api.call("GET", `/api/why/${id}`);
  assert.equal(why.status, 200);
  const steps = why.body.steps.map((s) => s.step);
  assert.deepEqual(steps, ["queued", "attempt", "delivered"], JSON.stringify(why.body));

  const waited = await api.send(hello({ content: "and wait", mode: "wait" }));
  assert.equal(waited.body.status, "delivered", JSON.stringify(waited.body));
  assert.equal(receiver.log.length, 2);
});

test("a receiver's own name for a message finds it", async (t) => {
  const { receiver, api } = await fixture(t);
  receiver.behave = () => ({ status: 201, body: JSON.stringify({ id: "theirs-77" }) });
  const { body } = await api.send(hello({ mode: "wait" }));
  const why = await api.call("GET", "/api/why/theirs-77");
  assert.equal(why.status, 200, JSON.stringify(why.body));
  assert.ok(why.body.steps.every((s) => s.subject === body.message_id));
  assert.deepEqual((await api.settled(body.message_id)).message.receipts[0].messageId, "theirs-77");
});

test("a repeat with the same key is answered alike and sent once, also after a restart", async (t) => {
  const { receiver, ours, api } = await fixture(t);
  const first = await api.send(hello(), { key: "k-1" });
  assert.equal(first.body.duplicate, false);
  const again = await api.send(hello(), { key: "k-1" });
  assert.equal(again.status, 200);
  assert.deepEqual([again.body.message_id, again.body.duplicate], [first.body.message_id, true]);
  const inBody = await api.send(hello({ idempotencyKey: "k-1" }));
  assert.equal(inBody.body.message_id, first.body.message_id);
  const other = await api.send(hello({ content: "something else" }), { key: "k-1" });
  assert.equal(other.status, 409, JSON.stringify(other.body));
  assert.equal(other.body.code, "IDEMPOTENCY_CONFLICT");
  assert.equal(other.body.field, "idempotencyKey");
  const two = await api.send(hello({ idempotencyKey: "k-3" }), { key: "k-4" });
  assert.deepEqual([two.status, two.body.field], [409, "idempotencyKey"], JSON.stringify(two.body));
  const both = await Promise.all(Array.from({ length: 20 }, () => api.send(hello({ content: "race" }), { key: "k-2" })));
  assert.equal(new Set(both.map((r) => r.body.message_id)).size, 1, "twenty at once are one message");
  await api.settled(both[0].body.message_id);
  await ours.restart();
  const later = await api.send(hello(), { key: "k-1" });
  assert.deepEqual([later.body.message_id, later.body.duplicate], [first.body.message_id, true]);
  const last = await api.send(hello({ content: "last", mode: "wait" }));
  assert.equal(last.body.status, "delivered");
  assert.deepEqual(receiver.log.map((e) => e.text), ["hello", "race", "last"]);
});

test("what is wrong is refused with code, message and field, and nothing is sent", async (t) => {
  const { receiver, api } = await fixture(t);
  const cases = [
    [{}, "channel"], [{ channel: "webhook" }, "target"], [hello({ content: undefined }), "content"], [hello({ content: " " }), "content"],
    [hello({ target: 5 }), "target"], [hello({ media: ["file:///etc/passwd"] }), "media"], [hello({ mode: "soon" }), "mode"],
    [hello({ turn: "yes" }), "turn"], [hello({ chanel: "x" }), "body"], [[], "body"], [hello({ account: "nobody" }), "account", 404],
    [hello({ channel: "nowhere" }), "channel", 404], [hello({ content: "x".repeat(300_000) }), "content"], ["{", "body"], [hello({ idempotencyKey: 1 }), "idempotencyKey"],
  ];
  for (const [body, field, expected = 400] of cases) {
    const { status, body: answer } = await api.send(body);
    const shown = JSON.stringify(body).slice(0, 80);
    assert.equal(status, expected, `${shown}: ${JSON.stringify(answer)}`);
    assert.deepEqual([answer.success, answer.message_id, answer.field], [false, null, field], shown);
    assert.ok(answer.error.length > 5 && answer.code, shown);
  }
  assert.equal((await api.send(`{"content":"${"x".repeat(3 << 20)}"}`)).status, 413);
  const notJson = await api.call("POST", "/api/message", { body: "channel=webhook", headers: { "content-type": "application/x-www-form-urlencoded" } });
  assert.ok([400, 415].includes(notJson.status), JSON.stringify(notJson.body));
  const wrongMethod = await api.call("PUT", "/api/message");
  assert.equal(wrongMethod.status, 405);
  assert.equal(wrongMethod.headers.get("allow"), "POST");
  assert.equal((await api.call("GET", "/api/message/none")).status, 404);
  assert.deepEqual(receiver.log, []);
  assert.deepEqual(await api.all(), []);
});

test("nobody without the token sends, reads or drops", async (t) => {
  const { receiver, ours, api } = await fixture(t);
  const id = (await api.send(hello({ mode: "wait" }))).body.message_id;
  const calls = [["POST", "/api/message", hello()], ["GET", `/api/message/${id}`], ["GET", "/api/messages"], ["GET", "/api/sessions"], ["GET", "/api/routes"],
    ["GET", `/api/why/${id}`], ["GET", "/api/dead-letters"], ["DELETE", `/api/dead-letters/${id}`], ["POST", `/api/dead-letters/${id}/resend`], ["GET", "/api/channels"],
    ["POST", "/api/media/probe", "x"], ["POST", "/api/media/fit", "x"], ["POST", "/api/media/convert", "x"]];
  for (const token of [undefined, "wrong"]) {
    const nobody = new MessageApi(ours, { token: token ?? null });
    // One wrong guess each: the gateway slows guessing down.
    for (const [method, path, body] of token ? calls.slice(0, 1) : calls) {
      const { status } = await nobody.call(method, path, { body });
      assert.equal(status, 401, `${method} ${path}`);
    }
  }
  assert.equal(receiver.log.length, 1);
});

test("pages are complete, newest first, and filters hold", async (t) => {
  const { api } = await fixture(t);
  const ids = [];
  for (let n = 0; n < 25; n++) ids.push((await api.send(hello({ target: n % 2 ? "odd" : "even", content: `n${n}` }))).body.message_id);
  for (const id of ids) await api.settled(id);
  const seen = [];
  let before = "";
  for (;;) {
    const { body } = await api.call("GET", `/api/messages?limit=10${before}`);
    seen.push(...body.messages.map((m) => m.id));
    if (!body.next) break;
    before = `&before=${body.next}`;
  }
  assert.deepEqual(seen, ids.toReversed());
  assert.deepEqual((await api.all({ target: "odd" })).map((m) => m.id), ids.filter((_, n) => n % 2).toReversed());
  assert.equal((await api.all({ state: "dead" })).length, 0);
  for (const query of ["limit=0", "limit=x", "limit=100000", "state=lost", "unknown=1"]) {
    const { status, body } = await api.call("GET", `/api/messages?${query}`);
    assert.equal(status, 400, `${query}: ${JSON.stringify(body).slice(0, 100)}`);
    assert.ok(body.field, query);
  }
});

test("an account that fails delays nobody else; a conversation keeps its order meanwhile", async (t) => {
  const receiver = await startReceiver();
  t.after(() => receiver.stop());
  const slow = await startReceiver();
  t.after(() => slow.stop());
  let release;
  const held = new Promise((resolve) => (release = resolve));
  slow.behave = () => held.then(() => "ok");
  const ours = await startOurs({ config: { channels: { webhook: {
    allowPrivateNetwork: true, defaultAccount: "good",
    accounts: { good: webhookConfig(receiver), slow: webhookConfig(slow) },
  } } } });
  t.after(() => ours.stop());
  const api = new MessageApi(ours);
  for (let n = 0; n < 30; n++) await api.send(hello({ account: "slow", target: `t${n % 10}`, content: `slow ${n}` }));
  const good = [];
  for (let n = 0; n < 30; n++) good.push(api.send(hello({ account: "good", target: `t${n}`, content: `good ${n}`, mode: "wait" })));
  for (const { body } of await Promise.all(good)) assert.equal(body.status, "delivered");
  assert.equal(slow.log.length, 0);
  release();
  await until("the slow account's messages", () => slow.log.length === 30);
  for (let lane = 0; lane < 10; lane++) {
    const order = slow.log.filter((e) => e.target === `t${lane}`).map((e) => e.text);
    assert.deepEqual(order, [0, 1, 2].map((k) => `slow ${lane + 10 * k}`));
  }
});

test("a receiver that refuses makes a dead letter, which can be inspected, resent and dropped", async (t) => {
  const { receiver, api } = await fixture(t);
  receiver.behave = () => ({ status: 410 });
  const first = (await api.send(hello({ content: "first" }))).body.message_id;
  const second = (await api.send(hello({ content: "second" }))).body.message_id;
  const { message } = await api.settled(first);
  assert.equal(message.state, "dead");
  assert.match(message.error, /410/);
  await api.settled(second);
  const dead = await api.call("GET", "/api/dead-letters");
  assert.equal(dead.status, 200);
  assert.deepEqual(new Set(dead.body.outbound.map((m) => m.id)), new Set([first, second]), JSON.stringify(dead.body));
  receiver.behave = () => "ok";
  const resent = await api.call("POST", `/api/dead-letters/${first}/resend`);
  assert.equal(resent.status, 200, JSON.stringify(resent.body));
  assert.equal((await api.settled(first, ["delivered"])).message.state, "delivered");
  assert.equal((await api.call("POST", `/api/dead-letters/${first}/resend`)).status, 409, "what was delivered is not resent");
  assert.equal((await api.call("DELETE", `/api/dead-letters/${second}`)).status, 200);
  assert.equal((await api.call("GET", `/api/message/${second}`)).status, 404);
  assert.equal((await api.call("POST", "/api/dead-letters/none/resend")).status, 404);
  assert.deepEqual(receiver.distinct().map((e) => e.text), ["first"]);
  const why = await api.call("GET", `/api/why/${first}`);
  assert.deepEqual(why.body.steps.map((s) => s.step), ["queued", "attempt", "buried", "resent", "attempt", "delivered"]);
});

test("a receiver that is busy or broken is asked again, no sooner than it wishes", async (t) => {
  const { receiver, api } = await fixture(t);
  const plans = [{ status: 503 }, "reset", "lost", { status: 429, headers: { "retry-after": "2" } }];
  receiver.behave = () => plans.shift() ?? "ok";
  const { body } = await api.send(hello());
  await api.settled(body.message_id, ["delivered"]);
  assert.deepEqual(receiver.log.map((e) => e.id), Array(5).fill(body.message_id), "every attempt has the same id");
  assert.ok(receiver.log[4].at - receiver.log[3].at >= 2000, "Retry-After was kept");
  const why = await api.call("GET", `/api/why/${body.message_id}`);
  assert.equal(why.body.steps.filter((s) => s.step === "attempt").length, 5);
});

test("a long message arrives whole, in order, in parts that fit", async (t) => {
  const { receiver, api } = await fixture(t);
  const words = Array.from({ length: 20_000 }, (_, n) => `w${n}`).join(" ");
  const { body } = await api.send(hello({ content: words, mode: "wait" }));
  assert.equal(body.status, "delivered");
  assert.ok(receiver.log.length > 1, "it was split");
  assert.ok(receiver.log.every((e) => e.text.length <= 100_000));
  assert.equal(receiver.log.map((e) => e.text).join(" ").replace(/\s+/g, " "), words);
});

test("a store that somebody else holds: refused, not ready, and well again without a restart", async (t) => {
  const receiver = await startReceiver();
  t.after(() => receiver.stop());
  const stateDir = tempDir("held");
  const ours = await startOurs({ stateDir, config: { channels: { webhook: webhookConfig(receiver) } } });
  t.after(() => ours.stop());
  const file = fs.readdirSync(`${stateDir}/openclaw-rs`).find((name) => name.endsWith(".db"));
  assert.ok(file);
  await ours.child.stop();
  // Another program holds the database: SQLite's own lock.
  const { DatabaseSync } = await import("node:sqlite");
  const thief = new DatabaseSync(`${stateDir}/openclaw-rs/${file}`);
  thief.exec("BEGIN EXCLUSIVE");
  ours.spawn();
  const api = new MessageApi(ours);
  const refused = await until("an answer", () => api.send(hello({ content: "while held" })));
  assert.equal(refused.status, 503, JSON.stringify(refused.body));
  assert.deepEqual([refused.body.success, refused.body.message_id], [false, null]);
  assert.match(refused.body.error, /lock|held|another process/i);
  assert.equal((await fetch(`${ours.url}/readyz`)).status, 503);
  assert.equal((await fetch(`${ours.url}/healthz`)).status, 200);
  thief.exec("ROLLBACK");
  thief.close();
  await until("readiness", async () => (await fetch(`${ours.url}/readyz`)).status === 200);
  const taken = await api.send(hello({ content: "after", mode: "wait" }));
  assert.equal(taken.body.status, "delivered", JSON.stringify(taken.body));
  assert.deepEqual(receiver.log.map((e) => e.text), ["after"], "what was refused was not sent");
});

test("webchat: delivered once it is in the transcript", async (t) => {
  const { api } = await fixture(t);
  const { body } = await api.send({ channel: "webchat", target: "main", content: "to the page", mode: "wait" });
  assert.equal(body.status, "delivered", JSON.stringify(body));
});
