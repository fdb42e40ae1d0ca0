"use strict";
// Finds and loads the binary: the one named by OPENCLAW_MEDIA_ADDON, the prebuilt one, the one built here.
const fs = require("node:fs");
const os = require("node:os");
const path = require("node:path");

const root = path.join(__dirname, "..");

/** `linux-x64`, `linux-x64-musl`, `darwin-arm64`, … */
function platform() {
  // Node's own report names the C library it was linked against.
  const musl = process.platform === "linux" && !process.report?.getReport().header.glibcVersionRuntime;
  return `${process.platform}-${process.arch}${musl ? "-musl" : ""}`;
}

function candidates() {
  const named = process.env.OPENCLAW_MEDIA_ADDON;
  if (named) return [path.resolve(named)];
  return [path.join(root, "prebuilds", platform(), "media.node"), path.join(root, "build", "media.node")];
}

function load() {
  const tried = [];
  for (const file of candidates()) {
    if (!fs.existsSync(file)) {
      tried.push(`${file}: not there`);
      continue;
    }
    try {
      const module = { exports: {} };
      process.dlopen(module, file, os.constants.dlopen.RTLD_NOW);
      return module.exports;
    } catch (error) {
      tried.push(`${file}: ${error.message}`);
    }
  }
  const error = new Error(
    `no binary of openclaw-media for ${platform()}:\n  ${tried.join("\n  ")}\nBuild it: npm run build (in ${root}; needs Rust, CMake and NASM)`,
  );
  error.code = "ERR_MEDIA_ADDON_MISSING";
  throw error;
}

module.exports = { load, platform, root };
