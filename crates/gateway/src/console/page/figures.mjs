// Figures out of counters, and figures in words. Pure.

/** How far back the graphs reach. */
export const SPAN_MS = 5 * 60_000;
/** Over how long a rate and a percentile are taken. */
const WINDOW_MS = 10_000;
const KEPT_MAX = 400;

/** Upper quantile `q` of counts by bucket, in microseconds: the bound of the bucket it falls into. `null` without any. */
export function quantile(times, boundsUs, q) {
  const all = times.reduce((sum, count) => sum + count, 0);
  if (all === 0) return null;
  let below = 0;
  for (const [at, count] of times.entries()) {
    below += count;
    if (below >= q * all) return boundsUs[Math.min(at, boundsUs.length - 1)];
  }
  return null;
}

/** What one side did between two answers of `/api/console`. */
function between(before, after, side, boundsUs) {
  const seconds = (after.nowMs - before.nowMs) / 1000;
  const times = after[side].times.map((count, at) => count - before[side].times[at]);
  const calls = times.reduce((sum, count) => sum + count, 0);
  return {
    rate: calls / seconds,
    failed: (after[side].failed - before[side].failed) / seconds,
    p50: quantile(times, boundsUs, 0.5),
    p99: quantile(times, boundsUs, 0.99),
  };
}

/** The last minutes. */
export class History {
  #samples = [];
  points = [];

  push(now) {
    const last = this.#samples.at(-1);
    // Another process counts from zero; a clock that went back gives no rates.
    if (last && (last.bootId !== now.bootId || now.nowMs <= last.nowMs)) this.#samples = [];
    this.#samples.push(now);
    while (this.#samples.length > 2 && this.#samples[1].nowMs <= now.nowMs - WINDOW_MS) this.#samples.shift();
    const first = this.#samples[0];
    if (first !== now) {
      this.points.push({
        at: now.nowMs,
        native: between(first, now, "native", now.boundsUs),
        upstream: between(first, now, "upstream", now.boundsUs),
      });
    }
    this.points = this.points.filter((point) => point.at > now.nowMs - SPAN_MS && point.at <= now.nowMs).slice(-KEPT_MAX);
  }

  get latest() {
    return this.points.at(-1);
  }
}

export function micros(us) {
  if (us === null || us === undefined) return "–";
  if (us < 1000) return `${us} µs`;
  if (us < 1_000_000) return `${Number((us / 1000).toPrecision(3))} ms`;
  return `${Number((us / 1_000_000).toPrecision(3))} s`;
}

export function perSecond(rate) {
  if (!rate) return "0";
  return rate >= 100 ? String(Math.round(rate)) : rate >= 10 ? rate.toFixed(1) : rate.toFixed(2);
}

export function duration(ms) {
  const seconds = Math.max(0, Math.round(ms / 1000));
  if (seconds < 120) return `${seconds} s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172_800) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86_400)} days`;
}

export const ago = (atMs, nowMs) => (atMs ? `${duration(nowMs - atMs)} ago` : "–");
export const mib = (bytes) => `${Math.round(bytes / 1_048_576).toLocaleString("en")} MiB`;
export const count = (n, one, many = `${one}s`) => `${n} ${n === 1 ? one : many}`;

export function clock(atMs) {
  const at = new Date(atMs);
  const two = (n) => String(n).padStart(2, "0");
  const time = [at.getHours(), at.getMinutes(), at.getSeconds()].map(two).join(":");
  const isToday = at.toDateString() === new Date().toDateString();
  return isToday ? time : `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())} ${time}`;
}

/** A line of the gateway's log, as JSON or as text: `{atMs, level, text, more}`. */
export function logLine(raw) {
  const line = raw.replace(/\u001b\[[0-9;]*m/g, "");
  try {
    const { timestamp, level, message, target, ...fields } = JSON.parse(line);
    const more = Object.entries(fields).map(([name, value]) => `${name}=${typeof value === "string" ? value : JSON.stringify(value)}`);
    return { atMs: Date.parse(timestamp), level, text: message ?? "", more: more.join(" ") };
  } catch {
    const found = /^\s*(\S+)\s+(ERROR|WARN|INFO|DEBUG|TRACE)\s+([^]*)$/.exec(line);
    if (found) return { atMs: Date.parse(found[1]), level: found[2], text: found[3], more: "" };
    // Cut off at the length that is kept.
    return { atMs: NaN, level: /"level":"([A-Z]+)"/.exec(line)?.[1] ?? "INFO", text: line, more: "" };
  }
}
