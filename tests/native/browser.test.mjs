// The unmodified Control UI in a real browser, served and answered by this gateway alone.
// Screenshots are kept in artifacts/native.
import assert from "node:assert/strict";
import fs from "node:fs";
import path from "node:path";
import test, { after, before } from "node:test";
import { chromium } from "playwright-core";
import { startOurs, TOKEN } from "../lib/gateway.mjs";
import { modelConfig, startModel } from "../lib/model.mjs";
import { openclawEntry, PATIENCE_MS, repoRoot, until } from "../lib/tools.mjs";

const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
const shots = path.join(repoRoot, "artifacts/native");
fs.mkdirSync(shots, { recursive: true });

let browser;
before(async () => (browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", headless: true, args: FLAGS })));
after(() => browser.close());

/** A page, and what it complains of. */
async function open(t, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, locale: "en-US", ...options });
  t.after(() => context.close());
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE_MS);
  const complaints = [];
  page.on("console", (message) => message.type() === "error" && complaints.push(`${message.text()} ${message.location().url}`));
  page.on("pageerror", (error) => complaints.push(`uncaught: ${error.message}`));
  return { page, complaints };
}

test("the Control UI loads, connects and survives a restart of the gateway, without OpenClaw running", async (t) => {
  const ours = await startOurs({ toml: `[control_ui]\npackage = ${JSON.stringify(path.dirname(openclawEntry))}\n` });
  t.after(() => ours.stop());
  const { page, complaints } = await open(t);
  await page.goto(`${ours.url}/#token=${TOKEN}`);
  const composer = page.getByPlaceholder(/^Message /);
  await composer.waitFor();
  await page.screenshot({ path: path.join(shots, "control-ui-alone.png") });
  // What it asks for at load and nobody has: pictures of people and workspaces, which it copes with.
  const unexpected = complaints.filter((text) => !/404 \(Not Found\)/.test(text));
  assert.deepEqual(unexpected, []);
  await page.getByRole("heading", { name: "No AI provider configured" }).waitFor();
  await ours.restart();
  await until("the page to be connected again", async () => {
    const connected = await page.evaluate(() => document.body.innerText);
    return !/Reconnecting|Disconnected|Offline/i.test(connected);
  });
  await page.reload();
  await page.getByPlaceholder(/^Message /).waitFor();
});

test("a chat with an agent that runs here: streamed, stopped, kept over a reload, with nothing but this gateway and a model", async (t) => {
  const model = await startModel();
  t.after(() => model.stop());
  const ours = await startOurs({ config: modelConfig(model), toml: `[control_ui]\npackage = ${JSON.stringify(path.dirname(openclawEntry))}\n` });
  t.after(() => ours.stop());
  const { page, complaints } = await open(t);
  await page.goto(`${ours.url}/#token=${TOKEN}`);
  const composer = page.getByPlaceholder(/^Message /);
  await composer.waitFor();
  const say = async (text) => {
    await composer.fill(text);
    await composer.press("Enter");
  };
  await say("SCRIPT slow Half of it, then the rest.");
  // In the conversation: for a moment the page also has it in a line for screen readers.
  const said = (text) => page.getByRole("paragraph").filter({ hasText: new RegExp(`^${text}$`) });
  await page.getByText("Half", { exact: true }).waitFor();
  await page.screenshot({ path: path.join(shots, "chat-streaming.png") });
  model.release();
  await said("Half of it, then the rest.").waitFor();
  await say("SCRIPT say A second answer.");
  await said("A second answer.").waitFor();
  await page.screenshot({ path: path.join(shots, "chat-answered.png") });
  await page.reload();
  await said("A second answer.").waitFor();
  await said("Half of it, then the rest.").waitFor();
  await page.screenshot({ path: path.join(shots, "chat-reloaded.png") });
  assert.deepEqual(complaints.filter((text) => !/404 \(Not Found\)/.test(text)), []);
});

test("a deep link opens the page that it names", async (t) => {
  const ours = await startOurs({ toml: `[control_ui]\npackage = ${JSON.stringify(path.dirname(openclawEntry))}\n` });
  t.after(() => ours.stop());
  const { page, complaints } = await open(t);
  await page.goto(`${ours.url}/agents#token=${TOKEN}`);
  await page.getByText("Who is on your team and what they are doing").waitFor();
  await page.screenshot({ path: path.join(shots, "control-ui-agents.png") });
  assert.deepEqual(complaints.filter((text) => !/404 \(Not Found\)/.test(text)), []);
});
