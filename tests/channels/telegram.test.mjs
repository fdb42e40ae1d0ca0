// The Telegram channel against two servers: `telegram-test-api`, which nobody here wrote, and the scripted one that
// grammy accepts.
import assert from "node:assert/strict";
import fs from "node:fs";
import path from "node:path";
import { test } from "node:test";
import zlib from "node:zlib";
import TelegramServer from "telegram-test-api";
import { startBotApi } from "../lib/bot-api.mjs";
import { startOurs } from "../lib/gateway.mjs";
import { MessageApi } from "../lib/message-api.mjs";
import { RawClient } from "../lib/raw.mjs";
import { freePort, until } from "../lib/tools.mjs";

const section = (token, root, more = {}) => ({ botToken: token, apiRoot: root, dmPolicy: "open", allowFrom: ["*"], ...more });

async function gateway(t, telegram) {
  // Each message has a life of its own.
  const ours = await startOurs({ config: { messages: { inbound: { debounceMs: 0 } }, channels: { telegram } } });
  t.after(() => ours.stop());
  return { ours, api: new MessageApi(ours) };
}

test("telegram-test-api: sends arrive, what a person writes is taken and confirmed", async (t) => {
  const port = await freePort();
  const server = new TelegramServer({ port, host: "127.0.0.1", storage: "RAM", storeTimeout: 600 });
  await server.start();
  t.after(() => server.stop());
  const token = "123456:test-token-of-the-emulator";
  const { api } = await gateway(t, section(token, server.config.apiURL));
  const client = server.getClient(token, { chatId: 42, userId: 42, firstName: "Ann", timeout: 20_000 });
  const { body } = await api.send({ channel: "telegram", target: "42", content: "hello *there*", mode: "wait" });
  assert.equal(body.status, "delivered", JSON.stringify(body));
  const updates = await client.getUpdates();
  assert.equal(updates.result.length, 1);
  assert.equal(updates.result[0].message.chat_id ?? updates.result[0].message.chat?.id, 42);
  assert.match(updates.result[0].message.text, /hello <i>there<\/i>/);

  await client.sendMessage(client.makeMessage("what a person says"));
  const status = await until("it to be taken", async () => {
    const [account] = (await api.call("GET", "/api/channels")).body.channels.telegram;
    return account.lastInboundAt && account;
  });
  assert.equal(status.running, true);
});

async function scripted(t, more = {}) {
  const telegram = await startBotApi();
  t.after(() => telegram.stop());
  telegram.direct(7);
  telegram.group(-100);
  const { ours, api } = await gateway(t, section(telegram.token, telegram.url, more));
  const send = async (body) => {
    const { status, body: answer } = await api.send({ channel: "telegram", target: "7", mode: "wait", ...body });
    assert.equal(status, 200, JSON.stringify(answer));
    return answer;
  };
  return { telegram, ours, api, send };
}

test("markup, replies, topics and long texts come out as Telegram takes them", async (t) => {
  const { telegram, send } = await scripted(t);
  await send({ content: "**bold** _it_ `code` [link](https://example.org) a < b & c" });
  assert.equal(telegram.sent[0].text, "bold it code link a < b & c");
  assert.equal(telegram.sent[0].params.parse_mode, "HTML");
  await send({ content: "in a topic", target: "-100", thread: "9", replyTo: "4711" });
  assert.equal(Number(telegram.sent[1].params.message_thread_id), 9);
  assert.equal(Number(telegram.sent[1].params.reply_parameters.message_id), 4711);
  const long = Array.from({ length: 3000 }, (_, n) => `word${n}`).join(" ");
  await send({ content: long });
  const parts = telegram.sent.slice(2).map((s) => s.text);
  assert.ok(parts.length > 1);
  assert.equal(parts.join(" "), long);
  await send({ content: "\u{1F600}".repeat(3000) });
  assert.equal(telegram.sent.slice(2 + parts.length).map((s) => s.text).join(""), "\u{1F600}".repeat(3000), "no character is cut in two");
});

/** A black PNG in shades of grey, with so many bytes of a comment. */
function png(width, height, comment = 0) {
  const chunk = (kind, data) => {
    const body = Buffer.concat([Buffer.from(kind), data]);
    const head = Buffer.alloc(4);
    head.writeUInt32BE(data.length);
    const sum = Buffer.alloc(4);
    sum.writeUInt32BE(zlib.crc32(body));
    return Buffer.concat([head, body, sum]);
  };
  const head = Buffer.alloc(13);
  head.writeUInt32BE(width, 0);
  head.writeUInt32BE(height, 4);
  head[8] = 8;
  const rows = zlib.deflateSync(Buffer.alloc(height * (1 + width)));
  const said = comment ? [chunk("tEXt", Buffer.concat([Buffer.from("Comment\0"), Buffer.alloc(comment, "x")]))] : [];
  return Buffer.concat([Buffer.from("89504e470d0a1a0a", "hex"), chunk("IHDR", head), ...said, chunk("IDAT", rows), chunk("IEND", Buffer.alloc(0))]);
}

test("files of a kind are one album, and what is too large for a picture is made smaller or is a file", async (t) => {
  const { telegram, ours } = await scripted(t);
  const client = await RawClient.open(ours.wsUrl);
  t.after(() => client.end());
  await client.connect({ token: ours.token });
  const folder = path.join(ours.stateDir, "workspace");
  fs.mkdirSync(folder, { recursive: true });
  const put = (name, bytes) => (fs.writeFileSync(path.join(folder, name), bytes), path.join(folder, name));
  /** What the bot did for a message with these files. */
  const sent = async (message, ...mediaUrls) => {
    const before = telegram.sent.length;
    const reply = await client.call("send", { channel: "telegram", to: "7", message, mediaUrls, idempotencyKey: message });
    assert.equal(reply.ok && !reply.payload.queued, true, JSON.stringify(reply));
    return telegram.sent.slice(before).map(({ method, message: m, text }) => ({ method, text, album: m.media_group_id, photo: m.photo?.[0], document: m.document }));
  };
  const dot = png(20, 20);
  const [one, two] = [put("1.png", dot), put("2.png", dot)];
  const papers = ["a.pdf", "b.pdf"].map((name) => put(name, Buffer.from(`%PDF ${name}`)));

  const albums = await sent("two and two", one, two, ...papers);
  assert.deepEqual(albums.map(({ method, text }) => [method, text]), [["sendMediaGroup", "two and two"], ["sendMediaGroup", undefined], ["sendMediaGroup", undefined], ["sendMediaGroup", undefined]]);
  assert.ok(albums[0].photo && albums[1].photo && albums[2].document && albums[3].document);
  assert.deepEqual([albums[0].album === albums[1].album, albums[1].album === albums[2].album], [true, false]);
  const many = await sent("eleven", ...Array.from({ length: 11 }, (_, n) => put(`many-${n}.png`, dot)));
  assert.deepEqual(many.map(({ method }) => method), [...Array(10).fill("sendMediaGroup"), "sendPhoto"]);

  const [heavy] = await sent("heavy", put("heavy.png", png(100, 100, 11 << 20)));
  assert.deepEqual([heavy.method, heavy.photo?.width, heavy.photo?.file_size < 1 << 20], ["sendPhoto", 100, true], JSON.stringify(heavy));
  const [narrow] = await sent("narrow", put("narrow.png", png(2100, 100)));
  assert.deepEqual([narrow.method, narrow.document.file_name], ["sendDocument", "narrow.png"]);
  const [broken] = await sent("broken", put("broken.jpg", Buffer.from("no picture")));
  assert.equal(broken.method, "sendDocument");

  const mixed = await sent("mixed", one, put("odd.png", png(2100, 100)), two, put("3.png", dot));
  assert.deepEqual(mixed.map(({ method, text }) => [method, text]), [["sendPhoto", "mixed"], ["sendDocument", undefined], ["sendMediaGroup", undefined], ["sendMediaGroup", undefined]]);
  const rest = await sent("one is missing", path.join(folder, "none.png"), one, two);
  assert.deepEqual(rest.map(({ method, text }) => [method, text]), [["sendMediaGroup", "one is missing"], ["sendMediaGroup", undefined]]);
  // With nothing left of its files a message is its words, and one without words is told as missing beside what there is.
  const [words] = await sent("no file at all", path.join(folder, "none.png"));
  assert.deepEqual([words.method, words.text], ["sendMessage", "no file at all"]);
  const beside = await sent("beside", ...papers, path.join(folder, "none.png"));
  assert.deepEqual(beside.map(({ method, text }) => [method, text]), [["sendMediaGroup", "beside"], ["sendMediaGroup", undefined], ["sendMessage", "[a file that could not be had]"]]);
  assert.deepEqual(fs.readdirSync(path.join(ours.stateDir, "openclaw-rs", "outgoing")), [], "nothing is left behind");
});

test("a flood limit holds the whole account as long as Telegram says, and nothing is lost or out of order", async (t) => {
  const { telegram, api, send } = await scripted(t);
  telegram.faults.push({ method: "sendMessage", kind: "flood", retryAfter: 2, times: 1 });
  const at = Date.now();
  const ids = [];
  for (let n = 0; n < 5; n++) ids.push((await api.send({ channel: "telegram", target: "7", content: `n${n}` })).body.message_id);
  for (const id of ids) await api.settled(id, ["delivered"]);
  assert.ok(telegram.sent[0].at - at >= 2000, "it waited");
  assert.deepEqual(telegram.sent.map((s) => s.text), ["n0", "n1", "n2", "n3", "n4"]);
  assert.equal(telegram.calls.filter((c) => c.fault === "flood").length, 1, "one refusal stopped all of them");
  await send({ content: "after" });
});

test("what Telegram refuses for good is a dead letter with its reason; what may have arrived is held", async (t) => {
  const { telegram, api, send } = await scripted(t);
  const gone = await send({ target: "999", content: "nobody there" });
  assert.equal(gone.status, "dead");
  assert.match(gone.error, /chat not found/);
  telegram.direct(7).blocked = true;
  const blocked = await send({ content: "blocked" });
  assert.equal(blocked.status, "dead");
  assert.match(blocked.error, /blocked by the user/);
  telegram.direct(7).blocked = false;
  for (const kind of ["lost-answer", "half-answer"]) {
    telegram.faults.push({ method: "sendMessage", kind, times: 1 });
    const doubt = await send({ content: kind });
    assert.equal(doubt.status, "in_doubt", JSON.stringify(doubt));
    assert.equal(telegram.sent.filter((s) => s.text === kind).length, 1);
  }
  telegram.faults.push({ method: "sendMessage", kind: "error", code: 500, times: 1 });
  assert.equal((await send({ content: "tried again" })).status, "delivered");
  assert.equal(telegram.sent.filter((s) => s.text === "tried again").length, 1);
  assert.equal((await api.all({ state: "in_doubt" })).length, 2);
});

test("a group that became a supergroup is followed", async (t) => {
  const { telegram, send } = await scripted(t);
  telegram.group(-100).migratedTo = -200;
  telegram.group(-200);
  assert.equal((await send({ target: "-100", content: "moved" })).status, "delivered");
  assert.equal(telegram.sent[0].chat, "-200");
});

test("another poller: shown as a conflict, and taken up again when it is gone", async (t) => {
  const { telegram, api } = await scripted(t);
  await until("polling", () => telegram.calls.some((c) => c.method === "getUpdates"));
  const steal = () => fetch(`${telegram.url}/bot${telegram.token}/getUpdates?timeout=0`).then((r) => r.json());
  await steal();
  const status = await until("the conflict to be shown", async () => {
    await steal();
    const [account] = (await api.call("GET", "/api/channels")).body.channels.telegram;
    return /Conflict|other getUpdates/i.test(JSON.stringify(account)) && account;
  });
  assert.ok(status);
  telegram.say(telegram.direct(7), 7, "after the conflict");
  await until("the update to be confirmed", () => telegram.updates.length === 0, { timeoutMs: 60_000 });
});

test("updates are confirmed only after they are on disk, and none is lost by a kill in between", async (t) => {
  const { telegram, ours, api } = await scripted(t);
  const ann = telegram.direct(7);
  for (let round = 0; round < 5; round++) {
    for (let n = 0; n < 10; n++) telegram.say(ann, 7, `round ${round} number ${n}`);
    ours.child.kill("SIGKILL");
    await ours.child.waitExit();
    await ours.restart();
  }
  await until("all to be confirmed", () => telegram.updates.length === 0);
  const texts = [...telegram.messages.values()].filter((m) => m.from.id === 7);
  assert.equal(texts.length, 50);
  for (const message of texts) {
    const why = await api.call("GET", `/api/why/${encodeURIComponent(`7/${message.message_id}`)}`);
    assert.equal(why.status, 200, `${message.text} is not on disk`);
    assert.equal(new Set(why.body.steps.map((s) => s.subject)).size, 1, message.text);
  }
});

test("webhook mode: the secret is set, asked for, and a wrong one is refused", async (t) => {
  const telegram = await startBotApi();
  t.after(() => telegram.stop());
  const ann = telegram.direct(7);
  const port = await freePort();
  const ours = await startOurs({ port, config: { channels: { telegram: section(telegram.token, telegram.url, {
    webhookUrl: `http://127.0.0.1:${port}/webhooks/telegram/default`, webhookSecret: "s3cret_text",
  }) } } });
  t.after(() => ours.stop());
  await until("the webhook to be set", () => telegram.webhook());
  assert.equal(telegram.webhook().secret, "s3cret_text");
  const forged = await fetch(telegram.webhook().url, { method: "POST", body: JSON.stringify({ update_id: 1, message: {} }), headers: { "x-telegram-bot-api-secret-token": "guess" } });
  assert.equal(forged.status, 401);
  telegram.say(ann, 7, "by post");
  await until("the update to be taken", () => telegram.updates.length === 0);
  const why = await new MessageApi(ours).call("GET", "/api/why/7%2F1");
  assert.equal(why.status, 200);
});

test("a blank token does not start the account and names the key", async (t) => {
  const { api } = await gateway(t, { botToken: " " });
  const { body } = await api.call("GET", "/api/channels");
  assert.match(JSON.stringify(body), /channels\.telegram\.botToken.*blank/);
});
