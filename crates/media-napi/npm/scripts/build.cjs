"use strict";
// Builds the binary from source: from the repository if this is a checkout, else from the sources in the package.
const { spawnSync } = require("node:child_process");
const fs = require("node:fs");
const path = require("node:path");

const root = path.join(__dirname, "..");
const checkout = path.join(root, "../../..");

/** `into`: the file to write. */
function build(into) {
  const source = fs.existsSync(path.join(checkout, "crates/media-napi/Cargo.toml")) ? checkout : path.join(root, "rust");
  if (!fs.existsSync(path.join(source, "Cargo.toml"))) {
    throw new Error(`neither a checkout around ${root} nor sources in it`);
  }
  // The lockfile in the package is the repository's: cargo leaves out what is not needed, and keeps the versions.
  const locked = source === checkout ? ["--locked"] : [];
  const target = process.env.CARGO_TARGET_DIR ? path.resolve(process.env.CARGO_TARGET_DIR) : path.join(source, "target");
  const done = spawnSync("cargo", ["build", "--release", ...locked, "-p", "media-napi"], {
    cwd: source, stdio: "inherit", env: { ...process.env, CARGO_TARGET_DIR: target },
  });
  if (done.error) throw new Error(`cargo: ${done.error.message}: install Rust from https://rustup.rs`);
  if (done.status !== 0) throw new Error("cargo build failed, see above (it needs CMake, NASM and a C compiler)");
  const name = { darwin: "libmedia_napi.dylib", win32: "media_napi.dll" }[process.platform] ?? "libmedia_napi.so";
  fs.mkdirSync(path.dirname(into), { recursive: true });
  // A running process may have the old file mapped: replace it, do not write into it.
  fs.copyFileSync(path.join(target, "release", name), `${into}.new`);
  fs.renameSync(`${into}.new`, into);
  return into;
}

if (require.main === module) {
  const { platform } = require("../lib/native.cjs");
  const prebuilt = process.argv.includes("--prebuilt");
  const into = prebuilt ? path.join(root, "prebuilds", platform(), "media.node") : path.join(root, "build", "media.node");
  try {
    console.log(`built ${build(into)}`);
  } catch (error) {
    console.error(`openclaw-media: ${error.message}`);
    process.exitCode = 1;
  }
}

module.exports = { build };
