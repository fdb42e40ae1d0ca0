// MCP servers of an agent that runs here: servers that others wrote, over pipes and HTTP, beside the original on the same
// configuration; and what must hold when one is not there, is changed, is called off, or the gateway goes.
import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import test, { after, before, describe } from "node:test";
import { startOriginal, startOurs, TOKEN } from "../lib/gateway.mjs";
import { modelConfig, startModel, textOf } from "../lib/model.mjs";
import { RawClient } from "../lib/raw.mjs";
import { freePort, gatewayBinary, nodeBinary, repoRoot, tempDir, until } from "../lib/tools.mjs";

const program = (name) => path.join(repoRoot, "tests/node_modules/@modelcontextprotocol", name, "dist/index.js");
const everything = { command: nodeBinary, args: [program("server-everything")], requestTimeoutMs: 90_000 };
const clock = { command: path.join(repoRoot, "tests/python_modules/bin/python"), args: ["-m", "mcp_server_time", "--local-timezone", "UTC"], requestTimeoutMs: 90_000 };
const files = (dir) => ({ command: nodeBinary, args: [program("server-filesystem"), dir], requestTimeoutMs: 90_000 });

let model, dir;
const configOf = (servers, more = {}) => {
  const config = { ...modelConfig(model), agents: { defaults: { model: { primary: "scripted/scripted-1" } } }, tools: { toolSearch: false }, mcp: { servers }, ...more };
  config.models.providers.scripted.models[0].input = ["text", "image"];
  return config;
};
before(async () => {
  model = await startModel();
  dir = tempDir("mcp-files");
  fs.writeFileSync(path.join(dir, "notes.txt"), "remember the milk\n");
});
after(async () => {
  await model.stop();
  fs.rmSync(dir, { recursive: true, force: true });
});

const ended = (runId) => (frame) => frame.event === "chat" && frame.payload.runId === runId && !["status", "delta"].includes(frame.payload.state);
const calling = (name, args = {}) => `SCRIPT tool ${name} ${JSON.stringify(args)}`;
let runs = 0;

async function open(side) {
  const client = await RawClient.open(side.wsUrl);
  await client.connect({ token: TOKEN, caps: ["tool-events"] });
  return client;
}

const begin = async (client, session, message) => {
  const runId = `mcp-${++runs}`;
  await client.call("chat.send", { sessionKey: `agent:main:${session}`, message, idempotencyKey: runId });
  return runId;
};

/** A turn: what the model was asked last in it, and the result of the tool there with what came behind it. */
async function turn(client, session, message) {
  const runId = await begin(client, session, message);
  const { payload: end } = await client.frame("the end", ended(runId));
  const { call } = model.requests.at(-1);
  const at = call.messages.findLastIndex(({ role }) => role === "tool");
  return { end, tools: offered(call), result: call.messages[at]?.content, behind: call.messages.slice(at + 1) };
}

const offered = (call) => (call.tools ?? []).map((tool) => tool.function).filter(({ name }) => name.includes("__"));
const names = (tools) => tools.map(({ name }) => name);
/** Without the mark of a stranger's words, which the original gives to errors alone. */
const unmarked = (text) => text.replace(/^SECURITY NOTICE[^]*?<<<EXTERNAL_UNTRUSTED_CONTENT id="\w+">>>\nSource: [^\n]*\n---\n([^]*)\n<<<END_EXTERNAL_UNTRUSTED_CONTENT id="\w+">>>$/, "$1");
/** Lists as what they hold: the original puts their fields into an order of its own. */
const data = (text) => (text.startsWith("{") ? JSON.parse(text) : text);
const pictures = (messages) => messages.flatMap(({ content }) => (Array.isArray(content) ? content : [])).filter(({ type, text }) => type === "image_url" || /^Image/.test(text ?? ""));

/** Processes of which the command line says this. */
function processes(word) {
  return fs.readdirSync("/proc").filter((pid) => /^\d+$/.test(pid) && pid !== String(process.pid)).filter((pid) => {
    try {
      return fs.readFileSync(`/proc/${pid}/cmdline`, "utf8").includes(word) && !/\) Z /.test(fs.readFileSync(`/proc/${pid}/stat`, "utf8"));
    } catch {
      return false;
    }
  });
}

describe("beside the original", () => {
  let sides, clients;
  before(async () => {
    const config = configOf({ files: files(dir), clock, "Every thing!": { ...everything, toolFilter: { exclude: ["get-env", "toggle-*"] } } });
    sides = await Promise.all([startOriginal({ config }), startOurs({ config })]);
    clients = await Promise.all(sides.map(open));
  });
  after(async () => {
    await Promise.all((clients ?? []).map((client) => client.end()));
    await Promise.all((sides ?? []).map((side) => side.stop()));
  });

  /** The same turn on both, one after the other: they share the model. */
  async function both(message) {
    const [theirs, ours] = clients;
    return [await turn(theirs, "both", message), await turn(ours, "both", message)];
  }

  test("a model is offered the same tools: names, order, descriptions, schemas", async () => {
    const [theirs, ours] = await both(calling("Every-thing-__echo", { message: "hi" }));
    assert.deepEqual(ours.tools, theirs.tools);
    assert.ok(names(ours.tools).includes("files__read_text_file") && names(ours.tools).includes("Every-thing-__prompts_get"));
    assert.ok(!names(ours.tools).some((name) => /get-env|toggle/.test(name)), "as the filter says");
    assert.equal(theirs.result, "Echo: hi");
    assert.match(ours.result, /EXTERNAL, UNTRUSTED[^]*Source: MCP server Every-thing-\n---\nEcho: hi\n<<<END/);
  });

  test("results say the same", async () => {
    for (const [name, args] of [
      ["Every-thing-__get-sum", { a: 2, b: 3 }],
      ["Every-thing-__get-structured-content", { location: "Chicago" }],
      ["Every-thing-__get-resource-links", { count: 2 }],
      ["Every-thing-__resources_list", {}],
      ["Every-thing-__prompts_list", {}],
      ["Every-thing-__prompts_get", { name: "args-prompt", arguments: { city: "Oslo" } }],
      ["files__read_text_file", { path: path.join(dir, "notes.txt") }],
      ["files__read_text_file", { path: "/etc/passwd" }],
      ["files__list_directory", { path: dir }],
      ["clock__convert_time", { source_timezone: "UTC", time: "16:30", target_timezone: "Asia/Tokyo" }],
      ["clock__convert_time", { source_timezone: "Nowhere", time: "16:30", target_timezone: "Asia/Tokyo" }],
      ["Every-thing-__echo", {}],
    ]) {
      const [theirs, ours] = await both(calling(name, args));
      assert.deepEqual(data(unmarked(ours.result)), data(theirs.result), `${name} ${JSON.stringify(args)}`);
    }
  });

  test("pictures are shown to a model that takes them", async () => {
    const [theirs, ours] = await both(calling("Every-thing-__get-tiny-image"));
    assert.equal(pictures(ours.behind).length, 2);
    assert.deepEqual(pictures(ours.behind), pictures(theirs.behind));
    // The conversation here does not keep the picture: it says that there was one.
    assert.equal(unmarked(ours.result).replace("\n[image: image/png]", ""), theirs.result);
  });

  test("a server's refusal is told with its own words", async () => {
    const [theirs, ours] = await both(calling("Every-thing-__prompts_get", { name: "none" }));
    const error = (result) => unmarked(JSON.parse(result).error);
    assert.match(error(ours.result), /Prompt none not found/);
    assert.equal(error(ours.result), error(theirs.result));
  });
});

describe("over HTTP", () => {
  const servers = [];
  let ours, client, streamable;
  async function serve(kind, word, port) {
    const child = spawn(nodeBinary, [program("server-everything"), kind], { env: { ...process.env, PORT: String(port) }, stdio: ["ignore", "ignore", "pipe"] });
    servers.push(child);
    let said = "";
    child.stderr.on("data", (bytes) => (said += bytes));
    await until(`${kind} listens`, () => said.includes(word));
    return child;
  }
  before(async () => {
    const [port, legacy] = await Promise.all([freePort(), freePort()]);
    streamable = { port };
    [streamable.child] = await Promise.all([serve("streamableHttp", "listening on port", port), serve("sse", "running on port", legacy)]);
    const toolFilter = { include: ["echo", "get-sum"] };
    ours = await startOurs({ config: configOf({
      remote: { url: `http://127.0.0.1:${port}/mcp`, transport: "streamable-http", toolFilter, requestTimeoutMs: 90_000 },
      legacy: { url: `http://127.0.0.1:${legacy}/sse`, toolFilter, requestTimeoutMs: 90_000 },
    }) });
    client = await open(ours);
  });
  after(async () => {
    await client?.end();
    await ours?.stop();
    for (const server of servers) server.kill("SIGKILL");
  });

  test("streamable HTTP and the transport of 2024 carry tools", async () => {
    for (const server of ["remote", "legacy"]) {
      const { tools, result } = await turn(client, "http", calling(`${server}__get-sum`, { a: 2, b: 3 }));
      assert.deepEqual(names(tools), ["legacy__echo", "legacy__get-sum", "remote__echo", "remote__get-sum"]);
      assert.equal(unmarked(result), "The sum of 2 and 3 is 5.");
    }
  });

  test("a server that was started anew knows no session of before: the next call begins one", async () => {
    const { child, port } = streamable;
    child.kill("SIGKILL");
    await until("it is gone", () => child.signalCode);
    streamable.child = await serve("streamableHttp", "listening on port", port);
    for (const b of [4, 5]) {
      const { result } = await turn(client, "http", calling("remote__get-sum", { a: 2, b }));
      assert.equal(unmarked(result), `The sum of 2 and ${b} is ${2 + b}.`);
    }
  });

  test("a server that has gone costs its tools, and the turn goes on", async () => {
    streamable.child.kill("SIGKILL");
    const first = await turn(client, "http-gone", "SCRIPT say Fine.");
    assert.equal(textOf(first.end.message.content), "Fine.");
    assert.deepEqual(names(first.tools), ["legacy__echo", "legacy__get-sum"]);
    assert.match(ours.child.output, /"server":"remote","why":"(the server cannot be reached|HTTP failed)/);
  });
});

describe("alone", () => {
  let ours, client, mark, admin;
  const write = (config) => fs.writeFileSync(path.join(ours.stateDir, "openclaw.json"), JSON.stringify(config, null, 2));
  const read = () => JSON.parse(fs.readFileSync(path.join(ours.stateDir, "openclaw.json"), "utf8"));
  const pids = (server) => processes(`${mark}-${server}`);
  const doctor = () => {
    try {
      return execFileSync(gatewayBinary(), ["doctor"], { env: ours.env, encoding: "utf8" });
    } catch ({ stdout }) {
      return stdout;
    }
  };
  before(async () => {
    mark = `mcp-mark-${process.pid}`;
    // An argument that the server does not read makes its process known.
    const marked = (server) => ({ ...everything, args: [...everything.args, "stdio", `${mark}-${server}`] });
    const stateDir = tempDir("ours");
    const own = path.join(stateDir, "openclaw-rs");
    fs.mkdirSync(own, { recursive: true, mode: 0o700 });
    admin = await freePort();
    fs.writeFileSync(path.join(own, "openclaw-gateway.toml"), `[admin]\nlisten = "127.0.0.1:${admin}"\n[upstream]\nmode = "off"\n`);
    const config = configOf({
      one: marked("one"), two: marked("two"),
      off: { ...marked("off"), enabled: false },
      broken: { command: "no-such-program-anywhere" },
      dies: { command: nodeBinary, args: ["-e", "console.error('no key given'); process.exit(3)"] },
      later: { url: "http://127.0.0.1:9/mcp", auth: "oauth" },
    }, { tools: { deny: ["two__get-*", "TWO__echo"] } });
    ours = await startOurs({ config, stateDir });
    client = await open(ours);
  });
  after(async () => {
    await client?.end();
    await ours?.stop();
  });

  test("servers begin with the first turn; broken ones are explained and cost their tools alone", async () => {
    assert.deepEqual(pids("one"), []);
    const { tools, result } = await turn(client, "alone", calling("one__echo", { message: "hi" }));
    assert.equal(unmarked(result), "Echo: hi");
    assert.deepEqual([...new Set(names(tools).map((name) => name.split("__")[0]))], ["one", "two"]);
    assert.ok(!names(tools).some((name) => /^two__(get-|echo)/.test(name)), "as the policy says");
    assert.equal(pids("one").length, 1);
    assert.deepEqual(pids("off"), []);
    const told = doctor();
    assert.match(told, /ok {2}mcp +one: \d+ tools, sessions: 1/);
    assert.match(told, /BAD mcp +broken: no-such-program-anywhere is in no folder of PATH/);
    // What it wrote may be a secret: it is in the log alone.
    assert.match(told, /BAD mcp +dies: .*\(exit code 3\)/);
    assert.match(ours.child.output, /"server":"dies","why":".*\(exit code 3: no key given\)/);
    assert.match(told, /BAD mcp +later: signing in by OAuth is not done here/);
    assert.match(ours.child.output, /"server":"broken","why":"no-such-program-anywhere cannot be started/);
    assert.equal(unmarked((await turn(client, "alone", calling("two__echo", { message: "hi" }))).result), "Tool two__echo not found");
  });

  test("a session has its servers for itself, until it is reset", async () => {
    const [before] = pids("one");
    await turn(client, "other", "SCRIPT say Hi.");
    assert.equal(pids("one").length, 2);
    await client.call("sessions.reset", { key: "agent:main:other" });
    await until("its servers have ended", () => pids("one").length === 1);
    assert.deepEqual(pids("one"), [before]);
  });

  test("a call that is stopped is called off, and the server goes on", async () => {
    const before = pids("one");
    const runId = await begin(client, "alone", calling("one__trigger-long-running-operation", { duration: 600, steps: 600 }));
    await client.frame("the call", ({ event, payload }) => event === "agent" && payload.runId === runId && payload.stream === "tool" && payload.data.phase === "start");
    await client.call("chat.abort", { sessionKey: "agent:main:alone", runId });
    const { payload } = await client.frame("the end", ended(runId));
    assert.equal(payload.state, "aborted");
    assert.equal(unmarked((await turn(client, "alone", calling("one__echo", { message: "again" }))).result), "Echo: again");
    assert.deepEqual(pids("one"), before);
  });

  test("a server that was killed is begun again", async () => {
    const [before] = pids("one");
    process.kill(Number(before), "SIGKILL");
    await until("it is gone, and the gateway knows", async () => {
      const { mcp } = await (await fetch(`http://127.0.0.1:${admin}/mcp`)).json();
      return pids("one").length === 0 && mcp.find(({ name }) => name === "one").state !== "ready";
    });
    assert.equal(unmarked((await turn(client, "alone", calling("one__echo", { message: "back" }))).result), "Echo: back");
    assert.notDeepEqual(pids("one"), [before]);
  });

  test("a reload ends what was changed or removed, and nothing else", async () => {
    const [one, two] = [pids("one"), pids("two")];
    const config = read();
    config.mcp.servers.one.toolFilter = { include: ["echo"] };
    write(config);
    await until("the changed one has ended", () => pids("one").length === 0);
    const { tools } = await turn(client, "alone", calling("one__echo", { message: "new" }));
    assert.deepEqual(names(tools).filter((name) => name.startsWith("one__")), ["one__echo"]);
    assert.deepEqual(pids("two"), two);
    assert.notDeepEqual(pids("one"), one);
    delete config.mcp.servers.two;
    write(config);
    await until("the removed one has ended", () => pids("two").length === 0);
  });

  test("nothing is left behind: not after a stop, not after a kill", async () => {
    assert.equal(pids("one").length, 1);
    await client.end();
    await ours.restart();
    await until("those of before have ended", () => processes(mark).length === 0);
    client = await open(ours);
    await turn(client, "alone", "SCRIPT say Hi.");
    assert.equal(pids("one").length, 1);
    ours.child.kill("SIGKILL");
    await until("they died with it", () => processes(mark).length === 0);
    client = undefined;
  });
});
