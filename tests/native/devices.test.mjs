// Devices with OpenClaw behind: those paired with it before the switch, what they lose, those that only this gateway knows,
// and a phone that comes by a setup code. Where the original can answer, the same steps run on it.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import test from "node:test";
import { promisify } from "node:util";
import { startOriginal, startOurs, TOKEN } from "../lib/gateway.mjs";
import { Device, RawClient } from "../lib/raw.mjs";
import { gatewayBinary, nodeBinary, openclawEntry, until } from "../lib/tools.mjs";

const run = promisify(execFile);
const TUI = { id: "openclaw-tui", mode: "ui" };
const PASSWORD = "devices-password-0123456789";

async function connect(target, options) {
  const client = await RawClient.open(target.wsUrl);
  const answer = await client.connect(options);
  return Object.assign(client, { answer, hello: answer.payload });
}

async function enter(target, options) {
  const client = await connect(target, options);
  assert.equal(client.answer.ok, true, JSON.stringify(client.answer.error));
  return client;
}

/** A new device with the secret of the gateway: itself and its token. */
async function pair(target, scopes) {
  const device = new Device();
  const client = await enter(target, { token: TOKEN, client: TUI, device, scopes });
  await client.end();
  return { device, scopes, deviceToken: client.hello.auth.deviceToken };
}

/** By its token alone. */
const byToken = ({ device, scopes, deviceToken }) => ({ client: TUI, device, scopes, auth: { deviceToken } });

const refusal = ({ answer: { ok, error } }) => ({ ok, code: error?.code, message: error?.message, details: { ...error?.details, deviceId: undefined } });
const ok = (answer) => (assert.equal(answer.ok, true, JSON.stringify(answer.error)), answer.payload);
const row = (list, device) => list.paired.find(({ deviceId }) => deviceId === device.id);
const READ = ["operator.read"];

/** Ours in front of an original, which the device knows already. */
async function behind(t, config) {
  const original = await startOriginal();
  t.after(() => original.stop());
  const known = await pair(original, READ);
  const ours = await startOurs({ upstream: { attach: original }, config });
  t.after(() => ours.stop());
  return { original, ours, known };
}

/** How often a device is connected, as an event or a hello has it; without a device, how many gateways there are. */
const seen = (presence, device) => presence.filter((row) => (device ? row.deviceId === device.id && row.reason === "connect" : row.mode === "gateway")).length;
const tells = (holds) => (frame) => frame.event === "presence" && holds(frame.payload.presence);

test("a device that was paired before the switch comes by its token, also while OpenClaw is down", async (t) => {
  const { original, ours, known } = await behind(t);
  // Nobody is a node yet: what ours answers alone (alone.test.mjs).
  const { ts: _ts, ...nodes } = ok(await (await enter(original, { token: TOKEN })).call("node.list", {}));
  assert.deepEqual(nodes, { nodes: [] });
  assert.deepEqual(ok(await (await enter(original, { token: TOKEN })).call("node.pair.list", {})), { pending: [], paired: [] });
  const watcher = await enter(ours, { token: TOKEN, scopes: READ });
  const blind = await enter(ours, { token: TOKEN, scopes: ["operator.pairing"] });
  const first = await enter(ours, byToken(known));
  assert.equal(first.hello.auth.method, "device-token");
  assert.deepEqual(first.hello.auth.scopes, READ);
  // Who comes through ours is a backend client there, and is seen by all the same; so is who comes to OpenClaw itself.
  const came = await watcher.frame("an event with it", tells((presence) => seen(presence, known.device) === 1));
  assert.equal(seen(came.payload.presence), 1, JSON.stringify(came));
  const direct = new Device();
  await enter(original, { token: TOKEN, client: TUI, device: direct, scopes: READ });
  await watcher.frame("an event with both", tells((presence) => seen(presence, known.device) === 1 && seen(presence, direct) === 1));
  const { presence } = (await enter(ours, { token: TOKEN, scopes: READ })).hello.snapshot;
  assert.deepEqual([seen(presence), seen(presence, known.device), seen(presence, direct)], [1, 1, 1], JSON.stringify(presence));
  const from = watcher.frames.length;
  await original.child.stop();
  await watcher.frame("an event without OpenClaw's", tells((presence) => seen(presence, known.device) === 1 && seen(presence, direct) === 0), { from });
  await until("ours to notice", async () => (await fetch(`${ours.url}/readyz`)).status === 503);
  assert.equal(first.close_, undefined, "it was sent away with OpenClaw");
  const second = await enter(ours, byToken(known));
  assert.equal((await second.call("health")).ok, true);
  await watcher.frame("an event with it twice", tells((presence) => seen(presence, known.device) === 2), { from });
  // OpenClaw's own events would not have it.
  const told = watcher.frames.slice(watcher.frames.indexOf(came)).filter(tells(() => true));
  assert.deepEqual(told.filter(({ payload }) => seen(payload.presence, known.device) === 0), []);
  assert.deepEqual(blind.hello.snapshot.presence, []);
  assert.deepEqual(blind.frames.filter(tells(() => true)), [], "seen without operator.read");
  const wrong = await connect(ours, byToken({ ...known, deviceToken: "x".repeat(43) }));
  assert.equal(wrong.answer.ok, false);
});

test("what a device loses by a call through ours, it has lost at once", async (t) => {
  const { original, ours, known } = await behind(t);
  const admin = { ours: await enter(ours, { token: TOKEN }), original: await enter(original, { token: TOKEN }) };
  const losses = {
    "device.token.revoke": { role: "operator" },
    "device.token.rotate": { role: "operator" },
    "device.pair.remove": {},
  };
  for (const [method, more] of Object.entries(losses)) {
    const seen = {};
    for (const [side, target] of Object.entries({ original, ours })) {
      const own = await pair(target, READ);
      const client = await enter(target, byToken(own));
      const listed = row(ok(await admin[side].call("device.pair.list", {})), own.device);
      assert.equal(listed.connected, true, `${side}: ${JSON.stringify(listed)}`);
      ok(await admin[side].call(method, { deviceId: own.device.id, ...more }));
      const again = await connect(target, byToken(own));
      seen[side] = { close: await client.closed, again: refusal(again) };
    }
    assert.deepEqual(seen.ours, seen.original, method);
    assert.equal(seen.ours.close.code, 4001, method);
    assert.equal(seen.ours.again.ok, false, method);
  }
  ok(await (await enter(ours, byToken(known))).call("health"));
});

test("what was taken away by somebody who did not wait for the answer, or through OpenClaw's own port, is lost here too", async (t) => {
  const { original, ours, known } = await behind(t);
  const ended = (client) => until("a connection to end", () => client.close_);
  const first = await enter(ours, byToken(known));
  const own = await pair(original, READ);
  const second = await enter(ours, byToken(own));
  const rotated = await pair(ours, READ);
  const third = await enter(ours, byToken(rotated));
  const admins = [await enter(ours, { token: TOKEN }), await enter(ours, { token: TOKEN })];
  // OpenClaw hears of it when its caller is gone.
  original.child.kill("SIGSTOP");
  admins[0].send({ type: "req", id: "gone", method: "device.pair.remove", params: { deviceId: known.device.id } });
  admins[1].send({ type: "req", id: "gone", method: "device.token.rotate", params: { deviceId: rotated.device.id, role: "operator" } });
  for (const admin of admins) {
    ok(await admin.call("health"));
    admin.socket.terminate();
    await admin.closed;
  }
  original.child.kill("SIGCONT");
  for (const [client, device] of [[first, known], [third, rotated]]) {
    assert.equal((await ended(client)).code, 4001);
    // Its list tells of it a moment before it is through, and it is the one that is asked.
    await until("the token to be refused", async () => !(await connect(ours, byToken(device))).answer.ok);
  }

  const there = await enter(original, { token: TOKEN });
  ok(await there.call("device.token.revoke", { deviceId: own.device.id, role: "operator" }));
  assert.equal((await ended(second)).code, 4001);
  assert.equal((await connect(ours, byToken(own))).answer.ok, false);
});

test("a device that may manage itself alone manages no other", async (t) => {
  const { original, ours, known } = await behind(t);
  const own = await pair(ours, ["operator.read", "operator.pairing"]);
  const calls = [
    ["device.pair.list", {}],
    ["device.pair.remove", { deviceId: known.device.id }],
    ["device.pair.rename", { deviceId: known.device.id, label: "x" }],
    ["device.token.revoke", { deviceId: known.device.id, role: "operator" }],
    ["device.token.rotate", { deviceId: known.device.id, role: "operator" }],
  ];
  const seen = {};
  for (const [side, target] of Object.entries({ original, ours })) {
    const client = await enter(target, byToken(own));
    seen[side] = [];
    for (const [method, params] of calls) {
      const { ok: done, payload, error } = await client.call(method, params);
      seen[side].push([method, done, payload?.paired?.map(({ deviceId }) => deviceId), error?.code, error?.message]);
    }
    await client.end();
  }
  assert.deepEqual(seen.ours, seen.original);
  assert.deepEqual(seen.ours[0], ["device.pair.list", true, [own.device.id], undefined, undefined]);
  ok(await (await enter(ours, byToken(known))).call("health"));
});

test("devices that only this gateway knows are listed, approved and removed with OpenClaw behind", async (t) => {
  // Another secret than OpenClaw's: whoever knows it is paired here.
  const { ours, known } = await behind(t, { gateway: { auth: { mode: "password", password: PASSWORD }, nodes: { pairing: { autoApproveLocal: false } } } });
  const admin = await enter(ours, { password: PASSWORD });
  const asking = { password: PASSWORD, client: TUI, device: new Device(), scopes: READ };
  const { error } = (await connect(ours, asking)).answer;
  assert.equal(error.details.code, "PAIRING_REQUIRED", JSON.stringify(error));
  const { requestId } = error.details;
  assert.ok(ok(await admin.call("device.pair.list", {})).pending.some((request) => request.requestId === requestId));
  const env = { ...ours.env, OPENCLAW_GATEWAY_PORT: String(ours.port), OPENCLAW_GATEWAY_PASSWORD: PASSWORD };
  const own = async (...args) => (await run(gatewayBinary(), ["devices", ...args], { env, cwd: ours.stateDir })).stdout;
  assert.match(await own("list"), new RegExp(`waiting.*${requestId}`));
  await own("approve", requestId);

  const client = await enter(ours, asking);
  const list = ok(await admin.call("device.pair.list", {}));
  assert.deepEqual([row(list, asking.device).madeBy, row(list, asking.device).connected], ["local", true]);
  assert.equal(row(list, known.device).madeBy, undefined, "one of OpenClaw's");
  assert.match(await own("list"), new RegExp(`${asking.device.id}.*known to this gateway alone`));
  assert.ok(ok(await admin.call("device.pair.rename", { deviceId: asking.device.id, label: "Desk" })));
  assert.equal(row(ok(await admin.call("device.pair.list", {})), asking.device).operatorLabel, "Desk");
  ok(await admin.call("device.pair.remove", { deviceId: asking.device.id }));
  assert.equal((await client.closed).code, 4001);
  assert.equal((await connect(ours, asking)).answer.error.details.code, "PAIRING_REQUIRED");
});

test("a handshake that OpenClaw refuses is in our log with what to do", async (t) => {
  const original = await startOriginal({ config: { gateway: { nodes: { pairing: { autoApproveLocal: false } } } } });
  t.after(() => original.stop());
  const ours = await startOurs({ upstream: { attach: original } });
  t.after(() => ours.stop());
  const device = new Device();
  const { error } = (await connect(ours, { token: TOKEN, client: TUI, device, scopes: READ })).answer;
  assert.equal(error.details.code, "PAIRING_REQUIRED", JSON.stringify(error));
  const line = `connect refused: pairing-required \\(not-paired\\), client openclaw-tui/ui .*device ${device.id}; fix: openclaw devices approve ${error.details.requestId}`;
  await until("a line of the log", () => new RegExp(line).test(ours.child.output));
});

test("a phone comes by a setup code, and as an operator by the token it is handed", async (t) => {
  const { original, ours } = await behind(t);
  const PHONE = { id: "openclaw-ios", mode: "node", platform: "ios", deviceFamily: "iPhone" };
  const seen = {};
  for (const [side, target] of Object.entries({ original, ours })) {
    const { stdout } = await run(nodeBinary, [openclawEntry, "qr", "--json", "--url", target.wsUrl], { env: original.env, cwd: original.stateDir });
    const { setupCode } = JSON.parse(stdout.slice(stdout.indexOf("{")));
    const { bootstrapToken } = JSON.parse(Buffer.from(setupCode, "base64url").toString());
    const device = new Device();
    const node = await connect(target, { client: PHONE, role: "node", scopes: [], device, auth: { bootstrapToken } });
    const { role, scopes, deviceToken, deviceTokens } = node.hello?.auth ?? {};
    const handed = deviceTokens?.find((token) => token.role === "operator");
    const operator = handed && await connect(target, { client: { ...PHONE, mode: "ui" }, device, scopes: handed.scopes, auth: { deviceToken: handed.deviceToken } });
    const used = await connect(target, { client: PHONE, role: "node", scopes: [], device: new Device(), auth: { bootstrapToken } });
    seen[side] = {
      error: node.answer.error, role, scopes, token: typeof deviceToken, handed: handed?.scopes,
      operator: operator && [operator.answer.ok, operator.answer.error?.details?.code, operator.hello?.auth.method, operator.hello?.auth.scopes],
      used: refusal(used),
    };
  }
  assert.deepEqual(seen.ours, seen.original);
  assert.equal(seen.ours.token, "string", JSON.stringify(seen.ours));
  assert.equal(seen.ours.operator?.[0], true, JSON.stringify(seen.ours));
});

test("alone, a device that takes its own token away is answered first", async (t) => {
  const ours = await startOurs();
  t.after(() => ours.stop());
  const own = await pair(ours, ["operator.read", "operator.pairing"]);
  const client = await enter(ours, byToken(own));
  const { token, tokenDelivery } = ok(await client.call("device.token.rotate", { deviceId: own.device.id, role: "operator" }));
  assert.equal(tokenDelivery, "in-band");
  assert.equal((await client.closed).code, 4001);
  const again = await enter(ours, byToken({ ...own, deviceToken: token }));
  await again.end();
  assert.equal(fs.statSync(path.join(ours.stateDir, "openclaw-rs")).mode & 0o777, 0o700);
});
