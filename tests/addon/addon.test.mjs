// `openclaw-media` as a caller in Node sees it: results, errors, stopping, bounds. sharp makes the inputs and judges.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import crypto from "node:crypto";
import { createRequire } from "node:module";
import path from "node:path";
import { Readable } from "node:stream";
import { buffer } from "node:stream/consumers";
import test from "node:test";
import { Worker } from "node:worker_threads";
import { media, packageRoot, picture, psnr, sharp } from "./load.mjs";

const { ImageProcessor, MediaError } = media;
const images = new ImageProcessor();
const jpeg = await picture(451, 303).jpeg({ quality: 92 }).toBuffer();
const failure = (work) => Promise.resolve().then(work).then(() => assert.fail("it went through"), (error) => error);

test("a photo is fitted as sharp fits it, under either name and either module system", async () => {
  const theirs = await sharp(jpeg).resize(200, 200, { fit: "inside", withoutEnlargement: true }).jpeg({ quality: 85 }).toBuffer();
  const required = createRequire(import.meta.url)(packageRoot);
  assert.equal(required.ImageProcessor, media.ImageProcessorFFI);
  const { data, info } = await new media.ImageProcessorFFI().process(jpeg, { maxWidth: 200, maxHeight: 200, quality: 85, format: "jpeg" });
  assert.ok(Buffer.isBuffer(data));
  assert.deepEqual([info.format, info.width, info.height, info.size, info.quality], ["jpeg", 200, 134, data.length, 85]);
  const decibels = await psnr(data, theirs);
  assert.ok(decibels > 36, `${decibels} dB from sharp's`);
  assert.ok(Math.abs(data.length / theirs.length - 1) < 0.05, `${data.length} bytes, sharp ${theirs.length}`);
});

for (const format of ["jpeg", "png", "webp", "gif"]) {
  test(`what is written as ${format} is read by sharp as that, and is the picture`, async () => {
    const { data, info } = await images.convert(jpeg, format, { quality: 90 });
    const seen = await sharp(data).metadata();
    assert.deepEqual([seen.format, seen.width, seen.height, info.size], [format, 451, 303, data.length]);
    const decibels = await psnr(data, jpeg);
    assert.ok(decibels > (format === "gif" ? 24 : 34), `${decibels} dB`);
  });
}

test("every way to hand bytes over is the same picture", async () => {
  const expected = images.processSync(jpeg, { maxWidth: 200 }).data;
  const shared = new Uint8Array(new SharedArrayBuffer(jpeg.length));
  shared.set(jpeg);
  const padded = Buffer.concat([Buffer.from("before"), jpeg]);
  const ways = {
    Buffer: jpeg, Uint8Array: new Uint8Array(jpeg), ArrayBuffer: new Uint8Array(jpeg).buffer, "part of a buffer": padded.subarray(6),
    shared, Blob: new Blob([jpeg]), Readable: Readable.from([jpeg.subarray(0, 100), jpeg.subarray(100)]),
    iterable: (async function* parts() { yield jpeg; })(),
  };
  for (const [way, input] of Object.entries(ways)) {
    const { data } = await images.process(input, { maxWidth: 200 });
    assert.ok(data.equals(expected), way);
  }
  const through = Readable.from([jpeg]).pipe(images.stream({ maxWidth: 200 }));
  let info;
  through.on("info", (found) => { info = found; });
  assert.ok((await buffer(through)).equals(expected));
  assert.equal(info.width, 200);
});

test("headers say what sharp reads from them", async () => {
  const exif = { IFD0: { Make: "Lamplight", Model: "One" }, IFD3: { GPSLatitudeRef: "N", GPSLatitude: "52/1 30/1 0/1", GPSLongitudeRef: "E", GPSLongitude: "13/1 24/1 0/1" } };
  const file = await picture(300, 200).withMetadata({ orientation: 6, icc: "p3", exif }).jpeg().toBuffer();
  const theirs = await sharp(file).metadata();
  const found = await images.metadata(file);
  assert.deepEqual([found.format, found.width, found.height, found.orientation, found.size], [theirs.format, theirs.width, theirs.height, theirs.orientation, file.length]);
  assert.deepEqual([found.exif.make, found.exif.model, found.exif.location], ["Lamplight", "One", { latitude: 52.5, longitude: 13.4 }]);
  assert.match(found.icc, /P3/);
  for (const format of ["png", "webp", "gif"]) {
    const file = await picture(64, 40, 4).toFormat(format).toBuffer();
    const [found, theirs] = [images.metadataSync(file), await sharp(file).metadata()];
    assert.deepEqual([found.format, found.width, found.height, found.hasAlpha], [theirs.format, theirs.width, theirs.height, theirs.hasAlpha]);
  }
});

test("an error has a class, a code and what was passed; the promise rejects, nothing else happens", async () => {
  const cases = [
    ["unsupported", () => images.process(Buffer.from("GIF? no, just some words in a buffer"))],
    ["unsupported", () => images.convert(jpeg, "tiff")],
    ["broken", () => images.process(jpeg.subarray(0, 200))],
    ["options", () => images.process(jpeg, { quality: 0 })],
    ["options", () => images.process(jpeg, { quality: "high" })],
    ["options", () => images.process(jpeg, { maxWith: 100 })],
    ["options", () => images.process(jpeg, { format: "docx" })],
    ["options", () => images.process(jpeg, { fit: "somehow" })],
    ["options", () => images.process(jpeg, { crop: { left: 400, top: 0, width: 200, height: 10 } })],
    ["options", () => images.process("a path is not bytes")],
    ["options", () => images.process(null)],
    ["options", () => images.processSync(42)],
    ["limit", () => images.process(jpeg, { limits: { pixels: 1000 } })],
    ["limit", () => images.process(Readable.from([jpeg]), { limits: { bytes: 100 } })],
    ["limit", () => images.fit(jpeg, 100, { maxBytes: 10 })],
  ];
  for (const [code, work] of cases) {
    const error = await failure(work);
    assert.ok(error instanceof MediaError && error instanceof Error, `${work}: ${error}`);
    assert.equal(error.code, code, `${work}: ${error.message}`);
    // While a stream is read, the stack is the stream's.
    if (!String(work).includes("Readable")) assert.match(error.stack, /addon\.test\.mjs/, "the caller's line is in the stack");
  }
  const { what, have, limit } = await failure(() => images.process(jpeg, { limits: { pixels: 1000 } }));
  assert.deepEqual([what, have, limit], ["pixel count", 451 * 303, 1000]);
});

test("a signal ends one call and no other", async () => {
  const large = await picture(3000, 2000).png({ compressionLevel: 1 }).toBuffer();
  const stop = new AbortController();
  const stopped = images.process(large, { maxWidth: 2000, signal: stop.signal });
  const other = images.process(jpeg, { maxWidth: 100 });
  stop.abort(new Error("changed my mind"));
  const error = await failure(() => stopped);
  assert.deepEqual([error.name, error.code, error.cause.message], ["AbortError", "cancelled", "changed my mind"]);
  assert.equal((await other).info.width, 100);
  const before = await failure(() => images.process(jpeg, { signal: AbortSignal.abort() }));
  assert.equal(before.code, "cancelled");
  const inStream = await failure(() => buffer(Readable.from([large]).pipe(images.stream({ signal: AbortSignal.abort() }))));
  assert.equal(inStream.name, "AbortError");
});

test("the event loop goes on while images are worked on, and results come back in any order", async () => {
  const large = await picture(2400, 1600).jpeg().toBuffer();
  let turns = 0;
  const ticking = setInterval(() => { turns += 1; }, 1);
  const many = Array.from({ length: 12 }, (_, i) => images.process(i % 3 ? jpeg : large, { maxWidth: 300 + i, format: "png" }));
  assert.ok(media.counters().running + media.counters().waiting > 0);
  const widths = (await Promise.all(many)).map(({ info }) => info.width);
  clearInterval(ticking);
  assert.deepEqual(widths, Array.from({ length: 12 }, (_, i) => 300 + i));
  assert.ok(turns > 5, `${turns} turns of the event loop`);
});

test("pixels in work are bounded: with room for one image, one is worked on", async () => {
  const before = media.configure();
  try {
    assert.deepEqual(media.configure({ threads: 4, pixels: 1 }), { threads: 4, pixels: 1 });
    const all = await Promise.all(Array.from({ length: 8 }, () => images.process(jpeg, { maxWidth: 300 })));
    assert.equal(new Set(all.map(({ data }) => crypto.hash("sha1", data))).size, 1);
  } finally {
    media.configure(before);
  }
});

test("broken, cut and random files are errors, never the end of the process", async () => {
  const seeds = [jpeg];
  for (const format of ["png", "webp", "gif"]) seeds.push(await picture(120, 90).toFormat(format).toBuffer());
  seeds.push(await picture(120, 90).tiff({ compression: "lzw" }).toBuffer());
  seeds.push(await picture(120, 90).jpeg({ progressive: true }).toBuffer());
  let random = 20261129;
  const below = (end) => {
    random = (Math.imul(random, 1103515245) + 12345) >>> 0;
    return Math.floor((random / 2 ** 32) * end);
  };
  const outcomes = {};
  for (let i = 0; i < 400; i++) {
    const file = Buffer.from(seeds[i % seeds.length]);
    for (let change = 0; change <= i % 8; change++) file[below(i % 3 ? file.length : 200)] = below(256);
    const input = i % 5 === 0 ? file.subarray(0, below(file.length)) : file;
    const format = ["jpeg", "png", "webp", "gif"][i % 4];
    const outcome = await images.process(input, { maxWidth: 64, format, limits: { pixels: 4_000_000 } }).then(() => "made", (error) => {
      assert.ok(error instanceof MediaError, String(error));
      return error.code;
    });
    outcomes[outcome] = (outcomes[outcome] ?? 0) + 1;
  }
  assert.equal(outcomes.internal, undefined, JSON.stringify(outcomes));
  assert.ok(outcomes.broken > 30 && outcomes.made > 30, JSON.stringify(outcomes));
});

test("a thread may end with calls under way, and a process too", async () => {
  const script = `
    const { workerData, parentPort } = require("node:worker_threads");
    const { ImageProcessor } = require(workerData.packageRoot);
    for (let i = 0; i < 6; i++) new ImageProcessor().process(workerData.jpeg, { format: "png" });
    parentPort.postMessage("under way");`;
  for (let i = 0; i < 4; i++) {
    const worker = new Worker(script, { eval: true, workerData: { packageRoot, jpeg: new Uint8Array(jpeg) } });
    await new Promise((resolve, reject) => worker.once("message", resolve).once("error", reject));
    await worker.terminate();
  }
  assert.equal((await images.process(jpeg, { maxWidth: 50 })).info.width, 50);
  const leaving = `const { ImageProcessor } = require(${JSON.stringify(packageRoot)});
    const jpeg = Buffer.from(${JSON.stringify(jpeg.toString("base64"))}, "base64");
    for (let i = 0; i < 6; i++) new ImageProcessor().process(jpeg, { format: "png" });
    process.exit(7);`;
  const left = spawnSync(process.execPath, ["-e", leaving], { encoding: "utf8" });
  assert.deepEqual([left.status, left.signal], [7, null], left.stderr);
});

test("without a binary the error says what was looked for and what to do", () => {
  const env = { ...process.env, OPENCLAW_MEDIA_ADDON: path.join(packageRoot, "nowhere.node") };
  const run = spawnSync(process.execPath, ["-e", `try { require(${JSON.stringify(packageRoot)}) } catch (e) { console.log(e.code, e.message) }`], { env, encoding: "utf8" });
  assert.match(run.stdout, /^ERR_MEDIA_ADDON_MISSING [^]*nowhere\.node: not there[^]*npm run build/);
});
