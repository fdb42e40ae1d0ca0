// docs/security.md and docs/reliability.md name tests: each exists under that name, and every advisory that we keep as a
// checklist has a row.
import assert from "node:assert/strict";
import fs from "node:fs";
import path from "node:path";
import test from "node:test";
import { repoRoot } from "../lib/tools.mjs";

const ADVISORIES = [
  "CVE-2026-25253", "CVE-2026-25593", "GHSA-g55j-c2v4-pjcg", "Oasis chain", "GHSA-rqpp-rjj8-7wv8", "GHSA-4jpw-hj22-2xmc",
  "GHSA-m8wm-r5vq-qjpg", "GHSA-xmxx-7p24-h892", "PR 57647", "GHSA-5847-rm3g-23mw", "GHSA-943q-mwmv-hhvh", "GHSA-2xcp-x87w-q377",
  "GHSA-xh72-v6v9-mwhc", "GHSA-2gvc-4f3c-2855", "GHSA-mr34-9552-qr95", "GHSA-w45g-5746-x9fp", "2026.2.12", "2026.2.25", "2026.2.26",
];
const read = (file) => fs.readFileSync(path.join(repoRoot, file), "utf8");

/** Documents and how many tests they name at least. */
for (const [document, least] of [["docs/security.md", 35], ["docs/reliability.md", 25]]) {
  test(`every test that ${document} names exists`, () => {
    const text = read(document).replaceAll(/\s+/g, " ");
    let named = 0;
    let file;
    // A file in backquotes, then the names of tests in it: `a Rust function` or "a test's title".
    for (const [, code, title] of text.matchAll(/`([^`]+)`|"([^"]+)"/g)) {
      if (code && /^(tests|crates)\/.*\.(mjs|rs)$/.test(code)) {
        file = code;
        assert.ok(fs.existsSync(path.join(repoRoot, file)), file);
      } else if (title) {
        // Titles with a variable part end there.
        const source = read(file);
        assert.ok([`"${title}`, `\`${title}`, `'${title}`].some((quoted) => source.includes(quoted)), `${file} has no test "${title}"`);
        named++;
      } else if (file?.endsWith(".rs") && /^[a-z0-9]+(_[a-z0-9]+){2,}$/.test(code)) {
        assert.ok(read(file).includes(`fn ${code}(`), `${file} has no ${code}`);
        named++;
      }
    }
    assert.ok(named >= least, `only ${named} are named`);
  });
}

test("every advisory has a row that names a test", () => {
  for (const advisory of ADVISORIES) {
    const row = read("docs/security.md").split("\n").find((line) => line.startsWith("| ") && line.split(" | ")[0].includes(advisory));
    assert.ok(row, `${advisory} has no row`);
    assert.match(row, /`(tests|crates)\/[^`]+` ["`]/, `${advisory}: no test`);
  }
});
