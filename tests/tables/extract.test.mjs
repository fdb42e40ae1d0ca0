// The tables in crates/wire are those of the pinned package.
import assert from "node:assert/strict";
import fs from "node:fs";
import path from "node:path";
import test from "node:test";
import { repoRoot } from "../lib/tools.mjs";
import * as authz from "./authz.mjs";
import { tables } from "./extract.mjs";
import * as params from "./params.mjs";

for (const [file, text] of Object.entries(tables)) {
  test(`${file} equals the pinned package`, async () => {
    assert.equal(
      fs.readFileSync(path.join(repoRoot, file), "utf8"),
      await text(),
      `${file} is stale: run node tests/tables/extract.mjs --write`,
    );
  });
}

test("the recorded scope decisions are the original's", async () => {
  assert.equal(fs.readFileSync(authz.file, "utf8"), await authz.cases(), "stale: run node tests/tables/authz.mjs --write");
});

test("the recorded validation messages are the original's", async () => {
  assert.equal(fs.readFileSync(params.file, "utf8"), await params.cases(), "stale: run node tests/tables/params.mjs --write");
});
