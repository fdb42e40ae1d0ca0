// What a person sees before the answer, and what of their messages is one: beside the original, with the same configuration, bot
// and model. A burst is held for a minute here, so that only what ends it can end it: nothing depends on how fast this machine is.
import assert from "node:assert/strict";
import fs from "node:fs";
import path from "node:path";
import { after, before, test } from "node:test";
import { startBotApi } from "../lib/bot-api.mjs";
import { startOriginal, startOurs } from "../lib/gateway.mjs";
import { MessageApi } from "../lib/message-api.mjs";
import { MODEL_ID, modelConfig, startModel, textOf } from "../lib/model.mjs";
import { until } from "../lib/tools.mjs";

const GROUP = -100;
let sides;

async function side(start, streaming, toml) {
  const model = await startModel();
  const bot = await startBotApi();
  bot.group(GROUP);
  const target = await start({ toml, config: {
    ...modelConfig(model),
    agents: { defaults: { model: { primary: `scripted/${MODEL_ID}` }, typingIntervalSeconds: 1 } },
    messages: { inbound: { debounceMs: 5, byChannel: { telegram: 60_000 } }, ackReaction: "👍", queue: { mode: "followup" } },
    channels: { telegram: {
      botToken: bot.token, apiRoot: bot.url, dmPolicy: "open", allowFrom: ["*"], groupPolicy: "open", groups: { "*": { requireMention: false } },
      streaming,
    } },
  } });
  return {
    model, bot, target,
    /** What the person said, as the model was told it, in each request that led to an answer. The original says more in their name. */
    asked: (answer) => model.requests.filter((r) => r.plan.text === answer).map((r) =>
      r.call.messages.filter((m) => m.role === "user").map((m) => textOf(m.content)).findLast((text) => text.includes("SCRIPT") && !text.startsWith("<<<BEGIN_OPENCLAW_INTERNAL_CONTEXT>>>"))),
    answers: (chat) => bot.sent.filter((s) => s.chat === String(chat)).map((s) => s.text),
    answered: (chat, text) => until(`the answer ${text}`, () => bot.sent.find((s) => s.chat === String(chat) && s.text === text)),
    /** A file stands alone, and ends what is held before it. */
    file: (chat, from, caption) => bot.sendFile(chat, from, "document", Buffer.from("a note"), {
      name: "note.txt", type: "text/plain", caption,
      ...(caption.startsWith("@") ? { caption_entities: [{ type: "mention", offset: 0, length: bot.username.length + 1 }] } : {}),
    }),
    reactions: () => bot.calls.filter((c) => c.method === "setMessageReaction").map(({ params }) => [String(params.chat_id), Number(params.message_id), params.reaction[0]?.emoji]),
  };
}

before(async () => {
  const [original, ours] = await Promise.all([side(startOriginal, { mode: "off" }), side(startOurs, { mode: "partial" }, "[messages]\nattempts_max = 2")]);
  sides = { original, ours };
});

after(() => Promise.all(Object.values(sides ?? {}).flatMap(({ target, bot, model }) => [target.stop(), bot.stop(), model.stop()])));

// At the same time: each is another conversation, and the original takes seconds for a turn.
test("beside the original", { concurrency: true }, async (t) => {
  const cases = [];
  for (const name of ["original", "ours"]) {
    cases.push(t.test(`${name}: stop takes back what was not taken up; texts that follow each other are one turn, and a file is another`, async () => {
      const { bot, answered, answers, asked, file } = sides[name];
      const ann = bot.direct(1);
      bot.say(ann, 1, "SCRIPT say never");
      bot.say(ann, 1, "stop");
      await until("stop to be answered at once", () => answers(1).length > 0);

      bot.say(ann, 1, "the first line");
      bot.say(ann, 1, "the second line");
      bot.say(ann, 1, "SCRIPT say all three");
      file(ann, 1, "SCRIPT say and the file");
      await answered(1, "all three");
      await answered(1, "and the file");
      const told = asked("all three");
      assert.equal(told.length, 1, "one turn");
      assert.ok(told[0].includes("the first line\nthe second line\nSCRIPT say all three"), told[0]);
      assert.deepEqual(answers(1).slice(1), ["all three", "and the file"]);
      assert.deepEqual(asked("never"), []);
    }));

    cases.push(t.test(`${name}: of two people in a group each has a turn of their own, and what mentions the bot is acknowledged`, async () => {
      const { bot, answered, asked, file, reactions } = sides[name];
      const room = bot.group(GROUP);
      bot.say(room, 2, "bob begins");
      bot.say(room, 3, "carol begins");
      const bobs = bot.say(room, 2, `@${bot.username} SCRIPT say for bob`);
      bot.say(room, 3, "SCRIPT say for carol");
      file(room, 2, "SCRIPT say a file of bob");
      file(room, 3, "SCRIPT say a file of carol");
      for (const text of ["for bob", "for carol", "a file of bob", "a file of carol"]) await answered(GROUP, text);
      for (const who of ["bob", "carol"]) {
        const told = asked(`for ${who}`);
        assert.equal(told.length, 1, `${who} has one turn`);
        assert.match(told[0], new RegExp(`${who} begins\n.*SCRIPT say for ${who}`));
      }
      await until("the reaction", () => reactions().length > 0);
      assert.deepEqual(reactions(), [[String(GROUP), bobs.message.message_id - 2, "👍"]], "the first of the burst that mentions, and no other");
    }));
  }
  await Promise.all(cases);
});

test("ours: typing is shown as long as the turn lasts", async () => {
  const { bot, model, answered, file } = sides.ours;
  const typing = () => bot.calls.filter((c) => c.method === "sendChatAction" && String(c.params.chat_id) === "5").length;
  file(bot.direct(5), 5, "SCRIPT slow so slow");
  await until("the model to be asked", () => model.requests.some((r) => r.plan.text === "so slow"));
  const before = typing();
  await until("typing to be shown again", () => typing() > before + 1);
  model.release();
  await answered(5, "so slow");
});

test("ours: `why` of any of them tells that they are one", async () => {
  const { bot, target, answered, file } = sides.ours;
  const api = new MessageApi(target);
  const eve = bot.direct(6);
  const said = ["one", "two", "SCRIPT say both of eve"].map((text) => bot.say(eve, 6, text).message.message_id);
  file(eve, 6, "SCRIPT say the file of eve");
  await answered(6, "the file of eve");
  const why = async (id) => (await api.call("GET", `/api/why/${encodeURIComponent(`6/${id}`)}`)).body;
  const [first, second] = [await why(said[0]), await why(said[1])];
  const head = first.steps.find((s) => s.step === "joined");
  assert.match(head.detail, /^one turn with \S+, \S+$/);
  const joined = second.steps.filter((s) => s.step === "joined");
  assert.deepEqual(joined.map((s) => s.detail).sort(), [head.detail, `to ${head.subject}, which is answered for both`].sort());
  assert.ok(second.steps.some((s) => s.step === "delivered"), "and what was answered");
});

test("ours: a reaction that hangs or is refused holds nothing up", async () => {
  const { bot, answered, file } = sides.ours;
  const room = bot.group(GROUP);
  let end;
  bot.faults.push({ method: "setMessageReaction", kind: "hang", until: new Promise((resolve) => (end = resolve)), times: 1 }, { method: "setMessageReaction", kind: "error", code: 400, times: 1 });
  for (const n of [1, 2]) {
    file(room, 7, `@${bot.username} SCRIPT say in spite of it ${n}`);
    await answered(GROUP, `in spite of it ${n}`);
  }
  await until("both to have failed", () => bot.calls.filter((c) => c.fault && c.method === "setMessageReaction").length === 2);
  end();
});

/** Ends with the gateway dead at `point` and started anew without it. */
async function crashAt(target, point, act) {
  await target.child.stop();
  target.env.OPENCLAW_RS_CRASH_AT = point;
  target.spawn();
  await act();
  await until("the crash", () => target.child.exit);
  assert.equal(target.child.exit.signal, "SIGABRT", target.child.output.slice(-500));
  delete target.env.OPENCLAW_RS_CRASH_AT;
  target.spawn();
}

for (const point of ["inbound.after_commit", "intake.before_join", "intake.after_join", "intake.turn_begun"]) {
  test(`ours: a crash at ${point}: the burst is answered once, whole`, async () => {
    const { bot, target, answered, answers, asked, file } = sides.ours;
    const text = `whole after ${point.replaceAll(/[._]/g, " ")}`;
    const fay = bot.direct(8);
    await crashAt(target, point, () => {
      bot.say(fay, 8, "it began so");
      bot.say(fay, 8, `SCRIPT say ${text}`);
      file(fay, 8, `SCRIPT say behind ${text}`);
    });
    await answered(8, `behind ${text}`);
    assert.deepEqual(answers(8).filter((said) => said === text), [text], "one answer");
    const told = asked(text);
    assert.equal(told.length, 1, "the model was asked once");
    assert.ok(told[0].includes(`it began so\nSCRIPT say ${text}`), told[0]);
  });
}

// Longer than the thirty characters from which a draft is shown, and one word, so that the model holds behind it.
const LONG = "a-word-that-is-longer-than-thirty-characters";

/** The one message of the bot in a chat, as the person sees it now. */
const seen = (bot, chat) => [...bot.messages.entries()].filter(([key, m]) => key.startsWith(`${chat}/`) && m.from.is_bot).map(([, m]) => m.text);

test("ours: a draft grows in place and becomes the answer", async () => {
  const { bot, model, target, file } = sides.ours;
  file(bot.direct(9), 9, `SCRIPT slow ${LONG} and the rest`);
  await until("the draft", () => seen(bot, 9).length > 0);
  assert.deepEqual(seen(bot, 9), [LONG]);
  // An answer that got lost: the edit is made again, and nothing is in doubt.
  bot.faults.push({ method: "editMessageText", kind: "lost-answer", times: 1 });
  model.release();
  await until("the whole answer", () => seen(bot, 9)[0] === `${LONG} and the rest`);
  const api = new MessageApi(target);
  await until("its receipt", async () => (await api.all({ channel: "telegram" })).some((m) => m.target === "9" && m.state === "delivered"));
  assert.deepEqual(seen(bot, 9), [`${LONG} and the rest`], "one message");
});

test("ours: a draft that somebody took away: the answer is a message of its own", async () => {
  const { bot, model, file } = sides.ours;
  file(bot.direct(10), 10, `SCRIPT slow ${LONG} once more`);
  const draft = await until("the draft", () => bot.sent.find((s) => s.chat === "10"));
  bot.messages.delete(`10/${draft.id}`);
  model.release();
  await until("the answer", () => seen(bot, 10).length > 0);
  assert.deepEqual(seen(bot, 10), [`${LONG} once more`]);
});

for (const [n, point] of ["intake.draft_shown", "intake.after_close", "delivery.after_send", "delivery.sent_before_ack"].entries()) {
  test(`ours: a crash at ${point}: the draft that was shown becomes the answer`, async () => {
    const { bot, model, target, file, answers } = sides.ours;
    const chat = 11 + n;
    await crashAt(target, point, async () => {
      file(bot.direct(chat), chat, `SCRIPT slow ${LONG} after a crash`);
      await until("the draft", () => answers(chat).length > 0);
      if (point !== "intake.draft_shown") model.release();
    });
    await until("the whole answer", () => {
      // What was begun anew holds too.
      model.release();
      return seen(bot, chat)[0] === `${LONG} after a crash`;
    });
    const api = new MessageApi(target);
    await until("its receipt", async () => (await api.all({ channel: "telegram" })).some((m) => m.target === String(chat) && m.state === "delivered"));
    assert.deepEqual(seen(bot, chat), [`${LONG} after a crash`], "one message");
    assert.equal(answers(chat).length, 1, "none was sent beside it");
  });
}

const drafted = (bot, chat) => until(`the draft in ${chat}`, () => seen(bot, chat)[0] === LONG);

test("ours: a draft whose last edit is put off holds up nobody else; one that ends as a dead letter is taken away", async () => {
  const { bot, model, target, file } = sides.ours;
  const api = new MessageApi(target);
  const answer = async (chat) => (await api.all({ channel: "telegram" })).find((m) => m.target === String(chat));
  const begin = async (chat, fault) => {
    file(bot.direct(chat), chat, `SCRIPT slow ${LONG} in vain`);
    await drafted(bot, chat);
    bot.faults.push({ method: "editMessageText", chat: String(chat), ...fault });
    model.release();
  };
  await begin(15, { kind: "flood", retryAfter: 3600 });
  await until("the edit to be put off", async () => (await answer(15))?.error?.includes("retry after 3600"));
  await begin(16, { kind: "error" });
  await until("the dead letter", async () => (await answer(16))?.state === "dead");
  assert.deepEqual([seen(bot, 15), seen(bot, 16)], [[LONG], []]);
});

test("ours: the draft of a turn that is given up is taken away, or says so", async () => {
  const { bot, target, file } = sides.ours;
  // Not two people: what they say to the bot directly is one session.
  const chats = [bot.direct(17), bot.group(GROUP - 1)];
  for (const chat of chats) file(chat, 17, `SCRIPT slow ${LONG} never`);
  for (const chat of chats) await drafted(bot, chat.id);
  bot.faults.push({ method: "deleteMessage", kind: "error", code: 400, chat: String(GROUP - 1) });
  await target.child.stop();
  const config = path.join(target.stateDir, "openclaw.json");
  const { agents, ...rest } = JSON.parse(fs.readFileSync(config, "utf8"));
  delete agents.defaults.model;
  // A provider that has nothing: without any, a message would wait for an Ollama to come up.
  const models = { mode: "replace", providers: { empty: { baseUrl: "http://127.0.0.1:9/v1", models: [] } } };
  fs.writeFileSync(config, JSON.stringify({ ...rest, models, agents }));
  target.spawn();
  await until("the drafts to end", () => seen(bot, 17).length === 0 && seen(bot, GROUP - 1)[0] !== LONG);
  assert.deepEqual(seen(bot, GROUP - 1), ["⚠️ This answer was broken off."]);
});
