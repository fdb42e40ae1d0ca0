// Runs the original's log reader over small files; crates/gateway answers the same.
//   node tests/tables/log-tail.mjs --write      rewrites crates/gateway/tests/captures/log-tail.json
import fs from "node:fs";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { startOriginal, TOKEN } from "../lib/gateway.mjs";
import { RawClient } from "../lib/raw.mjs";
import { repoRoot, tempDir } from "../lib/tools.mjs";

export const file = path.join(repoRoot, "crates/gateway/tests/captures/log-tail.json");

const lines = (count) => Array.from({ length: count }, (_, i) => `line ${i}\n`).join("");
const TEXTS = ["", "one\n", "no end", "one\ntwo", "\n\n", lines(7), `${lines(3)}partial`, "ä€\nüü\n"];
const REQUESTS = [
  [null, null, null], [0, null, null], [4, null, null], [9999, null, null], [null, 2, null], [null, 1, 10],
  [0, null, 8], [2, null, 8], [null, null, 1], [7, 1, null],
];

/** The original tails the file that `logging.file` names; each text is put there in turn. */
export async function record() {
  const dir = tempDir("log-tail");
  const log = path.join(dir, "tail.log");
  const target = await startOriginal({ config: { logging: { file: log, level: "silent" } } });
  try {
    const client = await RawClient.open(target.wsUrl);
    await client.connect({ token: TOKEN });
    const rows = [];
    for (const text of TEXTS) {
      for (const [cursor, limit, maxBytes] of REQUESTS) {
        fs.writeFileSync(log, text);
        const params = Object.fromEntries(Object.entries({ cursor, limit, maxBytes }).filter(([, value]) => value !== null));
        const { payload } = await client.call("logs.tail", params);
        const { file: _file, ...answer } = payload;
        rows.push([text, [cursor, limit, maxBytes], answer]);
      }
    }
    await client.end();
    return `[\n${rows.map((row) => JSON.stringify(row)).join(",\n")}\n]\n`;
  } finally {
    await target.stop();
    fs.rmSync(dir, { recursive: true, force: true });
  }
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? "").href && process.argv.includes("--write")) {
  fs.mkdirSync(path.dirname(file), { recursive: true });
  fs.writeFileSync(file, await record());
  console.log(`wrote ${path.relative(repoRoot, file)}`);
}
