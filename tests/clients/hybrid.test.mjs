// `make run-with-openclaw`: OpenClaw as our child, and a person who chats with it in the unmodified Control UI, over a crash of
// that child. And `make run`. Screenshots are kept in artifacts/control-ui.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";
import { chromium } from "playwright-core";
import { Child } from "../lib/child.mjs";
import { baseConfig, TOKEN } from "../lib/gateway.mjs";
import { MODEL_ID, modelConfig, startModel } from "../lib/model.mjs";
import { freePort, isolatedEnv, nodeBinary, openclawEntry, PATIENCE_MS, repoRoot, tempDir, until } from "../lib/tools.mjs";

const START_MS = 240_000;
/** A release build where nobody made one yet. */
const BUILD_MS = 1_200_000;
const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];

/** Direct children of a process, over all its threads. */
const childrenOf = (pid) => fs.readdirSync(`/proc/${pid}/task`)
  .flatMap((task) => fs.readFileSync(`/proc/${pid}/task/${task}/children`, "utf8").trim().split(" ").filter(Boolean).map(Number));

/** `make TARGET` as a person types it, but for where the gateway's state and home are. Cargo and the cache are this person's own. */
function make(t, target, home) {
  const own = Object.entries(process.env).filter(([name]) => /^(CARGO_(?!PKG_|MANIFEST_)|RUST|CC$|CXX$|CFLAGS|CXXFLAGS|OPENCLAW_RS_)/.test(name));
  const places = { CARGO_HOME: path.join(os.homedir(), ".cargo"), RUSTUP_HOME: path.join(os.homedir(), ".rustup"), OPENCLAW_RS_CACHE: path.join(process.env.XDG_CACHE_HOME ?? path.join(os.homedir(), ".cache"), "openclaw-rs") };
  const child = new Child("make", ["--no-print-directory", target], { env: { ...places, ...Object.fromEntries(own), ...isolatedEnv(home) }, cwd: repoRoot, label: `make ${target}` });
  t.after(async () => {
    await child.stop();
    fs.rmSync(home, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
  });
  return child;
}

/** A state without anything, but for where the metrics are: another gateway may have the usual port. */
function stateDir() {
  const home = tempDir("hybrid");
  fs.mkdirSync(path.join(home, "openclaw-rs"), { mode: 0o700 });
  fs.writeFileSync(path.join(home, "openclaw-rs/openclaw-gateway.toml"), '[admin]\nlisten = "127.0.0.1:0"\n');
  return home;
}

test("`make run` builds, says what it is, answers the unmodified command line, and ends with Ctrl-C", async (t) => {
  const home = stateDir();
  const port = await freePort();
  fs.writeFileSync(path.join(home, "openclaw.json"), JSON.stringify(baseConfig(port)), { mode: 0o600 });
  const ours = make(t, "run", home);
  await until("the gateway", async () => ours.exit || (await fetch(`http://127.0.0.1:${port}/readyz`)).status === 200, { timeoutMs: BUILD_MS });
  assert.equal(ours.exit, null, ours.output);
  await until("the summary", () => ours.output.includes("connect "));
  assert.match(ours.output, /Finished `release` profile/);
  assert.match(ours.output, new RegExp(`^ +address .*ws://127\\.0\\.0\\.1:${port}`, "m"));
  const { stdout } = await promisify(execFile)(nodeBinary, [openclawEntry, "health"], { env: isolatedEnv(home), cwd: home });
  assert.match(stdout, /Agents: main/);
  // As a terminal does it: to all of them.
  ours.killTree("SIGINT");
  await ours.waitExit();
  await assert.rejects(fetch(`http://127.0.0.1:${port}/readyz`));
});

test("the hybrid: a person chats in the Control UI through us, and OpenClaw's crash does not end it", async (t) => {
  const model = await startModel();
  t.after(() => model.stop());
  const home = stateDir();
  const port = await freePort();
  const url = `http://127.0.0.1:${port}`;
  fs.writeFileSync(path.join(home, "openclaw.json"), JSON.stringify(baseConfig(port, { ...modelConfig(model), agents: { defaults: { model: { primary: `scripted/${MODEL_ID}` } } } })), { mode: 0o600 });
  const ours = make(t, "run-with-openclaw", home);
  const ready = () => until("OpenClaw behind us", async () => ours.exit || (await fetch(`${url}/readyz`)).status === 200, { timeoutMs: BUILD_MS });
  await ready();
  assert.equal(ours.exit, null, ours.output);
  assert.match(ours.output, /upstream +supervising openclaw 2026\.9\.6/);
  // Cargo and ours became one another in the place of make's child.
  const [gateway] = childrenOf(ours.pid);
  assert.match(fs.readlinkSync(`/proc/${gateway}/exe`), /release\/openclaw-gateway$/);

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
  const open = () => fs.readdirSync(`/proc/${gateway}/fd`).flatMap((fd) => {
    try {
      return fs.readlinkSync(`/proc/${gateway}/fd/${fd}`);
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
      return childrenOf(gateway);
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
