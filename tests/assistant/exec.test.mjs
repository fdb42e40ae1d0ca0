// Commands of an agent that runs here: the same conversations on the original and here, and what must hold when one is
// stopped in the middle.
import assert from "node:assert/strict";
import fs from "node:fs";
import path from "node:path";
import test, { after, before, describe } from "node:test";
import { startOriginal, startOurs, TOKEN } from "../lib/gateway.mjs";
import { modelConfig, startModel } from "../lib/model.mjs";
import { RawClient } from "../lib/raw.mjs";
import { gatewayBinary, tempDir, until } from "../lib/tools.mjs";

let model, sides, original, ours;
const config = () => ({ ...modelConfig(model), agents: { defaults: { model: { primary: "scripted/scripted-1" } } } });
before(async () => {
  model = await startModel();
  sides = await Promise.all([startOriginal({ config: config() }), startOurs({ config: config() })]);
  [original, ours] = sides;
});
after(async () => {
  await Promise.all([original?.stop(), ours?.stop()]);
  await model.stop();
});

const ended = (runId) => (frame) => frame.event === "chat" && frame.payload.runId === runId && !["status", "delta"].includes(frame.payload.state);
const toolPhase = (runId, phase) => (frame) => frame.event === "agent" && frame.payload.runId === runId && frame.payload.stream === "tool" && frame.payload.data.phase === phase;
const asking = (frame) => frame.event === "exec.approval.requested";
const calling = (name, args) => `SCRIPT tool ${name} ${JSON.stringify(args)}`;

async function open(target, connect = {}) {
  const client = await RawClient.open(target.wsUrl);
  const hello = await client.connect({ token: TOKEN, caps: ["tool-events", "exec-approvals"], ...connect });
  assert.equal(hello.ok, true, JSON.stringify(hello));
  return client;
}

async function workspaceOf(client) {
  const { workspace } = (await client.call("agents.list", {})).payload.agents[0];
  fs.mkdirSync(workspace, { recursive: true });
  return workspace;
}

const send = (client, session, message, runId) => client.call("chat.send", { sessionKey: `agent:main:${session}`, message, idempotencyKey: runId });

/** The last tool result of a session's conversation. */
async function resultOf(client, session) {
  const { payload } = await client.call("chat.history", { sessionKey: `agent:main:${session}` });
  return payload.messages.findLast(({ role }) => role === "toolResult");
}

/** What differs from run to run, made the same. */
const mask = (value, replaced = {}) => {
  let text = JSON.stringify(value);
  for (const [from, to] of Object.entries(replaced)) text = text.replaceAll(from, to);
  return JSON.parse(text
    .replace(/session [a-z]+-[a-z]+(-\d+)?, pid \d+/g, "session <session>, pid 1")
    .replace(/"(sessionId|name)":"[a-z]+-[a-z]+(-\d+)?"/g, '"$1":"<session>"')
    .replace(/[0-9a-f]{8}-[0-9a-f-]{27}/g, "<uuid>")
    // The original doesn't always wait for the end of what it killed.
    .replace(/"exitSignal":"SIG(TERM|KILL)"/g, '"exitSignal":null')
    .replace(/"(pid|startedAt|endedAt|durationMs|ts|createdAtMs|expiresAtMs|idleMs|lastOutputAt|runtimeMs)":\d+/g, '"$1":1'));
};

/** A tool's events, without how a command is put into words and how often its output was told. */
const toolEvents = (frames, runId) => frames
  .filter(({ event, payload }) => event === "agent" && payload.runId === runId && ["tool", "item", "command_output"].includes(payload.stream))
  .map(({ payload: { stream, data } }) => ({ stream, data: { ...data, title: 0, meta: 0 } }))
  .filter(({ data }) => !["update", "delta"].includes(data.phase));

/** Runs the same calls on both sides and compares what the model was told, what clients saw and what is kept. */
async function compare(sides, calls) {
  const [theirs, own] = await Promise.all(sides.map(async (target) => {
    const client = await open(target);
    const workspace = await workspaceOf(client);
    fs.writeFileSync(path.join(workspace, "notes.txt"), "line one\nline two\n");
    const out = {};
    // Each in a conversation of its own, all at once.
    await Promise.all(Object.entries(calls).map(async ([label, call]) => {
      const [args, name = "exec"] = [call].flat();
      const run = `${name}-${label}`;
      await send(client, run, calling(name, args), run);
      const { payload: end } = await client.frame("the end", ended(run));
      const { content, isError } = await resultOf(client, run);
      out[label] = mask({ state: end.state, text: content[0].text, isError, events: toolEvents(client.frames, run) }, { [workspace]: "<workspace>" });
    }));
    await client.end();
    return out;
  }));
  for (const label of Object.keys(calls)) assert.deepEqual(own[label], theirs[label], label);
}

describe("without approvals", () => {
  test("a model is told of a command as the original tells it, and clients too", async () => {
    await compare(sides, {
      output: { command: "echo out; cat notes.txt" }, quiet: { command: "true" }, code: { command: "echo x; exit 3" }, missing: { command: "no-such-program" },
      denied: { command: "/tmp" }, time: { command: "sleep 100", timeoutSeconds: 1 }, background: { command: "sleep 1", background: true },
      folder: { command: "pwd", workdir: "/" }, nofolder: { command: "pwd", workdir: "nope" }, blank: { command: "pwd", workdir: "  " },
      env: { command: "echo $FOO", env: { FOO: "bar" } }, preload: { command: "ls", env: { LD_PRELOAD: "x" } }, path: { command: "ls", env: { PATH: "x" } },
      several: { command: "ls", env: { "A-B": "x", LD_X: "1", PATH: "2" } }, sandbox: { command: "ls", host: "sandbox" }, node: { command: "ls", host: "node" },
      weird: { command: "ls", host: "weird" }, seconds: { command: "ls", timeout: 3 }, approve: { command: "/approve abc allow-once" }, nothing: {}, empty: { command: "" },
      colours: { command: "printf '\\033[31mred\\033[0m\\001'" }, daemon: { command: "setsid sleep 5 > /dev/null 2>&1 & echo here" },
    });
  });

  test("what goes on in the background is looked at as the original's is", async () => {
    await compare(sides, {
      list: [{ action: "list" }, "process"], nothing: [{ action: "poll" }, "process"], unknown: [{ action: "poll", sessionId: "x" }, "process"],
      log: [{ action: "log", sessionId: "x" }, "process"], kill: [{ action: "kill", sessionId: "x" }, "process"], clear: [{ action: "clear", sessionId: "x" }, "process"],
      remove: [{ action: "remove", sessionId: "x" }, "process"], write: [{ action: "write", sessionId: "x" }, "process"], odd: [{ action: "nope" }, "process"],
    });
    const lives = await Promise.all(sides.map(async (target) => {
      const client = await open(target);
      const steps = [];
      const step = async (label, name, args) => {
        const runId = `bg-${label}-${steps.length}-${client.frames.length}`;
        await send(client, "background-life", calling(name, args), runId);
        await client.frame("the end", ended(runId));
        const text = (await resultOf(client, "background-life")).content[0].text;
        steps.push([label, mask(text)]);
        return text;
      };
      const started = await step("start", "exec", { command: "echo begun; read line < nothing; while [ ! -e go ]; do sleep 0.05; done; echo done", background: true });
      const sessionId = /session ([a-z0-9-]+),/.exec(started)[1];
      await step("poll", "process", { action: "poll", sessionId, timeout: 30_000 });
      await step("write", "process", { action: "write", sessionId, data: "x" });
      fs.writeFileSync(path.join(await workspaceOf(client), "go"), "");
      await until("its end", async () => /exited/.test(await step("wait", "process", { action: "poll", sessionId, timeout: 30_000 })) || steps.pop() && false);
      // What was written meanwhile may have been told by a look before.
      steps.at(-1)[1] = steps.at(-1)[1].split("\n").at(-1);
      await step("log", "process", { action: "log", sessionId });
      await step("clear", "process", { action: "clear", sessionId });
      const other = /session ([a-z0-9-]+),/.exec(await step("again", "exec", { command: "sleep 100", background: true }))[1];
      await step("kill", "process", { action: "kill", sessionId: other });
      await until("its end", async () => /stopped/.test(await step("killed", "process", { action: "poll", sessionId: other, timeout: 30_000 })) || steps.pop() && false);
      await client.end();
      return JSON.parse(JSON.stringify(steps).replaceAll(sessionId, "<one>").replaceAll(other, "<two>"));
    }));
    assert.deepEqual(lives[1], lives[0]);
  });

  test("a flood is cut, and the conversation stays usable", async () => {
    const client = await open(ours);
    await send(client, "flood", calling("exec", { command: "yes | head -c 50000000" }), "flood-1");
    await client.frame("the end", ended("flood-1"));
    const { text } = (await resultOf(client, "flood")).content[0];
    assert.match(text, /^\[earlier output was discarded at the retention cap/);
    assert.ok(text.length < 70_000, `${text.length}`);
    await send(client, "flood", "SCRIPT say Fine.", "flood-2");
    assert.equal((await client.frame("the end", ended("flood-2"))).payload.message.content[0].text, "Fine.");
    await client.end();
  });

  test("no secret of the gateway's reaches a command", async () => {
    const secret = await startOurs({ config: config(), env: { OPENCLAW_GATEWAY_TOKEN: TOKEN, OPENCLAW_GATEWAY_PASSWORD: "p", LD_LIBRARY_PATH: "/nowhere", PLAIN: "seen" } });
    const client = await open(secret);
    await send(client, "env", calling("exec", { command: "env" }), "env-1");
    await client.frame("the end", ended("env-1"));
    const { text } = (await resultOf(client, "env")).content[0];
    assert.match(text, /^PLAIN=seen$/m);
    assert.match(text, /^OPENCLAW_SHELL=exec$/m);
    assert.doesNotMatch(text, /TOKEN|PASSWORD|LD_LIBRARY_PATH/);
    await client.end();
    await secret.stop();
  });

  const alive = (pid) => { try { process.kill(pid, 0); return !/\) Z /.test(fs.readFileSync(`/proc/${pid}/stat`, "utf8")); } catch { return false; } };
  const pidIn = (workspace, name) => until("the pid", () => { const text = fs.existsSync(path.join(workspace, name)) && fs.readFileSync(path.join(workspace, name), "utf8").trim(); return text && Number(text); });

  for (const how of ["chat.abort", "/stop"]) {
    test(`${how} ends a command with all that it started`, async () => {
      const client = await open(ours);
      const workspace = await workspaceOf(client);
      const name = how === "/stop" ? "stop" : "abort";
      await send(client, name, calling("exec", { command: `sleep 1000 & echo $! > ${name}.pid; wait` }), `${name}-1`);
      const pid = await pidIn(workspace, `${name}.pid`);
      if (how === "/stop") await send(client, name, "/stop", `${name}-2`);
      else await client.call("chat.abort", { sessionKey: `agent:main:${name}` });
      await client.frame("the end", ended(`${name}-1`));
      await until("it to be gone", () => !alive(pid));
      await client.end();
    });
  }

  test("a kill of the gateway while a command runs: it ends with the next start, and is not run again", async () => {
    let client = await open(ours);
    const workspace = await workspaceOf(client);
    const command = "echo run >> runs; sleep 1000 & echo $! > killed.pid; wait; true";
    await send(client, "killed", calling("exec", { command }), "killed-1");
    const pid = await pidIn(workspace, "killed.pid");
    ours.child.kill("SIGKILL");
    await ours.child.waitExit();
    await ours.restart();
    await until("it to be gone", () => !alive(pid));
    client = await open(ours);
    const result = await until("the chat to say so", () => resultOf(client, "killed"));
    assert.match(result.content[0].text, /whether it took effect is not known/);
    assert.equal(fs.readFileSync(path.join(workspace, "runs"), "utf8"), "run\n");
    await client.end();
  });
});

describe("with approvals", () => {
  const asks = { version: 1, defaults: { security: "allowlist", ask: "on-miss" } };
  const document = async (client) => (await client.call("exec.approvals.get", {})).payload;
  const setDocument = async (client, file) => client.call("exec.approvals.set", { file, baseHash: (await document(client)).hash });
  before(() => Promise.all(sides.map(async (target) => {
    const client = await open(target);
    const set = await setDocument(client, asks);
    assert.equal(set.ok, true, JSON.stringify(set));
    await client.end();
  })));

  /** One command up to its end, decided when somebody is asked. */
  async function decided(client, label, command, decide) {
    const from = client.frames.length;
    const asked = (frame) => asking(frame) && frame.payload.request.sessionKey === `agent:main:${label}`;
    await send(client, label, calling("exec", { command }), label);
    const first = await client.frame("the question or the end", (frame) => asked(frame) || ended(label)(frame), { from });
    const answers = asking(first) ? await decide(first.payload) : undefined;
    await client.frame("the end", ended(label), { from });
    const seen = client.frames.slice(from).filter(({ event, payload }) => (event?.startsWith("exec.approval") && payload.request.sessionKey === `agent:main:${label}`) || (payload?.runId === label && payload.stream === "lifecycle" && /approval/.test(payload.data.phase)));
    return { asked: first.payload.request && first.payload, answers, text: (await resultOf(client, label)).content[0].text, seen: seen.map(({ event, payload }) => ({ event, payload: payload.data ?? payload })) };
  }

  test("a command that waits: events, methods, decisions", async () => {
    const [theirs, own] = await Promise.all(sides.map(async (target) => {
      const client = await open(target);
      const workspace = await workspaceOf(client);
      const plain = (value) => mask(value, { [workspace]: "<workspace>" });
      const short = ({ ok, payload, error }) => ({ ok, payload, error });
      const call = async (method, params) => short(await client.call(method, params));
      const out = {};
      out.once = await decided(client, "once", "echo one", async ({ id }) => {
        const wait = client.call("exec.approval.waitDecision", { id });
        return {
          list: await call("exec.approval.list", {}), get: await call("exec.approval.get", { id: id.slice(0, 8) }),
          unknown: await Promise.all([call("exec.approval.get", { id: "zzz" }), call("exec.approval.resolve", { id: "zzz", decision: "deny" }), call("exec.approval.waitDecision", { id: "zzz" }), call("exec.approval.resolve", { id, decision: "maybe" }), call("exec.approval.get", {})]),
          always: await call("exec.approval.resolve", { id, decision: "allow-once" }), waited: short(await wait),
          again: await call("exec.approval.resolve", { id, decision: "allow-once" }), other: await call("exec.approval.resolve", { id, decision: "deny" }),
          gone: await call("exec.approval.get", { id }), none: await call("exec.approval.list", {}),
        };
      });
      out.deny = await decided(client, "deny", "echo two | head -n 1", ({ id }) => call("exec.approval.resolve", { id, decision: "deny" }));
      await client.end();
      return plain(out);
    }));
    assert.deepEqual(own, theirs);
  });

  test("what is asked about, what runs at once and what is refused is as strict as the original, or stricter", async () => {
    const commands = [
      "wc -c", "head -n 2", "cd /tmp && pwd", "true", "[ -f x ]", "wc -l notes.txt", "tail -f", "echo hi", "ls; id", "nosuch", "echo a > f", "echo $HOME", "echo $(pwd)", "ls &", "(ls)",
      "if true; then ls; fi", "cat <<E\nx\nE", "echo a \\\nb", "bash nofile.sh", "python3", "python3 -c 'print(1)'", "sh -i", "cd / && ls", ". x", "ls 2>/dev/null", "A=1 echo hi", "echo '$HOME' \"a b\"",
    ];
    const [theirs, own] = await Promise.all(sides.map(async (target) => {
      const client = await open(target);
      const out = await Promise.all(commands.map(async (command, index) => {
        const { asked, text } = await decided(client, `strict-${index}`, command, ({ id }) => client.call("exec.approval.resolve", { id, decision: "deny" }));
        return [command, Boolean(asked), mask(text)];
      }));
      await client.end();
      return out;
    }));
    assert.deepEqual(own, theirs);
  });

  test("the document of approvals is read and written as the original's", async () => {
    const file = { version: 1, defaults: { security: "allowlist", ask: "off" }, agents: { main: { allowlist: [{ pattern: "echo" }, { pattern: "/usr/bin/wc", argPattern: "^-c$" }] } } };
    const [theirs, own] = await Promise.all(sides.map(async (target) => {
      const client = await open(target);
      const call = async (method, params) => { const { ok, payload, error } = await client.call(method, params); return { ok, payload: payload && { ...payload, path: 0, hash: 0, exists: 0, file: { ...payload.file, socket: 0 } }, error, hash: payload?.hash }; };
      const first = await call("exec.approvals.get", {});
      const out = {
        first, stale: await call("exec.approvals.set", { file, baseHash: "0".repeat(64) }), bad: await call("exec.approvals.set", { file: { version: 2 } }), none: await call("exec.approvals.set", { baseHash: first.hash }),
        set: await call("exec.approvals.set", { file, baseHash: first.hash }),
      };
      out.again = await call("exec.approvals.get", {});
      const tell = async (label, command) => { out[label] = (await decided(client, `document-${label}`, command, ({ id }) => client.call("exec.approval.resolve", { id, decision: "deny" }))).text; };
      await tell("listed", "echo yes");
      await tell("bypath", "/usr/bin/echo no");
      await tell("bare", "wc -c");
      await tell("chained", "echo a && id");
      await tell("pattern", "echo *");
      const reader = await open(target, { scopes: ["operator.read", "operator.approvals"] });
      out.scope = (await reader.call("exec.approvals.get", {})).error;
      out.seen = (await reader.call("exec.approval.list", {})).payload;
      await reader.end();
      await setDocument(client, asks);
      await client.end();
      for (const key of ["first", "set", "again", "stale", "none", "bad"]) delete out[key].hash;
      return mask(out);
    }));
    assert.deepEqual(own, theirs);
  });

  test("nobody there to ask: refused, with the way out", async () => {
    const [theirs, own] = await Promise.all(sides.map(async (target) => {
      const client = await open(target, { caps: ["tool-events"] });
      await send(client, "headless", calling("exec", { command: "echo hi" }), "headless-1");
      await client.frame("the end", ended("headless-1"));
      const { text } = (await resultOf(client, "headless")).content[0];
      await client.end();
      return text.replace(/tools\.exec and \S+ both/, "tools.exec and <document> both");
    }));
    assert.equal(own, theirs);
  });

  test("a kill while an approval waits: the command is not run, and the conversation says so", async () => {
    let client = await open(ours);
    const workspace = await workspaceOf(client);
    await send(client, "waits", calling("exec", { command: "touch ran" }), "waits-1");
    const { payload: { id } } = await client.frame("the question", asking);
    ours.child.kill("SIGKILL");
    await ours.child.waitExit();
    await ours.restart();
    client = await open(ours);
    const result = await until("the chat to say so", () => resultOf(client, "waits"));
    assert.match(result.content[0].text, /it waited for approval and was not run/);
    assert.equal((await client.call("exec.approval.resolve", { id, decision: "allow-once" })).error.message, "unknown or expired approval id");
    await send(client, "waits", "SCRIPT say On.", "waits-2");
    await client.frame("the end", ended("waits-2"));
    assert.equal(fs.existsSync(path.join(workspace, "ran")), false);
    await client.end();
  });

  test("an abort takes the question back", async () => {
    const client = await open(ours);
    await send(client, "taken", calling("exec", { command: "touch taken" }), "taken-1");
    const { payload: { id } } = await client.frame("the question", asking);
    await client.call("chat.abort", { sessionKey: "agent:main:taken" });
    await client.frame("the end", ended("taken-1"));
    await client.frame("the news", (frame) => frame.event === "exec.approval.resolved" && frame.payload.id === id);
    assert.deepEqual((await client.call("exec.approval.list", {})).payload, []);
    assert.equal((await client.call("exec.approval.resolve", { id, decision: "allow-once" })).ok, false);
    assert.equal(fs.existsSync(path.join(await workspaceOf(client), "taken")), false);
    await client.end();
  });

  test("what changed after the question is not run", async () => {
    const client = await open(ours);
    const script = path.join(await workspaceOf(client), "changed.sh");
    fs.writeFileSync(script, "echo harmless\n");
    const { text } = await decided(client, "changed", "sh changed.sh", async ({ id }) => {
      fs.writeFileSync(script, "echo harmful\n");
      return client.call("exec.approval.resolve", { id, decision: "allow-once" });
    });
    assert.match(text, /^Exec denied \(gateway id=\S+, SYSTEM_RUN_DENIED: approval script operand changed before execution\): sh changed\.sh$/);
    await client.end();
  });

  test("a document that can't be read stops every command and is left as it is", async () => {
    const client = await open(ours);
    const { path: file } = await document(client);
    const before = fs.readFileSync(file);
    fs.writeFileSync(file, "{ not json");
    await send(client, "broken", calling("exec", { command: "true" }), "broken-1");
    await client.frame("the end", ended("broken-1"));
    assert.match((await resultOf(client, "broken")).content[0].text, /exec denied: host=gateway security=deny.*can't be used/);
    assert.match((await setDocument(client, asks)).error.message, /can't be used/);
    assert.equal(fs.readFileSync(file, "utf8"), "{ not json");
    fs.writeFileSync(file, before);
    await client.end();
  });

  test("what is allowed for always stays so over a restart, in its folder, with its words", async () => {
    // Programs that the gateway itself could change are allowed once at most, so it must not run as root.
    const wrapper = path.join(tempDir("exec"), "gateway");
    const drop = process.getuid() === 0 ? 'chown -R 65534:65534 "$OPENCLAW_STATE_DIR"; exec setpriv --reuid=65534 --regid=65534 --clear-groups' : "exec";
    fs.writeFileSync(wrapper, `#!/bin/sh\n${drop} ${gatewayBinary()} "$@"\n`, { mode: 0o755 });
    process.env.GATEWAY_BIN = wrapper;
    const own = await startOurs({ config: { ...config(), tools: { exec: { mode: "ask" } } } }).finally(() => delete process.env.GATEWAY_BIN);
    let client = await open(own);
    const { asked, text } = await decided(client, "always", "echo for ever | cat", ({ id }) => client.call("exec.approval.resolve", { id, decision: "allow-always" }));
    assert.deepEqual(asked.request.allowedDecisions, ["allow-once", "allow-always", "deny"]);
    assert.equal(text, "for ever");
    const { path: file } = await document(client);
    assert.equal(fs.statSync(file).mode & 0o777, 0o600);
    await own.restart();
    client = await open(own);
    const again = await decided(client, "always-2", "echo for ever | cat", () => assert.fail("asked again"));
    assert.equal(again.text, "for ever");
    for (const [label, command] of [["always-3", "echo for once | cat"], ["always-4", "echo for ever"]]) {
      const other = await decided(client, label, command, ({ id }) => client.call("exec.approval.resolve", { id, decision: "deny" }));
      assert.equal(Boolean(other.asked), label === "always-3", command);
    }
    await send(client, "always-5", calling("exec", { command: "echo for ever", workdir: "/" }), "always-5");
    const { payload: { id } } = await client.frame("the question", (frame) => asking(frame) && frame.payload.request.cwd === "/");
    await client.call("exec.approval.resolve", { id, decision: "deny" });
    await client.frame("the end", ended("always-5"));
    await client.end();
    await own.stop();
    fs.rmSync(path.dirname(wrapper), { recursive: true });
  });
});
