// The hybrid as `make run-with-openclaw` starts it: OpenClaw as our child.
import assert from "node:assert/strict";
import fs from "node:fs";
import { test } from "node:test";
import { startOurs, TOKEN } from "./gateway.mjs";
import { RawClient } from "./raw.mjs";
import { until } from "./tools.mjs";

test("a supervised OpenClaw starts, is restarted after a kill, and ends with us", async (t) => {
  const ours = await startOurs({ upstream: "supervise" });
  t.after(() => ours.stop());
  const client = await RawClient.open(ours.wsUrl);
  const hello = await client.connect({ token: TOKEN });
  assert.equal(hello.payload?.type, "hello-ok", JSON.stringify(hello));
  assert.ok(hello.payload.features.methods.length > 400, "the hello lists what the child serves");
  assert.equal((await client.call("sessions.list", { limit: 1 })).ok, true);

  const [first] = await until("the child", () => childrenOf(ours.child.pid));
  process.kill(first, "SIGKILL");
  await until("another child that answers", async () => {
    const [now] = childrenOf(ours.child.pid);
    return now !== undefined && now !== first && (await client.call("sessions.list", { limit: 1 })).ok;
  }, { timeoutMs: 90_000, everyMs: 200 });
  assert.equal(client.close_, undefined, "our client never noticed");

  const [second] = childrenOf(ours.child.pid);
  ours.child.kill("SIGTERM");
  const exit = await ours.child.waitExit();
  assert.deepEqual(exit, { code: 0, signal: null }, ours.child.output.slice(-2000));
  assert.throws(() => process.kill(second, 0), { code: "ESRCH" }, "the child is gone with us");
  assert.equal((await client.closed).code, 1012);
});

/** Direct children of a process, over all its threads. */
function childrenOf(pid) {
  return fs.readdirSync(`/proc/${pid}/task`).flatMap((task) => fs.readFileSync(`/proc/${pid}/task/${task}/children`, "utf8").trim().split(" ").filter(Boolean).map(Number));
}
