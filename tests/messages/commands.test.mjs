// Commands in a chat that this gateway carries: beside the original's own Telegram channel, with the same configuration, bot and
// model; with an agent that runs here; and over crashes of both. What is told is compared word by word where it names no machine.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { startBotApi } from "../lib/bot-api.mjs";
import { startOriginal, startOurs } from "../lib/gateway.mjs";
import { MessageApi } from "../lib/message-api.mjs";
import { MODEL_ID, modelConfig, startModel, textOf } from "../lib/model.mjs";
import { until } from "../lib/tools.mjs";

const PIXEL = Buffer.from("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==", "base64");
const ABORTED = "⚙️ Agent was aborted.";
const LATER = /^⚠️ OpenClaw does not answer now/;
const GROUP = -100;
/** Where an access group alone is answered. */
const TEAM = -103;
/** An OpenClaw that was killed starts cold. */
const START_MS = 180_000;
/** Writes and may not give commands. */
const GUEST = 66;
/** In `commands.ownerAllowFrom`. */
const OWNER = 40;
const MEMBERS = Array.from({ length: 40 }, (_, n) => String(n + 1));
let sides;

async function side(start, options) {
  const model = await startModel();
  const bot = await startBotApi();
  bot.group(GROUP);
  const target = await start({ ...options, config: {
    ...modelConfig(model),
    agents: { defaults: { model: { primary: `scripted/${MODEL_ID}` } } },
    session: { dmScope: "per-channel-peer" },
    accessGroups: { team: { type: "message.senders", members: { telegram: ["52"], discord: ["51"] } } },
    commands: { allowFrom: { telegram: MEMBERS }, ownerAllowFrom: [`telegram:${OWNER}`] },
    messages: { inbound: { byChannel: { telegram: 0 } }, ackReactionScope: "off", queue: { mode: "followup" } },
    channels: { telegram: {
      botToken: bot.token, apiRoot: bot.url, dmPolicy: "open", allowFrom: ["*"], groupPolicy: "open",
      groups: { "*": { requireMention: true }, [TEAM]: { requireMention: false, groupPolicy: "allowlist", allowFrom: ["accessGroup:team"] } },
      streaming: { mode: "off" },
    } },
  } });
  const said = (chat) => bot.sent.filter((s) => s.chat === String(chat)).map((s) => s.text);
  return {
    model, bot, target, said,
    api: new MessageApi(target),
    heard: (chat, text) => until(`${text} in ${chat}`, () => said(chat).includes(text)).catch((error) => {
      throw new Error(`${error.message}; said: ${JSON.stringify(said(chat))}`, { cause: error });
    }),
    /** What is said next in a chat. */
    async next(chat, text, from = chat) {
      const room = chat < 0 ? bot.group(chat) : bot.direct(chat);
      const before = said(chat).length;
      bot.say(room, from, text);
      await until(`an answer to ${text}`, () => said(chat).length > before, { timeoutMs: START_MS });
      return said(chat)[before];
    },
    /** What is said next after a photo with these words below it. */
    async below(chat, caption) {
      const before = said(chat).length;
      bot.sendFile(bot.direct(chat), chat, "photo", PIXEL, { name: "pixel.png", type: "image/png", caption });
      await until(`an answer to a photo with ${caption}`, () => said(chat).length > before, { timeoutMs: START_MS });
      return said(chat)[before];
    },
    /** A turn that is at work until it is stopped or released. */
    async begin(chat, words, from = chat) {
      const room = chat < 0 ? bot.group(chat) : bot.direct(chat);
      bot.say(room, from, `${chat < 0 ? `@${bot.username} ` : ""}SCRIPT slow ${words}`);
      return until(`the model to be asked for ${words}`, () => model.requests.find((r) => r.plan.text === words), { timeoutMs: START_MS });
    },
    /** What people had said, as the model was told it, in the request that led to an answer. */
    told: (answer) => model.requests.findLast((r) => r.plan.text === answer)?.call.messages.filter((m) => m.role === "user").map((m) => textOf(m.content)).join("\n"),
  };
}

before(async () => {
  const toml = '[channels]\nnative = ["telegram"]';
  const [original, ours, alone] = await Promise.all([
    side(startOriginal), side(startOurs, { upstream: "supervise", toml }), side(startOurs, { toml }),
  ]);
  sides = { original, ours, alone };
});

after(() => Promise.all(Object.values(sides ?? {}).flatMap(({ target, bot, model }) => [target.stop(), bot.stop(), model.stop()])));

const ALL = ["original", "ours", "alone"];

/** The same on each side at once; what it answers is the same, or `differs` says what else is there. */
function beside(name, run, { on = ["original", "ours"], same = true } = {}) {
  test(name, { concurrency: true }, async (t) => {
    const answers = {};
    await Promise.all(on.map((which) => t.test(which, async () => {
      answers[which] = await run(sides[which], which);
    })));
    if (same) for (const which of on) assert.deepEqual(answers[which], answers[on[0]], `${which} as ${on[0]}`);
  });
}

for (const [n, words] of ["/stop", "stop", "Please stop!"].entries()) {
  beside(`${words} ends a turn at once and once`, async ({ begin, next, model, bot, said, target, api }, which) => {
    const chat = n + 1;
    const asked = await begin(chat, `never ${n} said`);
    assert.equal(await next(chat, words), ABORTED);
    await until("the model to be hung up on", () => asked.aborted);
    model.release();
    assert.equal(await next(chat, `SCRIPT say and on with ${n}`), `and on with ${n}`);
    assert.deepEqual(said(chat), [ABORTED, `and on with ${n}`], "nothing of the stopped one");
    if (which !== "original") {
      const begun = [...bot.messages.values()].find((m) => m.text === `SCRIPT slow never ${n} said`);
      const { body } = await api.call("GET", `/api/why/${encodeURIComponent(`${chat}/${begun.message_id}`)}`);
      assert.ok(body.steps.some((s) => s.step === "done" && s.detail.startsWith(`stopped by person${chat} `)), JSON.stringify(body.steps));
      assert.equal(target.child.output.includes("panicked"), false);
    }
    return said(chat);
  }, { on: ALL });
}

beside("what waits behind a turn that is stopped is dropped with it", async ({ begin, bot, next, model, said }) => {
  await begin(4, "held for long");
  bot.say(bot.direct(4), 4, "SCRIPT say dropped");
  bot.say(bot.direct(4), 4, "SCRIPT say dropped too");
  assert.equal(await next(4, "/stop"), ABORTED);
  assert.equal(await next(4, "SCRIPT say after it"), "after it");
  assert.deepEqual(model.requests.filter((r) => r.plan.text.startsWith("dropped")), []);
  return said(4);
}, { on: ALL });

beside("with nothing at work, stop is answered too", async ({ next }) => next(5, "/stop"), { on: ALL });

beside("who may not give commands is told so, in a group nothing, and stops nothing", async ({ bot, begin, next, model, heard, said }) => {
  bot.say(bot.group(GROUP), GUEST, "/status");
  await begin(GUEST, "slow but sure");
  const refused = [await next(GUEST, "/stop"), await next(GUEST, "/status")];
  model.release();
  await heard(GUEST, "slow but sure");
  refused.push(await next(GUEST, "/new"));
  assert.deepEqual(said(GROUP), []);
  return refused;
}, { on: ["ours", "alone"] });

beside("/new begins a new conversation", async ({ next, told }) => {
  await next(6, "SCRIPT say the first thing");
  const said = await next(6, "/new");
  await next(6, "SCRIPT say the second thing");
  assert.ok(!told("the second thing").includes("the first thing"), told("the second thing"));
  return said;
}, { on: ALL });

beside("below a photo a command is one too", async ({ next, below, told }) => {
  await next(31, "SCRIPT say what was before");
  const said = [await below(31, "/new"), await next(31, "SCRIPT say what is now")];
  assert.ok(!told("what is now").includes("what was before"), told("what is now"));
  for (const order of ["/whoami", "Stop!", "/stop"]) said.push(await below(31, order));
  return said;
}, { on: ALL });

beside("settings are set, and told, as the original does", async ({ next }) => {
  const said = [];
  for (const order of ["/think high", "/queue collect", "/usage tokens", "/name a good name", "/whoami"]) said.push([order, await next(7, order)]);
  // These have buttons, or name an endpoint.
  for (const order of ["/think", "/model", "/model status"]) assert.match(await next(7, order), /^Current/);
  return said;
});

beside("/status and /help", async ({ next }) => {
  assert.match(await next(8, "/status"), /^🦞 OpenClaw [^]*🧠 Model: scripted\/scripted-1\n[^]*🧵 Session: agent:main:telegram:direct:8/);
  assert.match(await next(8, "/help"), /^ℹ️ Help\n\nSession\n\/new {2}\| {2}\/reset {2}\| {2}\/compact/);
});

beside("/status answers while a turn is at work", async ({ begin, next, model, heard }) => {
  await begin(9, "at work meanwhile");
  const said = await next(9, "/status");
  model.release();
  await heard(9, "at work meanwhile");
  return said.length > 0;
}, { on: ALL });

test("ours: a stop that a hung OpenClaw does not hear says so, and is heard when it answers again", async () => {
  const { begin, next, said, model, api } = sides.ours;
  const asked = await begin(32, "on and on");
  const { pid } = (await api.call("GET", "/api/upstream")).body;
  process.kill(pid, "SIGSTOP");
  try {
    assert.match(await next(32, "/stop"), LATER);
    assert.equal(asked.aborted, false);
  } finally {
    process.kill(pid, "SIGCONT");
  }
  await until("the model to be hung up on", () => asked.aborted);
  await until("the stop to be done", () => said(32).at(-1) === ABORTED);
  model.release();
  assert.equal(await next(32, "SCRIPT say and then"), "and then");
  assert.equal(said(32).length, 3, JSON.stringify(said(32)));
});

test("alone: a stop ends what only looks like a command, and is a turn", async () => {
  const { bot, model, next, said, heard } = sides.alone;
  // OpenClaw's own, which agents here do not know: words for the agent.
  bot.say(bot.direct(33), 33, "/context SCRIPT slow never told");
  const asked = await until("the model to be asked", () => model.requests.find((r) => r.plan.text === "never told"));
  bot.say(bot.direct(33), 33, "/stop");
  await heard(33, ABORTED);
  await until("the model to be hung up on", () => asked.aborted);
  model.release();
  assert.equal(await next(33, "SCRIPT say on from here"), "on from here");
  assert.deepEqual(said(33), [ABORTED, "on from here"]);
});

beside("/compact", async ({ next, model }) => {
  await next(10, "SCRIPT say something to sum up");
  return next(10, "/compact");
});

beside("an access group lets in its members on that channel", async ({ bot, heard, said }) => {
  const room = bot.group(TEAM);
  for (const who of [51, 52]) bot.say(room, who, `SCRIPT say for ${who}`);
  await heard(TEAM, "for 52");
  return assert.deepEqual(said(TEAM), ["for 52"]);
}, { on: ALL });

beside("in a group a command needs no mention, a word to stop does", async ({ bot, begin, next, said, model }) => {
  const room = bot.group(GROUP);
  assert.match(await next(GROUP, "/status", 11), /scripted/);
  const asked = await begin(GROUP, "in the group", 11);
  bot.say(room, 11, "stop");
  bot.say(room, 11, "/stop@another_bot");
  assert.equal(await next(GROUP, `@${bot.username} stop`, 11), ABORTED);
  await until("the model to be hung up on", () => asked.aborted);
  model.release();
  return said(GROUP).length;
}, { on: ["ours", "alone"] });

beside("an owner's tools are an owner's alone, also in a new conversation", async ({ next, model }) => {
  /** The tools that the model was offered for this message. */
  const offered = async (chat, words) => {
    assert.equal(await next(chat, `SCRIPT say ${words}`), words);
    return model.requests.findLast(({ plan }) => plan.text === words).call.tools.map(({ function: { name } }) => name);
  };
  const [owner, member] = [await offered(OWNER, "For the owner."), await offered(39, "For a member.")];
  assert.ok(member.every((name) => owner.includes(name)) && member.length < owner.length, JSON.stringify([owner, member]));
  await next(39, "/new");
  return { owner, member, anew: await offered(39, "For a member anew.") };
});

test("ours: a new conversation that begins with words is no owner's either", async () => {
  const { next, model } = sides.ours;
  const offered = (words) => model.requests.findLast(({ plan }) => plan.text === words).call.tools.map(({ function: { name } }) => name);
  assert.equal(await next(38, "SCRIPT say Before."), "Before.");
  assert.equal(await next(38, "/new SCRIPT say And begin."), "And begin.");
  assert.deepEqual(offered("And begin."), offered("Before."));
  assert.ok(!JSON.stringify(model.requests.findLast(({ plan }) => plan.text === "And begin.").call.messages).includes("Before."), "it is a new one");
});

test("ours: what changes the gateway is not taken from a chat", async () => {
  for (const order of ["/config show", "/restart", "/bash ls", "/elevated full", "/mcp show", "/plugins", "/debug show", "/approve 1 allow"]) {
    assert.match(await sides.ours.next(12, order), /is not taken from this chat/, order);
  }
});

/** Ends with our gateway dead at `point`, its OpenClaw killed with it, and both started anew. */
async function crashAt({ target }, point, act) {
  await target.child.stop();
  target.env.OPENCLAW_RS_CRASH_AT = point;
  target.spawn();
  await act();
  await until("the crash", () => target.child.exit, { timeoutMs: 180_000 });
  assert.equal(target.child.exit.signal, "SIGABRT", target.child.output.slice(-500));
  target.child.killTree("SIGKILL");
  delete target.env.OPENCLAW_RS_CRASH_AT;
  target.spawn();
}

for (const which of ["ours", "alone"]) {
  // An OpenClaw takes half a minute to start: `make crash-loop` kills it at each of these, `make test` in the two tests below.
  const all = which === "alone" || process.env.COMMANDS_ALL;
  const points = all ? ["intake.turn_begun", "intake.turn_done", "intake.before_close", "intake.after_close"] : [];
  for (const [n, point] of points.entries()) {
    test(`${which}: /status survives a kill of all at ${point}`, async () => {
      const { bot, said } = sides[which];
      const chat = 20 + n;
      await crashAt(sides[which], point, () => bot.say(bot.direct(chat), chat, "/status"));
      await until("the answer", () => said(chat).length > 0, { timeoutMs: 180_000 });
      assert.equal(said(chat).length, 1);
      assert.match(said(chat)[0], /scripted/);
    });
  }

  for (const [n, point] of (all ? ["halt.called_off", "halt.closed"] : ["halt.called_off"]).entries()) {
    test(`${which}: a turn that was stopped stays so after a kill of all at ${point}`, async () => {
      const { bot, model, begin, next, said, api } = sides[which];
      const chat = 25 + n;
      await crashAt(sides[which], point, async () => {
        await begin(chat, `gone at ${point}`);
        bot.say(bot.direct(chat), chat, "/stop");
      });
      await until("the answer", () => {
        model.release();
        return said(chat).includes(ABORTED);
      }, { timeoutMs: 180_000 });
      assert.equal(await next(chat, `SCRIPT say after ${n}`), `after ${n}`);
      // An OpenClaw that takes longer to start is told to stop when it has.
      const heard = said(chat).filter((text) => !LATER.test(text));
      assert.deepEqual(heard, [ABORTED, `after ${n}`]);
      const rows = (await api.all({ channel: "telegram" })).filter((m) => m.target === String(chat));
      assert.equal(rows.length, said(chat).length, "one answer to the stop, one to what came after it");
    });
  }
}

test("ours: /compact is not done twice over a kill of all: it is answered, or said to be in doubt", async () => {
  const { bot, model, next, said } = sides.ours;
  await next(30, "SCRIPT say something long enough to be summed up");
  const summaries = () => model.requests.filter((r) => r.plan.kind === "summary").length;
  const before = summaries();
  await crashAt(sides.ours, "intake.turn_done", () => bot.say(bot.direct(30), 30, "/compact"));
  const asked = summaries();
  await until("the answer", () => said(30).length > 1, { timeoutMs: 180_000 });
  assert.equal(said(30).length, 2);
  assert.match(said(30)[1], /Compact|can't find out/);
  assert.equal(summaries(), asked, "not once more");
  assert.ok(asked - before <= 1);
});
