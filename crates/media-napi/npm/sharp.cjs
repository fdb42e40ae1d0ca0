"use strict";
// A front in the shape of sharp: a chain of calls becomes one call of the engine. What the engine cannot do throws
// a MediaError `unsupported` where it is asked for; nothing is left out silently.
const fs = require("node:fs");
const path = require("node:path");
const { Duplex } = require("node:stream");
const { ImageProcessor, configure, counters, defaultLimits, version } = require("./lib/engine.cjs");
const { MediaError } = require("./lib/errors.cjs");
const { geometry } = require("./lib/geometry.cjs");

const engine = new ImageProcessor();
const WRITTEN = ["jpeg", "png", "webp", "gif"];
/** The largest side that sharp takes; what it would cost is bounded by the engine. */
const SIDE_MAX = 100_000_000;
const EXTENSIONS = { jpg: "jpeg", jpeg: "jpeg", jpe: "jpeg", png: "png", webp: "webp", gif: "gif" };

function unsupported(what) {
  return new MediaError(`${what} is not supported by openclaw-media`, { code: "unsupported" });
}

/** In sharp's own words, which callers match. */
function invalid(name, expected, value) {
  return new MediaError(`Expected ${expected} for ${name} but received ${value} of type ${typeof value}`, { code: "options" });
}

const isWhole = (value) => Number.isInteger(value) && value > 0;

/** Options one by one: `rules` has a function for each that is known; it throws or returns the value. */
function read(call, options, rules) {
  if (options === undefined || options === null) return {};
  if (typeof options !== "object") throw invalid("options", "object", options);
  const out = {};
  for (const [name, value] of Object.entries(options)) {
    if (value === undefined) continue;
    const rule = Object.hasOwn(rules, name) ? rules[name] : undefined;
    if (!rule) throw unsupported(`${call}({ ${name} })`);
    out[name] = rule(value, name);
  }
  return out;
}

const flag = (value, name) => {
  if (typeof value !== "boolean") throw invalid(name, "boolean", value);
  return value;
};
/** Only this value is what the engine does anyway. */
const only = (...allowed) => (value, name) => {
  if (!allowed.includes(value)) throw unsupported(`${name}: ${JSON.stringify(value)}`);
  return value;
};
/** Trades time for bytes without changing a pixel; the engine has its own mind. */
const hint = (value) => value;
const quality = (value, name) => {
  if (!isWhole(value) || value > 100) throw invalid(name, "integer between 1 and 100", value);
  return value;
};
const side = (value, name) => {
  if (value === null) return undefined;
  if (!isWhole(value) || value > SIDE_MAX) throw invalid(name, `positive integer between 1 and ${SIDE_MAX}`, value);
  return value;
};

function colour(value, name = "background") {
  if (typeof value === "string") {
    const named = { black: [0, 0, 0], white: [255, 255, 255], red: [255, 0, 0], lime: [0, 255, 0], blue: [0, 0, 255] }[value.toLowerCase()];
    if (named) return named;
    const hex = /^#(?:([0-9a-f])([0-9a-f])([0-9a-f])|([0-9a-f]{2})([0-9a-f]{2})([0-9a-f]{2}))$/i.exec(value);
    if (!hex) throw unsupported(`${name}: ${JSON.stringify(value)}`);
    return hex.slice(1).filter(Boolean).map((part) => parseInt(part.length === 1 ? part + part : part, 16));
  }
  const { r, g, b, alpha = 1 } = value ?? {};
  if (![r, g, b].every((part) => Number.isInteger(part) && part >= 0 && part <= 255)) throw invalid(name, "colour", value);
  if (alpha !== 1) throw unsupported(`${name} with alpha`);
  return [r, g, b];
}

const INPUT = {
  failOn: only("warning", "error"), failOnError: only(true), animated: flag, autoOrient: flag, sequentialRead: hint,
  unlimited: flag, page: only(0), pages: only(1, -1),
  limitInputPixels: (value, name) => {
    if (value === false || value === 0) return Number.MAX_SAFE_INTEGER;
    if (value === true) return defaultLimits.pixels;
    if (!isWhole(value)) throw invalid(name, "positive integer", value);
    return value;
  },
};
const RESIZE = {
  width: side, height: side, withoutEnlargement: flag, withoutReduction: only(false), fastShrinkOnLoad: only(true),
  kernel: only("lanczos3"), background: hint,
  fit: (value, name) => {
    if (value === "contain") throw unsupported('fit: "contain"');
    if (!["cover", "fill", "inside", "outside"].includes(value)) throw invalid(name, "valid fit", value);
    return value;
  },
  position: (value) => {
    const gravity = typeof value === "string" ? GRAVITY[value.toLowerCase().replace("center", "centre")] : Object.values(GRAVITY)[value];
    if (!gravity) throw unsupported(`position: ${JSON.stringify(value)}`);
    return gravity;
  },
};
/** Where the kept part lies: −1 start, 0 middle, 1 end, across and down; in the order of sharp's numbers. */
const GRAVITY = {
  centre: [0, 0], north: [0, -1], east: [1, 0], south: [0, 1], west: [-1, 0],
  northeast: [1, -1], southeast: [1, 1], southwest: [-1, 1], northwest: [-1, -1],
};
Object.assign(GRAVITY, { top: GRAVITY.north, right: GRAVITY.east, bottom: GRAVITY.south, left: GRAVITY.west });
for (const [y, vertical] of [["top", "north"], ["bottom", "south"]]) {
  for (const [x, horizontal] of [["left", "west"], ["right", "east"]]) {
    for (const name of [`${x} ${y}`, `${y} ${x}`]) GRAVITY[name] = GRAVITY[vertical + horizontal];
  }
}

const OUTPUT = {
  jpeg: {
    quality, progressive: only(false), chromaSubsampling: only("4:2:0"), optimiseCoding: only(true), optimizeCoding: only(true),
    mozjpeg: only(false), trellisQuantisation: only(false), overshootDeringing: only(false), optimiseScans: only(false),
    optimizeScans: only(false), quantisationTable: only(0), quantizationTable: only(0), force: hint,
  },
  png: { compressionLevel: hint, effort: hint, adaptiveFiltering: hint, palette: only(false), progressive: only(false), force: hint },
  webp: {
    quality, lossless: flag, alphaQuality: only(100), nearLossless: only(false), smartSubsample: only(false), effort: only(4),
    loop: only(0), force: hint,
  },
  gif: { effort: hint, loop: only(0), progressive: only(false), reuse: hint, force: hint },
};

class Sharp extends Duplex {
  #state;
  /** Whole input, once asked for: a promise of { bytes, facts }. */
  #input;
  #parts = [];
  #written;

  constructor(input, options, state) {
    super();
    this.#state = state ?? { input: read("sharp", options, INPUT), before: [], after: [], turns: { flip: false, flop: false, rotateBefore: 0, rotateAfter: 0 } };
    if (state) {
      this.#input = input;
    } else if (typeof input === "string") {
      if (input === "") throw new MediaError("Input file is missing", { code: "options" });
      this.#input = () => fs.promises.readFile(input).catch((error) => {
        const words = error.code === "ENOENT" ? `Input file is missing: ${input}` : `${input}: ${error.message}`;
        throw new MediaError(words, { code: "broken", cause: error });
      });
    } else if (ArrayBuffer.isView(input) || input instanceof ArrayBuffer) {
      if (input.byteLength === 0) throw new MediaError("Input Buffer is empty", { code: "options" });
      this.#input = async () => input;
    } else if (input === undefined || input === null) {
      this.#written = new Promise((resolve) => this.once("finish", () => resolve(Buffer.concat(this.#parts))));
      this.#input = () => this.#written;
    } else {
      throw unsupported(`sharp(${Array.isArray(input) ? "[…]" : typeof input === "object" ? "{…}" : String(input)})`);
    }
  }

  // === stream ===

  _write(part, _encoding, done) {
    const size = this.#parts.reduce((sum, { length }) => sum + length, part.length);
    if (!this.#written) return done(new MediaError("Unexpected data on Writable Stream", { code: "options" }));
    if (size > defaultLimits.bytes) return done(new MediaError(`file size in bytes ${size} is over the limit of ${defaultLimits.bytes}`, { code: "limit" }));
    this.#parts.push(part);
    done();
  }

  _read() {
    if (this.#state.reading) return;
    this.#state = { ...this.#state, reading: true };
    this.#run().then(({ data, info }) => {
      this.emit("info", info);
      this.push(data);
      this.push(null);
    }, (error) => this.destroy(error));
  }

  // === geometry ===

  rotate(angle, options) {
    if (angle === undefined || angle === null) return this.autoOrient();
    if (typeof angle === "object") throw unsupported("rotate({…})");
    if (!Number.isInteger(angle)) throw invalid("angle", "numeric", angle);
    if (angle % 90 !== 0) throw unsupported(`rotate(${angle})`);
    read("rotate", options, { background: hint });
    return this.#with({ angle: ((angle % 360) + 360) % 360 });
  }

  autoOrient() {
    return this.#with({ oriented: true });
  }

  flip(on = true) {
    return this.#with({ flip: flag(on, "flip") });
  }

  flop(on = true) {
    return this.#with({ flop: flag(on, "flop") });
  }

  resize(width, height, options) {
    let given = options;
    const sides = {};
    if (width !== null && typeof width === "object") {
      given = width;
    } else {
      if (width !== undefined && width !== null) sides.width = side(width, "width");
      if (height !== undefined && height !== null) sides.height = side(height, "height");
    }
    const resize = { fit: "cover", position: GRAVITY.centre, ...sides, ...read("resize", given, RESIZE) };
    return this.#with({ resize, rotatesFirst: this.#state.rotatesFirst || Boolean(this.#state.angle) });
  }

  extract(area) {
    for (const name of ["left", "top", "width", "height"]) {
      const value = area?.[name];
      const holds = Number.isInteger(value) && (value > 0 || (value === 0 && (name === "left" || name === "top")));
      if (!holds) throw invalid(name, "integer", value);
    }
    const where = this.#state.resize ? "extractAfter" : "extractBefore";
    if (this.#state[where]) throw unsupported("a second extract");
    const rotatesFirst = this.#state.rotatesFirst || (Boolean(this.#state.angle) && !this.#state.resize);
    return this.#with({ [where]: { ...area }, rotatesFirst });
  }

  flatten(options = {}) {
    if (options === false) return this.#with({ flatten: false });
    const { background = [0, 0, 0] } = read("flatten", options === true ? {} : options, { background: colour });
    return this.#with({ flatten: true, background });
  }

  toColourspace(space) {
    only("srgb", "sRGB")(space, "toColourspace");
    return this;
  }

  toColorspace(space) {
    return this.toColourspace(space);
  }

  timeout(options) {
    const { seconds = 0 } = read("timeout", options, {
      seconds: (value, name) => {
        if (!Number.isInteger(value) || value < 0 || value > 3600) throw invalid(name, "integer between 0 and 3600", value);
        return value;
      },
    });
    return this.#with({ seconds });
  }

  // === output ===

  jpeg(options) {
    return this.#as("jpeg", options);
  }

  png(options) {
    return this.#as("png", options);
  }

  webp(options) {
    return this.#as("webp", options);
  }

  gif(options) {
    return this.#as("gif", options);
  }

  toFormat(format, options) {
    const name = String(typeof format === "object" ? format?.id : format).toLowerCase();
    const kind = EXTENSIONS[name];
    if (!kind) throw unsupported(`toFormat(${name})`);
    return this.#as(kind, options);
  }

  #as(format, options) {
    // `force: false`: these settings if it becomes that kind, which kind stays as it was.
    const settings = read(format, options, OUTPUT[format]);
    const { force = true, ...rest } = settings;
    const known = { ...this.#state.settings, [format]: rest };
    return this.#with(force === false ? { settings: known } : { settings: known, format });
  }

  async #run(fallback) {
    const bytes = await this.#bytes();
    const state = this.#state;
    const facts = named(() => engine.metadataSync(bytes, { limits: this.#limits() }));
    const format = state.format ?? fallback ?? facts.format;
    if (!WRITTEN.includes(format)) throw unsupported(`writing ${format}`);
    const { quality = 80, lossless } = state.settings?.[format] ?? {};
    const animated = Boolean(state.input.animated || state.input.pages === -1);
    const oriented = state.oriented || state.input.autoOrient;
    const { data, info } = await engine.process(bytes, {
      ...geometry(facts, { ...state, oriented }),
      format, quality, animated, enlarge: true, autoOrient: false,
      ...(lossless === undefined ? {} : { lossless }),
      background: state.background ?? [0, 0, 0],
      flatten: Boolean(state.flatten),
      limits: this.#limits(),
      ...(state.seconds ? { signal: AbortSignal.timeout(state.seconds * 1000) } : {}),
    });
    const { hasAlpha } = engine.metadataSync(data);
    const { width, height, size, frames } = info;
    const pages = frames > 1 ? { pages: frames, pageHeight: height } : {};
    return { data, info: { format, width, height, channels: hasAlpha ? 4 : 3, premultiplied: false, size, ...pages } };
  }

  toBuffer(options, callback) {
    if (typeof options === "function") return answered(this.#run(), options, ({ data, info }) => [data, info]);
    const { resolveWithObject = false } = read("toBuffer", options, { resolveWithObject: flag });
    const done = this.#run();
    if (typeof callback === "function") return answered(done, callback, ({ data, info }) => [data, info]);
    return done.then((result) => (resolveWithObject ? result : result.data));
  }

  toUint8Array() {
    return this.#run().then(({ data, info }) => ({ data: new Uint8Array(data.buffer, data.byteOffset, data.byteLength), info }));
  }

  toFile(file, callback) {
    const write = async () => {
      if (typeof file !== "string" || file === "") throw new MediaError("Missing output file path", { code: "options" });
      const ending = path.extname(file).slice(1).toLowerCase();
      if (!this.#state.format && ending && !EXTENSIONS[ending]) {
        throw new MediaError(`Unsupported output format ${file}`, { code: "unsupported" });
      }
      const { data, info } = await this.#run(EXTENSIONS[ending]);
      await fs.promises.writeFile(file, data);
      return info;
    };
    const done = write();
    return typeof callback === "function" ? answered(done, callback, (info) => [info]) : done;
  }

  /** From the headers. Without what needs more: density, colour space, channels, depth, raw EXIF and ICC blocks. */
  metadata(callback) {
    const look = async () => {
      const bytes = await this.#bytes();
      const { format, size, width, height, orientation, hasAlpha, frames, icc, exif } = named(() => engine.metadataSync(bytes));
      const swapped = orientation >= 5;
      return {
        format, size, width, height, hasAlpha, hasProfile: icc !== undefined,
        ...(frames > 1 ? { pages: frames } : {}),
        ...(orientation > 1 || exif ? { orientation } : {}),
        autoOrient: swapped ? { width: height, height: width } : { width, height },
      };
    };
    const done = look();
    return typeof callback === "function" ? answered(done, callback, (found) => [found]) : done;
  }

  clone() {
    return new Sharp(this.#input, undefined, { ...this.#state, reading: false });
  }

  #limits() {
    const { limitInputPixels, unlimited } = this.#state.input;
    return unlimited ? { pixels: Number.MAX_SAFE_INTEGER } : { pixels: limitInputPixels ?? defaultLimits.pixels };
  }

  async #bytes() {
    const bytes = await this.#input();
    if (bytes.byteLength === 0) throw new MediaError("Input Buffer is empty", { code: "broken" });
    return bytes;
  }

  #with(change) {
    this.#state = { ...this.#state, ...change };
    return this;
  }
}

/** Callers match sharp's words for what is no image. */
function named(look) {
  try {
    return look();
  } catch (error) {
    if (error.code !== "unsupported" || !error.message.startsWith("not an image")) throw error;
    throw new MediaError("Input buffer contains unsupported image format", { code: "unsupported", cause: error });
  }
}

function answered(done, callback, args) {
  done.then((result) => callback(null, ...args(result)), (error) => callback(error));
  return undefined;
}

const ABSENT = [
  "affine", "avif", "bandbool", "blur", "boolean", "clahe", "composite", "convolve", "dilate", "ensureAlpha", "erode", "extend",
  "extractChannel", "gamma", "grayscale", "greyscale", "heif", "joinChannel", "jp2", "jxl", "keepExif", "keepGainMap", "keepIccProfile",
  "keepMetadata", "keepXmp", "linear", "median", "modulate", "negate", "normalise", "normalize", "pipelineColorspace",
  "pipelineColourspace", "raw", "recomb", "removeAlpha", "sharpen", "stats", "threshold", "tiff", "tile", "tint", "trim",
  "unflatten", "withExif", "withExifMerge", "withDensity", "withGainMap", "withIccProfile", "withMetadata", "withXmp",
];
for (const name of ABSENT) {
  Object.defineProperty(Sharp.prototype, name, {
    configurable: true, writable: true,
    value: function absent() {
      throw unsupported(`${name}()`);
    },
  });
}

function sharp(input, options) {
  return new Sharp(input, options);
}
sharp.MediaError = MediaError;
sharp.cache = () => ({ memory: { current: 0, high: 0, max: 0 }, files: { current: 0, max: 0 }, items: { current: 0, max: 0 } });
sharp.concurrency = (threads) => configure({ threads: threads ?? undefined }).threads;
sharp.counters = () => {
  const { waiting, running } = counters();
  return { queue: waiting, process: running };
};
sharp.simd = () => true;
sharp.versions = { "openclaw-media": version };
sharp.format = Object.fromEntries(
  [...WRITTEN, "tiff", "bmp", "ico"].map((id) => {
    const write = WRITTEN.includes(id);
    return [id, { id, input: { file: true, buffer: true, stream: true }, output: { file: write, buffer: write, stream: write } }];
  }),
);
sharp.fit = { cover: "cover", fill: "fill", inside: "inside", outside: "outside" };
sharp.kernel = { lanczos3: "lanczos3" };
sharp.gravity = { center: 0, centre: 0, north: 1, east: 2, south: 3, west: 4, northeast: 5, southeast: 6, southwest: 7, northwest: 8 };
sharp.default = sharp;

module.exports = sharp;
