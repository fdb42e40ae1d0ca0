// The same tests (but for most chains of calls) on the oldest and the newest Node that the package promises; `cargo xtask setup` put them there.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import test from "node:test";
import { fileURLToPath } from "node:url";

const here = path.dirname(fileURLToPath(import.meta.url));
const nodes = path.resolve(process.execPath, "../../..");

for (const major of [20, 26]) {
  test(`on Node ${major}`, () => {
    const version = fs.readdirSync(nodes).find((name) => name.startsWith(`${major}.`));
    assert.ok(version, `no Node ${major} in ${nodes}: run make setup`);
    const files = ["addon.test.mjs", "sharp.test.mjs"].map((name) => path.join(here, name));
    // This runner's own mark would make the other believe it is a part of it.
    const { NODE_TEST_CONTEXT: _, ...env } = process.env;
    const run = spawnSync(path.join(nodes, version, "bin/node"), ["--test", "--test-concurrency=1", "--test-reporter=spec", ...files], {
      env: { ...env, FEWER_CHAINS: "1" }, encoding: "utf8",
    });
    const count = (word) => Number(new RegExp(`^ℹ ${word} (\\d+)`, "m").exec(run.stdout)?.[1]);
    assert.equal(run.status, 0, run.stdout.slice(-4000) + run.stderr);
    assert.deepEqual([count("fail"), count("cancelled"), count("skipped")], [0, 0, 0]);
    assert.ok(count("pass") > 20, `${count("pass")} passed`);
  });
}
