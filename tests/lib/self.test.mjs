// The harness itself, against the original: it starts, greets and answers.
import assert from "node:assert/strict";
import { test } from "node:test";
import { startOriginal, TOKEN } from "./gateway.mjs";
import { Device, RawClient } from "./raw.mjs";

test("the original starts, says hello to a backend client and to a signed device", async (t) => {
  const original = await startOriginal();
  t.after(() => original.stop());
  const backend = await RawClient.open(original.wsUrl);
  const hello = await backend.connect({ token: TOKEN });
  assert.equal(hello.payload?.type, "hello-ok", JSON.stringify(hello));
  assert.equal((await backend.call("health")).ok, true);
  const signed = await RawClient.open(original.wsUrl);
  const paired = await signed.connect({ token: TOKEN, client: { id: "test", mode: "test" }, device: new Device() });
  assert.equal(typeof paired.payload?.auth.deviceToken, "string", JSON.stringify(paired));
});
