// The original against ours with another original behind it: an unmodified client can't tell them apart. And against ours alone,
// as far as that can answer.
import assert from "node:assert/strict";
import { test } from "node:test";
import { explain, knownAlone, knownDifferences, ownViolations, PLAN, runSuite } from "./suite.mjs";
import { judge } from "./valid.mjs";

const without = (part) => Object.fromEntries(Object.entries(PLAN).map(([variant, parts]) => [variant, parts.filter((one) => one !== part)]));

function assertShare({ total, differing }, comparison, least) {
  const share = 1 - differing.length / total;
  assert.ok(share >= least, `${(share * 100).toFixed(2)} % of ${total} cases are equal; ${explain(comparison)}`);
}

/** A hello of ours alone has two fields more than the published schema: what the method `health` carries, and what rows of
 * `system-presence` have in the package's own, newer schema. */
const KNOWN_ALONE_FRAMES = [
  "HelloOk: /snapshot/health must NOT have additional properties 'modelRuntime' (connect)",
  "HelloOk: /snapshot/presence/* must NOT have additional properties 'clientId' (connect)",
];

/** What the first of the two compared. */
let calls;

test("ours answers calls and handshakes like the original", async () => {
  const known = { known: knownDifferences(), knownAlone: knownAlone() };
  const { comparison, alone, results, broken } = await runSuite("compare", ["original", "attached", "native"], { plan: without("runs"), ...known });
  if (PLAN.token?.includes("valid")) {
    const { answered, refused, left, complaints, unexpected } = judge(results[0].frames);
    console.log(`valid calls: ${answered} methods answer, ${refused} are turned down as announced, ${left} are left out`);
    assert.deepEqual(complaints, [], "cases/valid.mjs against the list of methods");
    // As many as may differ below: the original itself answers now and then that it has lost its models.
    assert.ok(unexpected.length <= 2, `the original answered otherwise than cases/valid.mjs says: ${unexpected.join("; ")}`);
    assert.deepEqual(broken.filter((id) => id.includes(": valid/")), [], "no answer within the step's deadline");
    assert.ok(answered >= 330, `only ${answered} methods have a valid call that answers`);
  }
  calls = comparison;
  assertShare(comparison, comparison, 0.999);
  assert.deepEqual(ownViolations(results), [], "frames that the published schema forbids, and the original does not send");
  if (alone.total > 0) {
    assertShare(alone, alone, 0.999);
    assert.deepEqual(ownViolations([results[0], results[2]]).sort(), KNOWN_ALONE_FRAMES, "frames of ours without OpenClaw that the published schema forbids");
  }
  // Less was asked for.
  if (process.env.CONFORMANCE_PLAN) return;
  assert.ok(comparison.total > 2400, `only ${comparison.total} cases ran`);
  assert.deepEqual(comparison.stale, [], "no longer different: take these out of known-differences.json");
  const checked = Object.keys(results[1].schema).length;
  assert.ok(checked > 100, `frames of only ${checked} definitions were seen`);
  assert.ok(alone.total > 1350, `only ${alone.total} cases ran without OpenClaw`);
  assert.deepEqual(alone.stale, [], "no longer different: take these out of known-alone.json");
});

// Whether one or two of these are equal depends on when a row or an abort is seen, on two gateways that share two cores: they
// count as all the others do.
test("chat and agent runs look the same through ours", async () => {
  const { comparison } = await runSuite("compare-runs", ["original", "attached"], { plan: { token: ["runs"] } });
  assert.ok(comparison.total > 100, `only ${comparison.total} cases ran`);
  const all = { total: comparison.total + (calls?.total ?? 0), differing: [...comparison.differing, ...(calls?.differing ?? [])] };
  assert.ok(comparison.differing.length <= 2, explain(comparison));
  if (calls) assertShare(all, comparison, 0.999);
});
