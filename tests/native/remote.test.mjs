// `[upstream] mode = "attach"` with a TypeScript gateway on another machine: over TLS, by this machine's address in its
// network, where that gateway sees a client from elsewhere; as a device that somebody approves there.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import crypto from "node:crypto";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import test, { after, before } from "node:test";
import { promisify } from "node:util";
import { startOriginal, startOurs, TOKEN } from "../lib/gateway.mjs";
import { RawClient } from "../lib/raw.mjs";
import { nodeBinary, openclawEntry, tempDir, until } from "../lib/tools.mjs";

const run = promisify(execFile);

/** An address of this machine that is not loopback, as another machine would use it. */
const address = Object.values(os.networkInterfaces()).flat().find(({ internal, family }) => !internal && family === "IPv4")?.address;

async function elsewhere() {
  const original = await startOriginal({
    config: { gateway: { bind: "lan", tls: { enabled: true }, controlUi: { enabled: false }, auth: { mode: "token", token: TOKEN } } },
    waitReady: false,
  });
  const pem = path.join(original.stateDir, "gateway/tls/gateway-cert.pem");
  await until("its certificate", () => fs.existsSync(pem) && /\[gateway\] ready/.test(original.child.output), { timeoutMs: 120_000 });
  const fingerprint = new crypto.X509Certificate(fs.readFileSync(pem)).fingerprint256;
  return { original, pem, fingerprint };
}

let there;
before(async () => {
  assert.ok(address, "this machine has no address but loopback");
  there = await elsewhere();
}, { timeout: 180_000 });
after(() => there?.original.stop());

const attach = ({ original, fingerprint }, more = "") => ({
  upstream: "attach",
  toml: `url = "wss://${address}:${original.port}"\ntoken = "${TOKEN}"\n${fingerprint ? `tls_fingerprint = "${fingerprint}"\n` : ""}${more}`,
});

test("another certificate, and a secret in the clear, are refused", async (t) => {
  const other = await startOurs({ ...attach({ ...there, fingerprint: "00".repeat(32) }), waitReady: false });
  t.after(() => other.stop());
  await until("the complaint", () => /another certificate than the one of upstream\.tls_fingerprint/.test(other.child.output));
  assert.notEqual((await fetch(`${other.url}/readyz`)).status, 200);

  const plain = await startOurs({ upstream: "attach", toml: `url = "ws://${address}:${there.original.port}"\ntoken = "${TOKEN}"`, waitReady: false });
  t.after(() => plain.stop());
  assert.equal((await plain.child.waitExit()).code, 78);
  assert.match(plain.child.output, /in the clear.*wss:\/\//s);
});

test("a gateway elsewhere lets us in once our device is approved there, and serves our clients", async (t) => {
  const cli = (...args) => run(nodeBinary, ["--no-warnings", openclawEntry, ...args], { env: there.original.env });

  // Nobody has approved anything: the start fails and says what to do there.
  const stateDir = tempDir("ours");
  const first = await startOurs({ ...attach(there), stateDir, waitReady: false });
  t.after(() => first.stop());
  assert.equal((await first.child.waitExit()).code, 78);
  const asked = /does not know this gateway's device yet .* openclaw devices approve (\S+)/.exec(first.child.output);
  assert.ok(asked, first.child.output);
  await cli("devices", "approve", asked[1]);

  first.spawn();
  await until("ours to be ready with it", async () => {
    assert.ok(!first.child.exit, first.child.output);
    return (await fetch(`${first.url}/readyz`)).status === 200;
  });
  const client = await RawClient.open(first.wsUrl);
  const hello = await client.connect({ token: TOKEN, scopes: ["operator.read", "operator.write", "operator.admin"] });
  assert.ok(hello.ok, JSON.stringify(hello));
  const models = await until("a bridged answer", async () => {
    const answer = await client.call("models.list", {});
    return answer.ok && answer;
  });
  assert.ok(Array.isArray(models.payload.models), JSON.stringify(models));

  // Scopes go no further there than here.
  const reader = await RawClient.open(first.wsUrl);
  assert.ok((await reader.connect({ token: TOKEN, scopes: ["operator.read"] })).ok);
  assert.equal((await reader.call("sessions.reset", { key: "main" })).ok, false);
  assert.ok((await reader.call("sessions.list", { limit: 1 })).ok);

  // HTTP goes the same way, with its own secret.
  const proxied = await fetch(`${first.url}/tools/invoke`, { method: "POST", headers: { authorization: `Bearer ${TOKEN}`, "content-type": "application/json" }, body: JSON.stringify({ tool: "session_status", args: {} }) });
  assert.ok([200, 404].includes(proxied.status), `${proxied.status} ${await proxied.text()}`);

  // It goes and comes: our client stays.
  await there.original.child.stop();
  there.original.spawn();
  await until("a bridged answer after its restart", async () => (await client.call("models.list", {})).ok, { timeoutMs: 120_000 });
  assert.equal(client.close_, undefined);
  for (const one of [client, reader]) one.socket.terminate();
});
