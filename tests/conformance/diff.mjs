// Field by field comparison of two masked answers, and the file of explained differences.
import { idMatcher, pathMatcher } from "./mask.mjs";

const kind = (value) => (value === null ? "null" : Array.isArray(value) ? "array" : typeof value);

/** All differing leaves: [{path, expected, got}]; `undefined` is a field that is not there. */
export function diff(expected, got, path = "") {
  if (kind(expected) !== kind(got) || kind(expected) === "undefined") {
    return Object.is(expected, got) ? [] : [{ path, expected, got }];
  }
  if (kind(expected) === "array" || kind(expected) === "object") {
    const names = new Set([...Object.keys(expected), ...Object.keys(got)]);
    return [...names].flatMap((name) => diff(expected[name], got[name], path ? `${path}.${name}` : name));
  }
  return Object.is(expected, got) ? [] : [{ path, expected, got }];
}

/**
 * Compares two maps of case id → masked answer. `known`: [{case, path, reason}] with `*`/`**` patterns.
 * Answers {total, equal, explained, differing: [{id, differences}], stale: known entries that explain nothing}.
 */
export function compareAll(expected, got, known = []) {
  const entries = known.map((entry) => ({ entry, case: idMatcher(entry.case), path: pathMatcher(entry.path), used: 0 }));
  const result = { total: 0, equal: 0, explained: [], differing: [], stale: [] };
  for (const id of new Set([...expected.keys(), ...got.keys()])) {
    result.total++;
    const differences = diff(expected.get(id), got.get(id));
    if (differences.length === 0) {
      result.equal++;
      continue;
    }
    let unexplained = 0;
    for (const difference of differences) {
      const match = entries.find((known) => known.case.test(id) && known.path.test(difference.path));
      if (match) {
        match.used++;
        difference.reason = match.entry.reason;
      } else unexplained++;
    }
    if (unexplained) result.differing.push({ id, differences });
    else result.explained.push({ id, differences });
  }
  result.stale = entries.filter((known) => known.used === 0).map((known) => known.entry);
  return result;
}

export function summary({ total, equal, explained, differing }) {
  const share = total === 0 ? 0 : (100 * equal) / Math.max(1, total - explained.length);
  return {
    share,
    line: `conformance: ${total} cases, ${equal} equal, ${explained.length} explained, ${differing.length} differing`
      + ` (${share.toFixed(2)} % of the unexplained ones equal)`,
  };
}
