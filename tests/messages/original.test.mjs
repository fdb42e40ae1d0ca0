// A person writes to a bot of ours, and the unmodified TypeScript gateway behind is our child: it is killed, and we are.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import { after, before, test } from "node:test";
import { startBotApi } from "../lib/bot-api.mjs";
import { TOKEN, startOurs } from "../lib/gateway.mjs";
import { modelConfig, startModel, MODEL_ID } from "../lib/model.mjs";
import { gatewayBinary, until } from "../lib/tools.mjs";

let model;
let bot;
/** A bot whose answers grow in place. */
let drafting;
let ours;

before(async () => {
  model = await startModel();
  bot = await startBotApi();
  drafting = await startBotApi();
  const models = modelConfig(model);
  ours = await startOurs({
    upstream: "supervise",
    toml: '[channels]\nnative = ["telegram"]',
    config: {
      ...models,
      agents: { defaults: { model: { primary: `scripted/${MODEL_ID}` } } },
      session: { dmScope: "per-channel-peer" },
      channels: {
        telegram: {
          botToken: bot.token, apiRoot: bot.url, dmPolicy: "open", allowFrom: ["*"],
          accounts: { default: {}, drafting: { botToken: drafting.token, apiRoot: drafting.url, streaming: { mode: "partial" } } },
        },
      },
    },
  });
});

after(async () => {
  await ours?.stop();
  await bot?.stop();
  await drafting?.stop();
  await model?.stop();
});

async function api(method, path, body) {
  const response = await fetch(`http://127.0.0.1:${ours.port}${path}`, {
    method,
    headers: { authorization: `Bearer ${TOKEN}`, "content-type": "application/json" },
    body: body && JSON.stringify(body),
  });
  return response.json();
}

/** Direct children of a process, over all its threads. */
function childrenOf(pid) {
  return fs.readdirSync(`/proc/${pid}/task`).flatMap((task) => fs.readFileSync(`/proc/${pid}/task/${task}/children`, "utf8").trim().split(" ").filter(Boolean).map(Number));
}

const texts = (chat) => bot.sent.filter((message) => message.chat === String(chat)).map((message) => message.text);

// The first: an OpenClaw that was killed three times within five minutes starts no channels by itself (its crash-loop breaker).
test("an account moved to OpenClaw and back by `rollout move` while people write: each of them is answered, once", async (t) => {
  const move = (side) => new Promise((resolve) => {
    const options = { env: ours.env, cwd: ours.stateDir };
    execFile(gatewayBinary(), ["rollout", "move", "account", "telegram", side], options, (error, stdout, stderr) => resolve({ code: error?.code ?? 0, all: stdout + stderr }));
  });
  const own = path.join(ours.stateDir, "openclaw-rs/openclaw-gateway.toml");
  fs.writeFileSync(own, fs.readFileSync(own, "utf8").replace("[channels]", "[channels] # by hand"));
  const accounts = async () => (await api("GET", "/api/rollout")).accounts;
  const expected = new Map();
  const write = (chat, text) => {
    expected.set(chat, [...(expected.get(chat) ?? []), text]);
    bot.say(bot.direct(chat), chat, `SCRIPT say ${text}`);
  };
  const answered = (chat) => until(`chat ${chat} to be answered`, () => texts(chat).length >= expected.get(chat).length, { timeoutMs: 240_000 });
  let held;
  /** One has it, with a turn in the middle; people write while it changes hands, when nobody has it, and afterwards. */
  const hand = async (side, first) => {
    const text = `in the middle of ${first}`;
    expected.set(first, [text]);
    bot.say(bot.direct(first), first, `SCRIPT slow ${text}`);
    await until("the turn", () => model.requests.some(({ plan }) => plan.kind === "slow" && plan.text === text));
    const from = ours.child.output.length;
    const said = (words) => until(words, () => ours.child.output.slice(from).includes(words), { timeoutMs: 240_000 });
    const moved = move(side);
    await said("channel accounts change hands");
    write(first + 1, "when it begins");
    // Behind a turn of ours in its conversation; OpenClaw would take it into the turn.
    if (side === "upstream") write(first, "behind the one in the middle");
    model.release();
    if (side === "upstream") {
      await until("it to run here no more", async () => (await accounts()).length === 0);
      bot.faults.length = 0;
      // Nobody can send it now.
      held = await api("POST", "/api/message", { channel: "telegram", target: "902", content: "held" });
    }
    await said("openclaw has stopped");
    write(first + 2, "while nobody else is there");
    const { code, all } = await moved;
    assert.equal(code, 0, all);
    write(first + 3, "afterwards");
    await answered(first + 3);
  };
  // Half of an answer is out, and another is a draft.
  bot.direct(900);
  bot.direct(902);
  const halves = ["first half ", "second half "].map((words) => words.repeat(250).trim());
  bot.faults.push({ method: "sendMessage", kind: "error", chat: "900", about: "second half" });
  const half = await api("POST", "/api/message", { channel: "telegram", target: "900", content: halves.join("\n\n") });
  await until("the first half", () => texts(900).length > 0 && bot.calls.some((call) => call.fault && call.params.text.includes("second half")));
  const shown = "An-answer-whose-first-word-is-long-enough-to-be-shown";
  drafting.say(drafting.direct(901), 901, `SCRIPT slow ${shown} and its end`);
  await until("the draft", () => drafting.sent.some(({ text }) => text?.includes(shown)));
  drafting.faults.push({ method: "editMessageText", kind: "error" });
  await hand("upstream", 1000);
  assert.deepEqual(await accounts(), []);
  const visible = () => [...drafting.messages].filter(([key, message]) => key.startsWith("901/") && message.from.is_bot).map(([, { text }]) => text);
  await until("the answer that was a draft", () => visible().some((text) => text.includes("and its end")), { timeoutMs: 240_000 });
  assert.deepEqual(visible(), [`${shown} and its end`]);
  assert.ok(drafting.calls.some((call) => call.fault), "its draft could have become it");
  await until("the second half", () => texts(900).length > 1, { timeoutMs: 240_000 });
  assert.deepEqual(texts(900), halves);
  const sent = await until("what was held to be sent", async () => {
    const { message } = await api("GET", `/api/message/${held.message_id}`);
    return message.state === "delivered" && message;
  }, { timeoutMs: 240_000 });
  assert.deepEqual([sent.attempts, texts(902)], [1, ["held"]]);
  await until("it to be delivered", async () => (await api("GET", `/api/message/${half.message_id}`)).message.state === "delivered");
  await hand("native", 2000);
  assert.deepEqual(await accounts(), ["telegram/default", "telegram/drafting"]);
  for (const chat of expected.keys()) await answered(chat);
  // A service that knows of nothing that was not taken, and every answer as often as its question.
  await until("every message to be taken", () => bot.updates.length === 0);
  assert.deepEqual(Object.fromEntries([...expected.keys()].map((chat) => [chat, texts(chat)])), Object.fromEntries(expected));
  assert.match(fs.readFileSync(own, "utf8"), /\[channels\] # by hand\nnative = \[ ?"telegram/);
  const again = await move("native");
  assert.equal(again.code, 78, again.all);
  assert.match(again.all, /this gateway runs it already/);
  const refused = await api("POST", "/api/rollout?account=webhook&to=upstream");
  assert.match(refused.error, /stays with this gateway/);
});

test("a message that comes while the original is dead is answered when it is back, once", async () => {
  const [pid] = childrenOf(ours.child.pid);
  process.kill(pid, "SIGKILL");
  bot.say(bot.direct(78), 78, "SCRIPT say back again");
  await until("the answer", () => texts(78).length > 0, { timeoutMs: 120_000 });
  assert.deepEqual(texts(78), ["back again"]);
});

test("POST /api/message with turn delivers the agent's answer", async () => {
  bot.direct(79);
  const sent = await api("POST", "/api/message", { channel: "telegram", target: "79", content: "SCRIPT say by request", turn: true, mode: "wait" });
  assert.deepEqual([sent.success, sent.status], [true, "delivered"]);
  assert.deepEqual(texts(79), ["by request"]);
});

test("killed in the middle of a turn, it is resumed and answered", async () => {
  bot.say(bot.direct(80), 80, "SCRIPT slow one two three");
  // It is typed before the original has taken the turn up; the middle of it is when the model works.
  await until("the turn", () => model.requests.some(({ plan }) => plan.kind === "slow" && plan.text === "one two three"));
  ours.child.killTree("SIGKILL");
  await ours.child.waitExit();
  ours.spawn();
  await until("the answer", () => {
    // The run that died and the one that resumes it both hold after the first word.
    model.release();
    return texts(80).length > 0;
  }, { timeoutMs: 180_000 });
  assert.equal(texts(80).length, 1);
  assert.ok(texts(80)[0].includes("one two three"), texts(80)[0]);
});

test("killed when it had taken a message and begun nothing: the message is answered, once", async (t) => {
  // Reading only: what the original has taken and not begun.
  const { DatabaseSync } = await import("node:sqlite");
  const database = new DatabaseSync(path.join(ours.stateDir, "agents/main/agent/openclaw-agent.sqlite"), { readOnly: true });
  const taken = database.prepare("SELECT count(*) AS rows FROM session_pending_inputs WHERE consumed_event_id IS NULL AND message_json LIKE '%taken and no more%'");
  const asked = () => model.requests.filter(({ plan }) => plan.text === "taken and no more").length;
  bot.say(bot.direct(81), 81, "SCRIPT say taken and no more");
  await until("the message to be taken", () => taken.get().rows > 0 || asked() > 0, { everyMs: 1 });
  ours.child.killTree("SIGKILL");
  database.close();
  t.diagnostic(`killed ${asked() === 0 ? "before" : "after"} the model was asked`);
  await ours.child.waitExit();
  ours.spawn();
  await until("the answer", () => texts(81).length > 0, { timeoutMs: 180_000 });
  assert.deepEqual(texts(81), ["taken and no more"]);
});
