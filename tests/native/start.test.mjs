// The first start, and the starts that must not be: what is made, said and refused.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import fs from "node:fs";
import net from "node:net";
import path from "node:path";
import test from "node:test";
import { promisify } from "node:util";
import { Child } from "../lib/child.mjs";
import { startOriginal, startOurs, TOKEN } from "../lib/gateway.mjs";
import { RawClient } from "../lib/raw.mjs";
import { freePort, gatewayBinary, isolatedEnv, nodeBinary, openclawEntry, tempDir, until } from "../lib/tools.mjs";

const run = promisify(execFile);

/** A home that has never seen a gateway, but for where ours tells its metrics: another one may have the usual port. */
async function newcomer(t) {
  const dir = tempDir("start");
  const own = path.join(dir, "openclaw-rs");
  fs.mkdirSync(own, { mode: 0o700 });
  fs.writeFileSync(path.join(own, "openclaw-gateway.toml"), '[admin]\nlisten = "127.0.0.1:0"\n');
  const port = await freePort();
  const env = isolatedEnv(dir, { OPENCLAW_GATEWAY_PORT: String(port) });
  // The last first, and then what they wrote to: hooks of their own would run in the order in which they were made.
  const ends = [];
  t.after(async () => {
    for (const end of ends.reverse()) await end();
    fs.rmSync(dir, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
  });
  const home = { ends, dir, port, env, config: path.join(dir, "openclaw.json"), url: `http://127.0.0.1:${port}`, wsUrl: `ws://127.0.0.1:${port}` };
  home.start = async (command = gatewayBinary(), args = ["run"]) => {
    const child = new Child(command, args, { env, cwd: dir, label: "ours" });
    ends.push(() => child.stop());
    await until("an answer", async () => child.exit || (await fetch(`${home.url}/healthz`)).status === 200);
    assert.equal(child.exit, null, child.output);
    return child;
  };
  home.openclaw = async (...args) => (await run(nodeBinary, [openclawEntry, ...args], { env, cwd: dir })).stdout;
  return home;
}

const mode = (file) => fs.statSync(file).mode & 0o777;
const refuses = async (home) => {
  const stranger = await RawClient.open(home.wsUrl);
  assert.equal((await stranger.connect({})).ok, false, "it runs open");
};

test("with nothing there: a token is made, written for its owner, and the unmodified command line works", async (t) => {
  const home = await newcomer(t);
  const child = await home.start();
  await until("the summary", () => child.output.includes("connect "));
  for (const line of [/^openclaw-gateway \S+ \(speaks as OpenClaw 2026\.9\.6\)$/m, new RegExp(`^ +address .*ws://127\\.0\\.0\\.1:${home.port}`, "m"),
    new RegExp(`^ +auth +token, made now and written to ${home.config}$`, "m"), /^ +upstream +off/m, new RegExp(`^ +state +${home.dir}/openclaw-rs$`, "m"), /^ +connect +openclaw health/m]) {
    assert.match(child.output, line);
  }
  const { gateway } = JSON.parse(fs.readFileSync(home.config, "utf8"));
  assert.equal(gateway.mode, "local");
  assert.equal(gateway.auth.mode, "token");
  assert.match(gateway.auth.token, /^[0-9a-f]{48}$/);
  assert.deepEqual([mode(home.config), mode(path.join(home.dir, "openclaw-rs/token"))], [0o600, 0o600]);
  assert.ok(!child.output.includes(gateway.auth.token), "the token is where no terminal is");
  await refuses(home);
  assert.match(await home.openclaw("health"), /Agents: main/);

  // A second start changes nothing.
  const written = fs.readFileSync(home.config, "utf8");
  await child.stop();
  const second = await home.start();
  await until("the summary", () => /auth +token, as configured/.test(second.output));
  assert.equal(fs.readFileSync(home.config, "utf8"), written);
});

test("a link that signs in goes to a terminal, never to the log", async (t) => {
  const home = await newcomer(t);
  // A terminal of util-linux; the log goes elsewhere. Its program is in a session of its own, and outlives it if nobody ends it.
  const child = await home.start("script", ["-qec", `echo $$ >'${home.dir}/pid'; exec '${gatewayBinary()}' run 2>'${home.dir}/log'`, "/dev/null"]);
  const pid = Number(fs.readFileSync(`${home.dir}/pid`, "utf8"));
  home.ends.push(async () => {
    process.kill(pid, "SIGTERM");
    await child.waitExit();
  });
  const link = await until("the link", () => /browser +(http:\S+)/.exec(child.output)?.[1]);
  const { token } = JSON.parse(fs.readFileSync(home.config, "utf8")).gateway.auth;
  assert.equal(link, `http://127.0.0.1:${home.port}/#token=${token}`);
  await refuses(home);
  await until("a line of the log", () => fs.readFileSync(`${home.dir}/log`, "utf8").includes("refused"));
  assert.ok(!fs.readFileSync(`${home.dir}/log`, "utf8").includes(token));
});

test("a file without a token is left as it is, and what to add is said", async (t) => {
  const home = await newcomer(t);
  const mine = "// mine\n{ gateway: { mode: 'local' }, discovery: { mdns: { mode: 'off' } } }\n";
  fs.writeFileSync(home.config, mine, { mode: 0o600 });
  const child = await home.start();
  await until("the summary", () => child.output.includes("connect "));
  assert.equal(fs.readFileSync(home.config, "utf8"), mine);
  const file = path.join(home.dir, "openclaw-rs/token");
  assert.equal(mode(file), 0o600);
  assert.ok(child.output.includes(`token, kept in ${file}`), child.output);
  assert.ok(child.output.includes(`to add    under "gateway" in ${home.config}: "auth": { "mode": "token", "token": <content of the token file> }`), child.output);
  await refuses(home);
  const own = async (...args) => (await run(gatewayBinary(), args, { env: home.env, cwd: home.dir })).stdout;
  assert.match(await own("health"), /^ok$/m);
  const token = fs.readFileSync(file, "utf8").trim();
  const doctor = await run(gatewayBinary(), ["doctor", "--json"], { env: home.env, cwd: home.dir }).catch((error) => error);
  const finding = JSON.parse(doctor.stdout).findings.find(({ check }) => check === "token");
  assert.equal(finding.ok, false);
  assert.equal(finding.fix, `openclaw config set gateway.auth.token "$(cat '${file}')"`);
  await home.openclaw("config", "set", "gateway.auth.token", token);
  assert.match(await home.openclaw("health"), /Agents: main/);
});

test("a second gateway on the same state, or the same port, is refused and named", async (t) => {
  const first = await startOurs();
  t.after(() => first.stop());
  const again = new Child(gatewayBinary(), ["run", "--port", String(await freePort())], { env: first.env, cwd: first.stateDir });
  assert.equal((await again.waitExit()).code, 78, again.output);
  assert.match(again.output, new RegExp(`another openclaw-gateway \\(pid ${first.child.pid}\\) runs on this state directory; stop it, or set OPENCLAW_STATE_DIR`));

  const home = await newcomer(t);
  const other = new Child(gatewayBinary(), ["run", "--port", String(first.port)], { env: home.env, cwd: home.dir });
  assert.equal((await other.waitExit()).code, 78, other.output);
  assert.match(other.output, new RegExp(`port ${first.port} is held by .*\\(pid ${first.child.pid}\\); stop it, or start this gateway with --port`));
  assert.equal((await fetch(`${first.url}/healthz`)).status, 200, "the first goes on");
});

test("a port that OpenClaw holds: exit 78, its pid, and what to do", async (t) => {
  const original = await startOriginal();
  t.after(() => original.stop());
  const home = await newcomer(t);
  fs.writeFileSync(home.config, JSON.stringify({ gateway: { mode: "local", port: original.port, auth: { mode: "token", token: TOKEN } } }), { mode: 0o600 });
  const env = { ...home.env, OPENCLAW_GATEWAY_PORT: String(original.port) };
  const child = new Child(gatewayBinary(), ["run"], { env, cwd: home.dir });
  assert.equal((await child.waitExit()).code, 78, child.output);
  assert.match(child.output, new RegExp(`port ${original.port} is held by OpenClaw's gateway, .*\\(pid ${original.child.pid}\\); stop it with \`openclaw gateway stop\``));
  const doctor = await run(gatewayBinary(), ["doctor"], { env, cwd: home.dir }).catch((error) => error);
  assert.equal(doctor.code, 1, doctor.stdout);
  assert.match(doctor.stdout, new RegExp(`^BAD port +port ${original.port} is held by OpenClaw's gateway`, "m"));
});

test("what would be open to the network without a secret does not start", async (t) => {
  const home = await newcomer(t);
  fs.writeFileSync(home.config, JSON.stringify({ gateway: { mode: "local", bind: "lan", auth: { mode: "none" } } }), { mode: 0o600 });
  const child = new Child(gatewayBinary(), ["run"], { env: home.env, cwd: home.dir });
  assert.equal((await child.waitExit()).code, 78, child.output);
  assert.match(child.output, /gateway\.(auth|bind)/);
});

test("a broken file: exit 78 with file, line, key and what to do, as a broken openclaw.json does there", async (t) => {
  const home = await newcomer(t);
  fs.writeFileSync(home.config, "{\n  gateway: {\n    mode: 'local',,\n  },\n}\n", { mode: 0o600 });
  const codes = {};
  for (const [side, command, args] of [["ours", gatewayBinary(), ["run"]], ["original", nodeBinary, [openclawEntry, "gateway", "run"]]]) {
    const child = new Child(command, args, { env: home.env, cwd: home.dir });
    codes[side] = (await child.waitExit()).code;
    if (side === "ours") assert.match(child.output, new RegExp(`${home.config}:3:\\d+: `));
  }
  assert.equal(codes.ours, 78);
  assert.equal(codes.original, codes.ours, "the original's exit code");
});

test("`loopback` is both loopbacks, as with the original", async (t) => {
  const [original, ours] = await Promise.all([startOriginal(), startOurs()]);
  t.after(() => Promise.all([original.stop(), ours.stop()]));
  const reached = (target, host) => new Promise((resolve) => {
    const socket = net.connect({ port: target.port, host }, () => {
      socket.destroy();
      resolve(true);
    }).on("error", () => resolve(false));
  });
  for (const host of ["127.0.0.1", "::1"]) assert.equal(await reached(ours, host), await reached(original, host), host);
  const client = await RawClient.open(`ws://[::1]:${ours.port}`).catch(() => undefined);
  if (await reached(original, "::1")) assert.equal((await client.connect({ token: TOKEN })).ok, true);
});
