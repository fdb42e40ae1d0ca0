// Prints crates/wire/src/methods/table.rs from the installed OpenClaw package: every core method with its
// scope and flags. Run: node scripts/extract-methods.mjs > crates/wire/src/methods/table.rs
import fs from "node:fs";
import path from "node:path";
import { fileURLToPath } from "node:url";

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "..");
const dist = path.join(root, "tests/node_modules/openclaw/dist");
const file = fs.readdirSync(dist).filter((name) => /^method-scopes-.*\.mjs$/.test(name)).find((name) => fs.readFileSync(path.join(dist, name), "utf8").includes("CORE_GATEWAY_METHOD_SPECS = ["));
const source = fs.readFileSync(path.join(dist, file), "utf8");
const start = source.indexOf("const CORE_GATEWAY_METHOD_SPECS = [");
const end = source.indexOf("\n];", start) + 3;
const constants = "const CONTROL_PLANE_WRITE = { controlPlaneWrite: true };" + [...source.matchAll(/const ([A-Z_]+_METHOD_SCOPE|[A-Z_]+_SCOPE) = "([^"]+)";/g)].map(([, name, value]) => `const ${name}=${JSON.stringify(value)};`).join("");
const specs = new Function(`${constants}${source.slice(start, end)}\nreturn CORE_GATEWAY_METHOD_SPECS;`)();
const version = JSON.parse(fs.readFileSync(path.join(dist, "../package.json"), "utf8")).version;
const scope = (value) => (value === "node" ? "Rule::Node" : value === "dynamic" ? "Rule::Dynamic" : `Rule::Scope("${value}")`);
const rows = specs
  .map(([name, , rule, , policy = {}]) => ({ name, rule, policy }))
  .sort((a, b) => (a.name < b.name ? -1 : 1));
console.log(`//! Every core method of OpenClaw ${version}, sorted by name. Written by scripts/extract-methods.mjs.

use super::{Method, Rule};

#[rustfmt::skip]
pub(super) static METHODS: &[Method] = &[`);
for (const { name, rule, policy } of rows) {
  console.log(`    Method { name: "${name}", rule: ${scope(rule)}, advertised: ${policy.advertise !== false}, startup: ${policy.startup === true}, control_plane_write: ${policy.controlPlaneWrite === true} },`);
}
console.log("];");
