// What `/metrics` and `/api/diagnostics/prometheus` say, judged by promtool and by /proc.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import fs from "node:fs";
import { test } from "node:test";
import { metricsOf, startOurs, TOKEN } from "../lib/gateway.mjs";
import { RawClient } from "../lib/raw.mjs";
import { until } from "../lib/tools.mjs";

const PATH = "/api/diagnostics/prometheus";

/** The value of one series; fails when there is none. */
function value(text, series) {
  const line = text.split("\n").find((line) => line.startsWith(`${series} `));
  assert.ok(line, `no ${series}`);
  return Number(line.slice(series.length + 1));
}

const families = (text) => [...text.matchAll(/^# TYPE (\S+)/gm)].map(([, name]) => name).sort();

test("what is counted is what happened, and promtool finds nothing wrong with it", async (t) => {
  const ours = await startOurs();
  t.after(() => ours.stop());
  const metrics = await metricsOf(ours);
  const scrape = async () => (await fetch(metrics)).text();

  const before = await scrape();
  assert.equal(value(before, 'openclaw_gateway_rpc_requests_total{method="other"}'), 0, "there before it was ever called");
  assert.equal(value(before, 'openclaw_rs_websocket_closes_total{code="1006"}'), 0);
  assert.equal(value(before, 'openclaw_rs_messages_total{channel="webchat",what="dead"}'), 0);

  const client = await RawClient.open(ours.wsUrl);
  assert.equal((await client.connect({ token: TOKEN })).ok, true);
  for (let n = 0; n < 5; n += 1) assert.equal((await client.call("health", {})).ok, true);
  assert.equal((await client.call("no.such.method", {})).error.code, "INVALID_REQUEST");
  const denied = await RawClient.open(ours.wsUrl);
  assert.equal((await denied.connect({ token: "wrong" })).ok, false);
  await denied.closed;
  assert.equal((await fetch(`${ours.url}${PATH}`)).status, 401);

  // The client knows of the end of a connection before it is counted.
  const during = await until("the refused one's end to be counted", async () => {
    const text = await scrape();
    return value(text, 'openclaw_rs_websocket_closes_total{code="1008"}') > 0 && text;
  });
  assert.equal(value(during, "openclaw_rs_connections"), 1);
  assert.equal(value(during, 'openclaw_gateway_rpc_requests_total{method="health"}'), 5);
  const series = 'openclaw_gateway_rpc_first_response_seconds';
  assert.equal(value(during, `${series}_count{method="health",owner="native"}`), 5);
  assert.equal(value(during, `${series}_bucket{method="health",owner="native",le="+Inf"}`), 5);
  assert.ok(value(during, `${series}_sum{method="health",owner="native"}`) > 0);
  assert.equal(value(during, 'openclaw_gateway_rpc_requests_total{method="other"}'), 1);
  assert.equal(value(during, 'openclaw_rs_rpc_errors_total{code="INVALID_REQUEST",owner="native"}'), 1);
  assert.ok(!during.includes("no.such.method"), "a name that a client made up is no label");
  assert.equal(value(during, "openclaw_rs_connects_refused_total"), 1);
  assert.equal(value(during, "openclaw_rs_websocket_opens_total"), 2);
  assert.equal(value(during, 'openclaw_rs_websocket_closes_total{code="1008"}'), 1);
  assert.ok(value(during, 'openclaw_rs_http_responses_total{class="4xx"}') >= 1);

  // A socket that just ends, and one that closes in order.
  const rude = await RawClient.open(ours.wsUrl);
  rude.socket.terminate();
  await client.end();
  await until("both to be counted", async () => {
    const text = await scrape();
    return value(text, 'openclaw_rs_websocket_closes_total{code="1006"}') === 1 && value(text, "openclaw_rs_connections") === 0;
  });

  const after = await scrape();
  const pid = ours.child.pid;
  const status = fs.readFileSync(`/proc/${pid}/status`, "utf8");
  const resident = Number(/VmRSS:\s+(\d+) kB/.exec(status)[1]) * 1024;
  const told = value(after, "process_resident_memory_bytes");
  assert.ok(Math.abs(told - resident) < resident / 4, `${told} told, ${resident} by /proc`);
  assert.equal(value(after, 'openclaw_memory_bytes{kind="rss"}'), told);
  const files = fs.readdirSync(`/proc/${pid}/fd`).length;
  assert.ok(Math.abs(value(after, "process_open_fds") - files) <= 3, `${files} files`);
  assert.ok(value(after, "process_threads") >= 2 && value(after, "process_cpu_seconds_total") > 0);
  assert.ok(value(after, "process_start_time_seconds") * 1000 < Date.now());
  assert.match(after, /^openclaw_gateway_build_info\{process_instance_id="[0-9a-f-]{36}"/m);

  const judged = spawnSync("promtool", ["check", "metrics"], { input: after, encoding: "utf8" });
  assert.equal(judged.error, undefined);
  // Its advice about names that are the original's or were there before is not about the format.
  const complaints = judged.stderr.split("\n").filter((line) => line && !/^openclaw_rs_(uptime_seconds|upstream_epoch) counter metrics should have "_total" suffix$/.test(line));
  assert.deepEqual(complaints, [], judged.stdout);
});

test("the original's address has the same families for whoever may read", async (t) => {
  const ours = await startOurs();
  t.after(() => ours.stop());
  const get = (options = {}) => fetch(`${ours.url}${PATH}`, { headers: { authorization: `Bearer ${TOKEN}` }, ...options });
  assert.equal((await get({ headers: {} })).status, 401);
  assert.equal((await get({ headers: { authorization: "Bearer wrong" } })).status, 401);
  const answer = await get();
  assert.equal(answer.status, 200);
  assert.equal(answer.headers.get("content-type"), "text/plain; version=0.0.4; charset=utf-8");
  assert.equal(answer.headers.get("cache-control"), "no-store");
  const text = await answer.text();
  const admin = await metricsOf(ours);
  assert.deepEqual(families(text), families(await (await fetch(admin)).text()));
  const head = await get({ method: "HEAD" });
  assert.deepEqual([head.status, await head.text()], [200, ""]);
  const posted = await get({ method: "POST" });
  assert.deepEqual([posted.status, posted.headers.get("allow"), await posted.text()], [405, "GET, HEAD", "Method Not Allowed"]);
});
