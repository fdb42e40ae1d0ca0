// The same configurations and envelopes to the original's own functions and to ours.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import fs from "node:fs";
import { after, before, test } from "node:test";
import { gatewayBinary, isolatedEnv, tempDir } from "../lib/tools.mjs";
import { gates, routes, standings } from "./cases.mjs";
import { known } from "./known.mjs";

const home = tempDir("routing");
/** `ROUTING_SEED=7 node --test tests/routing` tries other cases. */
const seed = Number(process.env.ROUTING_SEED ?? 20260906);
let theirs;
const met = new Set();

before(async () => {
  // The package must not read the state of this machine, nor find a bot's token in it.
  process.env.OPENCLAW_STATE_DIR = home;
  process.env.HOME = home;
  delete process.env.TELEGRAM_BOT_TOKEN;
  theirs = await (await import("./original.mjs")).original();
});
after(() => fs.rmSync(home, { recursive: true, force: true }));

/** All envelopes through one process of ours, an answer a line. */
function ours(cases) {
  const lines = cases.flatMap(({ config, envelopes }) => envelopes.map((envelope, n) => JSON.stringify(n === 0 ? { config, ...envelope } : envelope)));
  const { status, stdout, stderr } = spawnSync(gatewayBinary(), ["route", "explain"], {
    input: lines.join("\n"),
    encoding: "utf8",
    maxBuffer: 1 << 28,
    timeout: 240_000,
    env: isolatedEnv(home),
  });
  assert.equal(status, 0, stderr);
  const answers = stdout.trim().split("\n").map((line) => JSON.parse(line));
  assert.equal(answers.length, lines.length);
  return answers;
}

async function compare(cases, decideOriginal, decideOurs) {
  const answers = ours(cases);
  const seen = new Map();
  const different = [];
  let at = 0;
  for (const { config, envelopes } of cases) {
    for (const envelope of envelopes) {
      const mine = decideOurs(answers[at++]);
      const other = await decideOriginal(config, envelope);
      const outcome = typeof other === "string" ? other : other.refused ? "refused" : other.rule;
      seen.set(outcome, (seen.get(outcome) ?? 0) + 1);
      try {
        assert.deepEqual(mine, typeof other === "object" && other.refused ? "refused" : other);
      } catch {
        const reason = known.find((one) => one.covers({ config, envelope, ours: mine, theirs: other }));
        if (reason) met.add(reason.name);
        else different.push({ config, envelope, ours: mine, theirs: other });
      }
    }
  }
  assert.equal(different.length, 0, `${different.length} of ${at} differ, the first:\n${JSON.stringify(different.slice(0, 3), null, 1)}`);
  return { seen, count: at };
}

test("agent, session key and the binding that matched are the original's", async (t) => {
  const { seen, count } = await compare(
    routes(seed, 700, 5),
    theirs.route,
    ({ decision, agent, sessionKey, rule }) => (decision === "route" ? { agent, sessionKey, rule } : "refused"),
  );
  t.diagnostic(`${count} cases: ${JSON.stringify(Object.fromEntries(seen))}`);
  // The generator must reach every rule, or the comparison says less than it claims.
  for (const rule of ["binding.peer", "binding.peer.parent", "binding.peer.wildcard", "binding.guild+roles", "binding.guild", "binding.team", "binding.account", "binding.channel", "default", "refused"]) {
    assert.ok(seen.get(rule) >= 5, `only ${seen.get(rule) ?? 0} cases end in ${rule}`);
  }
});

test("who is answered on Telegram is whom the original answers", async (t) => {
  const { seen, count } = await compare(gates(seed, 700, 4), theirs.telegramGate, ({ decision, rule }) =>
    decision === "route" ? "pass" : decision === "pair" ? "pair" : rule.startsWith("not mentioned") ? "unmentioned" : "deny");
  t.diagnostic(`${count} cases: ${JSON.stringify(Object.fromEntries(seen))}`);
  for (const outcome of ["pass", "pair", "deny", "unmentioned"]) assert.ok(seen.get(outcome) >= 50, outcome);
});

test("who may give commands on Telegram is who may with the original", async (t) => {
  const { seen, count } = await compare(standings(seed, 500, 4), theirs.telegramStanding, ({ decision, commands, reset }) =>
    decision !== "route" ? "unanswered" : commands ? "all" : reset ? "reset" : "none");
  t.diagnostic(`${count} cases: ${JSON.stringify(Object.fromEntries(seen))}`);
  for (const outcome of ["all", "reset", "none", "unanswered"]) assert.ok(seen.get(outcome) >= 30, outcome);
});

test("every known difference is still one", () => {
  assert.deepEqual(known.map(({ name }) => name).filter((name) => !met.has(name)), []);
});
