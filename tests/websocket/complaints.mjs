// What our log says of peers that break a rule: one line each, past a few at a time one number for the rest.
import assert from "node:assert/strict";
import { until } from "../lib/tools.mjs";

/** How many peers the log has named with this reason so far. */
export function named(target, reason) {
  const lines = target.child.output.split("\n").filter((line) => reason.test(line));
  return lines.reduce((sum, line) => sum + Number(/(\d+) more like it: /.exec(line)?.[1] ?? 1), 0);
}

/** `harm` is named `count` times with the reason, and nothing that matches `secret` is written meanwhile. Answers as `harm` does. */
export async function isNamed(target, { reason, count = 1, secret }, harm) {
  if (target.label !== "ours") return harm();
  const before = named(target, reason);
  const start = target.child.output.length;
  const answer = await harm();
  await until(`${count} × ${reason} in the log`, () => named(target, reason) >= before + count);
  assert.equal(named(target, reason), before + count, `${reason}:\n${target.child.output.slice(start)}`);
  if (secret) assert.doesNotMatch(target.child.output.slice(start), secret);
  return answer;
}
