// `upstream.memory_max_mib`: a real OpenClaw that holds more than it may is drained and started anew while clients stay.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { metricsOf, startOurs, TOKEN } from "../lib/gateway.mjs";
import { RawClient } from "../lib/raw.mjs";
import { gatewayBinary, until } from "../lib/tools.mjs";

const MIB = 2 ** 20;

test("past its ceiling it is started anew, its clients stay, and status, log and metrics say so", async (t) => {
  const ours = await startOurs({ upstream: "supervise", toml: "hold_s = 300" });
  t.after(() => ours.stop());
  const cli = (...args) => execFileSync(gatewayBinary(), ["upstream", ...args], { env: ours.env, cwd: ours.stateDir, encoding: "utf8" });
  const status = () => JSON.parse(cli("status", "--json"));
  const metrics = await metricsOf(ours);
  const metric = async (name) => Number(new RegExp(`^${name} (\\S+)$`, "m").exec(await (await fetch(metrics)).text())[1]);

  // As the kernel has it, by another program: the group is its own, so all that it started is in it. While it grows, two looks see
  // two sizes.
  const first = await until("what is told to be what ps sees", () => {
    const now = status();
    const table = execFileSync("ps", ["-e", "-o", "pgid=,rss="], { encoding: "utf8" }).trim().split("\n").map((line) => line.trim().split(/\s+/).map(Number));
    const resident = table.filter(([group]) => group === now.pid).reduce((sum, [, kib]) => sum + kib * 1024, 0);
    assert.ok(Math.abs(now.memory.resident - resident) < resident / 4, `${now.memory.resident} told, ${resident} by ps`);
    return now;
  }, { everyMs: 200 });
  assert.deepEqual([first.memory.max, first.memory.restarts, await metric("openclaw_rs_upstream_memory_max_bytes")], [0, 0, 0]);
  assert.match(cli("status"), /^memory {3}\d+ MiB in \d+ processes$/m);

  const client = await RawClient.open(ours.wsUrl);
  assert.equal((await client.connect({ token: TOKEN })).ok, true);

  // A ceiling below what it holds, while it runs.
  const own = path.join(ours.stateDir, "openclaw-rs/openclaw-gateway.toml");
  const good = fs.readFileSync(own, "utf8");
  const limit = (mib) => fs.writeFileSync(own, good.replace("[upstream]", `[upstream]\nmemory_max_mib = ${mib}`));
  limit(64);
  const during = until("it to go", () => status().pid !== first.pid).then(() => client.call("sessions.create", { label: "meanwhile" }, { timeoutMs: 300_000 }));
  await until("it to be stopped for it", async () => (await metric("openclaw_rs_upstream_memory_restarts_total")) >= 1);
  limit(8192);
  const second = await until("the next one", () => {
    const now = status();
    return now.pid !== first.pid && now.memory?.max === 8192 * MIB && now;
  });
  assert.ok(!fs.existsSync(`/proc/${first.pid}`), "the old one is gone");
  assert.ok(second.starts >= 2 && second.memory.restarts >= 1, JSON.stringify(second));
  assert.equal((await during).ok, true, JSON.stringify((await during).error));
  assert.equal((await client.call("sessions.list", { limit: 1 })).ok, true);
  assert.equal(client.close_, undefined, "our client stayed");
  assert.match(cli("status"), /^memory {3}\d+ MiB in \d+ processes; ceiling 8192 MiB, started anew for it \d+ times$/m);
  const told = () => ours.child.output.split("\n").filter((line) => line.includes("past upstream.memory_max_mib"));
  await until("a line for each", () => told().length >= second.memory.restarts);
  const lines = told();
  assert.equal(lines.length, second.memory.restarts, lines.join("\n"));
  assert.match(lines[0], /held \d+ MiB in \d+ processes, past upstream\.memory_max_mib = 64/);
  await client.end();
});
