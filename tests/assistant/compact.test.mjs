// A conversation that outgrows its model's window: the same on the original and on an agent that runs here.
import assert from "node:assert/strict";
import test, { after, before } from "node:test";
import { startOriginal, startOurs, TOKEN } from "../lib/gateway.mjs";
import { isSummarising, modelConfig, startModel, textOf } from "../lib/model.mjs";
import { RawClient } from "../lib/raw.mjs";
import { until } from "../lib/tools.mjs";

const config = (model) => ({ ...modelConfig(model), agents: { defaults: { model: { primary: "scripted/scripted-1" }, compaction: { memoryFlush: { enabled: false } } } } });

let models, original, ours;
before(async () => {
  // A model each: which side asked is told by whom.
  models = await Promise.all([startModel(), startModel()]);
  [original, ours] = await Promise.all([startOriginal({ config: config(models[0]) }), startOurs({ config: config(models[1]) })]);
});
after(async () => {
  await Promise.all([original?.stop(), ours?.stop()]);
  await Promise.all(models.map((model) => model.stop()));
});

const isEnd = (runId) => (frame) => frame.event === "chat" && frame.payload.runId === runId && !["status", "delta"].includes(frame.payload.state);

let runs = 0;

/** A client of a side, and what a test does with it. */
class Side {
  static async open(target, model) {
    const side = Object.assign(new Side(), { model, client: await RawClient.open(target.wsUrl) });
    assert.equal((await side.client.connect({ token: TOKEN })).ok, true);
    await side.client.call("sessions.subscribe", {});
    return side;
  }

  async say(key, message) {
    const runId = `${key.split(":").at(-1)}-${++runs}`;
    const from = this.client.frames.length;
    const sent = await this.client.call("chat.send", { sessionKey: key, message, idempotencyKey: runId });
    assert.equal(sent.payload?.status, "started", JSON.stringify(sent));
    const end = await this.client.frame("the end", isEnd(runId), { from, timeoutMs: 60_000 });
    // Its answer is told before all of it is put away.
    await this.client.call("agent.wait", { runId, timeoutMs: 30_000 }, { timeoutMs: 60_000 });
    return { state: end.payload.state, text: textOf(end.payload.message?.content), error: end.payload.errorMessage };
  }

  async history(sessionKey) {
    const { payload } = await this.client.call("chat.history", { sessionKey });
    return payload.messages;
  }

  /** What the model was last shown of a conversation: no instructions, no context of the host's own. */
  shown() {
    const asked = this.model.requests.findLast(({ call }) => !isSummarising(call.messages)).call.messages;
    return asked.filter(({ role, content }) => role !== "system" && !textOf(content).startsWith("<<<BEGIN_OPENCLAW_INTERNAL_CONTEXT>>>"))
      .map(({ role, content }) => {
        const text = textOf(content);
        const summary = /<summary>\n([\s\S]*)\n<\/summary>/.exec(text)?.[1];
        const rest = text.replace(/^[\s\S]*<\/summary>/, "").replace(/Runtime: agent=.*/s, "").replaceAll(/\[[A-Z][a-z]{2} [\d-]+ [\d:]+ UTC\] /g, "").trim();
        return { role, summary, rest };
      });
  }

  summaries() {
    return this.model.requests.filter(({ call }) => isSummarising(call.messages)).map(({ call }) => textOf(call.messages.at(-1).content));
  }

  async end() {
    await this.client.end();
  }
}

async function both(t, steps) {
  return Promise.all([[original, models[0]], [ours, models[1]]].map(async ([target, model]) => {
    const side = await Side.open(target, model);
    t.after(() => side.end());
    return steps(side);
  }));
}

/** The conversation as said, whoever joins what with what: words in order, and whether a summary came first. */
const gist = (shown) => ({ first: Boolean(shown[0]?.summary), said: shown.map(({ rest }) => rest).filter(Boolean).join("\n").split(/\n+/) });
const headings = (summary) => [...summary.matchAll(/^## .*$/gm)].map(([line]) => line).filter((line) => /Decisions|Open TODOs|Constraints|Pending|Exact/.test(line));

test("sessions.compact: answers, events, the line in the history, what the model is shown afterwards", async (t) => {
  const [theirs, own] = await both(t, async (side) => {
    const key = "agent:main:asked";
    const none = await side.client.call("sessions.compact", { key });
    for (const word of ["one", "two", "three", "four", "five"]) await side.say(key, `SCRIPT say ${word}`);
    const from = side.client.frames.length;
    const done = await side.client.call("sessions.compact", { key }, { timeoutMs: 60_000 });
    assert.equal(done.payload?.compacted, true, JSON.stringify(done));
    await side.client.frame("the news", (frame) => frame.event === "sessions.changed" && frame.payload.reason === "compact", { from });
    const events = side.client.frames.slice(from).filter(({ event }) => event === "session.operation").map(({ payload }) => payload);
    const again = await side.client.call("sessions.compact", { key });
    const wrong = await side.client.call("sessions.compact", { key, nonsense: 1 });
    const history = await side.history(key);
    await side.say(key, "SCRIPT say six");
    return { none, done, events, again, wrong, history, shown: side.shown() };
  });
  for (const name of ["none", "again", "wrong"]) assert.deepEqual({ ...own[name], id: 0 }, { ...theirs[name], id: 0 }, name);
  for (const side of [theirs, own]) {
    const { result, ...answer } = side.done.payload;
    assert.deepEqual(answer, { ok: true, key: "agent:main:asked", compacted: true });
    assert.deepEqual(headings(result.summary), ["## Decisions", "## Open TODOs", "## Constraints/Rules", "## Pending user asks", "## Exact identifiers"]);
    assert.match(result.summary, /^## Latest user request context\n"SCRIPT say five"\n/);
    assert.equal(result.firstKeptEntryId.length > 0, true);
  }
  assert.deepEqual(own.done.payload.result.details, theirs.done.payload.result.details);
  const masked = (events) => events.map(({ operationId, ts, ...rest }) => ({ ...rest, operationId: typeof operationId, ts: typeof ts }));
  assert.deepEqual(masked(own.events), masked(theirs.events));
  const lines = (history) => history.map(({ role, content }) => [role, textOf(content)]);
  assert.deepEqual(lines(own.history), lines(theirs.history), "nothing of what was said is gone");
  const mark = ({ history }) => Object.keys(history.find(({ role }) => role === "system").__openclaw).filter((key) => key !== "runId" && key !== "itemId").sort();
  assert.deepEqual(mark(own), mark(theirs));
  assert.deepEqual(gist(own.shown), gist(theirs.shown));
});

test("/compact: done, done again, with a wish, and with nothing to do", async (t) => {
  const [theirs, own] = await both(t, async (side) => {
    const key = "agent:main:command";
    const early = await side.say("agent:main:nothing", "/compact");
    for (const word of ["one", "two", "three", "four", "five"]) await side.say(key, `SCRIPT say ${word}`);
    const done = await side.say(key, "/compact keep the word two");
    const { payload } = await side.client.call("commands.list", {});
    return { early, done, wish: side.summaries().at(-1), known: payload.commands.some(({ name }) => name === "compact") };
  });
  assert.deepEqual(own.early, theirs.early);
  assert.match(theirs.done.text, /^⚙️ Compact(ed|ion finished) .* • Context .*\/128k/);
  assert.match(own.done.text, /^⚙️ Compacted \(\d+ → \d+\) • Context \d+\/128k \(0%\)$/, "the size is known here: it is estimated");
  for (const side of [theirs, own]) assert.match(side.wish, /keep the word two/);
  assert.deepEqual([own.known, theirs.known], [true, true]);
});

test("a window that is nearly full: the next turn goes on from a summary", async (t) => {
  const [theirs, own] = await both(t, async (side) => {
    const key = "agent:main:full";
    await side.say(key, "SCRIPT say first");
    await side.say(key, "SCRIPT full 107000 nearly");
    const before = side.summaries().length;
    const third = await side.say(key, "SCRIPT full 125000 second");
    const between = side.summaries().length;
    const last = await side.say(key, "SCRIPT say third");
    const history = await side.history(key);
    return { third, last, calls: [between - before, side.summaries().length - between], shown: side.shown(), history };
  });
  assert.deepEqual([own.third, own.last], [theirs.third, theirs.last]);
  for (const side of [theirs, own]) {
    assert.equal(side.calls[0], 0, "107,000 of 128,000 tokens leave the reserve free");
    assert.equal(side.calls[1] > 0, true, "125,000 do not");
  }
  assert.deepEqual(gist(own.shown), gist(theirs.shown));
  // Here a question is on disk before anything is done with it: the mark of the compaction stands behind it.
  const lines = (history) => history.map(({ role, content }) => `${role} ${textOf(content)}`);
  assert.deepEqual(lines(own.history).toSorted(), lines(theirs.history).toSorted());
  assert.deepEqual(lines(own.history).slice(-3), ["user SCRIPT say third", "system Compaction", "assistant third"]);
  assert.equal(own.history.find(({ role }) => role === "system").__openclaw.tokensBefore >= 125_005, true);
});

test("a model that says the conversation is too long: it is compacted once and asked again", async (t) => {
  const long = "word ".repeat(24_000);
  const [theirs, own] = await both(t, async (side) => {
    const key = "agent:main:long";
    for (const n of [1, 2]) await side.say(key, `${long}\nSCRIPT say answer ${n}`);
    const asked = side.model.requests.length;
    const fits = await side.say(key, "SCRIPT overflow it fits");
    const again = side.model.requests.slice(asked).filter(({ plan }) => plan.kind !== "summary").map(({ plan }) => plan.kind);
    const alone = await side.say("agent:main:alone", "SCRIPT overflow nothing older");
    return { fits, again, alone, history: (await side.history(key)).map(({ role }) => role) };
  });
  assert.deepEqual(own.fits, { state: "final", text: "it fits", error: undefined });
  // The original's model is asked to go on from a request that the summary names; the scripted one finds no script there.
  assert.equal(theirs.fits.state, "final");
  assert.deepEqual(own.again, ["fail", "say"]);
  assert.deepEqual(own.history.toSorted(), theirs.history.toSorted());
  assert.equal(own.alone.state, "error");
  assert.equal(theirs.alone.state, "error");
  assert.match(own.alone.error, /maximum context length is 128000 tokens.*too long for the model: \/compact makes it shorter, \/new begins another/);
});

test("what cannot be summed up stays as it is, and the chat goes on", async (t) => {
  const model = await startModel({ summaries: "no headings at all" });
  t.after(() => model.stop());
  const gateway = await startOurs({ config: config(model) });
  t.after(() => gateway.stop());
  const side = await Side.open(gateway, model);
  t.after(() => side.end());
  const key = "agent:main:bad";
  await side.say(key, "SCRIPT say first");
  await side.say(key, "SCRIPT full 125000 second");
  const { text } = await side.say(key, "SCRIPT say third");
  assert.equal(text, "third");
  assert.equal(side.summaries().length, 2, "asked once more, then given up");
  assert.deepEqual((await side.history(key)).map(({ role }) => role), ["user", "assistant", "user", "assistant", "user", "assistant"]);
  assert.equal((await side.say(key, "SCRIPT full 125000 fourth")).text, "fourth");
  assert.equal((await side.say(key, "SCRIPT say fifth")).text, "fifth");
  assert.equal(side.summaries().length, 2, "what has just failed is not tried before every turn");
  const said = await side.say(key, "/compact");
  assert.match(said.text, /^⚙️ Compaction failed: the model's summary lacks headings/);
  const { payload } = await side.client.call("sessions.compact", { key });
  assert.deepEqual([payload.ok, payload.compacted], [false, false]);
});

test("while a compaction works: it can be stopped, others wait, a kill leaves the conversation as it was", async (t) => {
  const model = await startModel({ holdSummaries: true });
  t.after(() => model.stop());
  const gateway = await startOurs({ config: config(model) });
  t.after(() => gateway.stop());
  let side = await Side.open(gateway, model);
  const key = "agent:main:held";
  for (const word of ["one", "two"]) await side.say(key, `SCRIPT say ${word}`);
  const params = { sessionKey: key, message: "/compact", idempotencyKey: "stopped" };
  assert.equal((await side.client.call("chat.send", params)).payload.status, "started");
  await until("the summary to be asked for", () => side.summaries().length === 1);
  assert.equal((await side.client.call("chat.send", params)).payload.status, "in_flight");
  const busy = await side.client.call("sessions.compact", { key });
  assert.equal(busy.error.message, `Session ${key} has an active run; retry after it finishes.`);
  const abort = await side.client.call("chat.abort", { sessionKey: key });
  assert.deepEqual(abort.payload.runIds, ["stopped"]);
  const end = await side.client.frame("the end", isEnd("stopped"));
  assert.equal(textOf(end.payload.message.content), "⚙️ Compaction failed: it was stopped");
  await until("the model's work to end", () => model.requests.findLast(({ call }) => isSummarising(call.messages)).aborted);

  await side.client.call("chat.send", { ...params, idempotencyKey: "killed" });
  await until("the summary to be asked for again", () => side.summaries().length === 2);
  const before = (await side.history(key)).length;
  gateway.child.kill("SIGKILL");
  await gateway.child.waitExit(10_000);
  await gateway.restart();
  side = await Side.open(gateway, model);
  t.after(() => side.end());
  assert.equal((await side.history(key)).length, before);
  assert.equal((await side.say(key, "SCRIPT say three")).text, "three");
});
