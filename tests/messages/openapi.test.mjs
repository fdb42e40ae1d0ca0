// The OpenAPI document is true: schemathesis makes requests from it and finds no 5xx and no violation of a schema.
import assert from "node:assert/strict";
import fs from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { Child } from "../lib/child.mjs";
import { startOurs } from "../lib/gateway.mjs";
import { MessageApi } from "../lib/message-api.mjs";
import { repoRoot, tempDir } from "../lib/tools.mjs";
import { startReceiver, webhookConfig } from "../lib/webhook-receiver.mjs";

const python = path.join(repoRoot, "tests/python_modules/bin/python");
const EXAMPLES = process.env.OPENAPI_EXAMPLES ?? "25";

test("schemathesis finds no 5xx, no violation, and no way around authentication", { timeout: 600_000 }, async (t) => {
  const receiver = await startReceiver();
  t.after(() => receiver.stop());
  const ours = await startOurs({ config: { channels: { webhook: webhookConfig(receiver) } } });
  t.after(() => ours.stop());
  const api = new MessageApi(ours);
  const document = await api.call("GET", "/api/openapi.json");
  assert.equal(document.status, 200);
  assert.match(document.body.openapi, /^3\.1\./);
  // Something to be found, dead and alive.
  receiver.behave = (entry) => (entry.text === "dead" ? { status: 410 } : "ok");
  for (const content of ["alive", "dead"]) await api.send({ channel: "webhook", target: "x", content, mode: "wait" });
  const folder = tempDir("schemathesis");
  t.after(() => fs.rmSync(folder, { recursive: true, force: true }));
  // Bytes at random are no picture: for these, being refused as none is as good an answer as one. That a mode
  // takes both sides is nothing that the document can say.
  const expected = '["2xx", "400", "401", "403", "404", "409", "413", "415", "422", "5xx"]';
  fs.writeFileSync(path.join(folder, "schemathesis.toml"), `[[operations]]
include-path-regex = "^/api/media/"
checks.positive_data_acceptance.expected-statuses = ${expected}
`);
  const args = ["-c", "import sys; from schemathesis.cli import schemathesis; sys.exit(schemathesis())", "run", `${ours.url}/api/openapi.json`,
    "-H", `Authorization: Bearer ${ours.token}`, "--checks", "all", "--seed", "7", "--max-examples", EXAMPLES, "--suppress-health-check", "all",
    "--phases", "examples,coverage,fuzzing,stateful", "--continue-on-failure", "--workers", "1", "--no-color"];
  const run = new Child(python, args, { cwd: folder, env: { PATH: process.env.PATH, HOME: folder, PYTHONDONTWRITEBYTECODE: "1" }, label: "schemathesis" });
  const exit = await run.waitExit(590_000);
  assert.equal(ours.child.exit, null, "the gateway lives");
  assert.equal(exit.code, 0, run.output.slice(-12_000));
  t.diagnostic(run.output.split("\n").filter((line) => /passed|test cases|operations/i.test(line)).slice(-4).join(" · "));
  // Every operation of the document was reached.
  assert.equal((await api.send({ channel: "webhook", target: "x", content: "after it", mode: "wait" })).body.status, "delivered");
});
