"use strict";
// ImageProcessor: checks what was passed, hands it to the addon, makes errors of refusals.
const { Transform } = require("node:stream");
const { MediaError } = require("./errors.cjs");

const native = require("./native.cjs").load();
const [inputBytes, inputPixels, inputFrames] = native.defaultLimits();
/** Smaller inputs are copied: cheaper than keeping the caller's alive, and then the caller may reuse it at once. */
const COPIED_BYTES = 64 * 1024;

const isNumber = (value) => typeof value === "number" && !Number.isNaN(value);
const isWhole = (value) => Number.isInteger(value) && value >= 0 && value <= 0xffff_ffff;

function wrong(name, expected, value) {
  const shown = typeof value === "string" ? JSON.stringify(value) : String(value);
  return new MediaError(`${name}: expected ${expected}, got ${shown}`, { code: "options" });
}

const KINDS = {
  whole: ["a whole number from 0", isWhole],
  number: ["a number from 0", (value) => isNumber(value) && value >= 0],
  text: ["a string", (value) => typeof value === "string"],
  flag: ["true or false", (value) => typeof value === "boolean"],
  whole3: ["[red, green, blue], 0 to 255", (value) => Array.isArray(value) && value.length === 3 && value.every((n) => isWhole(n) && n < 256)],
  area: ["{ left, top, width, height }, numbers from 0", (value) => value !== null && typeof value === "object" && ["left", "top", "width", "height"].every((key) => isNumber(value[key]) && value[key] >= 0)],
  limits: ["{ bytes, pixels, frames }", (value) => value !== null && typeof value === "object"],
  signal: ["an AbortSignal", (value) => typeof value?.addEventListener === "function"],
};
const OPTIONS = {
  maxWidth: "whole", maxHeight: "whole", fit: "text", enlarge: "flag", autoOrient: "flag", orientation: "whole",
  crop: "area", format: "text", quality: "whole", lossless: "flag", animated: "flag", background: "whole3",
  flatten: "flag", maxBytes: "number", limits: "limits", signal: "signal",
};

/** Options as people write them → as the addon takes them. */
function wish(options) {
  const out = {};
  for (const [name, value] of Object.entries(options ?? {})) {
    const kind = OPTIONS[name];
    if (!kind) throw new MediaError(`there is no option ${name}: ${Object.keys(OPTIONS).join(", ")}`, { code: "options" });
    if (value === undefined) continue;
    const [expected, holds] = KINDS[kind];
    if (!holds(value)) throw wrong(name, expected, value);
    out[name] = value;
  }
  const { limits, signal, crop, ...rest } = out;
  if (crop) rest.crop = [crop.left, crop.top, crop.width, crop.height];
  return { wish: { ...rest, ...bounds(limits) }, signal };
}

function bounds(limits = {}) {
  const out = {};
  for (const [name, value] of Object.entries(limits)) {
    const key = { bytes: "inputBytes", pixels: "inputPixels", frames: "inputFrames" }[name];
    if (!key) throw new MediaError(`there is no limit ${name}: bytes, pixels, frames`, { code: "options" });
    if (value === undefined) continue;
    if (!KINDS.number[1](value)) throw wrong(`limits.${name}`, KINDS.number[0], value);
    out[key] = value;
  }
  return out;
}

/** A view of the bytes, or undefined if they have to be gathered first. */
function view(input) {
  if (ArrayBuffer.isView(input)) return new Uint8Array(input.buffer, input.byteOffset, input.byteLength);
  if (input instanceof ArrayBuffer || (typeof SharedArrayBuffer !== "undefined" && input instanceof SharedArrayBuffer)) {
    return new Uint8Array(input);
  }
  return undefined;
}

/** Memory that another thread can change, or the owner can take away, must not be read by ours. */
function safe(bytes) {
  const held = bytes.buffer;
  const loose = !(held instanceof ArrayBuffer) || held.resizable;
  return loose || bytes.byteLength <= COPIED_BYTES ? Uint8Array.from(bytes) : bytes;
}

function tooMany(have, limit) {
  return MediaError.of({
    code: "limit", message: `file size in bytes ${have} is over the limit of ${limit}`, what: "file size in bytes", have, limit,
  });
}

async function gather(input, most, signal) {
  if (typeof Blob !== "undefined" && input instanceof Blob) {
    if (input.size > most) throw tooMany(input.size, most);
    return new Uint8Array(await input.arrayBuffer());
  }
  if (typeof input?.[Symbol.asyncIterator] !== "function") {
    throw wrong("input", "a Buffer, typed array, ArrayBuffer, Blob, Readable or async iterable of bytes", input);
  }
  const parts = [];
  let size = 0;
  for await (const part of input) {
    if (signal?.aborted) throw MediaError.cancelled(signal);
    const bytes = view(part);
    if (!bytes) throw wrong("a part of the stream", "bytes", part);
    size += bytes.byteLength;
    if (size > most) throw tooMany(size, most);
    parts.push(bytes);
  }
  return Buffer.concat(parts, size);
}

/** The promise of the addon, cut short by the signal. */
function run(bytes, wish, signal) {
  if (signal?.aborted) return Promise.reject(MediaError.cancelled(signal));
  if (!signal) return native.process(bytes, wish);
  const ticket = new native.Ticket();
  return new Promise((resolve, reject) => {
    const stop = () => {
      ticket.cancel();
      reject(MediaError.cancelled(signal));
    };
    signal.addEventListener("abort", stop, { once: true });
    native.process(bytes, wish, ticket).then(resolve, reject).finally(() => signal.removeEventListener("abort", stop));
  });
}

class ImageProcessor {
  #defaults;

  /** `defaults`: options of every call that does not state its own. */
  constructor(defaults = {}) {
    wish(defaults);
    this.#defaults = defaults;
  }

  /** → { data: Buffer, info: { format, width, height, frames, quality, size, elapsedMs } } */
  async process(input, options) {
    const { wish: wanted, signal } = wish({ ...this.#defaults, ...options });
    const bytes = view(input) ?? (await gather(input, wanted.inputBytes ?? inputBytes, signal));
    const outcome = await run(safe(bytes), wanted, signal);
    return finished(outcome);
  }

  /** The same on this thread: the event loop waits. */
  processSync(input, options) {
    const { wish: wanted, signal } = wish({ ...this.#defaults, ...options });
    if (signal?.aborted) throw MediaError.cancelled(signal);
    const bytes = view(input);
    if (!bytes) throw wrong("input", "a Buffer, typed array or ArrayBuffer", input);
    return finished(native.processSync(bytes.buffer instanceof ArrayBuffer ? bytes : Uint8Array.from(bytes), wanted));
  }

  /** Into a box: `fit(input, 1920)`, `fit(input, { width, height }, options)`. */
  async fit(input, box, options) {
    const sides = isNumber(box) ? { maxWidth: box, maxHeight: box } : { maxWidth: box?.width, maxHeight: box?.height };
    return this.process(input, { ...options, ...sides });
  }

  /** Another kind, the same size. */
  async convert(input, format, options) {
    return this.process(input, { ...options, format });
  }

  /** From the headers, no pixel decoded. */
  async metadata(input, { limits, signal } = {}) {
    const { inputBytes: most = inputBytes } = bounds({ ...this.#defaults.limits, ...limits });
    return this.metadataSync(view(input) ?? (await gather(input, most, signal)), { limits });
  }

  metadataSync(input, { limits } = {}) {
    const { inputBytes: most, inputPixels: pixels } = bounds({ ...this.#defaults.limits, ...limits });
    const bytes = view(input);
    if (!bytes) throw wrong("input", "a Buffer, typed array or ArrayBuffer", input);
    const facts = native.metadata(bytes.buffer instanceof ArrayBuffer ? bytes : Uint8Array.from(bytes), most, pixels);
    if (facts.refusal) throw MediaError.of(facts.refusal);
    const { refusal, alpha, taken, make, model, location, icc, ...rest } = facts;
    const exif = taken || make || model || location
      ? { taken, make, model, location: location && { latitude: location[0], longitude: location[1] } }
      : undefined;
    return { ...rest, size: bytes.byteLength, hasAlpha: alpha, icc, exif };
  }

  /** A stream: the image is written in, the result comes out; `info` is emitted before the first byte. */
  stream(options) {
    const { wish: wanted, signal } = wish({ ...this.#defaults, ...options });
    const most = wanted.inputBytes ?? inputBytes;
    const parts = [];
    let size = 0;
    return new Transform({
      signal,
      transform(part, _encoding, done) {
        size += part.length;
        if (size > most) return done(tooMany(size, most));
        parts.push(part);
        done();
      },
      flush(done) {
        run(safe(new Uint8Array(Buffer.concat(parts.splice(0), size))), wanted, signal).then(finished).then(({ data, info }) => {
          this.emit("info", info);
          done(null, data);
        }).catch(done);
      },
    });
  }
}

function finished({ refusal, data, format, width, height, frames, quality, elapsedMs }) {
  if (refusal) throw MediaError.of(refusal);
  return { data, info: { format, width, height, frames, quality, size: data.length, elapsedMs } };
}

/** Threads and megapixels in work, for the whole process; answers what holds now. */
function configure({ threads, pixels } = {}) {
  if (threads !== undefined && !(isWhole(threads) && threads <= 1024)) throw wrong("threads", "0 (as many as cores) to 1024", threads);
  if (pixels !== undefined && !(KINDS.number[1](pixels) && pixels > 0)) throw wrong("pixels", "a number above 0", pixels);
  const [now, most] = native.configure(threads, pixels);
  return { threads: now, pixels: most };
}

function counters() {
  const [waiting, running] = native.counters();
  return { waiting, running };
}

module.exports = {
  ImageProcessor, MediaError, configure, counters,
  defaultLimits: { bytes: inputBytes, pixels: inputPixels, frames: inputFrames },
  version: native.version(),
};
