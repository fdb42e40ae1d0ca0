// The front in the shape of sharp, beside sharp itself: the same calls on the same file give the same size, kind and
// picture, or ours says that it cannot.
import assert from "node:assert/strict";
import fs from "node:fs";
import path from "node:path";
import { Readable } from "node:stream";
import { buffer } from "node:stream/consumers";
import test from "node:test";
import { tempDir } from "../lib/tools.mjs";
import { media, ours, picture, psnr, sharp } from "./load.mjs";

const inputs = {
  jpeg: await picture(451, 303).jpeg({ quality: 94 }).toBuffer(),
  "jpeg 4:4:4": await picture(451, 303).jpeg({ quality: 94, chromaSubsampling: "4:4:4" }).toBuffer(),
  "jpeg on its side": await picture(451, 303).withMetadata({ orientation: 6 }).jpeg({ quality: 94 }).toBuffer(),
  "jpeg mirrored": await picture(451, 303).withMetadata({ orientation: 7 }).jpeg({ quality: 94 }).toBuffer(),
  progressive: await picture(451, 303).jpeg({ quality: 94, progressive: true }).toBuffer(),
  png: await picture(225, 151).png().toBuffer(),
  "png with alpha": await picture(225, 151, 4).png().toBuffer(),
  webp: await picture(225, 151).webp({ quality: 95 }).toBuffer(),
};

/** The calls, made on either; the last word is how near the pictures are, dB of luma. */
const chains = {
  "nothing": [(s) => s, 38],
  "rotate()": [(s) => s.rotate(), 38],
  "autoOrient().resize(150)": [(s) => s.autoOrient().resize(150), 34],
  "resize(160)": [(s) => s.resize(160), 34],
  "resize(null, 100)": [(s) => s.resize(null, 100), 34],
  "resize(150, 100)": [(s) => s.resize(150, 100), 34],
  "resize(100, 150)": [(s) => s.resize(100, 150), 34],
  "resize({ inside })": [(s) => s.resize({ width: 125, height: 125, fit: "inside" }), 34],
  "resize({ outside })": [(s) => s.resize({ width: 125, height: 125, fit: "outside" }), 34],
  "resize({ fill })": [(s) => s.resize(167, 57, { fit: "fill" }), 34],
  "resize({ position: north })": [(s) => s.resize(100, 50, { position: "north" }), 33],
  "resize({ position: right bottom })": [(s) => s.resize(50, 90, { position: "right bottom" }), 33],
  "resize larger": [(s) => s.resize(550), 34],
  "resize larger, not enlarged": [(s) => s.resize(2000, 2000, { fit: "inside", withoutEnlargement: true }), 36],
  "rotate(90)": [(s) => s.rotate(90), 36],
  "rotate(-90).resize(100)": [(s) => s.rotate(-90).resize(100), 33],
  "rotate().resize().flop()": [(s) => s.rotate().resize(120, 80).flop(), 33],
  "flip().flop()": [(s) => s.flip().flop(), 36],
  "resize(100, 50).rotate(180)": [(s) => s.resize(100, 50).rotate(180), 30],
  "extract()": [(s) => s.extract({ left: 20, top: 15, width: 100, height: 75 }), 36],
  "extract().resize()": [(s) => s.extract({ left: 20, top: 15, width: 100, height: 75 }).resize(50), 33],
  "resize().extract()": [(s) => s.resize(150).extract({ left: 10, top: 5, width: 60, height: 45 }), 32],
  "flatten()": [(s) => s.flatten({ background: "#ff8000" }), 36],
};

// On another Node the pixels are the same: a few chains show that they get there.
const chosen = Object.entries(chains).filter((_, i) => !process.env.FEWER_CHAINS || i % 8 === 6);
for (const [name, [chain, near]] of chosen) {
  test(`${name} is what sharp makes of it`, async () => {
    for (const [kind, input] of Object.entries(inputs)) {
      const [mine, theirs] = await Promise.all(
        [ours, sharp].map((make) => chain(make(input)).png().toBuffer({ resolveWithObject: true })),
      );
      const shape = ({ format, width, height, channels, size }, data) => [format, width, height, channels, size === data.length];
      assert.deepEqual(shape(mine.info, mine.data), shape(theirs.info, theirs.data), kind);
      const decibels = await psnr(mine.data, theirs.data);
      assert.ok(decibels > near, `${kind}: ${decibels.toFixed(1)} dB from sharp's, ${near} wanted`);
    }
  });
}

for (const [format, options] of [["jpeg", { quality: 85 }], ["jpeg", undefined], ["webp", { quality: 80 }], ["webp", { lossless: true }], ["png", undefined], ["gif", undefined]]) {
  test(`${format}(${JSON.stringify(options) ?? ""}) is the same kind, as good and as small`, async () => {
    for (const kind of ["jpeg", "png", "png with alpha"]) {
      const source = await sharp(inputs[kind]).rotate().resize(150).flatten().png().toBuffer();
      const [mine, theirs] = await Promise.all([ours, sharp].map((make) => make(inputs[kind]).rotate().resize(150).flatten()[format](options).toBuffer()));
      const [a, b] = await Promise.all([psnr(mine, source), psnr(theirs, source)]);
      assert.equal((await sharp(mine).metadata()).format, format);
      // A palette is chosen by each in its own way.
      const slack = format === "gif" ? 6 : 1;
      assert.ok(a > Math.min(b, 38) - slack, `${kind}: ${a.toFixed(1)} dB, sharp ${b.toFixed(1)}`);
      if (format !== "gif") assert.ok(mine.length < theirs.length * 1.1, `${kind}: ${mine.length} bytes, sharp ${theirs.length}`);
    }
  });
}

test("files: the name decides the kind, and what is missing is said in sharp's words", async () => {
  const dir = tempDir("sharp-front");
  const from = path.join(dir, "in.jpg");
  fs.writeFileSync(from, inputs.jpeg);
  for (const name of ["a.webp", "a.png", "a.jpg", "a.gif"]) {
    const [mine, theirs] = await Promise.all([ours, sharp].map((make, i) => make(from).resize(100).toFile(path.join(dir, `${i}${name}`))));
    assert.deepEqual([mine.format, mine.width, mine.height], [theirs.format, theirs.width, theirs.height]);
    assert.equal((await sharp(path.join(dir, `0${name}`)).metadata()).format, mine.format);
  }
  const errors = [
    (make) => make(path.join(dir, "none.jpg")).toBuffer(),
    (make) => make(path.join(dir, "none.jpg")).metadata(),
    (make) => make(Buffer.from("words, no picture")).toBuffer(),
    (make) => make(inputs.jpeg).toFile(""),
    async (make) => make(Buffer.alloc(0)),
    async (make) => make(inputs.jpeg).resize(0),
    async (make) => make(inputs.jpeg).resize(100, 0),
    async (make) => make(inputs.jpeg).jpeg({ quality: 101 }),
    (make) => make(inputs.jpeg).extract({ left: 400, top: 0, width: 500, height: 10 }).toBuffer(),
  ];
  for (const call of errors) {
    const [mine, theirs] = await Promise.all([ours, sharp].map((make) => call(make).then(() => assert.fail(`${call}: no error`), (error) => error)));
    assert.ok(mine instanceof media.MediaError, String(mine));
    assert.equal(mine.message, theirs.message, String(call));
  }
});

test("metadata is sharp's, as far as it goes", async () => {
  for (const [kind, input] of Object.entries(inputs)) {
    const [mine, theirs] = await Promise.all([ours(input).metadata(), sharp(input).metadata()]);
    for (const [key, value] of Object.entries(mine)) assert.deepEqual(value, theirs[key], `${kind}: ${key}`);
    for (const key of ["format", "width", "height", "hasAlpha", "hasProfile", "size", "orientation", "autoOrient"]) assert.deepEqual(mine[key], theirs[key], `${kind}: ${key}`);
  }
});

test("pipes, clones and callbacks", async () => {
  const expected = await ours(inputs.jpeg).resize(120).webp().toBuffer();
  const piped = await buffer(Readable.from([inputs.jpeg.subarray(0, 999), inputs.jpeg.subarray(999)]).pipe(ours().resize(120).webp()));
  assert.ok(piped.equals(expected));
  const base = ours();
  const copies = [base.clone().resize(120).webp().toBuffer(), base.clone().resize(50).png().toBuffer()];
  Readable.from([inputs.jpeg]).pipe(base);
  const [first, second] = await Promise.all(copies);
  assert.ok(first.equals(expected));
  assert.equal((await sharp(second).metadata()).width, 50);
  const info = await new Promise((resolve, reject) => {
    ours(inputs.jpeg).resize(120).webp().toBuffer((error, data, info) => (error ? reject(error) : resolve({ data, info })));
  });
  assert.ok(info.data.equals(expected));
  assert.deepEqual([info.info.width, info.info.height], [120, 81]);
});

test("an animation is its first frame unless it is asked for", async () => {
  const strip = await picture(64, 48 * 3).raw().toBuffer();
  const animated = await sharp(strip, { raw: { width: 64, height: 48 * 3, channels: 3, pageHeight: 48 } }).gif({ delay: [100, 200, 100] }).toBuffer();
  assert.equal((await sharp(animated).metadata()).pages, 3);
  for (const options of [{}, { animated: true }]) {
    const [mine, theirs] = await Promise.all([ours, sharp].map((make) => make(animated, options).resize(32).webp().toBuffer()));
    const [a, b] = await Promise.all([mine, theirs].map((file) => sharp(file).metadata()));
    assert.deepEqual([a.pages ?? 1, a.width, a.height], [b.pages ?? 1, b.width, b.height]);
  }
});

test("whatever sharp can and this cannot is refused by name, where it is called", () => {
  const methods = Object.getOwnPropertyNames(sharp.prototype ?? Object.getPrototypeOf(sharp())).filter((name) => !name.startsWith("_") && name !== "constructor");
  const mine = ours();
  const missing = methods.filter((name) => typeof mine[name] !== "function");
  assert.deepEqual(missing, [], "a call that is neither here nor refused by name");
  const refused = (call) => {
    assert.throws(() => call(ours(inputs.jpeg)), (error) => error instanceof media.MediaError && error.code === "unsupported", String(call));
  };
  for (const call of [
    (s) => s.blur(3), (s) => s.composite([]), (s) => s.sharpen(), (s) => s.avif(), (s) => s.tiff(), (s) => s.greyscale(),
    (s) => s.rotate(45), (s) => s.resize(10, 10, { fit: "contain" }), (s) => s.resize(10, 10, { position: "attention" }),
    (s) => s.resize({ width: 10, kernel: "nearest" }), (s) => s.jpeg({ mozjpeg: true }), (s) => s.jpeg({ chromaSubsampling: "4:4:4" }),
    (s) => s.jpeg({ progressive: true }), (s) => s.png({ palette: true }), (s) => s.webp({ effort: 6 }), (s) => s.withMetadata(),
    () => ours({ create: { width: 1, height: 1, channels: 3, background: "red" } }), () => ours(inputs.jpeg, { raw: {} }),
  ]) refused(call);
});
