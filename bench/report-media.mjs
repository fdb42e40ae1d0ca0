// The part of docs/media.md that is made from the lines of `make bench-media`.

/** What issue 5 asks of each row: sharp's time over ours, CPU. */
const FLOORS = {
  "12 MP JPEG → 1920": 1.5, "24 MP JPEG → 1920": 1.3, "12 MP progressive → 1920": 1.2, "640×480 JPEG → 320": 2.0,
  "PNG screenshot → 1280 PNG": 1.4, "PNG screenshot → 1280 JPEG": 1.5, "12 MP JPEG → 800 WebP": 1.1, "24 MP JPEG → 800 WebP": 1.1,
  "metadata with EXIF and ICC": 20, "batch of 64 mixed → 1280 JPEG": 1.7,
};
/** Not a win with more than so many more bytes, or a picture worse by so many dB. */
const [BYTES_SLACK, PSNR_SLACK] = [1.03, 0.1];

const ms = (value) => (value < 1 ? value.toFixed(3) : value < 10 ? value.toFixed(2) : value.toFixed(1));
const times = (value) => `${value >= 10 ? value.toFixed(0) : value.toFixed(2)}×`;

const TITLE = "## Beside sharp";

/** The whole document: what people wrote stands before the report. */
export function mediaDocument(document, text, source) {
  const at = document.indexOf(`${TITLE}\n`);
  if (at < 0) throw new Error(`docs/media.md has no line "${TITLE}": the report goes there and to the end`);
  return document.slice(0, at) + mediaReport(text, source);
}

function mediaReport(text, source) {
  const rows = text.trim().split("\n").map((line) => JSON.parse(line));
  const [conditions] = rows.filter(({ kind }) => kind === "conditions");
  const cases = Map.groupBy(rows.filter(({ kind }) => kind === "case"), ({ name }) => name);
  const [first] = rows.filter(({ kind }) => kind === "case");
  const loads = rows.map(({ load }) => load).filter((load) => load !== undefined);
  return `${TITLE}

Written by \`make bench-media\` from [bench/results/${source}](../bench/results/${source}); the crate and its addon are in
\`crates/media\` and \`crates/media-napi\`.

One process, ours and sharp in turn on the same files, each round in the other direction, medians of ${first.rounds} rounds. **CPU** is user and
system time of all threads during the call, the measure to compare by; **wall** also contains what else the machine did:
its load average was ${Math.min(...loads).toFixed(1)} to ${Math.max(...loads).toFixed(1)} on ${conditions.cores} cores. **×** is sharp's time over ours, above 1 is faster. PSNR is of
the luma against a full decode and a Lanczos 3 resampling in double precision. A row counts if it reaches the floor on CPU
with at most 3 % more bytes and at most 0.1 dB less than sharp. *addon* is the promise in JavaScript, *crate* the same function
called in place.

${conditions.date.slice(0, 10)}, openclaw-media ${conditions.addon}, sharp ${conditions.sharp.sharp} (libvips ${conditions.sharp.vips}; its default is ${conditions.sharpThreads} thread${conditions.sharpThreads === 1 ? "" : "s"} for an image), Node ${conditions.node}, ${conditions.cpu}.

| case | variant | CPU ms | wall ms | bytes | PSNR-Y dB | × CPU | × wall | floor | |
|---|---|---|---|---|---|---|---|---|---|
${[...cases].flatMap(([name, variants]) => table(name, variants)).join("\n")}

Inputs: mosaics of photographs from Debian's \`mate-backgrounds\` at their own scale (${mb(conditions.inputs["12 MP"])}, progressive ${mb(conditions.inputs["12 MP progressive"])}, 24 MP
${mb(conditions.inputs["24 MP"])}), a real 18 MP file (${mb(conditions.inputs["18 MP painting"])}), a drawn 2560×1440 page with a photograph. Files straight from a camera are not
among them: they have more bytes a pixel, which moves every ratio towards 1, since both sides must parse them.

### Boundary

| call | min ms | median ms | p99 ms | goal p99 |
|---|---|---|---|---|
${rows.filter(({ kind }) => kind === "boundary").map(({ name, min, median, p99 }) => `| ${name} | ${min.toFixed(4)} | ${median.toFixed(4)} | ${p99.toFixed(4)} | < 0.05 ${p99 < 0.05 ? "met" : "**missed**"} |`).join("\n")}

From the call in JavaScript to the promise's answer, over the pool's queue and another thread, ${rows.find(({ kind }) => kind === "boundary")?.calls} calls one after the other.

### Memory

RSS in MB after each 500 of 2,000 operations, after garbage collection, in a fresh process, one row after the other.

| operation | before | 500 | 1000 | 1500 | 2000 | last 1,000 added |
|---|---|---|---|---|---|---|
${rows.filter(({ kind }) => kind === "memory").map(({ name, rssMb }) => `| ${name} | ${rssMb.map((value) => value.toFixed(1)).join(" | ")} | ${(rssMb[4] - rssMb[2]).toFixed(1)} |`).join("\n")}

### Not measured

SSIMULACRA2, files straight from a camera, GIF, animated WebP, AVIF (not read or written yet), Photon.
`;
}

const mb = (bytes) => `${(bytes / 1e6).toFixed(2)} MB`;

function table(name, variants) {
  const sharp = variants.find(({ variant }) => variant === "sharp");
  const floor = FLOORS[name];
  return variants.map((row, i) => {
    const mine = row.variant === "addon" || row.variant === "crate";
    const [cpu, wall] = [sharp.cpuMs / row.cpuMs, sharp.wallMs / row.wallMs];
    const fair = row.bytes === undefined || (row.bytes <= sharp.bytes * BYTES_SLACK && row.psnr >= sharp.psnr - PSNR_SLACK);
    const verdict = row.variant !== "addon" || floor === undefined ? "" : cpu < floor ? "**below**" : fair ? "counts" : "**not as good**";
    const picture = row.bytes === undefined ? "| |" : `| ${row.bytes.toLocaleString("en-US")} | ${row.psnr.toFixed(2)}`;
    return `| ${i ? "" : name} | ${row.variant} | ${ms(row.cpuMs)} | ${ms(row.wallMs)} ${row.bytes === undefined ? "| | " : `${picture} `}| ${mine ? times(cpu) : ""} | ${mine ? times(wall) : ""} | ${row.variant === "addon" && floor ? `${floor}×` : ""} | ${verdict} |`;
  });
}
