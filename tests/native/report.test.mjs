// `openclaw-gateway report`: enough to look into a bug, and none of the secrets that were put into every place.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { startOurs } from "../lib/gateway.mjs";
import { RawClient } from "../lib/raw.mjs";
import { gatewayBinary, nodeBinary, openclawEntry, tempDir, until } from "../lib/tools.mjs";

const SECRETS = {
  token: "gateway-token-R1vQ2",
  apiKey: "model-key-Z8wP3/with+signs",
  webhook: `whsec_${Buffer.from("a secret of thirty-two bytes, no").toString("base64")}`,
  botToken: "123456:bot-token-T7yU4",
  dotenv: "from-dotenv-K5mN6",
  environment: "from-environment-B9cD0",
  configVar: "from-config-vars-H2jL8",
  own: "own-settings-token-X3aS5",
  kept: "plain-words-in-a-file-J6rE7",
  bearer: "bearer-nobody-knows-F4gH1",
};

function report(ours, folder, env = ours.env) {
  return spawnSync(gatewayBinary(), ["report", "--output", folder], { env, cwd: ours.stateDir, encoding: "utf8" });
}

/** Every file of the bundle, by name. */
function bundle(folder) {
  return Object.fromEntries(fs.readdirSync(folder).map((name) => [name, fs.readFileSync(path.join(folder, name), "utf8")]));
}

function assertNoSecret(files, more = "") {
  for (const [name, text] of [...Object.entries(files), ["output", more]]) {
    for (const [place, secret] of Object.entries(SECRETS)) {
      for (const form of [secret, encodeURIComponent(secret)]) assert.ok(!text.includes(form), `${place} is in ${name}`);
    }
  }
}

test("a report has what is needed and no secret, with a gateway and without", async (t) => {
  const stateDir = tempDir("report");
  t.after(() => fs.rmSync(stateDir, { recursive: true, force: true }));
  // A Node that says every secret before it runs OpenClaw: what is written there is in both logs.
  const talkative = path.join(stateDir, "node.sh");
  const said = Object.values(SECRETS).map((secret) => (secret === SECRETS.bearer ? `Authorization: Bearer ${secret}` : `using ${secret} and ${encodeURIComponent(secret)}`));
  fs.writeFileSync(talkative, `#!/bin/sh\ncase "$*" in *"gateway run"*) cat "${stateDir}/said";; esac\nexec "${nodeBinary}" "$@"\n`, { mode: 0o755 });
  fs.writeFileSync(path.join(stateDir, "said"), said.join("\n") + "\n");
  fs.writeFileSync(path.join(stateDir, ".env"), `SOME_SERVICE_TOKEN=${SECRETS.dotenv}\n`);
  fs.mkdirSync(path.join(stateDir, "openclaw-rs"), { mode: 0o700 });
  fs.writeFileSync(path.join(stateDir, "kept"), SECRETS.kept, { mode: 0o600 });
  const webhook = { secret: SECRETS.webhook, url: "http://127.0.0.1:9/hook", allowPrivateNetwork: true };
  fs.writeFileSync(path.join(stateDir, "openclaw-rs/channels.json"), JSON.stringify({ webhook }));
  const ownFile = path.join(stateDir, "openclaw-rs/openclaw-gateway.toml");
  fs.writeFileSync(ownFile, `[admin]\nlisten = "127.0.0.1:0"\n[channels]\nnative = ["webhook", "telegram"]\n[upstream]\nmode = "supervise"\nnode = ${JSON.stringify(talkative)}\ncommand = [${JSON.stringify(nodeBinary)}, ${JSON.stringify(openclawEntry)}]\ntoken = "${SECRETS.own}"\n`);
  const ours = await startOurs({
    stateDir,
    env: { MY_PASSWORD: SECRETS.environment },
    config: {
      gateway: { auth: { mode: "token", token: SECRETS.token } },
      env: { vars: { OTHER_API_KEY: SECRETS.configVar } },
      models: { providers: { local: { baseUrl: "http://127.0.0.1:9", api: "openai-completions", apiKey: SECRETS.apiKey, headers: { "X-Team": { source: "file", provider: "papers", id: "value" } }, models: [{ id: "m", name: "M" }] } } },
      secrets: { providers: { papers: { source: "file", path: path.join(stateDir, "kept"), mode: "singleValue" } } },
      channels: {
        telegram: { enabled: false, botToken: SECRETS.botToken },
      },
    },
  });
  t.after(() => ours.stop({ keepState: true }));
  // But for the child's own token, which is hidden where its output is read.
  for (const secret of Object.values(SECRETS).filter((secret) => secret !== SECRETS.token)) {
    await until("the secrets to be in the log", () => ours.child.output.includes(secret));
  }
  const denied = await RawClient.open(ours.wsUrl);
  assert.equal((await denied.connect({ token: SECRETS.bearer })).ok, false);
  await denied.closed;

  const made = report(ours, path.join(stateDir, "bundle"));
  assert.equal(made.status, 0, made.stdout + made.stderr);
  const files = bundle(path.join(stateDir, "bundle"));
  assert.deepEqual(Object.keys(files).sort(), ["README.txt", "channels.json", "config.json", "doctor.json", "log.txt", "metrics.txt", "status.json", "upstream.txt", "versions.json"], made.stdout);
  assertNoSecret(files, made.stdout + made.stderr);
  assert.equal(JSON.parse(files["versions.json"]).openclaw, "2026.9.6");
  assert.equal(JSON.parse(files["status.json"]).upstream.state, "ready");
  const keys = JSON.parse(files["config.json"]).config.values.map((row) => row.key);
  assert.ok(keys.includes("channels.telegram.botToken"), keys.join());
  assert.match(files["log.txt"], /openclaw is ready/);
  assert.equal(files["upstream.txt"].split("\n").filter((line) => / using \*\*\* and \*\*\*$/.test(line)).length, said.length - 1, files["upstream.txt"]);
  assert.match(files["upstream.txt"], /Authorization: Bearer \*\*\*$/m);
  assert.match(files["metrics.txt"], /^openclaw_rs_connects_refused_total 1$/m);
  assert.equal(fs.statSync(path.join(stateDir, "bundle")).mode & 0o077, 0, "for its owner alone");
  const again = report(ours, path.join(stateDir, "bundle"));
  assert.equal(again.status, 1);
  assert.match(again.stderr, /exists; name another folder/);

  // Without a gateway, and with a file that nobody can parse: what is missing is said.
  await ours.stop({ keepState: true });
  fs.appendFileSync(path.join(stateDir, "openclaw.json"), "} broken");
  const alone = report(ours, path.join(stateDir, "alone"));
  assert.equal(alone.status, 0, alone.stdout + alone.stderr);
  const rest = bundle(path.join(stateDir, "alone"));
  assertNoSecret(rest, alone.stdout + alone.stderr);
  assert.match(rest["README.txt"], /^log\.txt +missing: .*is the gateway running/m);
  assert.match(rest["README.txt"], /^config\.json +missing: /m);
  assert.match(rest["doctor.json"], /"ok": false/);
});
