// `openclaw-gateway backup`: made under load, checked, refused when damaged, put back in one step.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { startBotApi } from "../lib/bot-api.mjs";
import { startOurs } from "../lib/gateway.mjs";
import { MessageApi } from "../lib/message-api.mjs";
import { gatewayBinary, tempDir, until } from "../lib/tools.mjs";
import { startReceiver, webhookConfig } from "../lib/webhook-receiver.mjs";

/** `{status, stdout, text}` of the command, run while the test goes on. */
function backup(stateDir, ...args) {
  const env = { ...process.env, OPENCLAW_STATE_DIR: stateDir };
  return new Promise((resolve) => execFile(gatewayBinary(), ["backup", ...args], { env }, (error, stdout, stderr) => {
    resolve({ status: error ? error.code : 0, stdout, text: stdout + stderr });
  }));
}

test("a backup made under load is whole, and holds every message accepted before it", async (t) => {
  const [receiver, place] = [await startReceiver(), tempDir("backup")];
  t.after(() => fs.rmSync(place, { recursive: true, force: true }));
  t.after(() => receiver.stop());
  const ours = await startOurs({ config: { channels: { webhook: webhookConfig(receiver) } } });
  t.after(() => ours.stop());
  const api = new MessageApi(ours);
  const accepted = [];
  let going = true;
  const load = (async () => {
    for (let number = 0; going; number += 1) {
      const { body, status } = await api.send({ channel: "webhook", target: "someone", content: `message ${number}` });
      assert.ok(status < 300, JSON.stringify(body));
      accepted.push(body.message_id);
    }
  })();
  await until("the first message to be accepted", () => accepted.length > 0);
  const folders = [];
  for (let round = 0; round < 3; round += 1) {
    const before = accepted.length;
    const folder = path.join(place, `backup-${round}`);
    const made = await backup(ours.stateDir, "create", folder, "--json");
    assert.equal(made.status, 0, made.text);
    const manifest = JSON.parse(made.stdout);
    assert.ok(manifest.files.some(({ path: name, schema }) => name === "openclaw-rs/messages.db" && schema >= 2), made.stdout);
    assert.ok(manifest.files.some(({ path: name }) => name === "openclaw.json"));
    assert.ok(!manifest.files.some(({ path: name }) => /lock|-wal|-shm/.test(name)), made.stdout);
    assert.equal(fs.statSync(folder).mode & 0o777, 0o700);
    for (const { path: name } of manifest.files) assert.equal(fs.statSync(path.join(folder, name)).mode & 0o777, 0o600, name);
    folders.push({ folder, must: accepted.slice(0, before) });
  }
  going = false;
  await load;
  const again = await backup(ours.stateDir, "create", folders[0].folder);
  assert.equal(again.status, 1);
  assert.match(again.text, /exists; name another folder/);
  const refused = await backup(ours.stateDir, "restore", folders[0].folder);
  assert.equal(refused.status, 1);
  assert.match(refused.text, /another openclaw-gateway \(pid \d+\) runs on this state directory; stop it/);

  // Where they are restored, openclaw.json comes from the backup too, and with it the port.
  await ours.stop();
  for (const { folder, must } of folders) {
    const verified = await backup(place, "verify", folder);
    assert.equal(verified.status, 0, verified.text);
    const elsewhere = path.join(place, `state-of-${path.basename(folder)}`);
    fs.mkdirSync(elsewhere);
    const restored = await backup(elsewhere, "restore", folder, "--json");
    assert.equal(restored.status, 0, restored.text);
    assert.deepEqual([JSON.parse(restored.stdout).aside, JSON.parse(restored.stdout).config], [null, "restored"]);
    const second = await startOurs({ stateDir: elsewhere, port: ours.port, config: { channels: { webhook: webhookConfig(receiver) } } });
    const other = new MessageApi(second);
    for (const id of must) assert.equal((await other.call("GET", `/api/message/${id}`)).status, 200, id);
    await second.stop();
  }
});

test("what had not been sent is in doubt after a restore: held, but where the service knows a repeat; --resend sends it", async (t) => {
  const [receiver, bot, place] = [await startReceiver(), await startBotApi(), tempDir("backup")];
  t.after(() => fs.rmSync(place, { recursive: true, force: true }));
  t.after(() => Promise.all([receiver.stop(), bot.stop()]));
  const config = { channels: {
    webhook: webhookConfig(receiver),
    telegram: { botToken: bot.token, apiRoot: bot.url, dmPolicy: "open", allowFrom: ["*"] },
  } };
  bot.direct(4711);
  let running = await startOurs({ config, toml: '[channels]\nnative = ["telegram", "webhook"]\n' });
  const { stateDir, port } = running;
  t.after(() => running.stop());
  const again = async (...args) => {
    const restored = await backup(stateDir, "restore", ...args);
    assert.equal(restored.status, 0, restored.text);
    running = await startOurs({ stateDir, port });
    return restored.text;
  };
  const sent = () => bot.sent.filter(({ text }) => text === "held up").length;
  receiver.behave = () => ({ status: 503 });
  // Telegram names a time: nothing is tried before it. Long enough for a slow machine's backup.
  bot.faults.push({ method: "sendMessage", kind: "flood", retryAfter: 12, times: 1 });
  const first = new MessageApi(running);
  const ids = [];
  for (const [channel, target] of [["webhook", "someone"], ["telegram", "4711"]]) {
    const { body } = await first.send({ channel, target, content: "held up", mode: "async" });
    ids.push(body.message_id);
  }
  const [hook, chat] = ids;
  // Not while it is on its way: then nobody could say whether it has arrived.
  await until("telegram to have put it off", async () => {
    const { message } = (await first.call("GET", `/api/message/${chat}`)).body;
    return message.attempts === 1 && message.state !== "leased";
  });
  const folder = path.join(place, "b");
  const made = await backup(stateDir, "create", folder);
  assert.equal(made.status, 0, made.text);
  receiver.behave = () => "ok";
  for (const id of ids) await first.settled(id, ["delivered"]);
  await running.stop({ keepState: true });

  const dry = await backup(stateDir, "restore", folder, "--dry-run");
  assert.equal(dry.status, 0, dry.text);
  assert.match(dry.text, /would be replaced; would be kept beside it/);
  assert.match(await again(folder), /2 messages had not been sent .* in doubt/);
  const [aside] = fs.readdirSync(stateDir).filter((name) => name.startsWith("openclaw-rs.before-restore-"));
  assert.ok(fs.existsSync(path.join(stateDir, aside, "messages.db")), "what was there is kept");
  assert.ok(!fs.existsSync(path.join(stateDir, "openclaw-rs.restoring")));
  const second = new MessageApi(running);
  await second.settled(hook, ["delivered"]);
  assert.equal(receiver.distinct().length, 1, "the receiver knows it by its id");
  assert.equal((await second.settled(chat)).message.state, "in_doubt");
  // One that is sent later arrives: the doubtful one is not in front of it.
  await second.send({ channel: "telegram", target: "4711", content: "afterwards", mode: "wait" });
  assert.equal(sent(), 1, "not sent again");
  await running.stop({ keepState: true });

  assert.doesNotMatch(await again(folder, "--resend"), /in doubt/);
  await new MessageApi(running).settled(chat, ["delivered"]);
  assert.equal(sent(), 2, "asked for");
});

test("a backup that is damaged, unfinished, foreign or newer is refused, and nothing is touched", async (t) => {
  const place = tempDir("backup");
  t.after(() => fs.rmSync(place, { recursive: true, force: true }));
  const ours = await startOurs();
  const good = path.join(place, "good");
  assert.equal((await backup(ours.stateDir, "create", good)).status, 0);
  await ours.stop({ keepState: true });
  t.after(() => fs.rmSync(ours.stateDir, { recursive: true, force: true }));
  const token = fs.readFileSync(path.join(ours.stateDir, "openclaw-rs/identity.json"), "utf8");
  let number = 0;
  const broken = (change) => {
    const folder = path.join(place, `broken-${number += 1}`);
    fs.cpSync(good, folder, { recursive: true });
    change(folder);
    return folder;
  };
  const manifest = (folder, change) => {
    const file = path.join(folder, "manifest.json");
    const content = JSON.parse(fs.readFileSync(file, "utf8"));
    change(content);
    fs.writeFileSync(file, JSON.stringify(content));
  };
  const cases = [
    [broken((folder) => fs.appendFileSync(path.join(folder, "openclaw-rs/messages.db"), "x")), /messages\.db: damaged: \d+ bytes/],
    [broken((folder) => fs.rmSync(path.join(folder, "openclaw-rs/identity.json"))), /identity\.json: cannot be read/],
    [broken((folder) => fs.rmSync(path.join(folder, "manifest.json"))), /not a backup, or not a finished one/],
    [broken((folder) => fs.writeFileSync(path.join(folder, "manifest.json"), "{")), /not a manifest of a backup/],
    [broken((folder) => manifest(folder, (content) => { content.format = 9; content.gateway = "9.9.9"; })), /format 9 was made by a newer release \(9\.9\.9\)/],
    [broken((folder) => manifest(folder, (content) => { content.files[0].path = "../outside"; })), /leads out of the backup/],
    [path.join(place, "nowhere"), /not a backup/],
  ];
  for (const [folder, words] of cases) {
    for (const command of [["verify", folder], ["restore", folder]]) {
      const refused = await backup(ours.stateDir, ...command);
      assert.equal(refused.status, 1, `${command}: ${refused.text}`);
      assert.match(refused.text, words);
    }
  }
  assert.equal(fs.readFileSync(path.join(ours.stateDir, "openclaw-rs/identity.json"), "utf8"), token);
  assert.deepEqual(fs.readdirSync(ours.stateDir).filter((name) => name.startsWith("openclaw-rs")), ["openclaw-rs"]);
  const nothing = await backup(path.join(place, "empty"), "create", path.join(place, "never"));
  assert.equal(nothing.status, 1);
  assert.match(nothing.text, /no state of this gateway to back up/);
  assert.ok(!fs.existsSync(path.join(place, "never")));
});

test("what agents remember is in a backup; one that finds no room says so, leaves nothing of itself, and the state as it is", async (t) => {
  const place = tempDir("backup");
  t.after(() => fs.rmSync(place, { recursive: true, force: true }));
  const [stateDir, notes, small] = ["state", "notes", "small"].map((name) => path.join(place, name));
  for (const folder of [stateDir, notes, small]) fs.mkdirSync(folder);
  // More than the small file system holds.
  for (let n = 0; n < 40; n += 1) fs.writeFileSync(path.join(notes, `${n}.md`), `# Note ${n}\n\n${`The heron number ${n} stands in the reeds. `.repeat(400)}\n`);
  const env = { ...process.env, OPENCLAW_STATE_DIR: stateDir };
  const run = (program, ...args) => new Promise((resolve) => execFile(program, args, { env }, (error, stdout, stderr) => resolve({ status: error ? error.code : 0, stdout, text: stdout + stderr })));
  const indexed = await run(gatewayBinary(), "memory", "index", notes);
  assert.equal(indexed.status, 0, indexed.text);

  const mounted = (command) => run("unshare", "--map-root-user", "--mount", "sh", "-c", `mount -t tmpfs -o size=512k tmpfs "$1" && ${command}`, "sh", small, gatewayBinary());
  if ((await mounted("true")).status === 0) {
    const refused = await mounted('{ "$2" backup create "$1/b"; echo "left: $? $(ls -A "$1" | wc -l)"; }');
    assert.match(refused.text, /no backup was made/);
    assert.match(refused.text, /full|No space left/);
    assert.match(refused.stdout, /^left: 1 0$/m, refused.text);
  } else {
    t.diagnostic("no file system can be mounted here: a full one was not tried");
  }

  const folder = path.join(place, "b");
  const made = await backup(stateDir, "create", folder, "--json");
  assert.equal(made.status, 0, made.text);
  const kept = JSON.parse(made.stdout).files.find(({ path: name }) => name === "openclaw-rs/memory.sqlite");
  assert.ok(kept.schema >= 3, made.stdout);
  const elsewhere = path.join(place, "elsewhere");
  fs.mkdirSync(elsewhere);
  assert.equal((await backup(elsewhere, "restore", folder)).status, 0);
  env.OPENCLAW_STATE_DIR = elsewhere;
  const found = await run(gatewayBinary(), "memory", "search", "heron reeds", "--json");
  assert.equal(found.status, 0, found.text);
  assert.match(found.stdout, /heron number/);
});
