// Moving clients from TypeScript to Rust by percent, and back, while they stay connected.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import test from "node:test";
import { startOriginal, startOurs, TOKEN } from "../lib/gateway.mjs";
import { Device, RawClient } from "../lib/raw.mjs";
import { freePort, gatewayBinary, isolatedEnv, tempDir, until } from "../lib/tools.mjs";

function cli(target, ...args) {
  return new Promise((resolve) => {
    execFile(gatewayBinary(), ["rollout", ...args], { env: target.env, cwd: target.stateDir }, (error, stdout, stderr) =>
      resolve({ code: error?.code ?? 0, stdout, stderr }));
  });
}

const status = async (target) => {
  const { code, stdout, stderr } = await cli(target, "status", "--json");
  assert.equal(code, 0, stderr);
  return JSON.parse(stdout);
};

test("without a gateway and without OpenClaw: what is set is stored, what is wrong changes nothing", async () => {
  const stateDir = tempDir("rollout");
  const target = { stateDir, env: isolatedEnv(stateDir, { OPENCLAW_GATEWAY_PORT: String(await freePort()) }) };
  const own = path.join(stateDir, "openclaw-rs", "openclaw-gateway.toml");
  fs.mkdirSync(path.dirname(own), { recursive: true });
  fs.writeFileSync(own, "# mine\n[upstream]\nmode = \"off\" # none yet\n");
  const first = await status(target);
  assert.deepEqual([first.percent, first.effective, first.running], [100, 100, false]);
  assert.match(first.reason, /no OpenClaw is configured/);
  assert.equal((await cli(target, "set", "25")).code, 0);
  assert.match(fs.readFileSync(own, "utf8"), /^# mine\n\[upstream\]\nmode = "off" # none yet\n\n?\[rollout\]\npercent = 25\n/);
  const now = await status(target);
  assert.deepEqual([now.percent, now.effective], [25, 100]);
  for (const wrong of [["set", "101"], ["set", "-1"], ["set", "many"], ["set"], ["nope"]]) {
    const refused = await cli(target, ...wrong);
    assert.equal(refused.code, 2, `${wrong}: ${refused.stdout}`);
    assert.match(refused.stderr, /error: /);
  }
  assert.equal((await status(target)).percent, 25);
  assert.equal((await cli(target, "pause")).code, 0);
  const paused = await cli(target, "promote");
  assert.equal(paused.code, 78);
  assert.match(paused.stderr, /rollout\.paused: the rollout is paused at 25 %; go on with/);
  fs.appendFileSync(own, "= broken");
  const before = fs.readFileSync(own, "utf8");
  assert.equal((await cli(target, "rollback")).code, 78);
  assert.equal(fs.readFileSync(own, "utf8"), before);
});

test("in front of OpenClaw: the share is served here, moves within a second, and nobody is disconnected", async (t) => {
  const original = await startOriginal();
  t.after(() => original.stop());
  const admin = await freePort();
  const ours = await startOurs({ upstream: { attach: original } });
  await ours.child.stop();
  const own = path.join(ours.stateDir, "openclaw-rs", "openclaw-gateway.toml");
  fs.writeFileSync(own, fs.readFileSync(own, "utf8").replace("127.0.0.1:0", `127.0.0.1:${admin}`));
  await ours.restart();
  t.after(() => ours.stop());

  const clients = [];
  for (let i = 0; i < 40; i++) {
    const client = await RawClient.open(ours.wsUrl);
    const hello = await client.connect({ token: TOKEN, client: { id: "openclaw-tui", mode: "ui" }, device: new Device() });
    assert.equal(hello.ok, true, JSON.stringify(hello.error));
    clients.push(client);
  }
  const metric = async (name) => {
    const text = await (await fetch(`http://127.0.0.1:${admin}/metrics`)).text();
    return Number(text.match(new RegExp(`^${name} (\\d+)$`, "m"))[1]);
  };
  /** How many of the clients the upstream answers now. */
  const bridged = async () => {
    const before = await metric("openclaw_rs_requests_bridged_total");
    for (const client of clients) assert.equal((await client.call("last-heartbeat", {})).ok, true);
    return (await metric("openclaw_rs_requests_bridged_total")) - before;
  };
  await until("the upstream's last heartbeat to be known", async () => (await bridged()) === 0);
  const set = async (...args) => {
    const { code, stderr, stdout } = await cli(ours, ...args);
    assert.equal(code, 0, stderr);
    return stdout;
  };
  const shares = [];
  for (const [args, percent] of [[["set", "5"], 5], [["promote"], 25], [["promote"], 50], [["promote"], 100]]) {
    await set(...args);
    assert.equal(await metric("openclaw_rs_rollout_percent"), percent);
    shares.push(clients.length - (await bridged()));
  }
  assert.deepEqual(shares, shares.toSorted((a, b) => a - b), "a client only joins while the percent grows");
  assert.equal(shares.at(-1), clients.length);
  assert.ok(shares[2] > 8 && shares[2] < 32, `${shares} of 40`);

  const began = Date.now();
  const said = await set("rollback");
  assert.match(said, /effective {2}0\nreason {5}rolled back by hand/);
  assert.equal(await bridged(), clients.length);
  t.diagnostic(`rolled back in ${Date.now() - began} ms, the command's start included`);
  assert.equal(clients.filter((client) => client.close_).length, 0, "nobody was disconnected");

  const over = async (method, query = "", headers = { authorization: `Bearer ${TOKEN}` }) => {
    const response = await fetch(`${ours.url}/api/rollout${query}`, { method, headers });
    return { status: response.status, body: await response.json() };
  };
  assert.deepEqual((await over("GET")).body.percent, 0);
  assert.equal((await over("GET", "", {})).status, 401);
  assert.match((await over("POST", "?set=250")).body.error, /250 is no percent from 0 to 100/);
  assert.equal((await over("POST", "?set=100")).body.effective, 100);
  assert.equal(await bridged(), 0);

  // A file that no gateway takes is named and left as it is.
  const good = fs.readFileSync(own, "utf8");
  for (const [wrong, named] of [["rollout = 5\n", /rollout: is a section/], ["[log]\nlevel = \"loud\"\n", /log\.level: expected/]]) {
    fs.writeFileSync(own, wrong);
    const refused = await over("POST", "?set=25");
    assert.equal(refused.status, 400, JSON.stringify(refused.body));
    assert.match(refused.body.error, named);
    assert.equal(fs.readFileSync(own, "utf8"), wrong);
  }
  fs.writeFileSync(own, good);
  assert.equal((await over("GET")).body.percent, 100);

  // A row that is handed back is the upstream's on every open connection, and ours again when it is taken back.
  const config = async () => (await clients[0].call("config.get", {})).payload;
  const mine = await config();
  assert.equal(mine.path, path.join(ours.stateDir, "openclaw.json"));
  fs.writeFileSync(own, `${good}\n[native]\ndisable = ["config.*", "last-heartbeat"]\n`);
  const theirs = await until("the configuration to be the upstream's", async () => {
    const answer = await config();
    return answer?.path === path.join(original.stateDir, "openclaw.json") && answer;
  });
  assert.notEqual(theirs.hash, mine.hash);
  assert.equal(await bridged(), clients.length);
  fs.writeFileSync(own, good);
  await until("the configuration to be ours", async () => (await config())?.path === mine.path);
  assert.equal((await config()).hash, mine.hash);
  assert.equal(await bridged(), 0);
  assert.equal(clients.filter((client) => client.close_).length, 0, "nobody was disconnected");

  // At 0 % a client of this machine is the upstream's own: its handshake is relayed.
  await set("rollback");
  const exact = await RawClient.open(ours.wsUrl);
  const hello = await exact.connect({ token: TOKEN });
  assert.equal(hello.ok, true, JSON.stringify(hello.error));
  assert.equal((await exact.call("health", {})).ok, true);
  await exact.end();
  for (const client of clients) await client.end();
});
