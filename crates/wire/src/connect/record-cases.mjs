// Records what the original's own validator says about good and bad `connect` params, into cases.json.
// Run from the repository root: node crates/wire/src/connect/record-cases.mjs  (needs tests/node_modules).
import fs from "node:fs";
import path from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const here = path.dirname(fileURLToPath(import.meta.url));
const dist = path.join(here, "../../../../tests/node_modules/openclaw/dist");
const bundle = fs.readdirSync(dist).find((name) => /^src-.*\.mjs$/.test(name) &&
  fs.readFileSync(path.join(dist, name), "utf8").includes("validateConnectParams as "));
const text = fs.readFileSync(path.join(dist, bundle), "utf8");
const exported = text.slice(text.lastIndexOf("export {"));
const alias = (name) => exported.match(new RegExp(`\\b${name} as ([\\w$]+)`))[1];
const original = await import(pathToFileURL(path.join(dist, bundle)));
const validate = original[alias("validateConnectParams")];
const format = original[alias("formatValidationErrors")];

const base = () => ({ minProtocol: 4, maxProtocol: 4, client: { id: "cli", version: "1", platform: "linux", mode: "cli" } });
const full = () => ({
  ...base(),
  client: { ...base().client, displayName: "d", buildId: "b", deviceFamily: "Linux", modelIdentifier: "m", timeZone: "Europe/Paris", instanceId: "i" },
  caps: ["tool-events"], commands: ["x"], computerUse: { any: [1] }, permissions: { a: true }, pathEnv: "/bin",
  workerRuns: { bundleHash: "a".repeat(64), openclawVersion: "1", protocolFeatures: ["x", "y"], bundlePrewarm: 2 },
  role: "operator", scopes: ["operator.read"], modelCatalog: { agentId: "main" },
  device: { id: "a", publicKey: "b", signature: "c", signedAt: 1, nonce: "d" },
  auth: { token: "t", bootstrapToken: "", deviceToken: "", password: "", approvalRuntimeToken: "", agentRuntimeIdentityToken: "" },
  locale: "", userAgent: "",
});
const client = (more) => ({ ...base(), client: { ...base().client, ...more } });
const cases = [
  null, 5, "x", [], {}, { minProtocol: "x" }, { foo: 1, client: 5 }, base(), full(),
  { ...base(), foo: 1, bar: 2 }, { ...base(), foo: 1, bar: 2, client: {} }, { ...base(), "": 1 }, { ...base(), " ": 1, z: 2 },
  { ...base(), b: 1, 7: 1, 3: 1, "03": 1 }, { ...base(), "a'b": 1 },
  { ...base(), ...Object.fromEntries([..."abcdefghij"].map((key) => [key, 1])) },
  { ...base(), ...Object.fromEntries([..."abcdefg"].map((key) => [key, 1])), client: 1 },
  client({ id: "x" }), client({ id: 5, zz: 1 }), client({ id: "", version: "", buildId: "x".repeat(97), timeZone: "" }),
  client({ timeZone: "e\u0301".repeat(64) }), client({ timeZone: "e\u0301".repeat(65) }), client({ timeZone: "👨‍👩‍👧‍👦".repeat(64) }),
  client({ timeZone: "👨‍👩‍👧‍👦".repeat(65) }), client({ timeZone: "🇫🇷".repeat(64) }), client({ timeZone: "🇫🇷".repeat(65) }),
  client({ timeZone: "\r\n".repeat(64) }), client({ timeZone: "\u200d" }), client({ timeZone: "a\u200d".repeat(64) }), client({ displayName: "\u0301" }),
  { ...base(), caps: ["", 3] }, { ...base(), caps: Array.from({ length: 30 }, () => 3) }, { ...base(), caps: {} },
  { ...base(), permissions: { "": 1, a: 1 } }, { ...base(), permissions: [] }, { ...base(), permissions: { "a\nb": 3, "x/y": 1, "~z": "q" } },
  { ...base(), modelCatalog: { x: 1 } }, { ...base(), modelCatalog: { agentId: "" } }, { ...base(), modelCatalog: { shortId: "" } },
  { ...base(), modelCatalog: 3 }, { ...base(), modelCatalog: { sessionKey: "", shortId: "x" } }, { ...base(), modelCatalog: { slugHint: "", shortId: "x" } },
  { ...base(), modelCatalog: { agentId: 3, shortId: 3, zz: 1 } }, { ...base(), modelCatalog: { zz: 1, yy: 2, xx: 3 } }, { ...base(), modelCatalog: {} },
  { ...base(), modelCatalog: { agentId: 3, sessionKey: 4 } }, { ...base(), modelCatalog: { shortId: "s", slugHint: "h" } },
  { ...base(), device: {} }, { ...base(), device: { id: "", publicKey: 1, signature: "", signedAt: -1, nonce: "", k: 1 } },
  { ...base(), device: { id: "a", publicKey: "b", signature: "c", signedAt: -1.5, nonce: "d" } },
  { ...base(), auth: { token: 1, x: 2 } }, { ...base(), minProtocol: 1e30 }, { ...base(), minProtocol: 0.5 }, { ...base(), minProtocol: 0 },
  { ...base(), workerRuns: {} }, { ...base(), workerRuns: { bundleHash: "a", openclawVersion: "", protocolFeatures: ["x"], bundlePrewarm: 0 } },
  { ...base(), workerRuns: { bundleHash: "A".repeat(64), openclawVersion: "1", protocolFeatures: ["x", "x"], bundlePrewarm: 1e17 } },
  { ...base(), workerRuns: { bundleHash: 3, openclawVersion: "1", protocolFeatures: Array.from({ length: 65 }, (_, i) => `f${i}`) } },
];

// Deterministic mutations of the full request: replace, remove or add at one to four random places.
let seed = 20260906;
const random = (n) => (seed = (seed * 1103515245 + 12345) & 0x7fffffff) % n;
const junk = [null, 0, 1, -1, 1.5, "", "x", true, [], [1, ""], {}, { k: 1 }, "é", "openclaw-tui", ["a", "a"], "y".repeat(130)];
const places = (value, at = []) => [at, ...(value && typeof value === "object" ? Object.keys(value).flatMap((key) => places(value[key], [...at, key])) : [])];
while (cases.length < 320) {
  const mutated = full();
  for (let n = 1 + random(4); n > 0; n--) {
    const all = places(mutated).slice(1);
    const place = all[random(all.length)];
    const parent = place.slice(0, -1).reduce((value, key) => value[key], mutated);
    if (!parent || typeof parent !== "object") continue;
    const verb = random(3);
    if (verb === 0) parent[place.at(-1)] = junk[random(junk.length)];
    else if (verb === 1 && !Array.isArray(parent)) delete parent[place.at(-1)];
    else if (!Array.isArray(parent)) parent[`new${random(5)}`] = junk[random(junk.length)];
  }
  cases.push(mutated);
}
const recorded = cases.map((params) => ({ params, error: validate(params) ? null : format(validate.errors) }));
fs.writeFileSync(path.join(here, "cases.json"), `[\n${recorded.map((entry) => JSON.stringify(entry)).join(",\n")}\n]\n`);
console.log(`${recorded.length} cases, ${recorded.filter((entry) => entry.error).length} refused`);
process.exit(0);
