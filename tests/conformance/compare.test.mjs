// The original against ours with another original behind it: an unmodified client can't tell them apart.
import assert from "node:assert/strict";
import { test } from "node:test";
import { explain, runSuite } from "./suite.mjs";

test("ours answers like the original", async () => {
  const { comparison } = await runSuite("compare", ["original", "attached"]);
  assert.deepEqual(comparison.differing.map(({ id }) => id), [], explain(comparison));
});
