// The checker of the crash runs finds each kind of planted bug, and nothing in a run without one.
import assert from "node:assert/strict";
import { test } from "node:test";
import { judge, keyOf } from "./checker.mjs";

function run() {
  const accepted = [];
  for (const lane of ["a", "b"]) for (let n = 0; n < 5; n++) accepted.push({ lane, n, text: `${lane}-${n}` });
  return {
    accepted,
    offered: new Set(accepted.map((m) => keyOf(m.lane, m.text))),
    received: accepted.map(({ lane, text }) => ({ lane, text })),
    excused: new Set(),
  };
}

test("a run without a bug passes", () => {
  const good = run();
  assert.deepEqual(judge(good), []);
  // Lanes may interleave.
  good.received.sort((x, y) => x.text.slice(2).localeCompare(y.text.slice(2)));
  assert.deepEqual(judge(good), []);
  // Sent, never answered, arrived: fine.
  good.offered.add(keyOf("a", "a-5"));
  good.received.push({ lane: "a", text: "a-5" });
  assert.deepEqual(judge(good), []);
});

const planted = {
  lost: (r) => r.received.splice(3, 1),
  repeated: (r) => r.received.push({ ...r.received[3] }),
  order: (r) => r.received.splice(1, 2, r.received[2], r.received[1]),
  altered: (r) => (r.received[4] = { lane: "a", text: "a-4 cut" }),
  "altered or foreign": (r) => r.received.push({ lane: "b", text: "a-1" }),
};
for (const [kind, plant] of Object.entries(planted)) {
  test(`finds a planted bug: ${kind}`, () => {
    const bad = run();
    plant(bad);
    const wrong = judge(bad);
    assert.ok(wrong.some((line) => line.startsWith(kind)), JSON.stringify(wrong));
  });
}

test("what is in doubt may be missing or repeated, and nothing else may", () => {
  const held = run();
  held.excused.add(keyOf("a", "a-3"));
  held.received.splice(3, 1);
  assert.deepEqual(judge(held), []);
  held.received.splice(3, 1);
  assert.deepEqual(judge(held), ["lost: a number 4 was accepted and never arrived"]);
});
