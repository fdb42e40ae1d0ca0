// `make bench-media`: our addon, the crate alone and sharp in one process, in turn, on the same files. One JSON line per
// measurement goes to bench/results/<date>-media.jsonl; docs/media.md is written from it (`--report FILE`: only that).
//
// Times are medians of the rounds. CPU is user and system time of the whole process during the call, all threads, so it
// does not depend on how busy the machine is; wall does. PSNR is of the luma against a full decode and a Lanczos 3
// resampling in double precision written here, neither ours nor sharp's.
import { execFileSync } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { median } from "./numbers.mjs";
import { mediaDocument } from "./report-media.mjs";

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "..");
const args = process.argv.slice(2);
const rounds = args.includes("--quick") ? 5 : 9;
const say = (text) => process.stderr.write(`${text}\n`);

function report(text, source) {
  const file = path.join(root, "docs/media.md");
  fs.writeFileSync(file, mediaDocument(fs.readFileSync(file, "utf8"), text, source));
}

if (args[0] === "--report") {
  report(fs.readFileSync(args[1], "utf8"), path.basename(args[1]));
  process.exit();
}

process.env.OPENCLAW_MEDIA_ADDON ??= path.join(process.env.CARGO_TARGET_DIR ?? path.join(root, "target"), "release/libmedia_napi.so");
const media = await import(path.join(root, "crates/media-napi/npm/index.mjs"));
const { default: sharp } = await import(path.join(root, "tests/node_modules/sharp/dist/index.mjs"));
sharp.cache(false);
const sharpThreads = sharp.concurrency();
const images = new media.ImageProcessor();
const file = path.join(root, "bench/results", `${new Date().toISOString().slice(0, 10)}-media.jsonl`);
const lines = [];
const record = (line) => lines.push(JSON.stringify(line));

// === inputs ===

/** Photographs of Debian's `mate-backgrounds`, fetched as anybody fetches a package, nothing installed. */
function photographs() {
  const dir = path.join(os.tmpdir(), "openclaw-rs-photographs");
  const nature = path.join(dir, "usr/share/backgrounds/mate/nature");
  if (!fs.existsSync(nature)) {
    fs.mkdirSync(dir, { recursive: true });
    execFileSync("apt-get", ["download", "mate-backgrounds"], { cwd: dir, stdio: "ignore" });
    const deb = fs.readdirSync(dir).find((name) => name.endsWith(".deb"));
    execFileSync("dpkg", ["-x", deb, "."], { cwd: dir });
  }
  return {
    photos: ["Aqua", "Dune", "Garden", "GreenMeadow", "LadyBird", "RainDrops", "Storm", "TwoWings", "Wood", "YellowFlower"].map((name) => path.join(nature, `${name}.jpg`)).filter((name) => fs.existsSync(name)),
    painting: path.join(nature, "../abstract/Elephants_5640x3172.jpg"),
  };
}

/** Pieces of photographs at their own scale beside each other: what a camera's file would cost, without one. */
async function mosaic(photos, width, height, columns) {
  const [w, h] = [Math.ceil(width / columns), Math.ceil(height / columns)];
  const parts = [];
  for (let i = 0; i < columns * columns; i++) {
    const photo = sharp(photos[i % photos.length]);
    const size = await photo.metadata();
    const [cw, ch] = [Math.min(w, size.width), Math.min(h, size.height)];
    const shift = Math.floor(i / photos.length) * 37;
    const area = { left: Math.min(shift, size.width - cw), top: Math.min(shift, size.height - ch), width: cw, height: ch };
    const input = await photo.extract(area).resize(w, h, { fit: "cover" }).png({ compressionLevel: 1 }).toBuffer();
    parts.push({ input, left: (i % columns) * w, top: Math.floor(i / columns) * h });
  }
  const canvas = sharp({ create: { width: w * columns, height: h * columns, channels: 3, background: "black" }, limitInputPixels: false });
  return sharp(await canvas.composite(parts).png({ compressionLevel: 1 }).toBuffer()).extract({ left: 0, top: 0, width, height }).png({ compressionLevel: 1 }).toBuffer();
}

/** A page of text with a photograph in it, as a browser would show it. */
async function screenshot(photo) {
  const words = fs.readFileSync(path.join(root, "ARCHITECTURE.md"), "utf8").split("\n").slice(0, 62);
  const escaped = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");
  const rows = words.map((line, i) => `<text x="60" y="${60 + i * 22}" font-family="sans-serif" font-size="17" fill="${i % 9 ? "#222" : "#0550ae"}">${escaped(line)}</text>`).join("");
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="2560" height="1440"><rect width="2560" height="1440" fill="#fff"/><rect x="1500" width="1060" height="1440" fill="#f6f8fa"/>${rows}</svg>`;
  const inset = await sharp(photo).resize(800, 600, { fit: "cover" }).png().toBuffer();
  return sharp(Buffer.from(svg)).composite([{ input: inset, left: 1600, top: 200 }]).flatten().removeAlpha().png().toBuffer();
}

say("making the inputs");
const { photos, painting } = photographs();
const mosaic12 = await mosaic(photos, 4032, 3024, 3);
const inputs = {
  "12 MP": await sharp(mosaic12).jpeg({ quality: 92 }).toBuffer(),
  "24 MP": await sharp(await mosaic(photos, 6000, 4000, 4)).jpeg({ quality: 90 }).toBuffer(),
  "18 MP painting": fs.readFileSync(painting),
  "12 MP progressive": await sharp(mosaic12).jpeg({ quality: 92, progressive: true }).toBuffer(),
  "640x480": await sharp(photos[0]).resize(640, 480, { fit: "cover" }).jpeg({ quality: 88 }).toBuffer(),
  screenshot: await screenshot(photos[1]),
};
const tagged = await sharp(photos[0]).resize(1600).withMetadata({ icc: "p3", orientation: 6, exif: { IFD0: { Make: "Maker", Model: "Model" }, IFD3: { GPSLatitudeRef: "N", GPSLatitude: "52/1 30/1 0/1", GPSLongitudeRef: "E", GPSLongitude: "13/1 24/1 0/1" } } }).jpeg().toBuffer();

const CASES = [
  ["12 MP JPEG → 1920", "12 MP", 1920, "jpeg", 85], ["24 MP JPEG → 1920", "24 MP", 1920, "jpeg", 85],
  ["18 MP painting JPEG → 1920", "18 MP painting", 1920, "jpeg", 85], ["12 MP progressive → 1920", "12 MP progressive", 1920, "jpeg", 85],
  ["640×480 JPEG → 320", "640x480", 320, "jpeg", 85], ["PNG screenshot → 1280 PNG", "screenshot", 1280, "png", 100],
  ["PNG screenshot → 1280 JPEG", "screenshot", 1280, "jpeg", 85], ["12 MP JPEG → 800 WebP", "12 MP", 800, "webp", 80],
  ["24 MP JPEG → 800 WebP", "24 MP", 800, "webp", 80],
];

const theirs = (threads) => async (input, side, format, quality) => {
  sharp.concurrency(threads);
  return sharp(input).resize(side, side, { fit: "inside", withoutEnlargement: true }).toFormat(format, format === "png" ? {} : { quality }).toBuffer();
};
const VARIANTS = {
  addon: async (input, side, format, quality) => (await images.process(input, { maxWidth: side, maxHeight: side, format, quality })).data,
  crate: async (input, side, format, quality) => images.processSync(input, { maxWidth: side, maxHeight: side, format, quality }).data,
  sharp: theirs(sharpThreads),
  "sharp, 1 thread": theirs(1),
};

// === measuring ===

async function timed(work) {
  const cpu = process.cpuUsage();
  const from = performance.now();
  const result = await work();
  const wallMs = performance.now() - from;
  const { user, system } = process.cpuUsage(cpu);
  return { result, wallMs, cpuMs: (user + system) / 1000 };
}

/** Every work once a round, each round in the other direction. */
async function inTurn(works, count) {
  const names = Object.keys(works);
  const samples = Object.fromEntries(names.map((name) => [name, []]));
  const results = {};
  for (const name of names) results[name] = await works[name]();
  for (let round = 0; round < count; round++) {
    for (const name of round % 2 ? names.toReversed() : names) {
      const { wallMs, cpuMs } = await timed(works[name]);
      samples[name].push([wallMs, cpuMs]);
    }
  }
  return { samples, results };
}

/** Luma of a file as doubles. */
async function luma(input) {
  const { data, info } = await sharp(input, { limitInputPixels: false }).flatten().toColourspace("srgb").raw().toBuffer({ resolveWithObject: true });
  const { width, height, channels } = info;
  const out = new Float64Array(width * height);
  for (let i = 0, at = 0; i < out.length; i++, at += channels) {
    out[i] = channels < 3 ? data[at] : 0.299 * data[at] + 0.587 * data[at + 1] + 0.114 * data[at + 2];
  }
  return { data: out, width, height };
}

/** Lanczos 3 along one axis: `count` lines of `from` samples, `step` apart, to `to` samples each. */
function lanczos(from, to) {
  const scale = from / to;
  const support = 3 * Math.max(1, scale);
  const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));
  return Array.from({ length: to }, (_, i) => {
    const centre = (i + 0.5) * scale - 0.5;
    const [first, last] = [Math.ceil(centre - support), Math.floor(centre + support)];
    const taps = [];
    let sum = 0;
    for (let at = first; at <= last; at++) {
      const x = (at - centre) / Math.max(1, scale);
      const weight = Math.abs(x) < 3 ? sinc(x) * sinc(x / 3) : 0;
      // Beyond the edge lies nothing: the weights that are left make up for it.
      if (at < 0 || at >= from || weight === 0) continue;
      taps.push([at, weight]);
      sum += weight;
    }
    return taps.map(([at, weight]) => [at, weight / sum]);
  });
}

function resampled({ data, width, height }, toWidth, toHeight) {
  const across = lanczos(width, toWidth);
  const narrow = new Float64Array(toWidth * height);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < toWidth; x++) {
      let sum = 0;
      for (const [at, weight] of across[x]) sum += data[y * width + at] * weight;
      narrow[y * toWidth + x] = sum;
    }
  }
  const out = new Float64Array(toWidth * toHeight);
  lanczos(height, toHeight).forEach((taps, y) => {
    for (const [at, weight] of taps) {
      for (let x = 0; x < toWidth; x++) out[y * toWidth + x] += narrow[at * toWidth + x] * weight;
    }
  });
  return out.map((value) => Math.min(255, Math.max(0, value)));
}

async function psnr(result, reference) {
  const { data } = await luma(result);
  let sum = 0;
  for (let i = 0; i < data.length; i++) sum += (data[i] - reference[i]) ** 2;
  return 10 * Math.log10((255 * 255 * data.length) / sum);
}

function summed(samples) {
  const of = (i) => samples.map((sample) => sample[i]);
  const spread = (values) => [Math.min(...values), Math.max(...values)];
  return { wallMs: median(of(0)), cpuMs: median(of(1)), wallRange: spread(of(0)), cpuRange: spread(of(1)), rounds: samples.length };
}

const load = () => os.loadavg()[0];
record({
  kind: "conditions", date: new Date().toISOString(), addon: media.version, node: process.version, sharp: sharp.versions, sharpThreads,
  cpu: os.cpus()[0].model, cores: os.availableParallelism(), loadBefore: load(),
  inputs: Object.fromEntries(Object.entries(inputs).map(([name, data]) => [name, data.length])),
});

for (const [name, source, side, format, quality] of CASES) {
  say(name);
  const input = inputs[source];
  const works = Object.fromEntries(Object.entries(VARIANTS).map(([variant, run]) => [variant, () => run(input, side, format, quality)]));
  const { samples, results } = await inTurn(works, source === "640x480" ? rounds * 5 : rounds);
  const whole = await luma(input);
  const { width, height } = await sharp(results.addon).metadata();
  const reference = resampled(whole, width, height);
  for (const variant of Object.keys(works)) {
    const same = await sharp(results[variant]).metadata();
    if (same.width !== width || same.height !== height) throw new Error(`${name}: ${variant} is ${same.width}x${same.height}, not ${width}x${height}`);
    record({ kind: "case", name, variant, ...summed(samples[variant]), bytes: results[variant].length, psnr: await psnr(results[variant], reference), load: load() });
  }
}

say("metadata");
{
  const many = (work) => async () => {
    for (let i = 0; i < 200; i++) await work();
  };
  const { samples } = await inTurn({
    addon: many(() => images.metadata(tagged)), crate: many(() => images.metadataSync(tagged)), sharp: many(() => sharp(tagged).metadata()),
  }, rounds);
  for (const [variant, taken] of Object.entries(samples)) {
    record({ kind: "case", name: "metadata with EXIF and ICC", variant, ...summed(taken.map(([wall, cpu]) => [wall / 200, cpu / 200])), load: load() });
  }
}

say("batch of 64");
{
  const kinds = ["12 MP", "640x480", "screenshot", "640x480", "24 MP", "640x480", "12 MP", "640x480"];
  const all = Array.from({ length: 64 }, (_, i) => inputs[kinds[i % kinds.length]]);
  const batch = (run) => () => Promise.all(all.map((input) => run(input, 1280, "jpeg", 85)));
  const { samples } = await inTurn({ addon: batch(VARIANTS.addon), sharp: batch(VARIANTS.sharp), "sharp, 1 thread": batch(VARIANTS["sharp, 1 thread"]) }, args.includes("--quick") ? 1 : 3);
  for (const [variant, taken] of Object.entries(samples)) record({ kind: "case", name: "batch of 64 mixed → 1280 JPEG", variant, ...summed(taken), load: load() });
}

say("boundary");
{
  const percentile = (sorted, p) => sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * p))];
  const tiny = await sharp(photos[0]).resize(16, 16).jpeg().toBuffer();
  const refused = { limits: { pixels: 1 } };
  const ways = {
    "16×16 JPEG, less the work": async () => {
      const from = performance.now();
      const { info } = await images.process(tiny);
      return performance.now() - from - info.elapsedMs;
    },
    [`${(inputs["24 MP"].length / 1e6).toFixed(1)} MB, refused after its header`]: async () => {
      const from = performance.now();
      await images.process(inputs["24 MP"], refused).catch(() => {});
      return performance.now() - from;
    },
  };
  for (const [name, way] of Object.entries(ways)) {
    for (let i = 0; i < 500; i++) await way();
    const taken = [];
    for (let i = 0; i < 3000; i++) taken.push(await way());
    taken.sort((a, b) => a - b);
    record({ kind: "boundary", name, min: taken[0], median: percentile(taken, 0.5), p99: percentile(taken, 0.99), calls: taken.length, load: load() });
  }
}

say("memory");
// In a process of its own: what this one has freed would hide what grows.
const apart = execFileSync(process.execPath, ["--expose-gc", path.join(root, "bench/media-memory.mjs"), photos[0]], { encoding: "utf8", maxBuffer: 1 << 20 });
lines.push(...apart.trim().split("\n"));
record({ kind: "end", load: load() });

fs.mkdirSync(path.dirname(file), { recursive: true });
fs.writeFileSync(file, `${lines.join("\n")}\n`);
report(`${lines.join("\n")}\n`, path.basename(file));
say(`written: ${path.relative(root, file)}, docs/media.md`);
