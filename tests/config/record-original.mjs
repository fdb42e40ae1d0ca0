// Records what the original answers to config.get|set|patch|apply on the files of cases.mjs, as
// fixtures/original.json. Run by hand after a change of the pinned version:
//   node tests/config/record-original.mjs
import fs from "node:fs";
import path from "node:path";
import { startOriginal } from "../lib/gateway.mjs";
import { freePort, tempDir, until } from "../lib/tools.mjs";
import { RawClient } from "../lib/raw.mjs";
import { base, env, reads, writes } from "./cases.mjs";

const out = path.join(import.meta.dirname, "fixtures");
// The original answers config.get from a cache until its watcher has seen the file change.
async function session(reload, run) {
  const stateDir = tempDir("recorded");
  const port = await freePort();
  fs.writeFileSync(path.join(stateDir, "openclaw.json"), JSON.stringify({ ...base, gateway: { ...base.gateway, reload: { mode: reload } } }), { mode: 0o600 });
  const gateway = await startOriginal({ stateDir, port, env: { ...env, OPENCLAW_GATEWAY_PORT: String(port) } });
  try {
    const client = await RawClient.open(gateway.wsUrl);
    const hello = await client.connect({ token: gateway.token });
    if (!hello.ok) throw new Error(JSON.stringify(hello));
    const masked = (value) => JSON.parse(
      JSON.stringify(value)
        .replaceAll(gateway.stateDir, "<dir>")
        .replace(/hmac-sha256:v1:[\w-]{43}/g, "<hash>")
        .replace(/"ts":\d{13}/g, '"ts":0'),
    );
    const answer = async (method, params) => {
      const { ok, payload, error } = await client.call(method, params, { timeoutMs: 60_000 });
      return ok ? { ok, payload } : { ok, error };
    };
    const read = (name) => fs.readFileSync(path.join(gateway.stateDir, name), "utf8");
    let written = [];
    const place = async (files) => {
      const before = (await answer("config.get", {})).payload;
      const same = fs.existsSync(path.join(gateway.stateDir, "openclaw.json")) && read("openclaw.json") === files["openclaw.json"];
      for (const [name, content] of Object.entries(files).reverse()) {
        const file = path.join(gateway.stateDir, name);
        fs.mkdirSync(path.dirname(file), { recursive: true });
        fs.writeFileSync(file, content, { mode: 0o600 });
      }
      for (const name of written.filter((name) => !(name in files))) fs.rmSync(path.join(gateway.stateDir, name), { force: true });
      written = [...Object.keys(files), "openclaw.json.bak"];
      if (!same) await until("the watcher to see the file", async () => (await answer("config.get", {})).payload.hash !== before.hash, { timeoutMs: 30_000 });
      // A write on top of a reload that is still under way would wait for it.
      if (reload === "hybrid") {
        await until("the file to be applied", async () => {
          const { payload } = await answer("config.get", {});
          return !payload.valid || payload.configRevisionHash === payload.appliedConfigHash;
        }, { timeoutMs: 60_000 });
      }
    };
    await run({ answer, masked, read, place });
    await client.end();
  } finally {
    await gateway.stop();
  }
}

const result = { env, reads: {}, writes: {} };
const save = () => fs.writeFileSync(path.join(out, "original.json"), `${JSON.stringify(result, null, 1)}\n`);
await session("off", async ({ answer, masked, place }) => {
  for (const [name, files] of Object.entries(reads)) {
    await place(files);
    console.log(name);
    result.reads[name] = { files, answer: masked(await answer("config.get", {})) };
  }
});
save();
await session("hybrid", async ({ answer, masked, read, place }) => {
  for (const [name, [files, calls]] of Object.entries(writes)) {
    console.log(name);
    await place(files);
    const steps = [];
    for (const { method, params, base } of calls) {
      const current = (await answer("config.get", {})).payload;
      const sent = base ? { ...params, baseHash: current.hash } : params;
      const got = masked(await answer(method, sent));
      const after = Object.fromEntries(Object.keys(files).map((file) => [file, read(file)]));
      steps.push({ method, params, base: base === true, answer: got, after });
    }
    result.writes[name] = { files, steps };
    save();
  }
  const schema = (await answer("config.schema", {})).payload;
  if (process.env.SCHEMA_OUT) fs.writeFileSync(process.env.SCHEMA_OUT, JSON.stringify(schema));
  const hints = Object.entries(schema.uiHints)
    .filter(([, hint]) => hint.sensitive !== undefined || hint.tags?.includes("url-secret"))
    .map(([name, hint]) => [name, { ...(hint.sensitive === undefined ? {} : { sensitive: hint.sensitive }), ...(hint.tags?.includes("url-secret") ? { tags: ["url-secret"] } : {}) }]);
  fs.writeFileSync(path.join(out, "sensitive-hints.json"), `${JSON.stringify(Object.fromEntries(hints), null, 1)}\n`);
});
