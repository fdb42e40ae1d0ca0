// A plugin of OpenClaw's that adds a method of its own: learned from its hello, passed on, and refused to whom it is refused
// there.
import assert from "node:assert/strict";
import fs from "node:fs";
import path from "node:path";
import test from "node:test";
import { startOriginal, startOurs, TOKEN } from "../lib/gateway.mjs";
import { RawClient } from "../lib/raw.mjs";
import { tempDir, until } from "../lib/tools.mjs";

const FILES = {
  "package.json": { name: "spoken", version: "1.0.0", type: "module", openclaw: { extensions: ["./index.js"] } },
  "openclaw.plugin.json": { id: "spoken", name: "Spoken", description: "Says a word.", activation: { onStartup: true }, configSchema: { type: "object", additionalProperties: false } },
};
const ENTRY = `export default {
  id: "spoken",
  name: "Spoken",
  description: "Says a word.",
  register(api) {
    api.registerGatewayMethod("spoken.word", async ({ params, respond }) => respond(true, { word: params.word ?? "none" }, undefined), { scope: "operator.write" });
  },
};
`;

test("a plugin's method is learned, answered and guarded as by the original, and known while that is down", async (t) => {
  const folder = path.join(tempDir("plugin"), "spoken");
  t.after(() => fs.rmSync(path.dirname(folder), { recursive: true, force: true }));
  fs.mkdirSync(folder);
  for (const [name, json] of Object.entries(FILES)) fs.writeFileSync(path.join(folder, name), JSON.stringify(json));
  fs.writeFileSync(path.join(folder, "index.js"), ENTRY);
  const original = await startOriginal({ config: { plugins: { load: { paths: [folder] }, entries: { spoken: { enabled: true } } } } });
  t.after(() => original.stop());
  const ours = await startOurs({ upstream: { attach: original } });
  t.after(() => ours.stop());
  const seen = {};
  for (const [side, target] of Object.entries({ original, ours })) {
    const open = async (scopes) => {
      const client = await RawClient.open(target.wsUrl);
      const hello = await client.connect({ token: TOKEN, scopes });
      assert.equal(hello.ok, true, JSON.stringify(hello));
      return Object.assign(client, { lists: hello.payload.features.methods.includes("spoken.word") });
    };
    const [writer, reader] = [await open(["operator.write"]), await open(["operator.read"])];
    const call = async (client, params) => (({ ok, payload, error }) => ({ ok, payload, error }))(await client.call("spoken.word", params));
    seen[side] = { lists: [writer.lists, reader.lists], said: await call(writer, { word: "hello" }), refused: await call(reader, {}) };
    if (side === "original") continue;
    await original.child.stop();
    await until("ours to notice", async () => (await fetch(`${ours.url}/readyz`)).status === 503);
    assert.equal((await call(writer, {})).error?.code, "UNAVAILABLE");
  }
  assert.deepEqual(seen.ours, seen.original);
  assert.deepEqual([seen.ours.lists[0], seen.ours.said.payload, seen.ours.refused.error?.code], [true, { word: "hello" }, "FORBIDDEN"], JSON.stringify(seen.ours));
});
