// PNG files made with Node's own zlib.
import zlib from "node:zlib";

export function chunk(kind, body) {
  const out = Buffer.alloc(body.length + 12);
  out.writeUInt32BE(body.length);
  out.write(kind, 4, "latin1");
  body.copy(out, 8);
  out.writeUInt32BE(zlib.crc32(out.subarray(4, -4)), body.length + 8);
  return out;
}

/** An RGB PNG, left half red and right half blue. */
export function png(width, height, extra = []) {
  const header = Buffer.alloc(13);
  header.writeUInt32BE(width);
  header.writeUInt32BE(height, 4);
  header.set([8, 2, 0, 0, 0], 8);
  const row = Buffer.alloc(width * 3 + 1);
  for (let x = 0; x < width; x++) row[1 + x * 3 + (x < width / 2 ? 0 : 2)] = 255;
  const pixels = zlib.deflateSync(Buffer.concat(Array(height).fill(row)));
  const signature = Buffer.from("89504e470d0a1a0a", "hex");
  return Buffer.concat([signature, chunk("IHDR", header), ...extra, chunk("IDAT", pixels), chunk("IEND", Buffer.alloc(0))]);
}
