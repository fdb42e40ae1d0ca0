// Other ways in and other carriers: the legacy bridge's HTTP contract, the WebSocket methods `send`,
// `message.action` and `channels.*`, and handing `send` back while running.
import assert from "node:assert/strict";
import { once } from "node:events";
import fs from "node:fs";
import http from "node:http";
import path from "node:path";
import { test } from "node:test";
import { metricsOf, startOurs, TOKEN } from "../lib/gateway.mjs";
import { MessageApi } from "../lib/message-api.mjs";
import { RawClient } from "../lib/raw.mjs";
import { freePort, until } from "../lib/tools.mjs";
import { startReceiver, webhookConfig } from "../lib/webhook-receiver.mjs";

/** A bridge that speaks `POST /api/legacy/message`. `answer` decides each request. */
async function startLegacy(port, answer) {
  const log = [];
  const server = http.createServer(async (request, response) => {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const entry = { path: request.url, key: request.headers["idempotency-key"], body: JSON.parse(Buffer.concat(chunks)) };
    log.push(entry);
    const { status, body } = answer(entry, log.length);
    response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(body));
  });
  server.listen(port, "127.0.0.1");
  await once(server, "listening");
  return { log, stop: () => new Promise((resolve) => (server.closeAllConnections(), server.close(resolve))) };
}

test("a channel that is not ours goes to the legacy bridge, which may be down", async (t) => {
  const port = await freePort();
  const ours = await startOurs({ toml: `[messages]\nlegacy_url = "http://127.0.0.1:${port}"` });
  t.after(() => ours.stop());
  const api = new MessageApi(ours);
  const sent = await api.send({ channel: "discord", target: "c1", content: "late", account: "a", thread: "t" });
  assert.equal(sent.status, 200, JSON.stringify(sent.body));
  await until("a try while the bridge is down", async () => (await api.call("GET", `/api/message/${sent.body.message_id}`)).body.message.error);
  const bridge = await startLegacy(port, ({ body }) => (body.content === "no" ? { status: 200, body: { success: false, message_id: null, error: "no such room" } } : { status: 200, body: { success: true, message_id: "legacy-1", error: null } }));
  t.after(() => bridge.stop());
  const { message } = await api.settled(sent.body.message_id);
  assert.deepEqual([message.state, message.receipts[0].messageId], ["delivered", "legacy-1"]);
  assert.equal(bridge.log.length, 1);
  const { path: at, key, body } = bridge.log[0];
  assert.deepEqual([at, key, body.channel, body.target, body.content, body.account, body.thread], ["/api/legacy/message", sent.body.message_id, "discord", "c1", "late", "a", "t"]);

  const refused = await api.send({ channel: "discord", target: "c1", content: "no", mode: "wait" });
  assert.deepEqual([refused.body.status, refused.body.error], ["dead", "no such room"]);
});

async function connected(ours) {
  const client = await RawClient.open(ours.wsUrl);
  const hello = await client.connect({ token: TOKEN });
  assert.equal(hello.payload?.type, "hello-ok", JSON.stringify(hello));
  return client;
}

test("`send` and `message.action` are carried by our account, once per key, over a restart too", async (t) => {
  const receiver = await startReceiver();
  t.after(() => receiver.stop());
  const ours = await startOurs({ config: { channels: { webhook: webhookConfig(receiver) } } });
  t.after(() => ours.stop());
  let client = await connected(ours);
  const params = { to: "room", message: "by rpc", channel: "webhook", idempotencyKey: "k-1" };
  const first = await client.call("send", params);
  assert.equal(first.ok, true, JSON.stringify(first));
  assert.deepEqual([first.payload.runId, first.payload.channel], ["k-1", "webhook"]);
  await ours.restart();
  client = await connected(ours);
  const again = await client.call("send", params);
  assert.equal(again.payload.messageId, first.payload.messageId);
  assert.equal(receiver.log.length, 1, "sent once, though the gateway was restarted in between");
  const other = await client.call("send", { ...params, message: "something else" });
  assert.equal(other.ok, false);
  assert.equal(other.error.code, "INVALID_REQUEST");

  const action = await client.call("message.action", { channel: "webhook", action: "send", params: { to: "webhook:room", message: "by the CLI" }, idempotencyKey: "k-2" });
  assert.equal(action.ok, true, JSON.stringify(action));
  assert.deepEqual(receiver.log.map(({ body }) => [body.target, body.text]), [["room", "by rpc"], ["room", "by the CLI"]]);
  const empty = await client.call("send", { ...params, message: " ", idempotencyKey: "k-3" });
  assert.deepEqual([empty.ok, empty.error.code], [false, "INVALID_REQUEST"]);
  await client.end();
});

test("an account is stopped and started by `channels.*`; what comes meanwhile waits", async (t) => {
  const receiver = await startReceiver();
  t.after(() => receiver.stop());
  const ours = await startOurs({ config: { channels: { webhook: webhookConfig(receiver) } } });
  t.after(() => ours.stop());
  const [client, api] = [await connected(ours), new MessageApi(ours)];
  const status = async () => (await client.call("channels.status", {})).payload.channelAccounts.webhook[0];
  await until("the account to run", async () => (await status())?.connected);
  const stopped = await client.call("channels.stop", { channel: "webhook" });
  assert.deepEqual(stopped.payload, { channel: "webhook", accountId: "default", stopped: true });
  const { body } = await api.send({ channel: "webhook", target: "room", content: "meanwhile" });
  await until("a try", async () => /not running/.test((await api.call("GET", `/api/message/${body.message_id}`)).body.message.error ?? ""));
  assert.equal(receiver.log.length, 0);
  const started = await client.call("channels.start", { channel: "webhook" });
  assert.equal(started.payload.started, true);
  assert.equal((await api.settled(body.message_id)).message.state, "delivered");
  await client.end();
});

test("`send` is handed back while running and taken again", async (t) => {
  const receiver = await startReceiver();
  t.after(() => receiver.stop());
  const ours = await startOurs({ config: { channels: { webhook: webhookConfig(receiver) } } });
  t.after(() => ours.stop());
  const client = await connected(ours);
  const send = (key) => client.call("send", { to: "room", message: key, channel: "webhook", idempotencyKey: key });
  assert.equal((await send("ours")).ok, true);
  const file = path.join(ours.stateDir, "openclaw-rs/openclaw-gateway.toml");
  const before = fs.readFileSync(file, "utf8");
  fs.writeFileSync(file, `${before}\n[native]\ndisable = ["send"]\n`);
  await until("the method to be the upstream's, of which there is none", async () => !(await send("theirs")).ok);
  fs.writeFileSync(file, before);
  await until("the method to be ours", async () => (await send("ours again")).ok);
  assert.ok(receiver.log.some(({ body }) => body.text === "ours again"));
  await client.end();
});

test("every outcome is counted by channel", async (t) => {
  const receiver = await startReceiver();
  t.after(() => receiver.stop());
  const ours = await startOurs({ config: { channels: { webhook: webhookConfig(receiver) } } });
  t.after(() => ours.stop());
  const api = new MessageApi(ours);
  const send = (content) => api.send({ channel: "webhook", target: content, content, mode: "wait" });
  assert.equal((await send("one")).body.status, "delivered");
  receiver.behave = (entry) => (entry.body.text === "bad" ? { status: 410, body: "" } : { status: 503, body: "" });
  assert.equal((await send("bad")).body.status, "dead");
  const waiting = await api.send({ channel: "webhook", target: "later", content: "later" });
  await until("a try", async () => (await api.call("GET", `/api/message/${waiting.body.message_id}`)).body.message.error);
  const metrics = await metricsOf(ours);
  const text = await (await fetch(metrics)).text();
  const value = (name, labels) => Number(new RegExp(`^${name}\\{${labels}\\} (\\d+)$`, "m").exec(text)?.[1]);
  const counted = (what) => value("openclaw_rs_messages_total", `channel="webhook",what="${what}"`);
  assert.deepEqual([counted("accepted"), counted("delivered"), counted("dead"), counted("retried") >= 1], [3, 1, 1, true], text);
  assert.equal(value("openclaw_rs_messages_waiting", 'channel="webhook",state="dead"'), 1);
  assert.ok(value("openclaw_rs_messages_oldest_seconds", 'channel="webhook",state="pending"') >= 0);
  assert.match(text, /^openclaw_rs_store_healthy 1$/m);
});
