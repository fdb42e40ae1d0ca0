// A person writes to a bot of ours, and the unmodified TypeScript gateway behind is our child: it is killed, and we are.
import assert from "node:assert/strict";
import fs from "node:fs";
import path from "node:path";
import { after, before, test } from "node:test";
import { startBotApi } from "../lib/bot-api.mjs";
import { TOKEN, startOurs } from "../lib/gateway.mjs";
import { modelConfig, startModel, MODEL_ID } from "../lib/model.mjs";
import { until } from "../lib/tools.mjs";

let model;
let bot;
let ours;

before(async () => {
  model = await startModel();
  bot = await startBotApi();
  const models = modelConfig(model);
  ours = await startOurs({
    upstream: "supervise",
    toml: '[channels]\nnative = ["telegram"]',
    config: {
      ...models,
      agents: { defaults: { model: { primary: `scripted/${MODEL_ID}` } } },
      channels: { telegram: { botToken: bot.token, apiRoot: bot.url, dmPolicy: "open", allowFrom: ["*"] } },
    },
  });
});

after(async () => {
  await ours?.stop();
  await bot?.stop();
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
