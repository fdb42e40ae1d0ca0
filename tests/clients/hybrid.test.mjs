// What `make run-with-openclaw` starts, by the same arguments: OpenClaw as our child, and a person who chats with it in the
// unmodified Control UI, over a crash of that child. Screenshots are kept in artifacts/control-ui.
import assert from "node:assert/strict";
import fs from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { chromium } from "playwright-core";
import { Child } from "../lib/child.mjs";
import { baseConfig, TOKEN } from "../lib/gateway.mjs";
import { MODEL_ID, modelConfig, startModel } from "../lib/model.mjs";
import { freePort, gatewayBinary, isolatedEnv, nodeBinary, openclawEntry, PATIENCE_MS, repoRoot, tempDir, until } from "../lib/tools.mjs";

const START_MS = 240_000;
const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];

/** Direct children of a process, over all its threads. */
const childrenOf = (pid) => fs.readdirSync(`/proc/${pid}/task`)
  .flatMap((task) => fs.readFileSync(`/proc/${pid}/task/${task}/children`, "utf8").trim().split(" ").filter(Boolean).map(Number));

test("the hybrid: a person chats in the Control UI through us, and OpenClaw's crash does not end it", async (t) => {
  const model = await startModel();
  t.after(() => model.stop());
  const home = tempDir("hybrid");
  t.after(() => fs.rmSync(home, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 }));
  const port = await freePort();
  const url = `http://127.0.0.1:${port}`;
  fs.writeFileSync(path.join(home, "openclaw.json"), JSON.stringify(baseConfig(port, { ...modelConfig(model), agents: { defaults: { model: { primary: `scripted/${MODEL_ID}` } } } })), { mode: 0o600 });
  fs.mkdirSync(path.join(home, "openclaw-rs"), { mode: 0o700 });
  fs.writeFileSync(path.join(home, "openclaw-rs/openclaw-gateway.toml"), '[admin]\nlisten = "127.0.0.1:0"\n');
  const ours = new Child(gatewayBinary(), ["run", "--upstream", "supervise", "--openclaw-command", `${nodeBinary} ${openclawEntry}`], { env: isolatedEnv(home), cwd: home, label: "ours" });
  t.after(() => ours.stop());
  const ready = () => until("OpenClaw behind us", async () => ours.exit || (await fetch(`${url}/readyz`)).status === 200, { timeoutMs: START_MS });
  await ready();
  assert.equal(ours.exit, null, ours.output);
  assert.match(ours.output, /upstream +supervising openclaw 2026\.9\.6/);

  const browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", headless: true, args: FLAGS });
  t.after(() => browser.close());
  const page = await browser.newPage({ viewport: { width: 1280, height: 800 }, locale: "en-US" });
  page.setDefaultTimeout(PATIENCE_MS);
  const shot = (name) => {
    fs.mkdirSync(path.join(repoRoot, "artifacts/control-ui"), { recursive: true });
    return page.screenshot({ path: path.join(repoRoot, `artifacts/control-ui/hybrid-${name}.png`) });
  };
  await page.goto(`${url}/#token=${TOKEN}`);
  const composer = page.getByRole("textbox", { name: "Chat composer" });
  await composer.waitFor().finally(() => shot("0-loaded"));
  const say = async (text) => {
    await composer.fill(text);
    await composer.press("Enter");
  };
  const said = (text) => page.getByRole("log").getByRole("paragraph").filter({ hasText: new RegExp(`^${text}$`) });
  await say("SCRIPT slow Half of it, then the rest.");
  await said("Half").waitFor();
  await shot("1-streaming");
  model.release();
  await said("Half of it, then the rest.").waitFor();
  await page.getByRole("button", { name: "Stop generating" }).waitFor({ state: "detached" });
  await shot("2-answered");

  // What is OpenClaw's own is opened by OpenClaw alone.
  const open = () => fs.readdirSync(`/proc/${ours.pid}/fd`).flatMap((fd) => {
    try {
      return fs.readlinkSync(`/proc/${ours.pid}/fd/${fd}`);
    } catch {
      return [];
    }
  }).filter((file) => file.startsWith(home) && !file.startsWith(path.join(home, "openclaw-rs")));
  // It may be reading the person's own file at this moment.
  await until("no file of OpenClaw's to be held open", () => open().length === 0).catch((error) => {
    throw new Error(`${error.message}: ${open()}`, { cause: error });
  });

  // A thread may end while it is looked at.
  const children = () => {
    try {
      return childrenOf(ours.pid);
    } catch {
      return [];
    }
  };
  const [child] = await until("the child", () => children().length > 0 && children());
  process.kill(child, "SIGKILL");
  await until("another child", () => children().some((pid) => pid !== child), { timeoutMs: START_MS });
  await ready();
  await page.getByRole("status").filter({ hasText: /^Connected$/ }).first().waitFor();
  await say("SCRIPT say Back again.");
  await said("Back again.").waitFor();
  await said("Half of it, then the rest.").waitFor();
  await shot("3-after-a-crash");
});
