// What each part weighs in the binary. From the repository's root:
//
//   CARGO_PROFILE_RELEASE_STRIP=none cargo build --release --target-dir /tmp/sizes -p gateway --bin openclaw-gateway
//   node bench/sizes.mjs /tmp/sizes/release/openclaw-gateway
//
// Sums the sizes of symbols as `nm` tells them. Generic code counts for the crate it is written in, inlined code for its caller;
// tables without a symbol (unwinding, relocations, packed texts) are in the last row but one.
import { execFileSync } from "node:child_process";
import fs from "node:fs";

/** Parts by the first crate in a symbol's name; the first that matches. */
const PARTS = [
  ["SQLite", /^(sqlite3|rusqlite|libsqlite3_sys|store$)|^(btree|vdbe|pager|wal|fts3|fts5|rtree)[A-Z]/],
  ["media", /^(media|image|png|gif|turbojpeg|tj[A-Z0-9]|jpeg|jsimd|jinit|libwebp|WebP|VP8|zune|fast_image_resize|tiff|moxcms|heic)/],
  ["search and memory", /^(memory$|tantivy|lz4|levenshtein|fst$|census|bitpacking|hnsw|usearch)/],
  ["channels", /^channels$/],
  ["agents and MCP", /^(agent$|mcp$|rmcp)/],
  ["TLS and cryptography", /^(rustls|tokio_rustls|ring|webpki|rcgen|x509|GFp|x25519|p256|p384|aes_|bn_|sha\d)/],
  ["HTTP and async runtime", /^(hyper|tokio|h2|http|httparse|reqwest|tower|mio|futures)/],
  ["JSON, configuration and text", /^(serde|toml|json5|regex|aho_corasick|memchr|unicode|idna|icu|jsonschema)/],
  ["command line and log", /^(clap|tracing|sharded_slab)/],
  ["the gateway itself", /^(gateway|openclaw_gateway|wire|client)$/],
  ["Rust's own library", /^(core|alloc|std|compiler_builtins|hashbrown|rustc_demangle|gimli|addr2line|miniz_oxide)/],
];

const file = process.argv[2];
if (!file) {
  console.error("usage: node bench/sizes.mjs BINARY (not stripped)");
  process.exit(2);
}

/** `<a::B as c::D>::e`, `core::ptr::drop_in_place<a::B>`, `a::b`, `c_function`: the crate whose code or type it is about. */
function crateOf(name) {
  const about = /^core::ptr::drop_in_place<(.*)>$/.exec(name)?.[1] ?? name;
  return /^[<&*([\s]*(?:(?:mut|const|dyn) )*([A-Za-z_][A-Za-z0-9_]*)/.exec(about)?.[1] ?? about;
}

const lines = execFileSync("nm", ["--print-size", "-C", file], { encoding: "utf8", maxBuffer: 1 << 30 }).split("\n");
const sums = new Map();
let named = 0;
const seen = new Set();
for (const line of lines) {
  const [, address, hex, kind, name] = /^([0-9a-f]+) ([0-9a-f]+) (\S) (.*)$/.exec(line) ?? [];
  // What takes no place in the file, and second names of one place.
  if (!hex || /[bB]/.test(kind) || seen.has(address)) continue;
  seen.add(address);
  const size = Number.parseInt(hex, 16);
  const part = PARTS.find(([, match]) => match.test(crateOf(name)))?.[0] ?? "everything else";
  sums.set(part, (sums.get(part) ?? 0) + size);
  named += size;
}
if (named === 0) throw new Error(`${file} has no symbols: build it with CARGO_PROFILE_RELEASE_STRIP=none`);

// As `strip` leaves it: without the symbols themselves.
const stripped = `${file}.stripped`;
execFileSync("strip", ["-o", stripped, file]);
const whole = fs.statSync(stripped).size;
fs.rmSync(stripped);
const megabytes = (bytes) => (bytes / 1e6).toFixed(2);
console.log("| part | MB | share |\n|---|---|---|");
const row = (part, bytes) => console.log(`| ${part} | ${megabytes(bytes)} | ${((100 * bytes) / whole).toFixed(1)} % |`);
for (const [part, bytes] of [...sums].sort((a, b) => b[1] - a[1])) row(part, bytes);
row("without a symbol", whole - named);
row("the binary", whole);
