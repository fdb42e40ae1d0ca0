// Messages that come while a session is at work: the same on the original and on an agent that runs here.
import assert from "node:assert/strict";
import fs from "node:fs";
import path from "node:path";
import test, { after, before } from "node:test";
import { startOriginal, startOurs, TOKEN } from "../lib/gateway.mjs";
import { modelConfig, startModel, textOf } from "../lib/model.mjs";
import { RawClient } from "../lib/raw.mjs";
import { tempDir, until } from "../lib/tools.mjs";

/** The keys of the model are kept elsewhere, by a program and in a file. */
const keepers = tempDir("keepers");
const keeper = path.join(keepers, "keeper");
const file = path.join(keepers, "secrets.json");
fs.writeFileSync(keeper, `#!/bin/sh\nread -r asked; printf '{"protocolVersion":1,"values":{"models/key":"%s by a program"}}' "$1"\n`, { mode: 0o700 });
fs.writeFileSync(file, JSON.stringify({ team: { name: "kept in a file" } }), { mode: 0o600 });
const secrets = { providers: { vault: { source: "exec", command: keeper, args: ["kept"] }, papers: { source: "file", path: file } } };

function config(model) {
  const { models } = modelConfig(model);
  models.providers.scripted.apiKey = { source: "exec", provider: "vault", id: "models/key" };
  models.providers.scripted.headers = { "X-Team": { source: "file", provider: "papers", id: "/team/name" } };
  return { models, secrets, agents: { defaults: { model: { primary: "scripted/scripted-1" } } } };
}

let models, original, ours;
before(async () => {
  models = await Promise.all([startModel(), startModel()]);
  [original, ours] = await Promise.all([startOriginal({ config: config(models[0]) }), startOurs({ config: config(models[1]) })]);
});
after(async () => {
  await Promise.all([original?.stop(), ours?.stop()]);
  await Promise.all(models.map((model) => model.stop()));
  fs.rmSync(keepers, { recursive: true, force: true });
});

const chat = (runId, ...states) => (frame) => frame.event === "chat" && frame.payload.runId === runId && (states.length === 0 ? !["status", "delta"].includes(frame.payload.state) : states.includes(frame.payload.state));

class Side {
  static async open(target, model) {
    const side = Object.assign(new Side(), { model, isOriginal: target === original, client: await RawClient.open(target.wsUrl) });
    assert.equal((await side.client.connect({ token: TOKEN })).ok, true);
    await side.client.call("sessions.subscribe", {});
    return side;
  }

  async send(sessionKey, message, idempotencyKey) {
    const { payload, error } = await this.client.call("chat.send", { sessionKey, message, idempotencyKey });
    return payload?.status ?? error;
  }

  async say(sessionKey, message, runId) {
    assert.equal(await this.send(sessionKey, message, runId), "started");
    return (await this.client.frame(`the end of ${runId}`, chat(runId), { timeoutMs: 60_000 })).payload;
  }

  /** A turn that is at work: its first word is said. */
  async busy(sessionKey, runId) {
    assert.equal(await this.send(sessionKey, "SCRIPT slow One two three.", runId), "started");
    await this.client.frame("the first word", chat(runId, "delta"), { timeoutMs: 60_000 });
  }

  /**
   * Until messages are in line: here they are when they are answered; the original tells so by ending their runs, and works on
   * them under other ids.
   */
  async queued(...runIds) {
    if (this.isOriginal) await Promise.all(runIds.map((runId) => this.client.frame(`${runId} in line`, chat(runId, "final"), { timeoutMs: 60_000 })));
  }

  async history(sessionKey) {
    return (await this.client.call("chat.history", { sessionKey })).payload;
  }

  /** The conversation, once it has so many lines. */
  async lines(sessionKey, count) {
    const messages = await until(`${count} lines in ${sessionKey}`, async () => {
      const { messages } = await this.history(sessionKey);
      return messages.length >= count && messages;
    }, { timeoutMs: 30_000 });
    return messages.map(({ role, content }) => [role, textOf(content)]);
  }

  /** What the model was last shown, without what hosts add. */
  shown() {
    return this.model.requests.at(-1).call.messages
      .filter(({ role, content }) => role !== "system" && !textOf(content).startsWith("<<<BEGIN_OPENCLAW_INTERNAL_CONTEXT>>>"))
      .map(({ role, content, tool_calls }) => ({ role, calls: tool_calls?.length ?? 0, text: textOf(content).replace(/Runtime: agent=.*/s, "").replaceAll(/\[[A-Z][a-z]{2} [\d-]+ [\d:]+ UTC\] /g, "").trim() }));
  }
}

async function both(t, steps) {
  return Promise.all([[original, models[0]], [ours, models[1]]].map(async ([target, model]) => {
    const side = await Side.open(target, model);
    t.after(() => side.client.end());
    return steps(side);
  }));
}

/** Sides of a conversation in turn, whoever joins two lines of one side. */
const joined = (shown) => shown.reduce((out, { role, calls, text }) => {
  if (out.at(-1)?.role === role && role === "user") out.at(-1).text += ` ${text}`;
  else out.push({ role, calls, text });
  return out;
}, []).map((line) => ({ ...line, text: line.text.replaceAll(/\s+/g, " ").trim() }));

test("keys that a program and a file keep reach the model", async (t) => {
  const [theirs, own] = await both(t, async (side) => {
    await side.say("agent:main:keys", "SCRIPT say Yes.", "keys-1");
    const { headers } = side.model.requests.at(-1);
    return { authorization: headers.authorization, team: headers["x-team"] };
  });
  assert.deepEqual(own, { authorization: "Bearer kept by a program", team: "kept in a file" });
  assert.deepEqual(own, theirs);
});

test("steer, as usual: messages join the turn that works, behind its tool's result", async (t) => {
  const [theirs, own] = await both(t, async (side) => {
    const key = "agent:main:steer";
    await side.send(key, 'SCRIPT tool exec {"command":"sleep 3"}', "st-1");
    await side.client.frame("the tool", (frame) => frame.event === "agent" && frame.payload.runId === "st-1" && frame.payload.stream === "item", { timeoutMs: 60_000 });
    await side.send(key, "SCRIPT say second", "st-2");
    await side.send(key, "SCRIPT say third", "st-3");
    const { pendingInputs, messages, sessionInfo } = await side.history(key);
    const last = await side.client.frame("the end", chat("st-1"), { timeoutMs: 60_000 });
    const ends = await Promise.all(["st-2", "st-3"].map((id) => side.client.frame(id, chat(id), { timeoutMs: 60_000 })));
    const waited = await Promise.all(["st-2", "st-3"].map((runId) => side.client.call("agent.wait", { runId, timeoutMs: 5000 })));
    return {
      pending: pendingInputs, before: messages.length, active: sessionInfo.effectiveQueueMode, text: textOf(last.payload.message.content),
      ends: ends.map(({ payload: { seq, ...rest } }) => rest), waited: waited.map(({ payload }) => payload.status), lines: await side.lines(key, 6), shown: side.shown(),
    };
  });
  const shape = ({ items, total }) => ({ total, items: items.map(({ id, acceptedAt, message: { timestamp, __openclaw, ...message }, ...rest }) => ({ ...rest, message, own: Object.keys(__openclaw).sort(), id: __openclaw.id === `pending:${id}`, acceptedAt: acceptedAt === timestamp })) });
  assert.deepEqual(shape(own.pending), shape(theirs.pending));
  for (const part of ["before", "active", "text", "ends", "waited", "lines"]) assert.deepEqual(own[part], theirs[part], part);
  assert.deepEqual(joined(own.shown), joined(theirs.shown));
});

test("steer, while the answer is said: it goes on with what came", async (t) => {
  const side = await Side.open(ours, models[1]);
  t.after(() => side.client.end());
  const key = "agent:main:goes-on";
  await side.busy(key, "go-1");
  for (const n of [2, 3]) await side.send(key, `SCRIPT say n${n}`, `go-${n}`);
  side.model.release();
  const { payload } = await side.client.frame("the end", chat("go-1"));
  assert.equal(textOf(payload.message.content), "One two three.\n\nn3");
  assert.deepEqual(await side.lines(key, 5), [["user", "SCRIPT slow One two three."], ["assistant", "One two three."], ["user", "SCRIPT say n2"], ["user", "SCRIPT say n3"], ["assistant", "n3"]]);
  const waited = await side.client.call("agent.wait", { runId: "go-1", timeoutMs: 5000 });
  assert.equal(waited.payload.terminalReply.text, "One two three.\n\nn3");
});

test("followup: turns of their own, in order; here each under its own id", async (t) => {
  const [theirs, own] = await both(t, async (side) => {
    const key = "agent:main:follow";
    const said = textOf((await side.say(key, "/queue followup", "fo-0")).message.content);
    await side.busy(key, "fo-1");
    await side.send(key, "SCRIPT say second", "fo-2");
    await side.send(key, "SCRIPT say third", "fo-3");
    await side.queued("fo-2", "fo-3");
    side.model.release();
    const lines = await side.lines(key, 8);
    const { sessionInfo, pendingInputs } = await side.history(key);
    return { said, lines, mode: [sessionInfo.queueMode, sessionInfo.effectiveQueueMode], left: pendingInputs.total, client: side.client };
  });
  for (const part of ["said", "lines", "mode", "left"]) assert.deepEqual(own[part], theirs[part], part);
  const finals = own.client.frames.filter((frame) => frame.event === "chat" && frame.payload.state === "final").map(({ payload }) => [payload.runId, textOf(payload.message.content)]);
  assert.deepEqual(finals.slice(1), [["fo-1", "One two three."], ["fo-2", "second"], ["fo-3", "third"]]);
});

test("collect: one turn for all that came, one alone too", async (t) => {
  const [theirs, own] = await both(t, async (side) => {
    const key = "agent:main:collect";
    await side.say(key, "/queue collect", "co-0");
    await side.busy(key, "co-1");
    await side.send(key, "SCRIPT say second", "co-2");
    await side.send(key, "SCRIPT say third", "co-3");
    await side.queued("co-2", "co-3");
    side.model.release();
    const lines = await side.lines(key, 6);
    await side.busy(key, "co-4");
    await side.send(key, "SCRIPT say alone", "co-5");
    await side.queued("co-5");
    side.model.release();
    return { lines, more: await side.lines(key, 10), ended: await side.client.frame("co-2", chat("co-2")) };
  });
  assert.deepEqual(own.lines, theirs.lines);
  assert.deepEqual(own.more, theirs.more);
  assert.deepEqual(Object.keys(own.ended.payload).sort(), Object.keys(theirs.ended.payload).sort());
});

test("interrupt: the newest ends what works", async (t) => {
  const [theirs, own] = await both(t, async (side) => {
    const key = "agent:main:interrupt";
    await side.say(key, "/queue interrupt", "in-0");
    await side.busy(key, "in-1");
    const asked = side.model.requests.at(-1);
    await side.send(key, "SCRIPT say second", "in-2");
    const last = await side.client.frame("the end", chat("in-2"), { timeoutMs: 60_000 });
    const first = await side.client.frame("the first turn", chat("in-1"));
    await until("the model's work to end", () => asked.aborted);
    return { first: first.payload.state, text: textOf(last.payload.message.content), lines: await side.lines(key, 5) };
  });
  assert.deepEqual([own.first, own.text], [theirs.first, theirs.text]);
  // What had been said when it was called off is kept here, as after /stop.
  const said = own.lines.findIndex(([, text]) => text === "One");
  assert.notEqual(said, -1);
  assert.deepEqual(own.lines.toSpliced(said, 1), theirs.lines);
});

test("more than the cap: the oldest are told in a line each", async (t) => {
  const [theirs, own] = await both(t, async (side) => {
    const key = "agent:main:cap";
    const said = textOf((await side.say(key, "/queue followup cap:2 drop:summarize", "ca-0")).message.content);
    await side.busy(key, "ca-1");
    for (const n of [2, 3, 4, 5]) await side.send(key, `SCRIPT say n${n}`, `ca-${n}`);
    await side.queued("ca-2", "ca-3", "ca-4", "ca-5");
    side.model.release();
    return { said, lines: await side.lines(key, 10) };
  });
  assert.deepEqual(own, theirs);
});

test("what waits is called off first, alone or with all the rest", async (t) => {
  const [theirs, own] = await both(t, async (side) => {
    const key = "agent:main:cancel";
    await side.say(key, "/queue followup", "ab-0");
    await side.busy(key, "ab-1");
    await side.send(key, "SCRIPT say two", "ab-2");
    await side.send(key, "SCRIPT say three", "ab-3");
    await side.queued("ab-2", "ab-3");
    const one = (await side.client.call("chat.abort", { sessionKey: key, runId: "ab-2" })).payload;
    // The original has told its end before.
    if (!side.isOriginal) await side.client.frame("the one", chat("ab-2", "aborted"));
    const rest = (await side.client.call("chat.abort", { sessionKey: key })).payload;
    await side.client.frame("the turn", chat("ab-1", "aborted"));
    return { one, rest, lines: await side.lines(key, 4) };
  });
  assert.deepEqual(own, theirs);
});

test("/queue answers in the original's words", async (t) => {
  const asked = ["/queue", "/queue default", "/queue nonsense", "/queue collect debounce:0.5s cap:25 drop:old", "/queue cap:0", "/queue drop:x", "/queue debounce:soon", "/queue", "/queue reset", "/queue"];
  const [theirs, own] = await both(t, async (side) => {
    const said = [];
    for (const [n, message] of asked.entries()) said.push(textOf((await side.say("agent:main:words", message, `wo-${n}`)).message.content));
    return said;
  });
  assert.deepEqual(own, theirs);
});

test("a full line refuses the newest, or lets the oldest go, and says so", async (t) => {
  const side = await Side.open(ours, models[1]);
  t.after(() => side.client.end());
  for (const [drop, gone] of [["new", ["3"]], ["old", ["2"]]]) {
    const key = `agent:main:${drop}`;
    await side.say(key, `/queue followup cap:1 drop:${drop}`, `${drop}-0`);
    await side.busy(key, `${drop}-1`);
    for (const n of ["2", "3"]) await side.send(key, `SCRIPT say n${n}`, `${drop}-${n}`);
    const { payload } = await side.client.frame("the refusal", chat(`${drop}-${gone[0]}`, "error"));
    assert.equal(payload.errorMessage, "1 messages wait already (messages.queue.cap)");
    side.model.release();
    const other = gone[0] === "3" ? "2" : "3";
    const { payload: answered } = await side.client.frame("the other", chat(`${drop}-${other}`));
    assert.equal(textOf(answered.message.content), `n${other}`);
    assert.equal((await side.history(key)).messages.some(({ content }) => textOf(content) === `SCRIPT say n${gone[0]}`), true, "nothing said is lost");
  }
});

test("a kill while messages wait: they are in the conversation, told as not worked on, and can be sent again", async (t) => {
  const model = await startModel();
  t.after(() => model.stop());
  const gateway = await startOurs({ config: { ...config(model), messages: { queue: { mode: "followup" } } } });
  t.after(() => gateway.stop());
  let side = await Side.open(gateway, model);
  const key = "agent:main:kill";
  await side.busy(key, "ki-1");
  await side.send(key, "SCRIPT say second", "ki-2");
  gateway.child.kill("SIGKILL");
  await gateway.child.waitExit(10_000);
  await gateway.restart();
  side = await Side.open(gateway, model);
  t.after(() => side.client.end());
  const lines = await side.lines(key, 4);
  assert.deepEqual(lines.filter(([role]) => role === "user").map(([, text]) => text), ["SCRIPT slow One two three.", "SCRIPT say second"]);
  assert.equal(lines.filter(([, text]) => text.includes("send it again")).length, 2);
  const { message } = await side.say(key, "SCRIPT say second", "ki-2");
  assert.equal(textOf(message.content), "second");
});

test("a kill loses nothing of what gave way for the cap either", async (t) => {
  const model = await startModel();
  t.after(() => model.stop());
  const gateway = await startOurs({ config: { ...config(model), messages: { queue: { mode: "followup", cap: 1 } } } });
  t.after(() => gateway.stop());
  let side = await Side.open(gateway, model);
  const key = "agent:main:kill-cap";
  await side.busy(key, "kc-1");
  for (const n of [2, 3, 4]) await side.send(key, `SCRIPT say n${n}`, `kc-${n}`);
  await side.client.frame("the oldest, which is counted alone", chat("kc-2"));
  gateway.child.kill("SIGKILL");
  await gateway.child.waitExit(10_000);
  await gateway.restart();
  side = await Side.open(gateway, model);
  t.after(() => side.client.end());
  const lines = await side.lines(key, 7);
  const said = lines.filter(([role]) => role === "user").map(([, text]) => text).sort();
  assert.deepEqual(said, ["SCRIPT say n2", "SCRIPT say n3", "SCRIPT say n4", "SCRIPT slow One two three."]);
  assert.equal(lines.filter(([, text]) => text.includes("send it again")).length, 3);
});

test("a stop of the gateway with messages in line ends in time", async (t) => {
  const model = await startModel();
  t.after(() => model.stop());
  const gateway = await startOurs({ config: config(model) });
  t.after(() => gateway.stop());
  const side = await Side.open(gateway, model);
  const key = "agent:main:stop";
  await side.say(key, "/queue followup", "sp-0");
  await side.busy(key, "sp-1");
  await side.send(key, "SCRIPT say second", "sp-2");
  gateway.child.kill("SIGTERM");
  await gateway.child.waitExit(15_000);
});
