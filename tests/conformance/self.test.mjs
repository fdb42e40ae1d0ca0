// The original against a second original: every difference here is a hole in the masks. `make test` runs the
// handshakes; CONFORMANCE_FULL=1 runs every part, twelve minutes on two cores.
import assert from "node:assert/strict";
import { test } from "node:test";
import { explain, PLAN, runSuite } from "./suite.mjs";

const plan = process.env.CONFORMANCE_FULL ? PLAN : { token: ["handshake"] };

test("two originals with the same state answer alike", async () => {
  const { comparison, results } = await runSuite("self", ["original", "original"], { plan });
  const share = 1 - comparison.differing.length / comparison.total;
  assert.ok(share >= 0.999 || comparison.differing.length <= 1, explain(comparison));
  for (const { leaves } of results) {
    assert.ok(leaves.plain > 3 * leaves.masked, `masks eat too much: ${JSON.stringify(leaves)}`);
  }
});
