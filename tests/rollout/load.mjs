// Devices that call all the time, a gateway with planted faults behind them, and what they see.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import crypto from "node:crypto";
import fs from "node:fs";
import path from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { startOurs, TOKEN } from "../lib/gateway.mjs";
import { Device, RawClient } from "../lib/raw.mjs";
import { gatewayBinary, tempDir, until } from "../lib/tools.mjs";

/** Our gateway in front of `original`, with `plant("health delay 300")` while it runs. */
export async function startPlanted(t, original, toml, { stateDir = tempDir("planted"), ...rest } = {}) {
  const faults = path.join(stateDir, "faults");
  const ours = await startOurs({ stateDir, upstream: { attach: original }, toml, ...rest, env: { OPENCLAW_RS_FAULTS: faults, ...rest.env } });
  t.after(() => ours.stop());
  ours.plant = (...lines) => {
    // In one step: what reads it sees the old or the new.
    fs.writeFileSync(`${faults}.new`, lines.map((line) => `${line}\n`).join(""));
    fs.renameSync(`${faults}.new`, faults);
  };
  ours.own = path.join(stateDir, "openclaw-rs", "openclaw-gateway.toml");
  return ours;
}

export function rollout(target, ...args) {
  return new Promise((resolve) => {
    execFile(gatewayBinary(), ["rollout", ...args], { env: target.env, cwd: target.stateDir }, (error, stdout, stderr) =>
      resolve({ code: error?.code ?? 0, stdout, stderr }));
  });
}

/** `GET /api/rollout`. */
export async function status(target) {
  const response = await fetch(`${target.url}/api/rollout`, { headers: { authorization: `Bearer ${TOKEN}` } });
  assert.equal(response.status, 200);
  return response.json();
}

/** The value of one series. */
export async function metric(target, series) {
  const response = await fetch(`${target.url}/api/diagnostics/prometheus`, { headers: { authorization: `Bearer ${TOKEN}` } });
  const line = (await response.text()).split("\n").find((line) => line.startsWith(`${series} `));
  assert.ok(line, `no ${series}`);
  return Number(line.slice(series.length + 1));
}

export class Devices {
  clients = [];
  answers = { ok: 0, failed: 0 };
  #running = [];
  #stop = false;

  static async open(target, devices) {
    const all = new Devices();
    all.target = target;
    for (const device of devices) {
      const client = await RawClient.open(target.wsUrl);
      const hello = await client.connect({ token: TOKEN, client: { id: "openclaw-tui", mode: "ui" }, device });
      assert.equal(hello.ok, true, JSON.stringify(hello.error));
      all.clients.push(client);
    }
    return all;
  }

  /** So many whose places are spread evenly: of 20, one is served here at 5 percent, five are at 25. */
  static spread(count) {
    const places = new Array(count);
    while (places.includes(undefined)) {
      const device = new Device();
      const hash = crypto.createHash("sha256").update(device.id).digest().readBigUInt64BE();
      places[Number((hash * BigInt(count)) >> 64n)] ??= device;
    }
    return places;
  }

  /** Each calls some twenty times a second, which leaves the original room to answer in time, until `rest`. */
  load() {
    this.#stop = false;
    this.#running = this.clients.map(async (client) => {
      for (let n = 0; !this.#stop && !client.close_; n += 1) {
        const answer = await client.call(n % 2 ? "last-heartbeat" : "health", {});
        this.answers[answer.ok ? "ok" : "failed"] += 1;
        // What was read is not kept: a run has thousands.
        client.frames.length = 0;
        await delay(50);
      }
    });
  }

  async rest() {
    this.#stop = true;
    await Promise.all(this.#running);
  }

  /** How many of them the upstream answers now. */
  async bridged() {
    const before = await metric(this.target, "openclaw_rs_requests_bridged_total");
    for (const client of this.clients) assert.equal((await client.call("health", {})).ok, true);
    return (await metric(this.target, "openclaw_rs_requests_bridged_total")) - before;
  }

  lost() {
    return this.clients.filter((client) => client.close_).length;
  }

  async end() {
    for (const client of this.clients) await client.end();
  }
}

/** The guard's answer once it is in this state; says what it was instead. */
export async function guarded(target, state, options) {
  let seen;
  return until(`the guard to be ${state}`, async () => {
    seen = await status(target);
    return seen.guard.state === state && seen;
  }, options).catch((error) => {
    throw new Error(`${error.message}; last seen: ${JSON.stringify(seen)}`, { cause: error });
  });
}
