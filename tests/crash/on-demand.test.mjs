// OpenClaw as a child that is there only while somebody needs it.
import assert from "node:assert/strict";
import fs from "node:fs";
import { test } from "node:test";
import { startOurs, TOKEN } from "../lib/gateway.mjs";
import { RawClient } from "../lib/raw.mjs";
import { until } from "../lib/tools.mjs";

test("on_demand starts OpenClaw at the first call that needs it and stops it when idle, clients stay", async (t) => {
  const ours = await startOurs({ upstream: "supervise", toml: "on_demand = true\nidle_stop_s = 10" });
  t.after(() => ours.stop());
  const client = await RawClient.open(ours.wsUrl);
  const hello = await client.connect({ token: TOKEN });
  assert.equal(hello.payload?.type, "hello-ok", JSON.stringify(hello));
  assert.deepEqual(childrenOf(ours.child.pid), [], "nobody asked for it yet");
  const answered = (what) => until(`${what} to be answered`, async () => {
    const answer = await client.call("sessions.list", { limit: 1 }, { timeoutMs: 180_000 });
    return answer.ok && answer;
  }, { timeoutMs: 240_000, everyMs: 200 });
  assert.ok(Array.isArray((await answered("the first bridged call")).payload.sessions));
  assert.equal(childrenOf(ours.child.pid).length, 1);
  // Its own start-up work holds it at the first question; the next come as often as it may be idle.
  await until("the idle child to be stopped", () => childrenOf(ours.child.pid).length === 0, { timeoutMs: 240_000, everyMs: 200 });
  assert.equal(client.close_, undefined, "our client never noticed");
  await answered("the first call after the idle stop");
  assert.equal(childrenOf(ours.child.pid).length, 1);
  await client.end();
});

/** Direct children of a process, over all its threads. */
function childrenOf(pid) {
  return fs.readdirSync(`/proc/${pid}/task`).flatMap((task) => fs.readFileSync(`/proc/${pid}/task/${task}/children`, "utf8").trim().split(" ").filter(Boolean).map(Number));
}
