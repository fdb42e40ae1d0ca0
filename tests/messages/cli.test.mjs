// The commands that a person has for messages and channels, run as a person runs them.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { startBotApi } from "../lib/bot-api.mjs";
import { startOurs } from "../lib/gateway.mjs";
import { MessageApi } from "../lib/message-api.mjs";
import { gatewayBinary, isolatedEnv, tempDir, until } from "../lib/tools.mjs";
import { SECRET, startReceiver } from "../lib/webhook-receiver.mjs";

/** `{code, out, err}`. */
function run(env, ...args) {
  return new Promise((resolve) => execFile(gatewayBinary(), args, { env }, (error, out, err) => resolve({ code: error ? error.code : 0, out, err })));
}

test("add a channel, send, and ask why, with and without a running gateway", async (t) => {
  const receiver = await startReceiver();
  t.after(() => receiver.stop());
  const ours = await startOurs();
  t.after(() => ours.stop());
  const cli = (...args) => run(ours.env, ...args);
  const to = ["--port", String(ours.port)];

  const added = await cli("channels", "add", "webhook", `secret=${SECRET}`, `url=${receiver.url}`, "allowPrivateNetwork=true");
  assert.equal(added.code, 0, added.err);
  const file = path.join(ours.stateDir, "openclaw-rs/channels.json");
  assert.equal(JSON.parse(fs.readFileSync(file, "utf8")).webhook.url, receiver.url);
  assert.equal(fs.statSync(file).mode & 0o777, 0o600, "a secret is in it");
  await until("the running gateway to take it", async () => (await cli("channels", "list", ...to)).out.includes("webhook/default  connected"));

  const sent = await cli("send", "webhook", "room", "from a shell", "--json", ...to);
  assert.equal(sent.code, 0, sent.err);
  const { message_id: id, status } = JSON.parse(sent.out);
  assert.equal(status, "delivered");
  assert.equal(receiver.log[0].body.text, "from a shell");
  const why = await cli("why", id, ...to);
  assert.match(why.out, /queued[^]*attempt[^]*delivered/);
  const listed = JSON.parse((await cli("messages", "list", "--json", ...to)).out);
  assert.deepEqual(listed.messages.map((message) => message.id), [id]);

  receiver.behave = () => ({ status: 410, body: "gone" });
  const dead = await cli("send", "webhook", "room", "nobody is there", ...to);
  assert.equal(dead.code, 1, "what was not delivered is a failure");
  const [buried] = JSON.parse((await cli("messages", "dead", "--json", ...to)).out).outbound;
  receiver.behave = () => "ok";
  assert.equal((await cli("messages", "resend", buried.id, ...to)).code, 0);
  assert.equal((await new MessageApi(ours).settled(buried.id, ["delivered"])).message.state, "delivered");
  assert.equal((await cli("messages", "drop", buried.id, ...to)).code, 1, "it is delivered, not dead");

  assert.equal((await cli("channels", "remove", "webhook")).code, 0);
  await until("the running gateway to let go of it", async () => !(await cli("channels", "list", ...to)).out.includes("webhook/default"));
  await ours.child.stop();
  const offline = await cli("why", id, ...to);
  assert.match(offline.out, /delivered/, "from the database, since nothing runs");
  const unknown = await cli("why", "nothing-like-that", ...to);
  assert.deepEqual([unknown.code, /nothing is known/.test(unknown.err)], [1, true]);
});

test("an account is asked before it is written, and a comment is never lost", async (t) => {
  const bot = await startBotApi();
  t.after(() => bot.stop());
  const dir = tempDir("cli");
  t.after(() => fs.rmSync(dir, { recursive: true, force: true }));
  const env = isolatedEnv(dir, {});
  const file = path.join(dir, "openclaw.json");
  const add = (...args) => run(env, "channels", "add", "telegram", ...args);

  const wrong = await add("botToken=1:wrong", `apiRoot=${bot.url}`);
  assert.equal(wrong.code, 1);
  assert.match(wrong.err, /is the bot token right/);
  assert.ok(!fs.existsSync(file), "nothing was written");
  const good = await add(`botToken=${bot.token}`, `apiRoot=${bot.url}`, 'allowFrom=["42"]');
  assert.equal(good.code, 0, good.err);
  assert.match(good.out, /@scripted_bot/);
  assert.deepEqual(JSON.parse(fs.readFileSync(file, "utf8")).channels.telegram.allowFrom, ["42"]);
  const tested = await run(env, "channels", "test", "telegram");
  assert.deepEqual([tested.code, tested.out.includes("@scripted_bot")], [0, true]);

  const commented = '{ // mine\n  "gateway": { "mode": "local" } }\n';
  fs.writeFileSync(file, commented);
  const refused = await add(`botToken=${bot.token}`, `apiRoot=${bot.url}`);
  assert.equal(refused.code, 1);
  assert.match(refused.err, /comments/);
  assert.match(refused.err, /botToken/, "it shows what to put there");
  assert.equal(fs.readFileSync(file, "utf8"), commented);
  const foreign = await run(env, "channels", "add", "slack", "x=y");
  assert.match(foreign.err, /openclaw channels add/);
});

test("a stranger gets a code, and the owner lets them in", async (t) => {
  const bot = await startBotApi();
  t.after(() => bot.stop());
  const ours = await startOurs({ config: { channels: { telegram: { botToken: bot.token, apiRoot: bot.url } } } });
  t.after(() => ours.stop());
  const cli = (...args) => run(ours.env, ...args, "--port", String(ours.port));
  bot.say(bot.direct(42), 42, "hello?");
  await until("the code", () => bot.sent.length > 0);
  const told = bot.sent[0].text;
  const [, code] = /openclaw-gateway pairing approve telegram ([A-Z2-9]{8})/.exec(told) ?? assert.fail(told);
  bot.say(bot.direct(42), 42, "hello again?");
  const api = new MessageApi(ours);
  await until("both to be worked on", async () => (await api.call("GET", "/api/messages?channel=telegram")).body.messages.length === 1 && bot.updates.length === 0);
  assert.match((await cli("pairing", "list")).out, new RegExp(`telegram/default  42 .*waits, code ${code}`));
  assert.equal((await cli("pairing", "approve", "telegram", "AAAAAAAA")).code, 1);
  assert.match((await cli("pairing", "approve", "telegram", code.toLowerCase())).out, /42 may write/);
  assert.match((await cli("pairing", "list")).out, /approved/);
  assert.equal(bot.sent.length, 1, "the code was told once");
});
