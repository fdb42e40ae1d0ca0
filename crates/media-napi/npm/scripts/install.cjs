"use strict";
// After `npm install`: nothing to do where a binary loads; else it is built from source.
const { load, root } = require("../lib/native.cjs");
const { build } = require("./build.cjs");
const path = require("node:path");

try {
  load();
} catch (missing) {
  console.error(`${missing.message}\nBuilding it.`);
  try {
    build(path.join(root, "build", "media.node"));
    load();
  } catch (error) {
    console.error(`openclaw-media: ${error.message}`);
    process.exitCode = 1;
  }
}
