// The addon under test, from cargo's output beside the gateway's binary, and pictures to feed it. Pictures and judge are
// sharp's: nothing of ours made or reads them.
import assert from "node:assert/strict";
import path from "node:path";
import sharp from "sharp";
import { gatewayBinary, repoRoot } from "../lib/tools.mjs";

process.env.OPENCLAW_MEDIA_ADDON ??= path.join(path.dirname(gatewayBinary()), "libmedia_napi.so");
export const packageRoot = path.join(repoRoot, "crates/media-napi/npm");
export const media = await import(path.join(packageRoot, "index.mjs"));
export const { default: ours } = await import(path.join(packageRoot, "sharp.mjs"));
export { sharp };

/** RGB pixels of slopes, waves, edges and a disc: smooth parts, detail, saturated colours. */
export function picture(width, height, channels = 3) {
  const out = Buffer.alloc(width * height * channels);
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at += channels) {
      const wave = Math.sin(x / 9 + Math.sin(y / 23) * 3) * 50;
      const disc = Math.hypot(x - width * 0.7, y - height * 0.4) < height / 5;
      out[at] = disc ? 235 : 128 + wave + (x / width) * 60;
      out[at + 1] = disc ? 40 : 40 + (y / height) * 180;
      out[at + 2] = (x >> 5) % 2 === (y >> 5) % 2 ? 60 : 150 - wave;
      if (channels === 4) out[at + 3] = disc ? 255 : Math.min(255, (x * 400) / width);
    }
  }
  return sharp(out, { raw: { width, height, channels } });
}

/** Pixels as sharp decodes them, over grey: what is under full transparency is seen by nobody. */
export async function pixels(file) {
  const { data, info } = await sharp(file).flatten({ background: "#808080" }).toColourspace("srgb").raw().toBuffer({ resolveWithObject: true });
  return { data, width: info.width, height: info.height, channels: info.channels };
}

/** Peak signal to noise of the luma, dB, between two files of the same size in pixels. */
export async function psnr(file, other) {
  const [a, b] = [await pixels(file), await pixels(other)];
  assert.deepEqual([a.width, a.height], [b.width, b.height], "the same size");
  const luma = ({ data, channels }, i) => {
    const at = i * channels;
    return channels < 3 ? data[at] : 0.299 * data[at] + 0.587 * data[at + 1] + 0.114 * data[at + 2];
  };
  let sum = 0;
  const count = a.width * a.height;
  for (let i = 0; i < count; i++) sum += (luma(a, i) - luma(b, i)) ** 2;
  return sum === 0 ? Infinity : 10 * Math.log10((255 * 255 * count) / sum);
}
