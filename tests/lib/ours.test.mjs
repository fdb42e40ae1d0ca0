// Ours in front of the original: the harness again, through us.
import assert from "node:assert/strict";
import { test } from "node:test";
import { startOriginal, startOurs, TOKEN } from "./gateway.mjs";
import { Device, RawClient } from "./raw.mjs";

test("ours relays a backend client, a signed device and a node", async (t) => {
  const original = await startOriginal();
  t.after(() => original.stop());
  const ours = await startOurs({ upstream: { attach: original } });
  t.after(() => ours.stop());
  const backend = await RawClient.open(ours.wsUrl);
  const hello = await backend.connect({ token: TOKEN });
  assert.equal(hello.payload?.type, "hello-ok", JSON.stringify(hello));
  assert.equal((await backend.call("health")).ok, true);
  assert.equal((await backend.call("sessions.list", { limit: 5 })).ok, true);
  const signed = await RawClient.open(ours.wsUrl);
  const paired = await signed.connect({ token: TOKEN, client: { id: "test", mode: "test" }, device: new Device() });
  assert.equal(typeof paired.payload?.auth.deviceToken, "string", JSON.stringify(paired));
  const node = await RawClient.open(ours.wsUrl);
  const asNode = await node.connect({ token: TOKEN, role: "node", scopes: [], client: { id: "node-host", mode: "node" }, device: new Device() });
  assert.equal(asNode.payload?.auth.role, "node", JSON.stringify(asNode));
  const wrong = await RawClient.open(ours.wsUrl);
  const refused = await wrong.connect({ token: "nope" });
  assert.equal(refused.error.details.code, "AUTH_TOKEN_MISMATCH");
  assert.equal((await wrong.closed).code, 1008);
  assert.equal((await fetch(`${ours.url}/`)).headers.get("content-type"), "text/html; charset=utf-8");
});
