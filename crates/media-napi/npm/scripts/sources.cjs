"use strict";
// Before `npm pack`: the Rust sources go into the package, as a workspace of the two crates they are.
const fs = require("node:fs");
const path = require("node:path");

const root = path.join(__dirname, "..");
const checkout = path.join(root, "../../..");
const into = path.join(root, "rust");

fs.rmSync(into, { recursive: true, force: true });
for (const part of ["crates/media/Cargo.toml", "crates/media/src", "crates/media-napi/Cargo.toml", "crates/media-napi/build.rs", "crates/media-napi/src", "Cargo.lock", "rust-toolchain.toml"]) {
  fs.cpSync(path.join(checkout, part), path.join(into, part), { recursive: true });
}
const members = '["crates/media", "crates/media-napi"]';
const manifest = fs.readFileSync(path.join(checkout, "Cargo.toml"), "utf8")
  .replace(/^members = .*$/m, `members = ${members}`)
  .replace(/^default-members = .*$/m, `default-members = ${members}`)
  // Settings of crates that are not here, and paths to them, would only be warned about or not found.
  .replace(/^\[profile\.(?:dev|release)\.package\.[^\]]+\]\n(?:[a-z-]+ = .*\n)+/gm, "")
  .replace(/^(?!media )[a-z-]+ = \{ path = .*\n/gm, "");
fs.writeFileSync(path.join(into, "Cargo.toml"), manifest);
