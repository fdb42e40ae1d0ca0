// Medians and how figures are written.

export function median(values) {
  const sorted = values.filter((value) => typeof value === "number").toSorted((a, b) => a - b);
  if (!sorted.length) return null;
  const middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

/** The value that a share of all are at most: `percentile(latencies, 0.99)`. */
export function percentile(values, share) {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? null;
}

/** The value at a dotted path: `pick(row, "latencyMs.p50")`. */
export function pick(object, keys) {
  return keys.split(".").reduce((value, key) => value?.[key], object);
}

/** Median over rounds of the value at a dotted path. */
export function medianOf(rounds, keys) {
  return median(rounds.map((round) => pick(round, keys)));
}

/** Three significant digits, thousands with a thin separator: 162000 → "162 000", 0.31415 → "0.314". */
export function figure(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1000) return String(Number(value.toPrecision(4)).toFixed(0)).replace(/\B(?=(\d{3})+$)/g, "\u202f");
  if (size >= 100) return value.toFixed(0);
  if (size >= 10) return value.toFixed(1);
  if (size >= 1) return value.toFixed(2);
  return value.toFixed(3);
}

export function times(ratio) {
  return ratio === null || ratio === undefined ? "–" : `${figure(ratio)}×`;
}

export function percent(ratio) {
  return ratio === null || ratio === undefined ? "–" : `${Math.round(ratio * 100)} %`;
}
