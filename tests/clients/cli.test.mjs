// The unmodified `openclaw` command line, pointed at a gateway by OPENCLAW_GATEWAY_PORT: what it prints must not
// depend on whether that gateway is the original or ours with the original behind it.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { TOKEN } from "../lib/gateway.mjs";
import { RawClient } from "../lib/raw.mjs";
import { nodeBinary, openclawEntry, until } from "../lib/tools.mjs";
import { maskJson, maskText } from "./masks.mjs";
import { ANSWER } from "./model.mjs";
import { compareSides } from "./sides.mjs";

function openclaw(side, args) {
  return new Promise((resolve) => {
    execFile(nodeBinary, [openclawEntry, ...args],
      { env: side.clientEnv(), cwd: side.stateDir, timeout: 240_000, killSignal: "SIGKILL", maxBuffer: 16 << 20 },
      (error, stdout, stderr) => resolve({ code: error ? error.code ?? error.signal : 0, stdout, stderr }));
  });
}

/** Runs one command; `expect` is what must be in its output on any side, `masks` and `keys` what varies in it besides. */
const command = (args, { code = 0, expect, masks = [], keys = [], shape } = {}) => async (side) => {
  const ran = await openclaw(side, args.map((arg) => (arg === "URL" ? side.target.wsUrl : arg)));
  assert.equal(ran.code, code, `${ran.stdout}\n${ran.stderr}`);
  if (expect) assert.match(ran.stdout + ran.stderr, expect);
  const stderr = maskText(ran.stderr, side, masks);
  if (shape) return { code: ran.code, stdout: shape(ran.stdout, side), stderr };
  const json = ran.stdout.search(/^[{[]$/m);
  if (json < 0) return { code: ran.code, stdout: maskText(ran.stdout, side, masks), stderr };
  const stdout = { before: maskText(ran.stdout.slice(0, json), side, masks), json: maskJson(JSON.parse(ran.stdout.slice(json)), side, keys) };
  return { code: ran.code, stdout, stderr };
};

/** The log is written to by every process here, so its form is compared and not its lines. */
function logShape(stdout, side) {
  const [first, ...lines] = stdout.trimEnd().split("\n");
  const started = lines.some((line) => /\bready\b/.test(line));
  return { first: maskText(first, side), started };
}

/** Counters of a live process: what is reported, not how much. */
const stabilityShape = (stdout) =>
  stdout.split("\n").map((line) => line.replace(/:.*/, ":")).filter((line) => /^\w/.test(line));

/** Rows come in the order in which they are due, and the original gives its own jobs places of each installation's. */
const inAnyOrder = (stdout, side) => maskText(stdout, side).sort();

const fresh = {
  "health": command(["health"], { expect: /Agents: main \(default\)/ }),
  "health --verbose": command(["health", "--verbose"], { expect: /Gateway target: ws:/ }),
  "health --json": command(["health", "--json"], { expect: /"ok": true/ }),
  "status": command(["status"], { expect: /reachable .* auth token/ }),
  "status --json": command(["status", "--json"]),
  // Whether a Docker of this machine answers in time is no matter of the gateway.
  "status --deep": command(["status", "--deep"], {
    expect: /Gateway +│ reachable/,
    masks: [[/^ *WARN Sandbox browser Docker.*\n.*\n.*\n/m, ""], [/\d+ critical · \d+ warn/, "<found>"]],
  }),
  "gateway probe": command(["gateway", "probe"], { expect: /Reachable: yes/ }),
  "gateway probe --json": command(["gateway", "probe", "--json"]),
  "gateway status": command(["gateway", "status"], { expect: /Connectivity probe: ok/ }),
  "gateway health": command(["gateway", "health"]),
  "gateway call health": command(["gateway", "call", "health"], { expect: /"ok": true/ }),
  "gateway call status": command(["gateway", "call", "status"]),
  "gateway call sessions.list": command(["gateway", "call", "sessions.list", "--params", '{"limit":5}']),
  "gateway call, unknown method": command(["gateway", "call", "nope.method"], { code: 1, expect: /unknown method: nope\.method/ }),
  "gateway call, bad params": command(["gateway", "call", "chat.send", "--params", "{}"], { code: 1, expect: /session mutation target is unavailable/ }),
  "gateway call, wrong token": command(["gateway", "call", "health", "--url", "URL", "--token", "wrong"], { code: 1 }),
  "channels status": command(["channels", "status"], { expect: /Gateway reachable/ }),
  "logs": command(["logs", "--limit", "500"], { shape: logShape }),
  "devices list": command(["devices", "list"]),
  "devices approve, unknown": command(["devices", "approve", "nope"], { code: 1 }),
  "nodes list": command(["nodes", "list"]),
  "nodes status": command(["nodes", "status"]),
  "cron list": command(["cron", "list"], { expect: /heartbeat:main/, shape: inAnyOrder }),
  "cron status": command(["cron", "status"], { expect: /"enabled": true/ }),
  "system presence": command(["system", "presence"], { expect: /"mode": "gateway"/ }),
  "system heartbeat last": command(["system", "heartbeat", "last"]),
  "models list": command(["models", "list"], { expect: /scripted\/scripted-1/ }),
  "skills list": command(["skills", "list"], { expect: /Skills \(/ }),
  "hooks list": command(["hooks", "list"], { expect: /Hooks \(/ }),
  "dashboard": command(["dashboard", "--no-open"], { expect: /Dashboard URL: http/ }),
};

const acting = {
  "agent": command(["agent", "-m", "say something"], { expect: new RegExp(ANSWER) }),
  "agent --json": command(["agent", "--json", "--session-id", "0d3e7615-b95e-495a-902d-07b0a270acf8", "-m", "say it again"], { expect: new RegExp(ANSWER), keys: ["hash"] }),
  "cron add": command(["cron", "add", "--name", "nightly", "--cron", "0 3 * * *", "--session", "isolated", "--message", "say hi"], { expect: /"name": "nightly"/ }),
  "message send, no such account": command(["message", "send", "--channel", "telegram", "--target", "123", "--message", "hi"], { code: 1, expect: /Telegram bot token missing/ }),
  "system event": command(["system", "event", "--text", "hello", "--mode", "now"], { expect: /ok/ }),
  "system heartbeat last, after one": async (side) => {
    const raw = await RawClient.open(side.target.wsUrl);
    await raw.connect({ token: TOKEN });
    await until("the heartbeat that the event woke", async () => (await raw.call("last-heartbeat")).payload);
    await raw.end();
    return command(["system", "heartbeat", "last"], { expect: /"status"/ })(side);
  },
  "system heartbeat disable": command(["system", "heartbeat", "disable"]),
  // Both gateways answer what they last saw, for up to a minute; this makes them look.
  "gateway call health, anew": command(["gateway", "call", "health", "--params", '{"probe":true}'], { expect: /"ok": true/, keys: ["count", "recent"] }),
};

const after = {
  "cron list, after adding": command(["cron", "list"], { expect: /nightly/, shape: inAnyOrder }),
  "health, after a run": command(["health"], { expect: /1 entr|2 entr/ }),
  "status, after a run": command(["status"]),
  "gateway stability": command(["gateway", "stability"], { expect: /Events: [1-9]/, shape: stabilityShape }),
  "gateway usage-cost": command(["gateway", "usage-cost"], { expect: /Usage cost/ }),
  "audit": command(["audit"], { expect: /agent\.run\.finished/ }),
};

/** A command about the job that `cron add` made: JOB is its id, which is each side's own. */
const ofJob = (args, options) => async (side) => {
  const raw = await RawClient.open(side.target.wsUrl);
  await raw.connect({ token: TOKEN });
  const { jobs } = (await raw.call("cron.list", { includeDisabled: true })).payload;
  await raw.end();
  const { id } = jobs.find((job) => job.name.startsWith("nightly"));
  return command(args.map((arg) => (arg === "JOB" ? id : arg)), options)(side);
};

/** What is each run's own. */
const RUN = ["runId", "runAtMs", "scheduleActivatedAtMs"];

/** What manages jobs, devices and approvals, one after the other. */
const further = {
  "cron get": ofJob(["cron", "get", "JOB"], { expect: /"name": "nightly"/ }),
  "cron show": ofJob(["cron", "show", "JOB"], { expect: /nightly/ }),
  "cron edit": ofJob(["cron", "edit", "JOB", "--name", "nightly, edited"], { expect: /nightly, edited/ }),
  "cron disable": ofJob(["cron", "disable", "JOB"], { keys: ["scheduleActivatedAtMs"] }),
  "cron enable": ofJob(["cron", "enable", "JOB"], { keys: ["scheduleActivatedAtMs"] }),
  // Its answer has nowhere to go: no channel is configured.
  "cron run": ofJob(["cron", "run", "JOB", "--wait"], { code: 1, expect: /scripted model answers/, keys: RUN }),
  "cron runs": ofJob(["cron", "runs", "JOB"], { expect: /"entries"/, keys: RUN }),
  "cron rm": ofJob(["cron", "rm", "JOB"]),
  "cron get, removed": command(["cron", "get", "2c1b6f7e-0c55-4a6c-9d5b-0f0f3f2d8a11"], { code: 1 }),
  "approvals get": command(["approvals", "get", "--gateway"], { masks: [[/\b[0-9a-f]{64}\b/g, "<hash>"]] }),
  "approvals pending": command(["approvals", "pending"]),
  "secrets reload": command(["secrets", "reload"]),
  "users list": command(["users", "list"]),
  "devices rename, unknown": command(["devices", "rename", "--device", "nope", "--name", "mine"], { code: 1 }),
  "devices remove, unknown": command(["devices", "remove", "nope"], { code: 1 }),
  "devices revoke, unknown": command(["devices", "revoke", "--device", "nope", "--role", "operator"], { code: 1 }),
  "devices rotate, unknown": command(["devices", "rotate", "--device", "nope", "--role", "operator"], { code: 1 }),
  "devices reject, unknown": command(["devices", "reject", "nope"], { code: 1 }),
  "channels list": command(["channels", "list"]),
  "channels capabilities": command(["channels", "capabilities"]),
};

// Each takes seconds of the machine, and shows what another of these shows too: `make test-clients` runs them as well.
if (!process.env.CLIENTS_ALL) {
  for (const name of [
    "health --verbose", "health --json", "status --json", "status --deep", "gateway probe", "gateway probe --json", "gateway health",
    "gateway call status", "gateway call sessions.list", "gateway call, bad params", "devices approve, unknown", "nodes list", "nodes status",
    "cron status", "system presence", "system heartbeat last", "models list", "skills list", "hooks list", "dashboard",
    "status, after a run", "gateway usage-cost", "audit",
  ]) {
    const [group] = [fresh, after].filter((steps) => name in steps);
    assert.ok(group, name);
    delete group[name];
  }
}

compareSides("cli", [{ steps: fresh, atOnce: 2 }, { steps: acting }, { steps: after, atOnce: 2 }, ...(process.env.CLIENTS_ALL ? [{ steps: further }] : [])]);
