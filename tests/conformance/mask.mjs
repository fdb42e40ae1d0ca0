// Replaces what must differ between two runs (times, random ids, places) by placeholders, by the look of the
// value first and by key or path where looks do not tell. A placeholder keeps the type visible: a missing or
// mistyped value still shows as a difference.

// Also after an underscore (task_…) and an escaped colon (plugin%3A…).
const UUID = /(?:(?<=%3A)|(?<![0-9a-z]))[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b/gi;
// In file names with dashes for what a name can't have.
const ISO = /\b20\d\d-\d\d-\d\dT\d\d[:-]\d\d[:-]\d\d(?:[.-]\d+)?(?:Z|[+-]\d\d:?\d\d)/g;
const HMAC = /hmac-sha256:v\d+:[A-Za-z0-9_-]+/g;
const HEX = /\b(?:[0-9a-f]{64}|[0-9a-f]{40}|[0-9a-f]{32})\b/g;
// 43 characters are 32 random bytes: tokens, recovery scopes, public keys. 86: Ed25519 signatures.
const BASE64URL = /(?<![A-Za-z0-9_-])(?:[A-Za-z0-9_-]{86}|[A-Za-z0-9_-]{43})(?![A-Za-z0-9_-])/g;

/** Numbers that measure the machine or the moment, by key. Source: live runs; two originals differ in each. */
const MEASURED = new Set([
  "durationMs", "runtimeMs", "uptimeMs", "uptime", "elapsedMs", "latencyMs", "ageMs", "lastAgeMs", "pid", "ppid", "rss", "rssBytes", "heapUsed",
  "heapUsedBytes", "heapTotal", "heapTotalBytes", "external", "externalBytes", "arrayBuffers", "arrayBuffersBytes", "delayP99Ms",
  "delayMaxMs", "delayMeanMs", "utilization", "cpuCoreRatio", "cpuTotalMs", "cpuUserMs", "cpuSystemMs",
  "memoryFreeBytes", "diskAvailableBytes", "retryAfterMs", "expiresInMs",
]);

/** Capability path of a plugin surface: 18 random bytes. */
const CAPABILITY = /(?<=\/cap\/)[A-Za-z0-9_-]{24}/g;
/** Close reasons are cut at 123 bytes, in the middle of an id. */
const CUT_ID = /(?<=\(requestId: )[0-9a-f-]+/g;

const escape = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");

/** Matches `a.b.0.c` against `a.*.c`-like patterns; `*` is one segment, `**` any number of them. */
export function pathMatcher(pattern) {
  const source = pattern.split(".").map((part) =>
    part === "**" ? "(?:[^.]+(?:\\.[^.]+)*)" : part.split("*").map(escape).join("[^.]*")).join("\\.");
  return new RegExp(`^${source}$`);
}

/** Matches a case id; `*` is any text. */
export const idMatcher = (pattern) => new RegExp(`^${pattern.split("*").map(escape).join(".*")}$`);

/**
 * `places`: [[text, placeholder]] of the side (directories, ports), `keep`: answers the random-looking strings
 * both sides share (device ids), `paths`: patterns masked whole, `skew`: ms epoch numbers this close to now are times.
 */
export class Mask {
  constructor({ places = [], keep = () => [], paths = [], skewMs = 400 * 86_400_000 } = {}) {
    this.keep = keep;
    this.paths = paths.map(pathMatcher);
    this.skewMs = skewMs;
    this.now = Date.now();
    // Longest first: a directory contains another's name.
    this.places = places.toSorted(([a], [b]) => String(b).length - String(a).length);
    /** How many leaves were masked and how many compared as they are: a mask that eats everything proves nothing. */
    this.count = { masked: 0, plain: 0 };
  }

  with(paths) {
    if (!paths?.length) return this;
    const copy = Object.assign(Object.create(Mask.prototype), this);
    copy.paths = [...this.paths, ...paths.map(pathMatcher)];
    return copy;
  }

  text(value) {
    // Cursors are JSON in base64url: what is in them is compared, not how it looks.
    if (/^eyJ[A-Za-z0-9_-]+$/.test(value)) {
      try {
        return `<base64 ${this.text(Buffer.from(value, "base64url").toString())}>`;
      } catch {
        return value;
      }
    }
    for (const [text, placeholder] of this.places) {
      if (typeof text === "string") value = value.replaceAll(text, placeholder);
    }
    const shared = this.keep();
    const random = (placeholder) => (match) => (shared.includes(match) ? match : placeholder);
    return value.replace(ISO, "<iso>").replace(UUID, random("<uuid>")).replace(CUT_ID, (id) => `<cut to ${id.length}>`).replace(CAPABILITY, "<capability>").replace(HMAC, "<hmac>")
      .replace(HEX, random("<hex>")).replace(BASE64URL, random("<b64>"))
      .replace(/\b1[789]\d{11}\b/g, "<ms>").replace(/\b\d+(?:\.\d+)?\s?ms\b/g, "<n>ms");
  }

  number(key, value) {
    for (const [place, placeholder] of this.places) if (place === value) return placeholder;
    if (MEASURED.has(key)) return "<measured>";
    if (value > 1e12 && Math.abs(value - this.now) < this.skewMs) return "<ms>";
    return value;
  }

  apply(value, path = "", key = "") {
    if (this.paths.some((pattern) => pattern.test(path))) {
      this.count.masked++;
      return value === null ? null : `<masked ${Array.isArray(value) ? "array" : typeof value}>`;
    }
    if (Array.isArray(value)) return value.map((item, i) => this.apply(item, path ? `${path}.${i}` : `${i}`, key));
    if (value && typeof value === "object") {
      const entries = Object.entries(value).map(([name, item]) =>
        [this.text(name), this.apply(item, path ? `${path}.${name}` : name, name)]);
      return Object.fromEntries(entries.toSorted(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0)));
    }
    const masked = typeof value === "string" ? this.text(value) : typeof value === "number" ? this.number(key, value) : value;
    if (masked === value) this.count.plain++;
    else this.count.masked++;
    return masked;
  }
}
