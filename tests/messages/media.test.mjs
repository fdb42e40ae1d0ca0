// `POST /api/media/probe`, `fit` and `convert`: what is made, what is refused and when there is no room. One gateway.
import assert from "node:assert/strict";
import { once } from "node:events";
import fs from "node:fs";
import net from "node:net";
import path from "node:path";
import { after, before, test } from "node:test";
import zlib from "node:zlib";
import { metricsOf, startOurs } from "../lib/gateway.mjs";
import { chunk, png } from "../lib/png.mjs";
import { repoRoot, until } from "../lib/tools.mjs";

const MIB = 2 ** 20;
let ours, metrics;

before(async () => {
  // Where a caller may say what they may not do.
  ours = await startOurs({ config: { gateway: { auth: { mode: "none" } } } });
  metrics = await metricsOf(ours);
});
after(() => ours.stop());

async function call(what, body, { method = "POST", headers = {} } = {}) {
  const response = await fetch(`${ours.url}/api/media/${what}`, { method, body, headers });
  const bytes = Buffer.from(await response.arrayBuffer());
  const type = response.headers.get("content-type");
  return { status: response.status, headers: response.headers, type, bytes, body: type?.includes("json") ? JSON.parse(bytes) : undefined };
}

/** The most memory that the gateway has had, in MiB. */
const most = () => Number(/VmHWM:\s+(\d+) kB/.exec(fs.readFileSync(`/proc/${ours.child.pid}/status`, "utf8"))[1]) / 1024;

/** Of one series. */
async function metric(series) {
  const line = (await (await fetch(metrics)).text()).split("\n").find((l) => l.startsWith(`${series} `));
  assert.ok(line, series);
  return Number(line.slice(series.length));
}

/** A request by hand: what is sent is what the test says, and what came back. */
async function raw(what, headers, ...pieces) {
  const socket = net.connect(ours.port, "127.0.0.1");
  socket.answer = "";
  socket.on("data", (data) => (socket.answer += data));
  socket.on("error", () => {}); // The gateway may close while a body is on its way.
  await once(socket, "connect");
  socket.write(`POST /api/media/${what} HTTP/1.1\r\nhost: 127.0.0.1\r\n${headers}\r\n\r\n`);
  for (const piece of pieces) socket.write(piece);
  return socket;
}

const answered = (socket) => until("an answer", () => /^HTTP\/1\.1 (\d+)[^]*\r\n\r\n({.*})/.exec(socket.answer));

test("a picture is told, fitted and converted; a recording is told", async () => {
  const photo = png(400, 200);
  const told = await call("probe", photo);
  assert.equal(told.status, 200, told.bytes.toString());
  assert.deepEqual(told.body, { format: "png", bytes: photo.length, width: 400, height: 200, frames: 1, alpha: false, orientation: 1, icc: null, exif: null });
  const clip = fs.readFileSync(path.join(repoRoot, "crates/media/src/recording/fixtures/turned.mp4"));
  const { body } = await call("probe", clip);
  assert.deepEqual([body.format, body.duration_s, body.streams.map(({ codec, rotation }) => [codec, rotation])], ["mp4", 1.2, [["h264", 270], ["aac", undefined]]]);

  // As somebody else's headers say it, whatever the media type of the request.
  const small = await call("fit?max=100", photo, { headers: { "content-type": "text/plain" } });
  assert.deepEqual([small.status, small.type, small.bytes.readUInt32BE(16), small.bytes.readUInt32BE(20)], [200, "image/png", 100, 50]);
  assert.deepEqual(["width", "height", "frames"].map((name) => small.headers.get(`x-media-${name}`)), ["100", "50", "1"]);
  const cut = await call("fit?width=64&height=64&mode=cover&format=png", photo);
  assert.deepEqual([cut.bytes.readUInt32BE(16), cut.bytes.readUInt32BE(20)], [64, 64]);
  for (const [format, magic] of [["jpeg", /^ffd8ff/], ["webp", /^52494646.{8}57454250/], ["gif", /^474946383961/], ["png", /^89504e47/]]) {
    const made = await call(`convert?format=${format}`, photo);
    assert.deepEqual([made.status, made.type], [200, `image/${format}`]);
    assert.match(made.bytes.toString("hex", 0, 12), magic);
    assert.equal((await call("probe", made.bytes)).body.width, 400);
  }
  const few = await call("fit?maxBytes=900&format=jpeg", photo);
  assert.ok(few.status === 200 && few.bytes.length <= 900, `${few.status}, ${few.bytes.length} bytes`);
  // More at once than there are threads.
  const many = await Promise.all(Array.from({ length: 12 }, (_, n) => call(`fit?max=${n + 10}`, photo)));
  assert.deepEqual(many.map(({ status, bytes }) => [status, bytes.readUInt32BE(16)]), many.map((_, n) => [200, n + 10]));
});

test("what is wrong is refused with code, message and field, before it costs anything", async () => {
  const photo = png(8, 8);
  const bomb = png(8, 8);
  bomb.writeUInt32BE(60_000, 16);
  bomb.writeUInt32BE(60_000, 20);
  const profile = png(8, 8, [chunk("iCCP", Buffer.concat([Buffer.from("x\0\0"), zlib.deflateSync(Buffer.alloc(32 * MIB))]))]);
  const clip = fs.readFileSync(path.join(repoRoot, "crates/media/src/recording/fixtures/first.mp4"));
  for (const [what, body, status, code, field] of [
    ["probe", "not an image at all", 415, "UNSUPPORTED_MEDIA", "body"],
    ["probe", clip.subarray(0, 500), 422, "BROKEN_MEDIA", "body"],
    ["probe", undefined, 400, "INVALID_REQUEST", "body"],
    ["probe?max=5", photo, 400, "INVALID_REQUEST", "max"],
    ["fit?max=9", '<svg xmlns="http://www.w3.org/2000/svg"/>', 415, "UNSUPPORTED_MEDIA", "body"],
    ["fit?max=9", clip, 415, "UNSUPPORTED_MEDIA", "body"],
    ["fit?max=9", photo.subarray(0, 60), 422, "BROKEN_MEDIA", "body"],
    ["fit?max=9", bomb, 422, "MEDIA_LIMIT", "body"],
    ["fit?max=9", profile, 422, "MEDIA_LIMIT", "body"],
    ["fit?max=16384&enlarge=true", photo, 422, "MEDIA_LIMIT", "body"],
    // 49 million pixels, which is as many as a picture may have: what they take is too much.
    ["fit?max=7000&enlarge=true", photo, 422, "MEDIA_LIMIT", "body"],
    ["fit?width=5&mode=cover", photo, 400, "INVALID_REQUEST", "mode"],
    ["fit?maxBytes=10", photo, 422, "MEDIA_LIMIT", "maxBytes"],
    ["fit?max=0", photo, 400, "INVALID_REQUEST", "max"],
    ["fit?mode=fill", photo, 400, "INVALID_REQUEST", "mode"],
    ["convert", photo, 400, "INVALID_REQUEST", "format"],
    ["convert?format=tiff", photo, 400, "INVALID_REQUEST", "format"],
  ]) {
    const refused = await call(what, body);
    assert.deepEqual([refused.status, refused.body?.code, refused.body?.field], [status, code, field], `${what}: ${refused.bytes}`);
    assert.ok(refused.body.success === false && refused.body.error.startsWith(`${field}: `), refused.body.error);
  }
  const wrong = await call("fit", undefined, { method: "GET" });
  assert.deepEqual([wrong.status, wrong.headers.get("allow")], [405, "POST"]);
  const reader = { headers: { "x-openclaw-scopes": "operator.read" } };
  assert.equal((await call("probe", photo, reader)).status, 200);
  const forbidden = await call("fit?max=4", photo, reader);
  assert.deepEqual([forbidden.status, forbidden.body.code], [403, "MISSING_SCOPE"]);
  // Said to be too large, and found to be.
  const said = await raw("probe", `content-length: ${33 * MIB}`);
  assert.equal((await answered(said))[1], "413");
  const piece = Buffer.concat([Buffer.from(`${MIB.toString(16)}\r\n`), Buffer.alloc(MIB), Buffer.from("\r\n")]);
  const found = await raw("probe", "transfer-encoding: chunked", ...Array(33).fill(piece));
  assert.equal(JSON.parse((await answered(found))[2]).code, "TOO_LARGE");
  for (const socket of [said, found]) socket.destroy();
});

test("a small file that would take much memory takes none", { skip: process.platform !== "linux" && "reads /proc" }, async () => {
  // Twice, so that what comes with any work is there.
  for (let n = 0; n < 2; n++) assert.equal((await call("fit?max=100", png(400, 200))).status, 200);
  const header = (width, height) => {
    const body = Buffer.from([0, 0, 0, 0, 0, 0, 0, 0, 8, 2, 0, 0, 0]);
    body.writeUInt32BE(width);
    body.writeUInt32BE(height, 4);
    return chunk("IHDR", body);
  };
  const after = (file, at, piece) => Buffer.concat([file.subarray(0, at), piece, file.subarray(at)]);
  // A text of zeros; a picture large in one place and small in another; a row; frames larger than their screen.
  const text = Buffer.alloc(16 * MIB);
  Buffer.from("4d4d002a00000008" + "0001" + "010f0002" + "00fff000" + "0000001a" + "00000000", "hex").copy(text);
  const noted = png(8, 8, [chunk("eXIf", text)]);
  const small = png(8, 8);
  const row = png(8, 8);
  row.writeUInt32BE(40_000_000, 16);
  row.writeUInt32BE(1, 20);
  const frame = Buffer.from("2c00000000ffffffff0002024c0100", "hex");
  const gif = Buffer.concat([Buffer.from("GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff", "latin1"), frame, frame, Buffer.from(";")]);
  const before = most();
  for (const [what, body, status, code] of [
    ["probe", noted, 200],
    ["fit?max=4", noted, 200],
    ["fit?width=1&height=16000&mode=exact&enlarge=true", png(16_000, 1), 422, "MEDIA_LIMIT"],
    ["fit?max=9", row, 422, "MEDIA_LIMIT"],
    ["fit?max=9", after(small, 8, header(60_000, 60_000)), 422, "MEDIA_LIMIT"],
    ["fit?max=9", gif, 422, "BROKEN_MEDIA"],
    ["convert?format=png", gif, 422, "BROKEN_MEDIA"],
  ]) {
    const { status: found, body: said, bytes } = await call(what, body);
    assert.deepEqual([found, said?.code], [status, code], `${what}: ${bytes.toString("latin1", 0, 200)}`);
  }
  assert.ok(most() - before < 200, `${before} MiB before, ${most()} after`);
});

test("without room for another file one is asked to come again, and the room comes back", async () => {
  const held = () => metric("openclaw_rs_media_body_bytes");
  const gone = (operation) => metric(`openclaw_rs_media_requests_total{operation="${operation}",end="gone"}`);
  await until("no file to be held", async () => (await held()) === 0);
  const before = await gone("probe");
  // Two say that they will send as much as one may, and do not.
  const waiting = [await raw("probe", `content-length: ${32 * MIB}`), await raw("probe", `content-length: ${32 * MIB}`)];
  await until("all room to be taken", async () => (await held()) === 64 * MIB);
  const busy = await call("fit?max=4", png(8, 8));
  assert.deepEqual([busy.status, busy.body?.code, busy.headers.get("retry-after")], [503, "BUSY", "1"], busy.bytes.toString());
  assert.equal(await metric('openclaw_rs_media_requests_total{operation="fit",end="busy"}'), 1);
  for (const socket of waiting) socket.destroy();
  await until("the room to be free", async () => (await held()) === 0);
  await until("both to be counted", async () => (await gone("probe")) === before + 2);
  // Whole, and its sender does not wait for what becomes of it.
  const large = png(4000, 4000);
  const left = await raw("fit?max=1000", `content-length: ${large.length}`, large);
  left.end();
  await until("the one that left to be counted", async () => (await gone("fit")) === 1);
  await until("its work to end", async () => (await held()) === 0);
  assert.equal((await call("fit?max=4", png(8, 8))).status, 200);
});
