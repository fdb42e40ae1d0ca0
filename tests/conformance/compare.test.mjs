// The original against ours with another original behind it: an unmodified client can't tell them apart.
import assert from "node:assert/strict";
import { test } from "node:test";
import { explain, knownDifferences, runSuite } from "./suite.mjs";

test("ours answers like the original", async () => {
  const { comparison } = await runSuite("compare", ["original", "attached"], { known: knownDifferences() });
  const { total, differing, stale } = comparison;
  const share = 1 - differing.length / total;
  assert.ok(total > 2000, `only ${total} cases ran`);
  assert.ok(share >= 0.999, `${(share * 100).toFixed(2)} % of ${total} cases are equal; ${explain(comparison)}`);
  assert.deepEqual(stale, [], "a known difference is gone: take it out of known-differences.json");
});
