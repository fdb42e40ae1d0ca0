// What a service manager sees of us, over a real datagram socket, and what a second signal does.
import assert from "node:assert/strict";
import path from "node:path";
import test from "node:test";
import { Child } from "../lib/child.mjs";
import { startOurs, TOKEN } from "../lib/gateway.mjs";
import { RawClient } from "../lib/raw.mjs";
import { tempDir, until } from "../lib/tools.mjs";

// Node has no datagram sockets of this family.
const MANAGER = `
import json, socket, sys
manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
manager.bind(sys.argv[1])
print("bound", flush=True)
while True:
    print(json.dumps(manager.recv(4096).decode()), flush=True)
`;

test("ready when it serves, alive meanwhile, stopping at the first signal; the second stops at once", async (t) => {
  const socket = path.join(tempDir("life"), "notify");
  const manager = new Child("python3", ["-c", MANAGER, socket], { env: process.env });
  t.after(() => manager.stop());
  await until("the socket", () => manager.output.includes("bound"));
  const heard = (word) => manager.output.split("\n").filter((line) => line.startsWith(`"${word}=1`)).length;

  const ours = await startOurs({ env: { NOTIFY_SOCKET: socket, WATCHDOG_USEC: "200000" } });
  t.after(() => ours.stop());
  await until("READY", () => heard("READY") === 1);
  await until("three signs of life", () => heard("WATCHDOG") >= 3);
  assert.equal(heard("STOPPING"), 0);

  // A client that does not answer its close keeps a stop waiting for the whole grace.
  const client = await RawClient.open(ours.wsUrl);
  assert.equal((await client.connect({ token: TOKEN })).ok, true);
  client.socket.pause();
  // Two kinds, since two pending signals of one kind are one.
  ours.child.kill("SIGTERM");
  ours.child.kill("SIGINT");
  assert.deepEqual(await ours.child.waitExit(), { code: 130, signal: null });
  assert.match(ours.child.output, /a second signal: stopping at once/);
  client.socket.terminate();

  await ours.restart();
  await until("READY again", () => heard("READY") === 2);
  // What the first one said has come before that.
  const before = heard("STOPPING");
  assert.deepEqual(await ours.child.stop(), { code: 0, signal: null });
  await until("STOPPING", () => heard("STOPPING") === before + 1);
});
