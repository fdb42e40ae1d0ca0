// `media probe|fit|convert|thumbnail` from the spawned binary: no configuration, no gateway. The images are made here
// with Node's own zlib, so reader and writer are both judged by something that is not ours; the recordings are ffmpeg's, with
// ffprobe's word on them.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import test from "node:test";
import zlib from "node:zlib";
import sharp from "sharp";
import { chunk, png } from "../lib/png.mjs";
import { gatewayBinary, isolatedEnv, repoRoot, tempDir } from "../lib/tools.mjs";

/** Width, height and the corners' colours of a PNG whose rows have no filter. */
function readPng(file) {
  const data = fs.readFileSync(file);
  const parts = [];
  for (let at = 8; at < data.length; at += data.readUInt32BE(at) + 12) {
    const body = data.subarray(at + 8, at + 8 + data.readUInt32BE(at));
    assert.equal(zlib.crc32(data.subarray(at + 4, at + 8 + body.length)), data.readUInt32BE(at + 8 + body.length));
    if (data.toString("latin1", at + 4, at + 8) === "IDAT") parts.push(body);
  }
  const pixels = zlib.inflateSync(Buffer.concat(parts));
  const [width, height] = [data.readUInt32BE(16), data.readUInt32BE(20)];
  assert.equal(pixels.length, (width * 3 + 1) * height);
  assert.equal(pixels[0], 0);
  return { width, height, left: [...pixels.subarray(1, 4)], right: [...pixels.subarray(width * 3 - 2, width * 3 + 1)] };
}

function folder() {
  const dir = tempDir("media-cli");
  const run = (...args) => {
    const done = spawnSync(gatewayBinary(), ["media", ...args], {
      cwd: dir, env: isolatedEnv(dir), encoding: "utf8", timeout: 120_000,
    });
    const lines = () => done.stdout.trim().split("\n").map((line) => JSON.parse(line));
    return { code: done.status, out: done.stdout, err: done.stderr, lines };
  };
  return { dir, run };
}

test("fit keeps the picture and the proportions, whatever the file is called", () => {
  const { dir, run } = folder();
  fs.writeFileSync(path.join(dir, "photo.jpg"), png(400, 200));
  const { code, err } = run("fit", "photo.jpg", "--max", "100", "-o", "small.png");
  assert.equal(code, 0, err);
  assert.deepEqual(readPng(path.join(dir, "small.png")), { width: 100, height: 50, left: [255, 0, 0], right: [0, 0, 255] });
  assert.equal(run("thumbnail", "photo.jpg", "--size", "64", "-o", "thumb.png").code, 0);
  assert.deepEqual([readPng(path.join(dir, "thumb.png"))].map(({ width, height }) => [width, height]), [[64, 64]]);
});

test("a folder becomes a folder, and every kind is what it says", () => {
  const { dir, run } = folder();
  fs.mkdirSync(path.join(dir, "in", "deep"), { recursive: true });
  for (const name of ["a.png", "b.png", "deep/c.png"]) fs.writeFileSync(path.join(dir, "in", name), png(300, 300));
  fs.writeFileSync(path.join(dir, "in", "notes.txt"), "no image");
  for (const [format, magic] of [["jpeg", /^ffd8ff/], ["webp", /^52494646.{8}57454250/], ["gif", /^474946383961/]]) {
    const done = run("convert", "in", "--format", format, "-o", `out-${format}`, "--json");
    assert.equal(done.code, 0, done.err);
    const made = done.lines();
    assert.equal(made.length, 3);
    for (const row of made) {
      const data = fs.readFileSync(path.join(dir, row.output));
      assert.match(data.toString("hex", 0, 12), magic);
      assert.equal(data.length, row.bytes);
      assert.deepEqual(run("probe", row.output, "--json").lines().map((r) => [r.format, r.width, r.height]), [[format, 300, 300]]);
    }
  }
});

test("probe tells recordings as ffprobe does, of a folder and of a file larger than memory should hold", () => {
  const { dir, run } = folder();
  const recordings = path.join(repoRoot, "crates/media/src/recording/fixtures");
  const done = run("probe", recordings, "--json");
  assert.equal(done.code, 0, done.err);
  const rows = done.lines();
  assert.equal(rows.length, 18);
  for (const { file, format, bytes, streams } of rows) {
    const name = path.basename(file);
    assert.equal(format, path.extname(name).slice(1));
    assert.equal(bytes, fs.statSync(file).size);
    const said = JSON.parse(fs.readFileSync(`${file}.json`, "utf8"));
    const row = (s) => [s.kind ?? s.codec_type, s.codec ?? s.codec_name, s.width, s.height, Number(s.sample_rate ?? 0), s.channels];
    assert.deepEqual(streams.map(row), said.streams.map(row), name);
  }
  const turned = rows.find(({ file }) => file.endsWith("turned.mp4"));
  assert.equal(turned.duration_s, 1.2);
  const { rotation, display_width, display_height, frame_rate } = turned.streams[0];
  assert.deepEqual([rotation, display_width, display_height, frame_rate], [270, 64, 96, 25]);

  // 3 GiB of frames, as a file without blocks: what is read is the headers.
  const [index, media] = [fs.readFileSync(path.join(recordings, "first.mp4")), path.join(dir, "long.bin")];
  fs.writeFileSync(media, index);
  fs.truncateSync(media, 3 * 2 ** 30);
  const said = run("probe", "long.bin");
  assert.equal(said.out, `long.bin: mp4, ${3 * 2 ** 30} bytes, 1.200 s, 21474836 kbit/s, video h264 128×64 25.00 fps\n`, said.err);
  fs.writeFileSync(media, index.subarray(0, 200));
  const cut = run("probe", "long.bin", "--json");
  assert.deepEqual([cut.code, cut.lines().map(({ code }) => code)], [1, ["broken"]]);
  assert.deepEqual(run("fit", "long.bin", "--max", "9", "-o", "x.png", "--json").lines().map(({ code }) => code), ["unsupported"]);
});

test("kinds that are known and not read say what to do", async () => {
  const { dir, run } = folder();
  fs.writeFileSync(path.join(dir, "photo.avif"), await sharp(png(40, 20)).avif().toBuffer());
  fs.writeFileSync(path.join(dir, "photo.heic"), Buffer.from("\0\0\0\x18ftypheic\0\0\0\0mif1heic", "latin1"));
  fs.writeFileSync(path.join(dir, "drawing.svg"), '<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>');
  for (const [file, advice] of [["photo.avif", /AVIF .*ffmpeg -i/], ["photo.heic", /HEIC .*Most Compatible.*heif-convert/], ["drawing.svg", /SVG .*rsvg-convert/]]) {
    for (const args of [["probe", file], ["convert", file, "-o", "x.png"]]) {
      const done = run(...args, "--json");
      assert.deepEqual([done.code, done.lines().map(({ code }) => code)], [1, ["unsupported"]], done.err);
      assert.match(done.lines()[0].error, advice);
    }
  }
  assert.match(run("probe", "photo.avif").err, /photo\.avif: AVIF .*ffmpeg -i/);
});

test("wrong files exit 1, wrong usage exits 2, and a bomb costs nothing", () => {
  const { dir, run } = folder();
  fs.writeFileSync(path.join(dir, "text.png"), "not an image at all");
  fs.writeFileSync(path.join(dir, "cut.png"), png(400, 200).subarray(0, 80));
  const bomb = png(8, 8);
  bomb.writeUInt32BE(60_000, 16);
  bomb.writeUInt32BE(60_000, 20);
  fs.writeFileSync(path.join(dir, "bomb.png"), bomb);
  const profile = chunk("iCCP", Buffer.concat([Buffer.from("x\0\0"), zlib.deflateSync(Buffer.alloc(32 << 20))]));
  fs.writeFileSync(path.join(dir, "profile.png"), png(8, 8, [profile]));
  for (const [file, code] of [["text.png", "unsupported"], ["cut.png", "broken"], ["bomb.png", "limit"], ["profile.png", "limit"], ["none.png", "io"]]) {
    const done = run("fit", file, "--max", "10", "-o", "x.png", "--json");
    assert.deepEqual([done.code, done.lines().map((row) => row.code)], [1, [code]], file);
  }
  assert.equal(fs.existsSync(path.join(dir, "x.png")), false);
  assert.equal(run("fit", "bomb.png").code, 2);
  assert.equal(run("convert", "bomb.png", "--format", "mp3", "-o", "x").code, 2);
  assert.equal(run("fit", "cut.png", "--quality", "0", "-o", "x").code, 2);
});
