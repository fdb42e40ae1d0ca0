// Records what the original gateway answers to the handshakes and device methods below, into handshakes.json, which
// tests.rs replays against our own decisions.
// Run from the repository root: node crates/gateway/src/auth/tests/record-handshakes.mjs  (starts the original six times).
import crypto from "node:crypto";
import fs from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { startOriginal, TOKEN } from "../../../../../tests/lib/gateway.mjs";
import { ALL_SCOPES, Device, RawClient } from "../../../../../tests/lib/raw.mjs";

const here = path.dirname(fileURLToPath(import.meta.url));
const ALL = ALL_SCOPES;
const READ = ["operator.read"];
const RW = ["operator.read", "operator.write"];
const RWP = [...RW, "operator.pairing"];
const shared = { token: "$shared" };
const backend = { id: "gateway-client", mode: "backend" };
const cli = { id: "cli", mode: "cli" };
const tui = { id: "openclaw-tui", mode: "ui" };
const ui = { id: "openclaw-control-ui", mode: "webchat" };
const node = { id: "node-host", mode: "node" };
const test = { id: "test", mode: "test" };
const own = { origin: "http://127.0.0.1:$port" };
const step = (name, client, more = {}) => ({ name, client, auth: shared, scopes: ALL, ...more });
const call = (name, method, params, more = {}) => ({ name, call: method, params, ...more });

// The 38 experiments of the protocol notes, then what they leave open.
const matrix = [
  step("backend tok nodev all", backend),
  step("backend tok nodev none-scopes", backend, { scopes: null }),
  step("backend tok +dev all", backend, { device: "b" }),
  step("backend tok +dev read only", backend, { device: "b2", scopes: READ }),
  step("backend X-Forwarded-For tok nodev all", backend, { headers: { "x-forwarded-for": "1.2.3.4" } }),
  step("backend non-local Host tok nodev", backend, { headers: { host: "gateway.example" } }),
  step("backend non-local Host private 192.168 tok nodev", backend, { headers: { host: "192.168.1.9:18789" } }),
  step("backend with Origin tok nodev", backend, { headers: own }),
  step("backend x-openclaw-scopes: operator.read", backend, { headers: { "x-openclaw-scopes": "operator.read" } }),
  step("cli/cli tok nodev all", cli),
  step("cli/probe tok nodev all", { id: "cli", mode: "probe" }),
  step("tui/ui tok nodev all", tui),
  step("tui/ui tok dev all", tui, { device: "tui" }),
  step("webchat/webchat tok dev all no origin", { id: "webchat-ui", mode: "webchat" }, { device: "w" }),
  step("control-ui tok nodev w/ origin", ui, { headers: own }),
  step("control-ui tok dev w/ origin no buildId", ui, { headers: own, device: "ui1" }),
  step("control-ui tok dev w/ allowed other origin no buildId", ui, { headers: { origin: "https://ok.example" }, device: "ui2" }),
  step("control-ui tok dev bad origin", ui, { headers: { origin: "https://evil.example" }, device: "ui3" }),
  step("test/test tok dev", test, { device: "test" }),
  step("unknown client id", { id: "nope", mode: "cli" }),
  step("gateway-client/ui tok nodev", { id: "gateway-client", mode: "ui" }),
  step("node role tok dev", node, { role: "node", scopes: [], device: "node" }),
  step("proto 3-3 operator", backend, { min: 3, max: 3 }),
  step("proto 1-99", backend, { min: 1, max: 99 }),
  step("bad token nodev", backend, { auth: { token: "wrong" } }),
  step("no auth nodev", backend, { auth: undefined }),
  step("bad token dev", test, { auth: { token: "wrong" }, device: "test" }),
  step("v2 sig", test, { device: "v2", sig: { version: 2 }, scopes: READ }),
  step("bad sig", test, { device: "badsig", sig: { flip: true } }),
  step("password field carries token", backend, { auth: { password: "$shared" } }),
  step("role worker", backend, { role: "worker" }),
  step("role bogus", backend, { role: "bogus" }),
  step("tok", tui, { device: "dt", scopes: READ }),
  step("deviceToken same scopes", tui, { device: "dt", scopes: READ, auth: { deviceToken: "$token:dt" } }),
  step("deviceToken more scopes", tui, { device: "dt", scopes: ["operator.read", "operator.talk"], auth: { deviceToken: "$token:dt" } }),
  step("deviceToken via auth.token", tui, { device: "dt", scopes: READ, auth: { token: "$token:dt" } }),
  step("deviceToken no dev", tui, { scopes: READ, auth: { deviceToken: "$token:dt" } }),
  step("backend using deviceToken of tui", backend, { device: "dt", scopes: READ, auth: { deviceToken: "$token:dt" } }),
];

const more = [
  step("deviceToken of another device", tui, { device: "tui", scopes: READ, auth: { deviceToken: "$token:dt" } }),
  step("deviceToken wrong", tui, { device: "dt", scopes: READ, auth: { deviceToken: "wrong" } }),
  step("deviceToken wrong, right token", tui, { device: "dt", scopes: READ, auth: { token: "$shared", deviceToken: "wrong" } }),
  step("deviceToken right, wrong token", tui, { device: "dt", scopes: READ, auth: { token: "wrong", deviceToken: "$token:dt" } }),
  step("deviceToken asks too much", tui, { device: "dt", scopes: ALL, auth: { deviceToken: "$token:dt" } }),
  step("deviceToken of an unpaired device", test, { device: "stranger", scopes: READ, auth: { deviceToken: "wrong" } }),
  step("scope upgrade with the shared token", tui, { device: "dt", scopes: RW }),
  step("metadata upgrade platform", { ...tui, platform: "darwin" }, { device: "dt", scopes: READ }),
  step("metadata upgrade native app same family", { id: "openclaw-ios", mode: "ui", platform: "iOS 18.1", deviceFamily: "iPhone" }, { device: "ios", scopes: READ }),
  step("native app after a system update", { id: "openclaw-ios", mode: "ui", platform: "iOS 18.2", deviceFamily: "iPhone" }, { device: "ios", scopes: READ }),
  step("native app on another family", { id: "openclaw-ios", mode: "ui", platform: "iOS 18.2", deviceFamily: "iPad" }, { device: "ios", scopes: READ }),
  step("test client changes platform", { ...test, platform: "windows" }, { device: "test", scopes: READ }),
  step("role upgrade to node", node, { role: "node", scopes: [], device: "dt" }),
  step("node with operator scopes", node, { role: "node", scopes: READ, device: "node2" }),
  step("node without device", node, { role: "node", scopes: [] }),
  step("node protocol 3", node, { role: "node", scopes: [], device: "node3", min: 3, max: 3 }),
  step("probe protocol 3", { id: "openclaw-probe", mode: "probe" }, { min: 3, max: 3 }),
  step("protocol 5 only", backend, { min: 5, max: 9 }),
  step("copilot without caps", { id: "openclaw-browser-copilot", mode: "ui" }, { device: "co" }),
  step("copilot without extension origin", { id: "openclaw-browser-copilot", mode: "ui" }, { device: "co", caps: ["run-tool-bindings", "session-scoped-events"], headers: own }),
  step("copilot", { id: "openclaw-browser-copilot", mode: "ui" }, { device: "co", caps: ["run-tool-bindings", "session-scoped-events"], headers: { origin: "chrome-extension://abcdefghijklmnopabcdefghijklmnop" } }),
  step("id of another key", test, { device: "badid", sig: { fields: { id: "0".repeat(64) } } }),
  step("signature too old", test, { device: "old", sig: { skewMs: -130_000 } }),
  step("signature from the future", test, { device: "future", sig: { skewMs: 130_000 } }),
  step("nonce of another connection", test, { device: "nonce", sig: { nonce: "other" } }),
  step("blank nonce", test, { device: "nonce2", sig: { nonce: " " } }),
  step("public key as PEM", test, { device: "pem", sig: { pem: true }, scopes: READ }),
  step("garbage public key", test, { device: "garbage", sig: { fields: { publicKey: "%%%" } } }),
  step("bootstrap token unknown", test, { device: "boot", scopes: READ, auth: { bootstrapToken: "nope" } }),
  step("bootstrap token and the shared token", test, { device: "boot", scopes: READ, auth: { token: "$shared", bootstrapToken: "nope" } }),
  step("empty token", backend, { auth: { token: "" } }),
  step("blank token", cli, { auth: { token: "  " } }),
  step("token with blanks around", backend, { auth: { token: " $shared " } }),
  step("cli wrong token", cli, { auth: { token: "wrong" } }),
  step("cli wrong password", cli, { auth: { password: "wrong" } }),
  step("control ui wrong token", ui, { auth: { token: "wrong" }, headers: own, device: "ui4" }),
  step("control ui dev build", { ...ui, buildId: "dev" }, { headers: own, device: "ui5" }),
  step("null origin", ui, { headers: { origin: "null" }, device: "ui6" }),
  step("backend device token unpaired", backend, { device: "b3", scopes: READ, auth: { deviceToken: "nope" } }),
  step("agent runtime identity token", backend, { auth: { token: "$shared", agentRuntimeIdentityToken: "nope" } }),
  step("agent runtime identity token from the cli", cli, { auth: { token: "$shared", agentRuntimeIdentityToken: "nope" } }),
  step("webchat-ui with own origin", { id: "webchat-ui", mode: "webchat" }, { headers: own, device: "wc", scopes: READ }),
  step("webchat-ui with its token", { id: "webchat-ui", mode: "webchat" }, { headers: own, device: "wc", scopes: READ, auth: { deviceToken: "$token:wc" } }),
  step("macos app silently paired", { id: "openclaw-macos", mode: "ui", platform: "macos 15.1", displayName: "Mac" }, { device: "mac", scopes: RW }),
  step("unknown scope names", test, { device: "odd", scopes: ["operator.read", "nonsense"] }),
  step("scopes empty", test, { device: "none", scopes: [] }),
  step("a web page guesses 1", test, { headers: { origin: "http://localhost:9" }, auth: { token: "g1" } }),
  ...Array.from({ length: 9 }, (_, n) => step(`a web page guesses ${n + 2}`, test, { headers: { origin: "http://localhost:9" }, auth: { token: `g${n}` } })),
  step("a web page is locked out", test, { headers: { origin: "http://localhost:9" }, auth: { token: "g" } }),
  step("even with the right token", test, { headers: { origin: "http://localhost:9" } }),
  step("adding a device token does not unlock", test, { headers: { origin: "http://localhost:9" }, device: "page", auth: { token: "g", deviceToken: "x" } }),
  step("another page is not locked", test, { headers: { origin: "http://localhost:8" } }),
];

const devices = [
  step("asks", test, { device: "one", scopes: RW }),
  step("asks again", test, { device: "one", scopes: READ }),
  step("asks for more", test, { device: "one", scopes: [...RW, "operator.pairing"] }),
  step("a control ui asks", ui, { headers: { origin: "https://ok.example" }, device: "page", scopes: READ }),
  step("a node asks", node, { role: "node", scopes: [], device: "knot" }),
  step("backend needs no pairing", backend, { device: "bk" }),
  call("list", "device.pair.list", {}),
  call("approve unknown", "device.pair.approve", { requestId: "nope" }),
  call("approve bad params", "device.pair.approve", { id: 1 }),
  call("approve", "device.pair.approve", { requestId: "$request:one" }),
  call("approve twice", "device.pair.approve", { requestId: "$request:one" }),
  call("reject", "device.pair.reject", { requestId: "$request:page" }),
  call("reject unknown", "device.pair.reject", { requestId: "nope" }),
  call("approve the node", "device.pair.approve", { requestId: "$request:knot" }),
  step("connects", test, { device: "one", scopes: RWP }),
  step("connects with its token", test, { device: "one", scopes: RWP, auth: { deviceToken: "$token:one" }, keep: "one" }),
  call("own list", "device.pair.list", {}, { as: "one" }),
  call("own rotation", "device.token.rotate", { deviceId: "$device:one", role: "operator" }, { as: "one" }),
  step("old token after rotation", test, { device: "one", scopes: RW, auth: { deviceToken: "$token:one" } }),
  step("rotated token", test, { device: "one", scopes: RWP, auth: { deviceToken: "$rotated" }, keep: "one" }),
  call("cannot rotate another", "device.token.rotate", { deviceId: "$device:knot", role: "node" }, { as: "one" }),
  call("cannot mint admin", "device.token.rotate", { deviceId: "$device:one", role: "operator", scopes: ["operator.admin"] }, { as: "one" }),
  call("cannot rename another", "device.pair.rename", { deviceId: "$device:knot", label: "x" }, { as: "one" }),
  call("cannot remove another", "device.pair.remove", { deviceId: "$device:knot" }, { as: "one" }),
  call("own rename", "device.pair.rename", { deviceId: "$device:one", label: " desk " }, { as: "one" }),
  call("rename too long", "device.pair.rename", { deviceId: "$device:one", label: "x".repeat(65) }),
  call("rename blank", "device.pair.rename", { deviceId: "$device:one", label: "  " }),
  call("rename unknown", "device.pair.rename", { deviceId: "nope", label: "x" }),
  call("upgrade unknown scope", "device.scopes.requestUpgrade", { scopes: ["operator.nope", ...RW] }, { as: "one" }),
  call("upgrade less than it has", "device.scopes.requestUpgrade", { scopes: ["operator.approvals"] }, { as: "one" }),
  call("upgrade twice the same", "device.scopes.requestUpgrade", { scopes: ["operator.read", "operator.read"] }, { as: "one" }),
  call("upgrade", "device.scopes.requestUpgrade", { scopes: [...RW, "operator.pairing", "operator.approvals"] }, { as: "one" }),
  call("upgrade without a device", "device.scopes.requestUpgrade", { scopes: ALL }),
  call("upgrade wait of another", "device.scopes.waitUpgrade", { requestId: "nope" }, { as: "one" }),
  call("upgrade approved", "device.pair.approve", { requestId: "$upgrade" }),
  call("upgrade wait", "device.scopes.waitUpgrade", { requestId: "$upgrade" }, { as: "one" }),
  call("rotate narrower", "device.token.rotate", { deviceId: "$device:one", role: "operator", scopes: READ }),
  step("narrower token asks for more", test, { device: "one", scopes: RW, auth: { deviceToken: "$token:one" } }),
  step("shared token gets a token again", test, { device: "one", scopes: RW }),
  call("rotate outside", "device.token.rotate", { deviceId: "$device:one", role: "operator", scopes: ["operator.talk.secrets"] }),
  call("rotate unknown role", "device.token.rotate", { deviceId: "$device:one", role: "node" }),
  call("rotate unknown device", "device.token.rotate", { deviceId: "nope", role: "operator" }),
  call("revoke", "device.token.revoke", { deviceId: "$device:one", role: "operator" }),
  step("revoked token", test, { device: "one", scopes: RW, auth: { deviceToken: "$token:one" } }),
  step("revoked device with the shared token", test, { device: "one", scopes: RW }),
  call("list after all", "device.pair.list", {}),
  call("remove", "device.pair.remove", { deviceId: "$device:one" }),
  call("remove twice", "device.pair.remove", { deviceId: "$device:one" }),
  step("removed device", test, { device: "one", scopes: READ }),
  step("scope upgrade needs approval", test, { device: "two", scopes: READ }),
  call("approve two", "device.pair.approve", { requestId: "$request:two" }),
  step("two connects", test, { device: "two", scopes: READ }),
  step("two wants more", test, { device: "two", scopes: RW }),
  step("two changed platform", { ...test, platform: "windows" }, { device: "two", scopes: READ }),
  step("two as a node", node, { role: "node", scopes: [], device: "two" }),
  step("two through a page", test, { device: "two", scopes: READ, headers: { origin: "https://ok.example" } }),
];

const groups = [
  { name: "token", gateway: { controlUi: { allowedOrigins: ["https://ok.example"] } }, steps: [...matrix, ...more] },
  { name: "no-auto-approve", gateway: { controlUi: { allowedOrigins: ["https://ok.example"] }, nodes: { pairing: { autoApproveLocal: false } } }, steps: devices },
  { name: "password", gateway: { auth: { mode: "password", password: TOKEN } }, steps: [
    step("password", backend, { auth: { password: "$shared" } }),
    step("password in the token field", backend),
    step("wrong password", cli, { auth: { password: "wrong" } }),
    step("wrong password with a device", test, { device: "p", auth: { password: "wrong" } }),
    step("nothing", cli, { auth: undefined }),
    step("nothing with a device", test, { device: "p", auth: undefined }),
    step("device", test, { device: "p", auth: { password: "$shared" }, scopes: READ }),
    step("its token", test, { device: "p", auth: { deviceToken: "$token:p" }, scopes: READ }),
    step("its token in the token field", test, { device: "p", auth: { token: "$token:p" }, scopes: READ }),
  ] },
  { name: "none", gateway: { auth: { mode: "none" } }, steps: [
    step("backend", backend, { auth: undefined }),
    step("cli", cli, { auth: undefined }),
    step("cli with a token", cli),
    step("tui without device", tui, { auth: undefined }),
    step("tui", tui, { auth: undefined, device: "t", scopes: RW }),
    step("tui again", tui, { auth: undefined, device: "t", scopes: ALL }),
    step("control ui", ui, { auth: undefined, device: "u", headers: own, scopes: RW }),
    step("test", test, { auth: undefined, device: "x", scopes: READ }),
    step("test wants more", test, { auth: undefined, device: "x", scopes: RW }),
    step("page", test, { auth: undefined, device: "x", scopes: READ, headers: own }),
    step("node", node, { auth: undefined, role: "node", scopes: [], device: "n" }),
  ] },
  { name: "trusted-proxy", gateway: {
      trustedProxies: ["127.0.0.1"],
      auth: { mode: "trusted-proxy", trustedProxy: { userHeader: "x-user", requiredHeaders: ["x-must"], allowLoopback: true, allowUsers: ["ann@example.org", "bob"], deviceAutoApprove: { enabled: true, scopes: RW } }, identityScopes: { "Ann@Example.org": ["operator.approvals"] } },
    }, steps: (() => {
      const proxied = (more = {}) => ({ "x-forwarded-for": "203.0.113.5", "x-must": "1", "x-user": "ann@example.org", ...more });
      const off = { auth: undefined };
      return [
        step("no headers", backend, off),
        step("backend", backend, { ...off, headers: proxied() }),
        step("missing user", cli, { ...off, headers: proxied({ "x-user": "" }) }),
        step("missing required", cli, { ...off, headers: proxied({ "x-must": "" }) }),
        step("user not allowed", cli, { ...off, headers: proxied({ "x-user": "eve" }) }),
        step("node missing required", node, { ...off, role: "node", scopes: [], device: "n", headers: proxied({ "x-must": "" }) }),
        step("loopback client", backend, { ...off, headers: proxied({ "x-forwarded-for": "127.0.0.1" }) }),
        step("control ui without device", ui, { ...off, headers: proxied({ origin: "http://127.0.0.1:$port" }) }),
        step("tui without device", tui, { ...off, headers: proxied() }),
        step("tui with device", tui, { ...off, device: "t", headers: proxied() }),
        step("macos app auto-approved", { id: "openclaw-macos", mode: "ui", platform: "macos 15.1" }, { ...off, device: "m", scopes: ALL, headers: proxied() }),
        step("macos app again", { id: "openclaw-macos", mode: "ui", platform: "macos 15.1" }, { ...off, device: "m", scopes: ALL, headers: proxied() }),
        step("macos app of bob", { id: "openclaw-macos", mode: "ui", platform: "macos 15.1" }, { ...off, device: "m2", scopes: READ, headers: proxied({ "x-user": "bob" }) }),
        step("macos app of bob upgraded", { id: "openclaw-macos", mode: "ui", platform: "macos 15.1" }, { ...off, device: "m2", scopes: RW, headers: proxied({ "x-user": "bob" }) }),
        step("capped", backend, { ...off, headers: proxied({ "x-openclaw-scopes": "operator.read" }) }),
        step("password instead", backend, { auth: { password: "x" } }),
      ];
    })() },
  { name: "remote", gateway: { trustedProxies: ["127.0.0.1"], nodes: { pairing: { autoApproveCidrs: ["203.0.113.0/24"], sshVerify: false } } }, steps: (() => {
      const remote = (ip = "203.0.113.9", more = {}) => ({ headers: { "x-forwarded-for": ip, ...more } });
      return [
        step("backend nodev", backend, remote()),
        step("cli nodev", cli, remote()),
        step("cli wrong token", cli, { ...remote(), auth: { token: "wrong" } }),
        step("no auth", cli, { ...remote(), auth: undefined }),
        step("test dev", test, { ...remote(), device: "r", scopes: READ }),
        step("backend dev", backend, { ...remote(), device: "rb", scopes: READ }),
        step("node from a listed range behind loopback", node, { ...remote(), role: "node", scopes: [], device: "rn" }),
        step("real ip header only", cli, { headers: { "x-real-ip": "203.0.113.9" } }),
        step("ui same origin public", ui, { ...remote("203.0.113.9", { host: "g.example", origin: "https://g.example" }), device: "ru", scopes: READ }),
        step("ui same origin private", ui, { ...remote("203.0.113.9", { host: "192.168.1.4:18789", origin: "http://192.168.1.4:18789" }), device: "ru", scopes: READ }),
        ...Array.from({ length: 10 }, (_, n) => step(`guess ${n}`, cli, { ...remote("198.51.100.7"), auth: { token: `g${n}` } })),
        step("locked out", cli, remote("198.51.100.7")),
        step("the mapped spelling is the same client", cli, remote("::ffff:198.51.100.7")),
        step("a neighbour is not", cli, remote("198.51.100.8")),
        ...Array.from({ length: 10 }, (_, n) => step(`device guess ${n}`, test, { ...remote("198.51.100.9"), device: "dg", scopes: READ, auth: { deviceToken: `g${n}` } })),
        step("device guesses locked out", test, { ...remote("198.51.100.9"), device: "dg", scopes: READ, auth: { deviceToken: "g" } }),
      ];
    })() },
];

const VOLATILE = new Set(["ts", "issuedAtMs", "createdAtMs", "approvedAtMs", "lastSeenAtMs", "rotatedAtMs", "revokedAtMs", "lastUsedAtMs", "retryAfterMs", "gatewayBuildId"]);

async function record(group) {
  const { auth, ...gateway } = group.gateway;
  const target = await startOriginal({ config: { gateway: { ...gateway, ...(auth ? { auth } : {}) } } });
  const names = new Map(); // text on the wire → placeholder
  const values = new Map(); // placeholder → text on the wire
  const name = (placeholder, text) => { names.set(text, placeholder); values.set(placeholder, text); };
  name("$port", String(target.port));
  const devices = new Map();
  const device = (id) => {
    if (!devices.has(id)) {
      devices.set(id, new Device());
      name(`$device:${id}`, devices.get(id).id);
      name(`$key:${id}`, devices.get(id).publicKey);
    }
    return devices.get(id);
  };
  const fill = (value) => JSON.parse(JSON.stringify(value, (_, own) => {
    if (typeof own !== "string") return own;
    let text = own.replaceAll("$shared", TOKEN);
    for (const placeholder of [...values.keys()].sort((a, b) => b.length - a.length)) text = text.replaceAll(placeholder, values.get(placeholder));
    return text;
  }));
  const UUID = /\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b/g;
  const mask = (value) => JSON.parse(JSON.stringify(value, (key, own) => {
    if (VOLATILE.has(key)) return "$volatile";
    if (typeof own !== "string") return own;
    let text = own;
    for (const known of [...names.keys()].sort((a, b) => b.length - a.length)) text = text.replaceAll(known, names.get(known));
    return text.replace(UUID, "$uuid");
  }));
  let operator;
  const kept = new Map();
  const events = () => operator ? operator.frames.splice(0).filter((frame) => /^(device|node)\.pair\./.test(frame.event ?? "")).map(({ event, payload }) => ({ event, payload })) : [];
  const settled = async () => { if (operator) await operator.call("last-heartbeat", {}); };
  const steps = [];
  // Behind a proxy no operator can look on, so events are not seen.
  const bound = { trustedProxy: group.name === "trusted-proxy" };
  try {
    if (!bound.trustedProxy) {
      operator = await RawClient.open(target.wsUrl);
      const hello = await operator.connect(group.name === "none" ? {} : group.name === "password" ? { password: TOKEN } : { token: TOKEN });
      if (!hello.ok) throw new Error(JSON.stringify(hello));
    }
    for (const own of group.steps) {
      const result = own.call ? await runCall(own) : await runConnect(own);
      steps.push({ ...own, expect: result });
    }
  } finally {
    await target.stop();
  }
  return { name: group.name, gateway: group.gateway, steps };

  async function runCall(own) {
    const client = own.as ? kept.get(own.as) : operator;
    const answer = await client.call(own.call, fill(own.params), { timeoutMs: 30_000 });
    if (own.call === "device.token.rotate" && answer.payload?.token) name("$rotated", answer.payload.token);
    if (own.call === "device.scopes.requestUpgrade" && answer.ok) name("$upgrade", answer.payload.requestId);
    if (own.call === "device.scopes.waitUpgrade" && answer.ok) name("$upgraded", answer.payload.deviceToken);
    await settled();
    return mask({ ok: answer.ok, ...(answer.ok ? { payload: answer.payload } : { error: answer.error }), events: events() });
  }

  async function runConnect(own) {
    let client;
    try {
      client = await RawClient.open(target.wsUrl, { headers: fill(own.headers ?? {}) });
    } catch (error) {
      return mask({ http: error.status, body: error.body, events: events() });
    }
    const { payload: challenge } = await client.challenge();
    const info = { version: "2026.9.6", platform: "linux", ...own.client };
    const auth = own.auth ? fill(own.auth) : undefined;
    const params = { minProtocol: own.min ?? 4, maxProtocol: own.max ?? 4, client: info, caps: own.caps ?? [], ...(own.role ? { role: own.role } : {}), ...(own.scopes ? { scopes: own.scopes } : {}), ...(auth ? { auth } : {}) };
    if (own.device) {
      const sig = own.sig ?? {};
      const signer = device(own.device);
      signer.version = sig.version ?? 3;
      const token = auth?.token ?? auth?.deviceToken ?? auth?.bootstrapToken ?? "";
      const signed = signer.sign({ challenge, client: info, role: own.role ?? "operator", scopes: own.scopes ?? [], token, override: { ...(sig.skewMs ? { signedAt: challenge.ts + sig.skewMs } : {}), ...(sig.nonce ? { nonce: sig.nonce } : {}) } });
      if (sig.flip) signed.signature = crypto.randomBytes(64).toString("base64url");
      if (sig.pem) signed.publicKey = crypto.createPublicKey(signer.privateKey).export({ type: "spki", format: "pem" });
      params.device = { ...signed, ...sig.fields };
    }
    let answer;
    try {
      answer = await client.call("connect", params, { timeoutMs: 40_000 });
    } catch (error) {
      if (!error.close) throw error;
    }
    if (answer?.ok) {
      const shown = answer.payload.auth;
      const same = shown.deviceToken ? { sameToken: values.get(`$token:${own.device}`) === shown.deviceToken } : {};
      if (shown.deviceToken) name(`$token:${own.device}`, shown.deviceToken);
      // Made from the token, or from a profile id that is the original's own.
      if ((own.device || bound.trustedProxy) && shown.recoveryScope) shown.recoveryScope = "$volatile";
      if (own.keep) kept.set(own.keep, client);
      else { client.socket.close(1000); await client.closed; }
      await settled();
      return mask({ ok: true, ...same, auth: shown, events: events() });
    }
    const close = await client.closed;
    const request = answer?.error?.details?.requestId;
    if (request) name(`$request:${own.device}`, request);
    await settled();
    const shown = mask({ ok: false, ...(answer ? { error: answer.error } : {}), close, events: events() });
    // A close reason is cut at 120 bytes, sometimes inside the request id.
    shown.close.reason = shown.close.reason.replace(/requestId: [0-9a-f-]+$/, "requestId: $cut");
    return shown;
  }
}

const only = process.argv.slice(2);
const file = path.join(here, "handshakes.json");
const recorded = only.length ? JSON.parse(fs.readFileSync(file, "utf8")) : [];
for (const group of groups.filter(({ name }) => !only.length || only.includes(name))) {
  console.error(`recording ${group.name} (${group.steps.length} steps)`);
  const result = await record(group);
  const at = recorded.findIndex(({ name }) => name === group.name);
  if (at < 0) recorded.push(result);
  else recorded[at] = result;
}
const lines = recorded.map(({ steps, ...rest }) => `${JSON.stringify(rest).slice(0, -1)},"steps":[\n${steps.map((own) => JSON.stringify(own)).join(",\n")}\n]}`);
fs.writeFileSync(file, `[\n${lines.join(",\n")}\n]\n`);
process.exit(0);
