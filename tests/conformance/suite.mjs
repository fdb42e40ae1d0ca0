// Runs all cases on two sides and compares. Used by self.test.mjs (the original against itself: proves the masks)
// and compare.test.mjs (the original against ours).
import fs from "node:fs";
import path from "node:path";
import { startModel } from "../lib/model.mjs";
import { repoRoot } from "../lib/tools.mjs";
import { comparable, PARTS_ALONE } from "./alone.mjs";
import { handshakes, VARIANTS } from "./cases/handshake.mjs";
import { matrix } from "./cases/matrix.mjs";
import { scripts } from "./cases/runs.mjs";
import { compareAll, summary } from "./diff.mjs";
import { runHandshake } from "./handshake.mjs";
import { runScript } from "./runs.mjs";
import { checkFrames } from "./schema.mjs";
import { Session } from "./session.mjs";
import { fixtures, startPair } from "./target.mjs";
import { runValid } from "./valid.mjs";

const here = (name) => new URL(name, import.meta.url);
export const knownDifferences = () => JSON.parse(fs.readFileSync(here("known-differences.json"), "utf8"));
export const knownAlone = () => JSON.parse(fs.readFileSync(here("known-alone.json"), "utf8"));

/** A node is cut off after ten refusals in a row: an allowed call now and then starts the count again. */
const REFUSALS_IN_A_ROW = 8;

/** The parts of a run, in order; each takes (session, put) where put(id, masked answer, frame). */
export const PARTS = {
  /** First, while both sides know of nobody yet. */
  valid: runValid,
  async handshake(session, put, variant) {
    const silent = [];
    for (const one of handshakes.filter((h) => h.gateway === variant)) {
      const run = runHandshake(session, one).then((answer) => put(one.id, answer));
      // Those wait for the server's own deadline; the others need not wait for them.
      if (one.silent) silent.push(run);
      else await run;
    }
    await Promise.all(silent);
  },
  async runs(session, put) {
    for (const script of scripts) await runScript(session, script, put);
  },
  async matrix(session, put) {
    let refusals = 0;
    for (const step of matrix()) {
      if (step.as === "node" && ++refusals % REFUSALS_IN_A_ROW === 0) await session.call({ as: "node", method: "health" });
      const { masked, frame } = await session.run(step);
      put(step.id, masked, frame);
    }
  },
};

/** Variant of the gateway → parts run on it. `CONFORMANCE_PLAN=token:valid,none:handshake` runs less, to look closer. */
export const PLAN = process.env.CONFORMANCE_PLAN ? onlyParts(process.env.CONFORMANCE_PLAN) : { token: ["valid", "handshake", "matrix", "runs"], password: ["handshake"], none: ["handshake"], proxy: ["handshake"] };

function onlyParts(text) {
  const plan = {};
  for (const [variant, part] of text.split(",").map((one) => one.split(":"))) (plan[variant] ??= []).push(part);
  return plan;
}

/** One side through the plan of one variant. */
async function runSide(session, variant, planned, result) {
  const alone = session.side.kind === "native";
  const parts = planned.filter((part) => !alone || PARTS_ALONE.includes(part));
  if (!alone) await session.warm();
  const admin = variant === "token" ? await session.caller("admin") : undefined;
  if (admin) session.saved.buildId = admin.hello.payload.server.buildId;
  for (const part of parts) {
    const start = Date.now();
    await PARTS[part](session, (id, masked, frame) => {
      if (result.answers.has(id)) throw new Error(`two cases are called ${id}`);
      result.answers.set(id, masked);
      if (frame) result.frames.set(id, frame);
    }, variant);
    result.seconds[`${variant}/${part}`] = (Date.now() - start) / 1000;
  }
  await session.end();
  for (const client of session.all) checkFrames(client, result.schema);
  result.leaves.masked += session.mask.count.masked;
  result.leaves.plain += session.mask.count.plain;
}

/**
 * `kinds`: two kinds of startSide, and perhaps "native" as a third; `name` of the artifact. Answers the sides' results, the
 * comparison of the first two, and that of the third (`alone`) with the first.
 */
export async function runSuite(name, kinds, { plan = PLAN, known = [], knownAlone = [] } = {}) {
  const started = Date.now();
  const model = await startModel();
  const shared = fixtures(model);
  const results = kinds.map(() => ({ answers: new Map(), frames: new Map(), schema: {}, seconds: {}, leaves: { masked: 0, plain: 0 } }));
  try {
    for (const [variant, parts] of Object.entries(plan)) {
      const begin = Date.now();
      const sides = await startPair(kinds, model, { gateway: VARIANTS[variant] });
      for (const result of results) result.seconds[`${variant}/start`] = (Date.now() - begin) / 1000;
      try {
        await Promise.all(sides.map((side, i) => runSide(new Session(side, shared), variant, parts, results[i])));
      } finally {
        await Promise.all(sides.map((side) => side.stop()));
      }
    }
  } finally {
    await model.stop();
  }
  // A step that ran into its own deadline is no answer, even if it did so on both sides.
  const broken = results.flatMap(({ answers }, i) => [...answers].filter(([, answer]) => hasFailed(answer)).map(([id]) => `${kinds[i]}: ${id}`));
  const comparison = compareAll(results[0].answers, results[1].answers, known);
  const { line, share } = summary(comparison);
  const alone = kinds[2] && compareAlone(results, knownAlone);
  const seconds = Math.round((Date.now() - started) / 1000);
  write(name, { line, kinds, seconds, results, comparison, alone, broken });
  console.log(`${line} in ${seconds} s`);
  if (alone) console.log(`alone: ${alone.total} cases, ${alone.equal} equal, ${alone.explained.length} explained, ${alone.differing.length} differing; ${alone.left.length} calls are OpenClaw's`);
  return { results, comparison, alone, share, seconds, broken };
}

function compareAlone(results, known) {
  const { expected, got, left } = comparable(results[0].answers, results[2].answers);
  return { ...compareAll(expected, got, known), left };
}

/** What the second side violates of the published schema and the first does not, as readable lines. */
export const ownViolations = ([theirs, ours]) => Object.entries(ours.schema).flatMap(([definition, { violations }]) =>
  Object.entries(violations).filter(([error]) => !(error in (theirs.schema[definition]?.violations ?? {}))).map(([error, where]) => `${definition}: ${error} (${where})`));

const hasFailed = (answer) => [answer].flat().some((one) => one?.failed !== undefined);

function write(name, { line, kinds, seconds, results, comparison, alone, broken }) {
  const dir = path.join(repoRoot, "artifacts/conformance");
  fs.mkdirSync(dir, { recursive: true });
  const parts = results.map(({ seconds, leaves, schema }) => ({ seconds, leaves, schema }));
  fs.writeFileSync(path.join(dir, `${name}.json`), JSON.stringify({ line, kinds, seconds, broken, parts, comparison, alone }, null, 1));
  for (const [i, { answers }] of results.entries()) {
    fs.writeFileSync(path.join(dir, `${name}.${i}-${kinds[i]}.answers.json`), JSON.stringify(Object.fromEntries(answers), null, 1));
  }
}

/** The differing cases as readable lines, most telling first, at most `limit`. */
export function explain(comparison, limit = 40) {
  const short = (value) => (value === undefined ? "absent" : JSON.stringify(value)).slice(0, 160);
  return comparison.differing.slice(0, limit).map(({ id, differences }) =>
    `${id}\n${differences.filter((d) => !d.reason).slice(0, 4).map((d) => `    ${d.path}: expected ${short(d.expected)}, got ${short(d.got)}`).join("\n")}`).join("\n");
}
