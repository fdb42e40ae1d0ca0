// What the local network sees by mDNS, through Python's zeroconf: the same records as the original's, following the
// configuration, and withdrawn at the end.
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import test from "node:test";
import { startOriginal, startOurs } from "../lib/gateway.mjs";
import { freePort, repoRoot, until } from "../lib/tools.mjs";

const config = { plugins: { entries: { bonjour: { enabled: true } } }, discovery: { mdns: { mode: "full" } } };
/** Spoken to others also where the machine looks like a container, and with a path that both sides can tell. */
const env = { OPENCLAW_DISABLE_BONJOUR: "0", OPENCLAW_CLI_PATH: "/opt/openclaw" };

/** What is seen of the one that announces itself at `port`: others may do so on this network too. */
function browse(t, port) {
  const child = spawn("/usr/bin/python3", [path.join(repoRoot, "tests/native/browse.py")], { stdio: ["pipe", "pipe", "pipe"] });
  t.after(() => child.stdin.end());
  const seen = [];
  const names = new Set();
  let text = "";
  let errors = "";
  child.stderr.on("data", (data) => (errors += data));
  child.stdout.setEncoding("utf8").on("data", (data) => {
    const lines = (text + data).split("\n");
    text = lines.pop();
    for (const change of lines.map((line) => JSON.parse(line))) {
      if (change.port === port) names.add(change.name);
      if (names.has(change.name ?? change.gone)) seen.push(change);
    }
  });
  return {
    last: (what, match) => until(what, () => {
      assert.ok(child.exitCode === null, errors);
      const change = seen.at(-1);
      return change && match(change) && change;
    }),
  };
}

const records = (change) => ({ ...change, port: "<port>", addresses: change.addresses.length > 0, texts: { ...change.texts, gatewayPort: "<port>" } });
let direct;

test("the original announces itself", async (t) => {
  const port = await freePort();
  const network = browse(t, port);
  const target = await startOriginal({ config, env, port, waitReady: false });
  t.after(() => target.stop());
  const change = await network.last("the original's records", ({ port }) => port === target.port);
  direct = records(change);
  assert.equal(change.texts.gatewayPort, String(target.port));
});

test("ours announces the same, follows the configuration, and is gone when it ends", async (t) => {
  const port = await freePort();
  const network = browse(t, port);
  const target = await startOurs({ config, env, port });
  t.after(() => target.stop());
  const change = await network.last("our records", ({ port }) => port === target.port);
  assert.deepEqual(records(change), direct);

  const file = path.join(target.stateDir, "openclaw.json");
  const written = JSON.parse(fs.readFileSync(file, "utf8"));
  const set = (mode) => {
    fs.writeFileSync(`${file}.new`, JSON.stringify({ ...written, discovery: { mdns: { mode } } }), { mode: 0o600 });
    fs.renameSync(`${file}.new`, file);
  };
  set("minimal");
  const minimal = await network.last("fewer records", ({ texts }) => texts && !texts.cliPath);
  assert.deepEqual(Object.keys(minimal.texts).sort(), ["displayName", "gatewayPort", "lanHost", "role", "transport"]);
  set("off");
  await network.last("its withdrawal", ({ gone }) => gone === change.name);
  set("minimal");
  await network.last("it to be back", ({ port }) => port === target.port);
  assert.equal((await target.child.stop()).code, 0);
  await network.last("its goodbye", ({ gone }) => gone === change.name);
});
