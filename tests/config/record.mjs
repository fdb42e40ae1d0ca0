// Records what the original's libraries answer, as fixtures for the Rust tests beside the code.
// Run by hand after a change of the pinned version: node tests/config/record.mjs
import fs from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";

const here = import.meta.dirname;
const fixtures = path.join(here, "fixtures");
const require = createRequire(path.join(here, "..", "package.json"));
const JSON5 = require("json5");

const texts = [
  "", " ", "{", "{a", "{a:", "{a:1", "{a:1,", "[", "[1", "[1,", "{a b}", "{a:1 b:2}", "{,}", "[,]", "[1,,2]",
  "{1:2}", "{a:01}", "{a:1.}", "{a:.}", "{a:1e}", "{a:+}", "{a:0x}", "{a:--1}", "{a:nul}", "{a:truth}", "{a:'x",
  "{a:'x\n'}", "{a:\"\\1\"}", "{a:'\\01'}", "{a:'\\x4'}", "{a:'\\u12'}", "/* x", "/x", "{}}", "{} x", "x", "{a:x}",
  "{\n  gateway: {\n    port: 1 mode: 2\n  }\n}", "{a:1}//c", "{é:1}", "{\\u0031a:1}", "{\\x:1}", "{a\\u0020:1}",
  "{a:'😀' b}", "\ufeff{}", "{a:\u0085 1}", "{a:\t1\u00a0}", "{a:Infinit}", "{a: \u0001}", "{a: [1 2]}", "null", "1", "'a'",
];
fs.mkdirSync(fixtures, { recursive: true });
fs.writeFileSync(path.join(fixtures, "json5-errors.json"), `${JSON.stringify(texts.map((text) => {
  try {
    JSON5.parse(text);
    return [text, null];
  } catch (error) {
    return [text, error.message];
  }
}), null, 1)}\n`);
