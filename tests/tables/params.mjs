// Asks the original's own validators about good and bad params of every checked method.
//   node tests/tables/params.mjs --write      rewrites crates/wire/tests/captures/params.jsonl
import fs from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { repoRoot } from "../lib/tools.mjs";
import { paramsValidators } from "./extract.mjs";

export const file = path.join(repoRoot, "crates/wire/tests/captures/params.jsonl");

/** Some value that a schema accepts, or nearly so. */
function sample(schema) {
  if (schema === true || schema === undefined) return 1;
  if (schema.const !== undefined) return schema.const;
  if (schema.enum) return schema.enum[0];
  const union = schema.anyOf ?? schema.oneOf;
  if (union) return sample(union[0]);
  switch (schema.type) {
    case "string": return "x".repeat(Math.max(1, schema.minLength ?? 1));
    case "integer": case "number": return schema.minimum ?? 1;
    case "boolean": return true;
    case "null": return null;
    case "array": return Array.from({ length: schema.minItems ?? 1 }, () => sample(schema.items));
    case "object": return Object.fromEntries((schema.required ?? []).map((name) => [name, sample(schema.properties?.[name])]));
    default: return 1;
  }
}

/** Values that are wrong, or at an edge, for one property. */
function probes(schema) {
  const values = [null, 7, "text", "", true, [], {}, 1.5, -1];
  if (schema.maxLength !== undefined && schema.maxLength <= 512) values.push("y".repeat(schema.maxLength), "y".repeat(schema.maxLength + 1), "e\u0301".repeat(schema.maxLength), "\u{1f600}".repeat(schema.maxLength + 1));
  if (schema.maximum !== undefined) values.push(schema.maximum, schema.maximum + 1);
  if (schema.minimum !== undefined) values.push(schema.minimum - 1);
  if (schema.pattern) values.push("2026-01-31", "2026-1-31", "UTC+1:30", "UTC-12", "UTC+1:60", "a/b", "a.b[0]-*", "a b", ".", "..", "...", "a\\b", "UTC+123");
  if (schema.maxItems !== undefined && schema.maxItems <= 300) values.push(Array.from({ length: schema.maxItems + 1 }, (_, i) => typeof sample(schema.items) === "string" ? `i${i}` : sample(schema.items)));
  if (schema.type === "array") values.push([sample(schema.items), sample(schema.items)], [null, 3, "a", {}], [{ unexpected: 1 }], Array.from({ length: 12 }, () => null));
  if (schema.type === "object") values.push({ ...sample(schema), unexpected: 1 }, Object.fromEntries(Object.keys(schema.properties ?? {}).map((key) => [key, {}])), { "line\nend": 1 });
  const union = schema.anyOf ?? schema.oneOf ?? [];
  for (const branch of union) {
    values.push(sample(branch));
    if (branch.type === "object") values.push({ ...sample(branch), unexpected: 1 });
  }
  return values;
}

function* params(schema) {
  yield {};
  yield [];
  yield "text";
  yield 7;
  yield { unexpected: 1, "2": 1, "10": 2 };
  if (schema.type !== "object") return;
  const base = sample(schema);
  yield base;
  yield { ...base, zzz: 1, aaa: 2 };
  for (const name of schema.required ?? []) {
    const { [name]: _, ...rest } = base;
    yield rest;
  }
  for (const [name, property] of Object.entries(schema.properties ?? {})) {
    for (const value of probes(property)) yield { ...base, [name]: value };
  }
  const all = Object.fromEntries(Object.keys(schema.properties ?? {}).map((name) => [name, {}]));
  yield all;
  yield { ...all, extra: 1 };
}

export async function cases() {
  const { validators, formatValidationErrors } = await paramsValidators();
  const lines = [];
  for (const [method, validate] of validators) {
    const seen = new Set();
    const rows = [];
    for (const value of params(validate.schema)) {
      const text = JSON.stringify(value);
      if (seen.has(text)) continue;
      seen.add(text);
      rows.push([value, validate(value) ? null : formatValidationErrors(validate.errors)]);
    }
    // Properties with the same schema answer alike: one example of each answer, and a few that are valid.
    const kept = new Map();
    let valid = 0;
    for (const row of rows) {
      if (row[1] === null ? valid++ < 12 : !kept.has(row[1])) kept.set(row[1] ?? JSON.stringify(row[0]), row);
    }
    for (const [value, errors] of kept.values()) lines.push(JSON.stringify({ method, params: value, errors }));
  }
  return `${lines.join("\n")}\n`;
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href && process.argv.includes("--write")) {
  fs.writeFileSync(file, await cases());
  console.log(`wrote ${path.relative(repoRoot, file)}`);
}
