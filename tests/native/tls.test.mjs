// `gateway.tls`: a pair is made where there is none, renewed while connections stand, and the unmodified command line finds
// its way in. The same steps on the original and on ours.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import crypto from "node:crypto";
import fs from "node:fs";
import https from "node:https";
import path from "node:path";
import test from "node:test";
import tls from "node:tls";
import { promisify } from "node:util";
import { startOriginal, startOurs, TOKEN } from "../lib/gateway.mjs";
import { RawClient } from "../lib/raw.mjs";
import { gatewayBinary, nodeBinary, openclawEntry, until } from "../lib/tools.mjs";

const run = promisify(execFile);
const GATEWAY = { tls: { enabled: true } };
const pair = (target) => ["gateway-cert.pem", "gateway-key.pem"].map((name) => path.join(target.stateDir, "gateway/tls", name));

/** The certificate that a new connection is shown, and the protocol it speaks. */
function shown(target, options = {}) {
  return new Promise((resolve, reject) => {
    const socket = tls.connect({ port: target.port, host: "127.0.0.1", rejectUnauthorized: false, ...options }, () => {
      resolve({ protocol: socket.getProtocol(), fingerprint: socket.getPeerCertificate().fingerprint256 });
      socket.destroy();
    });
    socket.once("error", reject);
  });
}

function secure(start) {
  return async (options = {}) => {
    const target = await start({ config: { gateway: GATEWAY }, waitReady: false, ...options });
    target.wsUrl = `wss://127.0.0.1:${target.port}`;
    await until("the port to speak TLS", async () => {
      assert.equal(target.child.exit, null, target.child.output);
      return shown(target);
    }, { timeoutMs: 90_000 });
    return target;
  };
}

const open = async (target) => {
  const client = await RawClient.open(target.wsUrl, { agent: new https.Agent({ rejectUnauthorized: false }) });
  assert.equal((await client.connect({ token: TOKEN })).ok, true);
  return client;
};

/** openssl is what makes pairs that nobody here wrote. */
async function replace(target) {
  const [certificate, key] = pair(target);
  const [newCertificate, newKey] = [`${certificate}.new`, `${key}.new`];
  await run("openssl", ["req", "-x509", "-newkey", "rsa:2048", "-days", "2", "-nodes", "-subj", "/CN=renewed", "-keyout", newKey, "-out", newCertificate]);
  fs.renameSync(newKey, key);
  fs.renameSync(newCertificate, certificate);
  return new crypto.X509Certificate(fs.readFileSync(certificate)).fingerprint256;
}

const sides = { original: secure(startOriginal), ours: secure(startOurs) };
for (const [name, start] of Object.entries(sides)) {
  test(`${name}: makes a pair, is found by the command line, serves a renewed pair`, async (t) => {
    const target = await start();
    t.after(() => target.stop());
    const files = pair(target);
    for (const file of files) assert.equal(fs.statSync(file).mode & 0o777, 0o600, file);
    const made = new crypto.X509Certificate(fs.readFileSync(files[0]));
    assert.equal(made.subject, "CN=openclaw-gateway");
    const days = (made.validToDate - made.validFromDate) / 86_400_000;
    assert.ok(days >= 3650 && days <= 3652, `${days} days`);
    assert.deepEqual(await shown(target), { protocol: "TLSv1.3", fingerprint: made.fingerprint256 });
    await assert.rejects(shown(target, { maxVersion: "TLSv1.2" }), /protocol version|alert/);

    const health = await run(nodeBinary, [openclawEntry, "gateway", "call", "health", "--json"], { env: target.env, cwd: target.stateDir });
    assert.equal(JSON.parse(health.stdout.slice(health.stdout.indexOf("{"))).ok, true);

    const client = await open(target);
    const renewed = await replace(target);
    await until("the renewed certificate", async () => (await shown(target)).fingerprint === renewed);
    assert.equal((await client.call("health", {})).ok, true, "a connection that stood was cut");
    await client.end();
    await (await open(target)).end();
  });
}

test("half a pair stops the start, as with the original, and is left alone", async (t) => {
  const target = await sides.ours();
  t.after(() => target.stop());
  const [, key] = pair(target);
  await target.child.stop();
  fs.rmSync(key);
  target.spawn();
  const exit = await target.child.waitExit();
  assert.equal(exit.code, 78, target.child.output);
  assert.match(target.child.output, /gateway\.tls\.keyPath.*gateway-key\.pem is missing/s);
  assert.ok(!fs.existsSync(key), "the missing half was made");
});

test("our own command line accepts the gateway's certificate and no other", async (t) => {
  const target = await sides.ours();
  t.after(() => target.stop());
  const ask = (...args) => run(gatewayBinary(), args, { env: target.env, cwd: target.stateDir });
  assert.equal(JSON.parse((await ask("call", "health")).stdout).ok, true);
  assert.deepEqual(JSON.parse((await ask("messages", "list", "--json")).stdout).messages, []);
  assert.match(target.child.output, /wss:\/\/127\.0\.0\.1/);
  // Another certificate in the file than the one that is served: as when another program had taken the port.
  const [certificate] = pair(target);
  const [strange, key] = [path.join(target.stateDir, "strange.pem"), path.join(target.stateDir, "strange.key")];
  await run("openssl", ["req", "-x509", "-newkey", "rsa:2048", "-days", "2", "-nodes", "-subj", "/CN=strange", "-keyout", key, "-out", strange]);
  const served = (await shown(target)).fingerprint;
  fs.copyFileSync(strange, certificate);
  await assert.rejects(ask("call", "health"), /another certificate/);
  assert.equal((await shown(target)).fingerprint, served, "half a pair was taken");
});

test("with OpenClaw behind: the door is TLS and open to the network, the child's is neither", async (t) => {
  const target = await secure(startOurs)({ upstream: "supervise", config: { gateway: { ...GATEWAY, bind: "lan", controlUi: { allowedOrigins: ["https://allowed.example"] } } } });
  t.after(() => target.stop());
  const client = await open(target);
  await until("a bridged call to be answered", async () => (await client.call("sessions.list", { limit: 1 })).ok, { timeoutMs: 240_000 });
  const status = JSON.parse((await run(gatewayBinary(), ["upstream", "status", "--json"], { env: target.env, cwd: target.stateDir })).stdout);
  assert.match(status.address, /^127\.0\.0\.1:/);
  assert.equal((await fetch(`http://${status.address}/healthz`)).status, 200, "the child speaks TLS to us");
  const written = JSON.parse(fs.readFileSync(path.join(target.stateDir, "openclaw.json"), "utf8"));
  assert.deepEqual([written.gateway.bind, written.gateway.tls.enabled], ["lan", true], "the person's file was changed");
  await client.end();
});
