// RSS over 2,000 operations of each kind, in a fresh process: one JSON line each. Part of `make bench-media`. Argument: a
// photograph.
import path from "node:path";
import { fileURLToPath } from "node:url";

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "..");
process.env.OPENCLAW_MEDIA_ADDON ??= path.join(process.env.CARGO_TARGET_DIR ?? path.join(root, "target"), "release/libmedia_napi.so");
const media = await import(path.join(root, "crates/media-napi/npm/index.mjs"));
const { default: sharp } = await import(path.join(root, "tests/node_modules/sharp/dist/index.mjs"));
sharp.cache(false);
const images = new media.ImageProcessor();

const small = {};
for (const format of ["jpeg", "png", "webp", "gif"]) small[format] = await sharp(process.argv[2]).resize(160, 120).toFormat(format).toBuffer();
const large = await sharp(process.argv[2]).resize(1600, 1000).jpeg({ quality: 98 }).toBuffer();
const quiet = (promise) => promise.then(() => {}, () => {});

const ways = {
  ...Object.fromEntries(Object.entries(small).map(([format, data]) => [`${format}, made`, () => images.process(data, { maxWidth: 100, format })])),
  "jpeg, broken": () => quiet(images.process(small.jpeg.subarray(0, 900))),
  "jpeg, refused": () => quiet(images.process(small.jpeg, { limits: { pixels: 1 } })),
  [`jpeg of ${Math.round(large.length / 1e3)} KB, stopped`]: () => {
    const stop = new AbortController();
    const done = quiet(images.process(large, { maxWidth: 100, signal: stop.signal }));
    setImmediate(() => stop.abort());
    return done;
  },
  "sharp: jpeg, made": () => sharp(small.jpeg).resize(100).jpeg().toBuffer(),
};

async function settled() {
  // Work that was stopped goes on to its next look.
  while (media.counters().running + media.counters().waiting > 0) await new Promise((resolve) => setImmediate(resolve));
  for (let i = 0; i < 3; i++) {
    globalThis.gc();
    await new Promise((resolve) => setImmediate(resolve));
  }
  return process.memoryUsage.rss() / 1e6;
}

for (const [name, way] of Object.entries(ways)) {
  const rssMb = [await settled()];
  for (let part = 0; part < 4; part++) {
    for (let i = 0; i < 500; i++) await way();
    rssMb.push(await settled());
  }
  console.log(JSON.stringify({ kind: "memory", name, rssMb, operations: 2000 }));
}
