// The two sides of every comparison: clients against the original alone, and against ours with the original behind it.
//
// CLIENTS_SIDES=direct          only the original (what can be run before there is a binary of ours)
// CLIENTS_SIDES=ours            only ours, against the observations kept by the last direct run
// CLIENTS_AGAINST=original      the second side is the original once more: shows that the masks cover all that varies
// CLIENTS_UPSTREAM=supervise    ours starts the original itself; default is to attach to a running one
import assert from "node:assert/strict";
import fs from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { startOriginal, startOurs } from "../lib/gateway.mjs";
import { RawClient } from "../lib/raw.mjs";
import { freePort, isolatedEnv, repoRoot, tempDir, until } from "../lib/tools.mjs";
import { KNOWN } from "./known.mjs";
import { startModel } from "./model.mjs";

export const SIDES = (process.env.CLIENTS_SIDES ?? "direct,ours").split(",");
const AGAIN = process.env.CLIENTS_AGAINST === "original";
const SUPERVISE = process.env.CLIENTS_UPSTREAM === "supervise";
export const artifacts = path.join(repoRoot, "artifacts/clients");

/** `gateway` in openclaw.json, beside what the harness always sets. */
const GATEWAY = {
  controlUi: { enabled: true },
  http: { endpoints: { chatCompletions: { enabled: true }, responses: { enabled: true } } },
};

/** The original's own jobs are there a while after it is ready. */
async function settled(target) {
  const hello = async (raw) => {
    const answer = await raw.connect({ token: target.token });
    assert.equal(answer.ok, true);
    return answer.payload.snapshot;
  };
  // It is there some time after readiness.
  await until("the update schedule in hello", async () => {
    const raw = await RawClient.open(target.wsUrl);
    const { updateSchedule } = await hello(raw);
    await raw.end();
    return updateSchedule;
  }, { everyMs: 100 });
  const raw = await RawClient.open(target.wsUrl);
  await hello(raw);
  await until("the original's own jobs", async () => (await raw.call("cron.status", {})).payload?.jobs >= 3);
  await raw.end();
}

/**
 * One side, running: { name, target, original, model, stateDir, clientEnv(extra), stop() }. Clients talk to `target`. Both
 * sides share their state directory with the client, as on a person's machine.
 */
export async function openSide(name) {
  const stateDir = tempDir("clients");
  const model = await startModel();
  const stops = [() => model.stop()];
  const stop = async () => {
    for (const each of stops.toReversed()) await each();
    fs.rmSync(stateDir, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
  };
  const config = { ...model.config, gateway: GATEWAY, logging: { file: path.join(stateDir, "gateway.log") } };
  try {
    let original;
    let target;
    if (name === "ours" && SUPERVISE) {
      target = await startOurs({ config, stateDir, upstream: "supervise" });
      stops.push(() => target.stop({ keepState: true }));
    } else {
      original = target = await startOriginal({ config, stateDir });
      stops.push(() => original.stop({ keepState: true }));
      if (name === "ours" && !AGAIN) {
        const port = await freePort();
        const env = { OPENCLAW_GATEWAY_PORT: String(port) };
        target = await startOurs({ config, stateDir, port, env, upstream: { attach: original } });
        stops.push(() => target.stop({ keepState: true }));
      }
    }
    await settled(target);
    const clientEnv = (extra = {}) =>
      isolatedEnv(stateDir, { OPENCLAW_GATEWAY_PORT: String(target.port), LANG: "C.UTF-8", ...extra });
    return { name, target, original, model, stateDir, clientEnv, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

/** What is different and explained: asserted to be as written, then taken out of the comparison. */
function settleKnown(suite, step, direct, ours) {
  for (const known of KNOWN.filter((entry) => entry.suite === suite && entry.step === step)) {
    const holders = [direct, ours].map((root) => known.at.slice(0, -1).reduce((value, key) => value?.[key], root));
    const key = known.at.at(-1);
    assert.deepEqual(holders.map((holder) => holder?.[key]), [known.direct, known.ours], `no longer differs as explained: ${known.why}`);
    for (const holder of holders) holder[key] = `<known: ${known.why}>`;
  }
}

/**
 * Runs `groups` of steps on each side. A group is { steps: {name: async (side) => observation}, atOnce?, only? }: its steps
 * run in order, or `atOnce` at a time. What a step returns through ours must equal what it returned directly. The steps of a
 * group with `only: "ours"` say themselves what must hold.
 */
export function compareSides(suite, groups) {
  const keep = (name) => path.join(artifacts, `${suite}.${name}.json`);
  const seen = { direct: new Map(), ours: new Map() };
  if (!SIDES.includes("direct")) {
    seen.direct = new Map(Object.entries(JSON.parse(fs.readFileSync(keep("direct"), "utf8"))));
  }
  for (const name of SIDES) {
    test(`${suite}, ${name === "direct" ? "the original alone" : "through ours"}`, async (t) => {
      const side = await openSide(name);
      t.after(async () => {
        await side.stop();
        fs.mkdirSync(artifacts, { recursive: true });
        fs.writeFileSync(keep(name), JSON.stringify(Object.fromEntries(seen[name]), null, 2));
      });
      for (const [index, { steps, atOnce = 1, only }] of groups.entries()) {
        // Needs an original beside ours that this suite can restart.
        if (only && (only !== name || AGAIN || SUPERVISE)) continue;
        await t.test(`part ${index + 1}`, { concurrency: atOnce }, (part) =>
          Promise.all(Object.entries(steps).map(([step, run]) => part.test(step, async () => {
            const observation = JSON.parse(JSON.stringify((await run(side)) ?? null));
            seen[name].set(step, observation);
            if (name === "direct" || only) return;
            assert.ok(seen.direct.has(step), "the direct run failed here: nothing to compare with");
            const [direct, ours] = [seen.direct.get(step), observation].map((value) => structuredClone(value));
            settleKnown(suite, step, direct, ours);
            assert.deepEqual(ours, direct);
          }))),
        );
      }
    });
  }
}
