// The scripted Bot API server, judged by grammy: what grammy accepts as Telegram is what our channel is tested with.
import assert from "node:assert/strict";
import http from "node:http";
import { test } from "node:test";
import { Bot, GrammyError, InputFile, webhookCallback } from "grammy";
import { startBotApi } from "../lib/bot-api.mjs";
import { until } from "../lib/tools.mjs";

async function fixture(t) {
  const api = await startBotApi();
  t.after(() => api.stop());
  const bot = new Bot(api.token, { client: { apiRoot: api.url } });
  bot.catch((error) => {
    throw error.error;
  });
  return { api, bot };
}

const refused = (code, text) => (error) => {
  assert.ok(error instanceof GrammyError, String(error));
  assert.equal(error.error_code, code);
  assert.match(error.description, text);
  return true;
};

test("long polling: updates come in order, once, and are confirmed by the next offset", async (t) => {
  const { api, bot } = await fixture(t);
  const ann = api.direct(7);
  const room = api.group(-1009, { forum: true });
  const seen = [];
  bot.command("start", (ctx) => ctx.reply(`welcome ${ctx.from.first_name}`));
  bot.on("message:text", (ctx) => {
    seen.push(ctx.msg.text);
    return ctx.reply(`<b>${ctx.msg.text}</b>`, { parse_mode: "HTML", reply_parameters: { message_id: ctx.msg.message_id }, message_thread_id: ctx.msg.message_thread_id });
  });
  bot.on("edited_message:text", (ctx) => void seen.push(`edited: ${ctx.editedMessage.text}`));
  bot.on("callback_query:data", async (ctx) => {
    seen.push(`pressed: ${ctx.callbackQuery.data}`);
    await ctx.answerCallbackQuery();
  });
  bot.on("message_reaction", (ctx) => void seen.push(`reaction: ${ctx.messageReaction.new_reaction[0].emoji}`));
  api.say(ann, 7, "/start");
  api.say(ann, 7, "one");
  api.say(room, 7, "two", { message_thread_id: 5, is_topic_message: true });
  const running = bot.start({ allowed_updates: ["message", "edited_message", "callback_query", "message_reaction"] });
  await until("three answers", () => api.sent.length === 3);
  api.edit(ann, 2, "one, again");
  api.press(ann, api.sent[1].id, 7, "yes");
  api.react(ann, api.sent[1].id, 7, "👍");
  await until("all of them", () => seen.length === 5);
  assert.deepEqual(seen, ["one", "two", "edited: one, again", "pressed: yes", "reaction: 👍"]);
  assert.deepEqual(api.sent.map((s) => [s.chat, s.text]), [["7", "welcome Person 7"], ["7", "one"], ["-1009", "two"]]);
  assert.equal(api.sent[2].message.message_thread_id, 5);
  assert.equal(api.sent[1].message.reply_to_message.text, "one, again", "the message that was edited meanwhile");
  // Stopping confirms what was handled.
  await bot.stop();
  await running;
  assert.deepEqual(api.updates, []);
});

test("refusals reach the client with code, text and parameters", async (t) => {
  const { api, bot } = await fixture(t);
  api.direct(7);
  await assert.rejects(bot.api.sendMessage(8, "x"), refused(400, /chat not found/));
  await assert.rejects(bot.api.sendMessage(7, "x".repeat(4097)), refused(400, /too long/));
  await assert.rejects(bot.api.sendMessage(7, "<b>x", { parse_mode: "HTML" }), refused(400, /can't parse entities/));
  await assert.rejects(bot.api.sendMessage(7, "<x>x</x>", { parse_mode: "HTML" }), refused(400, /can't parse entities/));
  await assert.rejects(bot.api.sendMessage(7, " "), refused(400, /empty/));
  await assert.rejects(new Bot("1:wrong", { client: { apiRoot: api.url } }).api.getMe(), refused(401, /Unauthorized/));
  api.faults.push({ method: "sendMessage", kind: "flood", retryAfter: 3, times: 1 });
  await assert.rejects(bot.api.sendMessage(7, "x"), (error) => refused(429, /Too Many/)(error) && error.parameters.retry_after === 3);
  api.faults.push({ method: "sendMessage", kind: "lost-answer", times: 1 });
  await assert.rejects(bot.api.sendMessage(7, "arrived"), { name: "HttpError" });
  assert.deepEqual(api.sent.map((s) => s.text), ["arrived"], "a lost answer is a message that arrived");
  await bot.api.sendMessage(7, "after it &lt;fine&gt; <a href=\"https://example.org\">link</a>", { parse_mode: "HTML" });
  assert.equal(api.sent.at(-1).text, "after it <fine> link");
});

test("two pollers conflict, a webhook and a poller too", async (t) => {
  const { api, bot } = await fixture(t);
  const first = bot.api.getUpdates({ timeout: 20 });
  const caught = assert.rejects(first, refused(409, /terminated by other getUpdates/));
  await until("the first waits", () => api.calls.some((c) => c.method === "getUpdates"));
  const second = bot.api.getUpdates({ timeout: 0 });
  await caught;
  assert.deepEqual(await second, []);
  await bot.api.setWebhook("http://127.0.0.1:9/none");
  await assert.rejects(bot.api.getUpdates(), refused(409, /webhook is active/));
  assert.equal((await bot.api.getWebhookInfo()).url, "http://127.0.0.1:9/none");
  await bot.api.deleteWebhook();
});

test("webhook: posted with the secret until it is taken", async (t) => {
  const { api, bot } = await fixture(t);
  const ann = api.direct(7);
  const seen = [];
  bot.on("message:text", (ctx) => void seen.push(ctx.msg.text));
  await bot.init();
  const handle = webhookCallback(bot, "http", { secretToken: "s3cret" });
  let failures = 2;
  const server = http.createServer((request, response) => (failures-- > 0 ? response.writeHead(503).end() : handle(request, response)));
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => server.close());
  await bot.api.setWebhook(`http://127.0.0.1:${server.address().port}/`, { secret_token: "s3cret" });
  api.say(ann, 7, "by post");
  await until("the update", () => seen.length === 1 && api.updates.length === 0);
  assert.deepEqual(seen, ["by post"]);
});

test("files both ways, groups of files, edits, deletions", async (t) => {
  const { api, bot } = await fixture(t);
  const ann = api.direct(7);
  const bytes = Buffer.from("some bytes");
  const pixel = Buffer.from("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==", "base64");
  const photo = await bot.api.sendPhoto(7, new InputFile(pixel, "a.png"), { caption: "<i>look</i>", parse_mode: "HTML" });
  assert.equal(photo.caption, "look");
  const document = await bot.api.sendDocument(7, new InputFile(bytes, "a.txt"));
  const file = await bot.api.getFile(document.document.file_id);
  assert.equal(await (await fetch(`${api.url}/file/bot${api.token}/${file.file_path}`)).text(), "some bytes");
  const group = await bot.api.sendMediaGroup(7, [
    { type: "photo", media: new InputFile(pixel, "a.png"), caption: "two" },
    { type: "photo", media: new InputFile(pixel, "b.png") },
  ]);
  assert.equal(group.length, 2);
  assert.deepEqual([photo.photo[0].width, photo.photo[0].height], [1, 1]);
  await assert.rejects(bot.api.sendPhoto(7, new InputFile(bytes, "a.png")), refused(400, /IMAGE_PROCESS_FAILED/));
  const mixed = [{ type: "photo", media: new InputFile(pixel, "a.png") }, { type: "document", media: new InputFile(bytes, "b.txt") }];
  await assert.rejects(bot.api.sendMediaGroup(7, mixed), refused(400, /can't be mixed/));
  const edited = await bot.api.editMessageText(7, (await bot.api.sendMessage(7, "before")).message_id, "after");
  assert.equal(edited.text, "after");
  await assert.rejects(bot.api.editMessageText(7, edited.message_id, "after"), refused(400, /not modified/));
  await bot.api.setMessageReaction(7, edited.message_id, [{ type: "emoji", emoji: "👀" }]);
  await bot.api.deleteMessage(7, edited.message_id);
  await assert.rejects(bot.api.deleteMessage(7, edited.message_id), refused(400, /not found/));
  api.sendFile(ann, 7, "voice", bytes, { type: "audio/ogg", duration: 1 });
  const [update] = await bot.api.getUpdates();
  assert.equal(update.message.voice.mime_type, "audio/ogg");
});
