// A person writes, the agent of a real OpenClaw behind us answers with a scripted model, the answer arrives in the same
// chat; and the same over a crash of ours at each step, and while the OpenClaw is away.
import assert from "node:assert/strict";
import { test } from "node:test";
import { startBotApi } from "../lib/bot-api.mjs";
import { startOriginal, startOurs } from "../lib/gateway.mjs";
import { MessageApi } from "../lib/message-api.mjs";
import { modelConfig, startModel } from "../lib/model.mjs";
import { until } from "../lib/tools.mjs";
import { post, startReceiver, webhookConfig } from "../lib/webhook-receiver.mjs";

test("a person writes and the agent answers", { timeout: 900_000 }, async (t) => {
  const model = await startModel();
  t.after(() => model.stop());
  const original = await startOriginal({ config: { ...modelConfig(model), agents: { defaults: { model: "scripted/scripted-1" } } } });
  t.after(() => original.stop());
  const telegram = await startBotApi();
  t.after(() => telegram.stop());
  const receiver = await startReceiver();
  t.after(() => receiver.stop());
  const ours = await startOurs({
    upstream: { attach: original },
    toml: '[channels]\nnative = ["telegram"]',
    // Each message a turn of its own.
    config: { messages: {
      inbound: { debounceMs: 0 }, ackReactionScope: "direct",
      statusReactions: { enabled: true, timing: { debounceMs: 0, stallSoftMs: 600_000, stallHardMs: 600_000, doneHoldMs: 0, errorHoldMs: 0 } },
    }, channels: {
      telegram: { botToken: telegram.token, apiRoot: telegram.url, dmPolicy: "open", allowFrom: ["*"], streaming: { mode: "partial" } },
      defaults: { botLoopProtection: { maxEventsPerWindow: 2, windowSeconds: 3600 } },
      webhook: webhookConfig(receiver, { allowBots: true }),
    } },
  });
  t.after(() => ours.stop());
  const api = new MessageApi(ours);
  const ann = telegram.direct(1);
  const asked = (text) => model.requests.filter((r) => r.plan.text === text).length;
  const heard = (text) => until(`the answer ${text}`, () => telegram.sent.find((s) => s.text === text));

  await t.test("in Telegram, and `why` tells the whole way", async () => {
    const update = telegram.say(ann, 1, "SCRIPT say an answer in the chat");
    const answer = await heard("an answer in the chat");
    assert.equal(answer.chat, "1");
    // The answer is in the chat before its receipt is on our disk.
    const steps = await until("the receipt", async () => {
      const { body } = await api.call("GET", `/api/why/${encodeURIComponent(`1/${update.message.message_id}`)}`);
      const steps = body.steps.map((s) => s.step);
      return steps.includes("delivered") && steps;
    });
    for (const step of ["routed", "queued", "attempt"]) assert.ok(steps.includes(step), `${step} is missing in ${steps}`);
  });

  await t.test("a draft grows with what the agent says, and becomes the answer", async () => {
    const word = "a-word-that-is-longer-than-thirty-characters";
    telegram.say(ann, 1, `SCRIPT slow ${word} and the rest`);
    const draft = await heard(word);
    model.release();
    await until("the answer", () => telegram.messages.get(`1/${draft.id}`).text === `${word} and the rest`);
    telegram.say(ann, 1, "SCRIPT say behind the draft");
    await heard("behind the draft");
    assert.equal(telegram.sent.filter((s) => s.text.startsWith(word)).length, 1, "one message");
  });

  await t.test("a reaction tells what the turn is at", async () => {
    // `during`: what has to be seen before the model says what it made of the tool's result.
    const reactions = async (words, last, during) => {
      model.holdAfterTools(during !== undefined);
      const { message } = telegram.say(ann, 1, words);
      const shown = () => telegram.calls.filter(({ method, params }) =>
        method === "setMessageReaction" && Number(params.message_id) === message.message_id).map(({ params }) => params.reaction[0]?.emoji);
      try {
        if (during) await until(`the reaction ${during}`, () => shown().includes(during));
      } finally {
        model.holdAfterTools(false);
      }
      await until("the first reaction again", () => shown().includes(last) && shown().at(-1) === "👀");
      return shown().filter((emoji) => emoji !== "🤔");
    };
    assert.deepEqual(await reactions('SCRIPT tool read {"path":"x"}', "👍", "👨‍💻"), ["👀", "👨‍💻", "👍", "👀"]);
    await heard("tool done: read");
    assert.deepEqual(await reactions("SCRIPT fail 400", "😱"), ["👀", "😱", "👀"]);
  });

  await t.test("by webhook, signed both ways", async () => {
    const taken = await post(ours, { text: "SCRIPT say an answer by webhook", from: "bob" });
    assert.equal(taken.status, 202, JSON.stringify(taken.body));
    const answer = await until("the answer", () => receiver.distinct().find((e) => e.text === "an answer by webhook"));
    assert.deepEqual([answer.verified, answer.target], [true, "bob"]);
  });

  await t.test("another bot is answered so often, and no more", async () => {
    const bot = { id: "other", name: "Other", isBot: true };
    for (const n of [1, 2, 3]) {
      const taken = await post(ours, { text: `SCRIPT say bot ${n}`, from: bot });
      assert.equal(taken.status, 202, JSON.stringify(taken.body));
      const { message } = await api.settled(taken.body.id);
      assert.equal(message.state, "done");
      const { body: why } = await api.call("GET", `/api/why/${taken.body.id}`);
      assert.equal(why.steps.some((s) => s.detail.includes("botLoopProtection")), n === 3, JSON.stringify(why.steps));
    }
    await post(ours, { text: "SCRIPT say a person", from: "bob" });
    await until("the answer to a person", () => receiver.distinct().find((e) => e.text === "a person"));
    assert.deepEqual(receiver.distinct().map((e) => e.text).filter((text) => text.startsWith("bot")), ["bot 1", "bot 2"]);
  });

  await t.test("by `turn: true` of the API", async () => {
    const { status, body } = await api.send({ channel: "telegram", target: "1", content: "SCRIPT say asked over the API", turn: true });
    assert.equal(status, 200, JSON.stringify(body));
    await heard("asked over the API");
    assert.equal((await api.settled(body.message_id)).message.state, "done");
  });

  await t.test("a turn over the API has an owner's tools only for who is an administrator", async () => {
    // Where a caller may say what they may not do.
    const open = await startOurs({ upstream: { attach: original }, config: { gateway: { auth: { mode: "none" } }, channels: { webhook: webhookConfig(receiver) } } });
    t.after(() => open.stop());
    const offered = async (scopes, words) => {
      const asked = { channel: "webhook", target: "eve", content: `SCRIPT say ${words}`, turn: true };
      const { status, body } = await new MessageApi(open, { token: null }).send(asked, { headers: { "x-openclaw-scopes": scopes } });
      assert.equal(status, 200, JSON.stringify(body));
      await until("the answer", () => receiver.distinct().find((e) => e.text === words));
      return model.requests.findLast((r) => r.plan.text === words).call.tools.map(({ function: { name } }) => name);
    };
    const [admins, writers] = [await offered("operator.admin", "for an administrator"), await offered("operator.read,operator.write", "for who may write")];
    assert.ok(writers.every((name) => admins.includes(name)) && writers.length < admins.length, JSON.stringify({ admins, writers }));
  });

  for (const point of ["intake.turn_begun", "intake.turn_done", "intake.before_close", "intake.after_close"]) {
    await t.test(`our crash at ${point}: one run, one answer`, async () => {
      const text = `after ${point.replaceAll(/[._]/g, " ")}`;
      await ours.child.stop();
      ours.env.OPENCLAW_RS_CRASH_AT = point;
      ours.spawn();
      telegram.say(ann, 1, `SCRIPT say ${text}`);
      await until("the crash", () => ours.child.exit);
      assert.equal(ours.child.exit.signal, "SIGABRT", ours.child.output.slice(-500));
      delete ours.env.OPENCLAW_RS_CRASH_AT;
      await ours.restart();
      await heard(text);
      // What follows in the conversation comes after it, so nothing of it is still on its way.
      telegram.say(ann, 1, `SCRIPT say behind ${text}`);
      await heard(`behind ${text}`);
      assert.equal(telegram.sent.filter((s) => s.text === text).length, 1, "one answer");
      assert.equal(asked(text), 1, "the model was asked once");
    });
  }

  await t.test("while the OpenClaw is away, messages wait in order, and are answered when it is back", async () => {
    // Begun, and not given to OpenClaw yet when all dies: there is no doubt about it.
    await ours.child.stop();
    ours.env.OPENCLAW_RS_CRASH_AT = "intake.turn_begun";
    ours.spawn();
    telegram.say(telegram.direct(2), 2, "/compact");
    await until("the crash", () => ours.child.exit);
    delete ours.env.OPENCLAW_RS_CRASH_AT;
    original.child.killTree("SIGKILL");
    await original.child.waitExit();
    ours.spawn();
    for (let n = 0; n < 3; n++) telegram.say(ann, 1, `SCRIPT say waited ${n}`);
    await until("all three to be taken", () => telegram.updates.length === 0);
    await original.restart();
    await heard("waited 2");
    assert.deepEqual(telegram.sent.filter((s) => s.text?.startsWith("waited")).map((s) => s.text), ["waited 0", "waited 1", "waited 2"]);
    const compacted = await until("the answer to /compact", () => telegram.sent.find((s) => s.chat === "2"));
    assert.match(compacted.text, /Compact/);
  });
});
