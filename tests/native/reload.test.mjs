// Changed files take effect on live connections; a file that can't be used changes nothing and is named.
import assert from "node:assert/strict";
import fs from "node:fs";
import path from "node:path";
import test, { after, before } from "node:test";
import { startOurs, TOKEN } from "../lib/gateway.mjs";
import { RawClient } from "../lib/raw.mjs";
import { freePort, tempDir, until } from "../lib/tools.mjs";

let target, admin, ownFile, userFile;
before(async () => {
  admin = await freePort();
  const stateDir = tempDir("reload");
  userFile = path.join(stateDir, "openclaw.json");
  ownFile = path.join(stateDir, "openclaw-rs", "openclaw-gateway.toml");
  fs.mkdirSync(path.dirname(ownFile), { recursive: true, mode: 0o700 });
  fs.writeFileSync(ownFile, own());
  target = await startOurs({ stateDir });
});
after(() => target.stop());

const own = (more = "") => `${more}\n[admin]\nlisten = "127.0.0.1:${admin}"\n[upstream]\nmode = "off"\n`;

/** As editors do: another file renamed over the old one. */
function replace(file, text) {
  fs.writeFileSync(`${file}.new`, text, { mode: 0o600 });
  fs.renameSync(`${file}.new`, file);
}

async function counts() {
  const text = await (await fetch(`http://127.0.0.1:${admin}/metrics`)).text();
  const count = (name) => Number(text.match(new RegExp(`^openclaw_rs_config_${name}_total (\\d+)$`, "m"))[1]);
  return { taken: count("reloads"), refused: count("reloads_refused") };
}

async function open(token = TOKEN) {
  const client = await RawClient.open(target.wsUrl);
  return Object.assign(client, { hello: await client.connect({ token }) });
}

test("native.disable hands a row back and takes it again on a live connection", async () => {
  const client = await open();
  assert.equal((await client.call("system.info", {})).ok, true);
  replace(ownFile, own('native.disable = ["system.*"]'));
  const refused = await until("the row to be handed back", async () => {
    const answer = await client.call("system.info", {});
    return !answer.ok && answer;
  });
  assert.equal(refused.error.code, "UNAVAILABLE", JSON.stringify(refused));
  assert.equal((await client.call("health", {})).ok, true, "other rows stay");
  fs.writeFileSync(ownFile, own());
  await until("the row to be ours again", async () => (await client.call("system.info", {})).ok);
  await client.end();
});

test("a file that can't be used changes nothing, is named by line and key, and is counted", async () => {
  const client = await open();
  const check = async (file, text, named) => {
    const before = await counts();
    const good = fs.readFileSync(file, "utf8");
    replace(file, text);
    await until("the file to be refused", async () => (await counts()).refused > before.refused);
    await until(`the log to say ${named}`, () => target.child.output.includes(named));
    assert.equal((await client.call("system.info", {})).ok, true);
    const refused = await counts();
    replace(file, good);
    await until("the good file to be taken", async () => (await counts()).taken > refused.taken);
  };
  await check(ownFile, `[native]\ndisable = ["system.*"]\n[limits]\npreauth_bytes_maks = 1\n`, "openclaw-gateway.toml:4:1: limits.preauth_bytes_maks");
  await check(userFile, "{\n  gateway: {\n  mode: local } }", "openclaw.json:3:9");
  await client.end();
});

test("SIGHUP reads the files again", async () => {
  const before = await counts();
  target.child.kill("SIGHUP");
  await until("another reading", async () => (await counts()).taken > before.taken);
  assert.equal(target.child.exit, null);
});

test("a rotated token closes who came in by the old one with 4001", async () => {
  const client = await open();
  const config = JSON.parse(fs.readFileSync(userFile, "utf8"));
  config.gateway.auth.token = "rotated-token-0123456789abcdef";
  replace(userFile, JSON.stringify(config));
  const close = await client.closed;
  assert.equal(close.code, 4001, JSON.stringify(close));
  const stale = await open();
  assert.equal(stale.hello.ok, false);
  const fresh = await open("rotated-token-0123456789abcdef");
  assert.equal(fresh.hello.ok, true, JSON.stringify(fresh.hello));
  await fresh.end();
});
