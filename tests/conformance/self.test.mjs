// The original against a second original: every difference here is a hole in the masks.
import assert from "node:assert/strict";
import { test } from "node:test";
import { explain, runSuite } from "./suite.mjs";

test("two originals with the same state answer alike", async () => {
  const { comparison, results, broken } = await runSuite("self", ["original", "original"]);
  assert.deepEqual(comparison.differing.map(({ id }) => id), [], explain(comparison));
  assert.deepEqual(broken, []);
  for (const { leaves } of results) {
    assert.ok(leaves.plain > 3 * leaves.masked, `masks eat too much: ${JSON.stringify(leaves)}`);
  }
});
