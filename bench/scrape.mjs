// A scrape of /metrics while the gateway is loaded: clients that call without pause from another process, and one that scrapes as
// Prometheus does. Prints one line of JSON; `make bench-scrape` keeps it.
//
//   GATEWAY_BIN=… node bench/scrape.mjs [--clients 200] [--scrapes 500]
import { fork } from "node:child_process";
import http from "node:http";
import path from "node:path";
import { once } from "node:events";
import { parseArgs } from "node:util";
import { metricsOf, startOurs, TOKEN } from "../tests/lib/gateway.mjs";
import { RawClient } from "../tests/lib/raw.mjs";
import { gatewayBinary } from "../tests/lib/tools.mjs";
import { machine } from "./machine.mjs";

const { values } = parseArgs({ options: { clients: { type: "string", default: "200" }, scrapes: { type: "string", default: "500" }, load: { type: "string" } } });
const METHODS = [["health", {}], ["status", {}], ["sessions.list", { limit: 5 }], ["system-presence", {}], ["models.list", {}], ["no.such.method", {}]];

/** The load: answers how many calls were answered each second, over the process channel. */
async function load(url) {
  let calls = 0;
  const clients = [];
  // One after the other: 32 handshakes of an address are allowed at once.
  while (clients.length < Number(values.clients)) {
    const client = await RawClient.open(url);
    await client.connect({ token: TOKEN });
    clients.push(client);
  }
  process.send("ready");
  setInterval(() => process.send({ calls: calls - (calls = 0) }), 1000);
  await Promise.all(clients.map(async (client, at) => {
    for (let n = at; ; n += 1) {
      const [method, params] = METHODS[n % METHODS.length];
      await client.call(method, params);
      client.frames.length = 0;
      calls += 1;
    }
  }));
}

const agent = new http.Agent({ keepAlive: true });
const scrape = (address) => new Promise((resolve, reject) => {
  const began = performance.now();
  http.get(address, { agent }, (response) => {
    let bytes = 0;
    response.on("data", (chunk) => (bytes += chunk.length));
    response.on("end", () => resolve({ ms: performance.now() - began, bytes }));
  }).on("error", reject);
});

async function series(address) {
  const times = [];
  let bytes = 0;
  for (let n = 0; n < Number(values.scrapes); n += 1) {
    const one = await scrape(address);
    times.push(one.ms);
    bytes = one.bytes;
  }
  times.sort((a, b) => a - b);
  const at = (share) => Number(times[Math.min(times.length - 1, Math.floor(share * times.length))].toFixed(2));
  return { scrapes: times.length, bytes, p50Ms: at(0.5), p99Ms: at(0.99), maxMs: at(1) };
}

if (values.load) {
  await load(values.load);
} else {
  const ours = await startOurs();
  const address = await metricsOf(ours);
  await series(address);
  const idle = await series(address);
  const child = fork(new URL(import.meta.url), ["--load", ours.wsUrl, "--clients", values.clients]);
  child.on("exit", (code) => code && process.exit(code));
  await once(child, "message");
  const seconds = [];
  child.on("message", ({ calls }) => seconds.push(calls));
  const loaded = await series(address);
  child.kill("SIGKILL");
  const callsPerSecond = seconds.length ? Math.round(seconds.reduce((sum, calls) => sum + calls, 0) / seconds.length) : null;
  console.log(JSON.stringify({ at: new Date().toISOString(), build: path.basename(path.dirname(gatewayBinary())), machine: machine(), idle, loaded: { clients: Number(values.clients), callsPerSecond, ...loaded } }));
  await ours.stop();
}
