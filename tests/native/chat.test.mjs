// The chat of our own in a real browser, with agents that run here and nothing else: signing in, answers as they come, tools
// and approvals, lost connections, no model, Ollama found. Screenshots are kept in artifacts/chat.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import fs from "node:fs";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import test, { after, before } from "node:test";
import { chromium } from "playwright-core";
import { startBotApi } from "../lib/bot-api.mjs";
import { startOurs, TOKEN } from "../lib/gateway.mjs";
import { modelConfig, startModel, textOf } from "../lib/model.mjs";
import { startProviders } from "../lib/providers.mjs";
import { freePort, gatewayBinary, openclawEntry, PATIENCE_MS, repoRoot, tempDir, until } from "../lib/tools.mjs";

const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
const shots = path.join(repoRoot, "artifacts/chat");
fs.mkdirSync(shots, { recursive: true });
const ALONE = '[control_ui]\npackage = "/nowhere"\n';
const ASKS = { version: 1, defaults: { security: "allowlist", ask: "on-miss" } };

/** An address of this machine as another one would use it, and a gateway's origin there. */
const address = Object.values(os.networkInterfaces()).flat().find(({ internal, family }) => !internal && family === "IPv4")?.address;
const elsewhere = { port: await freePort() };
elsewhere.origin = `http://${address}:${elsewhere.port}`;

let browser, model, ollama, ours;
before(async () => {
  assert.ok(address, "this machine has no address but loopback");
  [browser, model, ollama] = await Promise.all([
    chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", headless: true, args: [...FLAGS, `--unsafely-treat-insecure-origin-as-secure=${elsewhere.origin}`] }), startModel(), startProviders(),
  ]);
  const stateDir = tempDir("ours");
  fs.mkdirSync(path.join(stateDir, "openclaw-rs"), { mode: 0o700 });
  fs.writeFileSync(path.join(stateDir, "openclaw-rs/exec-approvals.json"), JSON.stringify(ASKS), { mode: 0o600 });
  // Programs that the gateway itself could change are allowed once at most, so it must not run as root.
  const wrapper = path.join(tempDir("chat"), "gateway");
  const drop = process.getuid() === 0 ? 'chown -R 65534:65534 "$OPENCLAW_STATE_DIR"; exec setpriv --reuid=65534 --regid=65534 --clear-groups' : "exec";
  fs.writeFileSync(wrapper, `#!/bin/sh\n${drop} ${gatewayBinary()} "$@"\n`, { mode: 0o755 });
  const usual = process.env.GATEWAY_BIN;
  process.env.GATEWAY_BIN = wrapper;
  const starting = startOurs({ stateDir, config: modelConfig(model), toml: ALONE, env: { OLLAMA_HOST: ollama.url } });
  if (usual === undefined) delete process.env.GATEWAY_BIN;
  else process.env.GATEWAY_BIN = usual;
  ours = await starting;
});
after(async () => {
  await browser?.close();
  await ours?.stop();
  await Promise.all([model?.stop(), ollama?.stop()]);
});

/** A page, what it complains of, and where its requests go. */
async function open(t, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1100, height: 800 }, locale: "en-US", timezoneId: "UTC", ...options });
  t.after(() => context.close());
  return tab(context);
}

async function tab(context) {
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE_MS);
  const seen = { complaints: [], requests: [] };
  page.on("console", (message) => ["error", "warning"].includes(message.type()) && seen.complaints.push(message.text()));
  page.on("pageerror", (error) => seen.complaints.push(`uncaught: ${error.message}`));
  page.on("request", (request) => seen.requests.push(request.url()));
  page.on("websocket", (socket) => seen.requests.push(socket.url()));
  const composer = page.getByRole("textbox", { name: "Message" });
  const said = page.locator("#messages");
  return {
    page, context, composer, said, ...seen,
    async say(text) {
      await composer.fill(text);
      await composer.press("Enter");
    },
    answer: (text) => said.getByText(text, { exact: true }).waitFor(),
    async enter(address) {
      await page.goto(`${address}/#token=${TOKEN}`);
      await composer.waitFor();
    },
  };
}

const shot = (page, name) => page.screenshot({ path: path.join(shots, `${name}.png`) });
/** Questions of persons that the model was asked, the newest of each request. */
const asked = (text) => model.requests.filter(({ call }) => textOf(call.messages.findLast(({ role }) => role === "user").content).includes(text)).length;

/** What an automatic check of accessibility finds first. */
const faults = (page) => page.evaluate(() => {
  const shown = [...document.querySelectorAll("input, textarea, select, button, a[href]")].filter((one) => one.checkVisibility());
  const name = (one) => one.getAttribute("aria-label") || [...(one.labels ?? [])].map((label) => label.textContent.trim()).join() || (/^(BUTTON|A)$/.test(one.tagName) ? one.textContent.trim() : "");
  const ids = [...document.querySelectorAll("[id]")].map((one) => one.id);
  return [
    ...shown.filter((one) => !name(one)).map((one) => `no name: ${one.outerHTML.slice(0, 80)}`),
    ...ids.filter((id, at) => ids.indexOf(id) !== at).map((id) => `twice: ${id}`),
    ...[...document.querySelectorAll("[aria-controls], label[for]")].flatMap((one) => [one.getAttribute("aria-controls"), one.getAttribute("for")].filter((id) => id && !document.getElementById(id))),
    ...(document.documentElement.lang && document.title && document.querySelectorAll("h1").length === 1 ? [] : ["no language, title or heading"]),
    ...(document.documentElement.scrollWidth > innerWidth ? ["hangs over the edge"] : []),
  ];
});

test("it asks for the token, refuses a wrong one in words, and knows its browser again", async (t) => {
  const { page, context, complaints, requests, composer } = await open(t);
  const [answer] = await Promise.all([page.waitForResponse(`${ours.url}/`), page.goto(ours.url)]);
  const policy = answer.headers()["content-security-policy"];
  assert.match(policy, /^default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; .*require-trusted-types-for 'script'/);
  await page.getByRole("heading", { name: "Sign in" }).waitFor();
  await shot(page, "sign-in");
  assert.deepEqual(await faults(page), []);
  assert.ok(requests.every((url) => !url.startsWith("ws")), "nobody is asked without a secret");
  await page.getByLabel("Gateway token").fill("a wrong one");
  await page.keyboard.press("Enter");
  await page.getByText("The gateway refused this token.").waitFor();
  await page.getByLabel("Gateway token").fill(TOKEN);
  await page.keyboard.press("Enter");
  await composer.waitFor();
  assert.equal(await page.evaluate(() => document.activeElement.id), "text");
  assert.ok(requests.every((url) => new URL(url).host === new URL(ours.url).host), requests.join("\n"));
  assert.ok(requests.every((url) => !url.includes(TOKEN)));
  // Another tab has no token, but the device's own.
  const other = await tab(context);
  await other.page.goto(`${ours.url}/console/chat`);
  await other.composer.waitFor();
  assert.equal(other.page.url(), `${ours.url}/console/chat/`);
  await other.page.getByRole("button", { name: "Sign out" }).click();
  await other.page.reload();
  await other.page.getByRole("heading", { name: "Sign in" }).waitFor();
  assert.deepEqual([...complaints, ...other.complaints], []);
});

test("an answer is shown as it comes, survives a reload in its middle, and is kept; one can be stopped", async (t) => {
  const { page, complaints, say, answer, said, enter } = await open(t);
  await enter(ours.url);
  assert.equal(page.url(), `${ours.url}/`, "the token does not stay in the address");
  await say("SCRIPT slow Half of it, then the rest.");
  await answer("Half");
  await page.getByRole("button", { name: "Stop" }).waitFor();
  await shot(page, "streaming");
  await page.reload();
  await answer("Half");
  model.release();
  await answer("Half of it, then the rest.");
  await page.getByRole("button", { name: "Stop" }).waitFor({ state: "hidden" });
  await say("SCRIPT say A **strong** `word` <img src=x onerror=alert(1)>, [a place](https://example.org/a) and [a trap](javascript:alert(1)).");
  await said.getByText("strong", { exact: true }).waitFor();
  await page.reload();
  await answer("Half of it, then the rest.");
  assert.equal(await said.locator("strong").textContent(), "strong");
  assert.equal(await said.locator("img, script").count(), 0);
  assert.deepEqual(await said.locator("a").evaluateAll((all) => all.map((one) => [one.href, one.rel])), [["https://example.org/a", "noopener noreferrer"]]);
  await say("SCRIPT slow Never to be finished, this one.");
  await answer("Never");
  await page.getByRole("button", { name: "Stop" }).click();
  await said.getByText("Stopped.").waitFor();
  await until("the model to be let go", () => model.requests.at(-1).aborted);
  await say("SCRIPT fail 400");
  await said.getByText("scripted failure").waitFor();
  await shot(page, "answered");
  assert.deepEqual(complaints, []);
});

test("an answer that failed before its first word is shown as its error", async (t) => {
  const { page, enter } = await open(t);
  await enter(ours.url);
  const parts = await page.evaluate(async () => {
    const { items } = await import("/console/chat/view.mjs");
    return items([{ role: "assistant", content: [], stopReason: "error", errorMessage: "no quota" }]).flatMap(({ isError, parts }) => [isError, parts]);
  });
  assert.deepEqual(parts, [true, [{ kind: "text", text: "no quota" }]]);
});

test("a browser without the kind of key that is needed is told so, and asks nobody", async (t) => {
  const { page, requests } = await open(t);
  await page.addInitScript(() => {
    crypto.subtle.generateKey = () => Promise.reject(new DOMException("Unrecognized name.", "NotSupportedError"));
  });
  await page.goto(`${ours.url}/#token=${TOKEN}`);
  await page.getByText("This browser can't make the key (Ed25519)").waitFor();
  assert.deepEqual(requests.filter((url) => url.startsWith("ws")), []);
});

test("texts become elements of a few kinds, whatever is in them", async (t) => {
  const { page, enter } = await open(t);
  await enter(ours.url);
  const html = (text) => page.evaluate(async (text) => {
    const { markdown } = await import("/console/chat/markdown.mjs");
    const box = document.createElement("div");
    box.append(...markdown(text));
    return box.innerHTML;
  }, text);
  for (const [text, expected] of [
    ["one\ntwo\n\nthree", "<p>one\ntwo</p><p>three</p>"],
    ["# A\n### B", "<h3>A</h3><h4>B</h4>"],
    ["```js\na <b>\n\n- c\n```\nd", '<pre tabindex="0"><code>a &lt;b&gt;\n\n- c</code></pre><p>d</p>'],
    ["```\nnot yet", '<pre tabindex="0"><code>not yet</code></pre>'],
    ["- a\n  - b\n- c", "<ul><li>a<ul><li>b</li></ul></li><li>c</li></ul>"],
    ["3. a\n4. b", '<ol start="3"><li>a</li><li>b</li></ol>'],
    ["> a\n> b", "<blockquote><p>a\nb</p></blockquote>"],
    ["2 * 3 * 4 and snake_case *so* <i>", "<p>2 * 3 * 4 and snake_case <em>so</em> &lt;i&gt;</p>"],
    ["See https://example.org/x.", '<p>See <a href="https://example.org/x" target="_blank" rel="noopener noreferrer">https://example.org/x</a>.</p>'],
    ["[x](data:text/html,1) [y](//evil.example)", "<p>[x](data:text/html,1) [y](//evil.example)</p>"],
  ]) assert.equal(await html(text), expected, text);
  // Hostile ones end, and soon.
  for (const part of ["[", "`a", "**", "> ", "*a", "- ", "  - a\n", "https://"]) await html(part.repeat(20_000));
});

test("a command waits for the person: once, always, denied", async (t) => {
  const { page, complaints, say, answer, said, enter } = await open(t);
  await enter(ours.url);
  await page.getByRole("button", { name: "New chat" }).click();
  await said.getByText("Nothing has been said here yet.").waitFor();
  const command = (words) => `SCRIPT tool exec ${JSON.stringify({ command: words })}`;
  const card = page.getByRole("region", { name: "Waits for your decision" });
  for (const [at, words, button] of [[1, "echo once", "Allow once"], [2, "echo never", "Deny"], [3, "echo 23 | cat", "Always allow"]]) {
    await say(command(words));
    await card.getByText(words, { exact: true }).waitFor();
    if (at === 1) {
      await shot(page, "approval");
      assert.deepEqual(await faults(page), []);
    }
    await card.getByRole("button", { name: button }).click();
    await until("the answer", async () => (await said.getByText("tool done: exec").count()) === at);
    assert.equal(await card.getByRole("button").count(), 0);
  }
  await say(command("echo 23 | cat"));
  await until("the answer", async () => (await said.getByText("tool done: exec").count()) === 4);
  const tools = said.locator("details.tool");
  assert.deepEqual(await tools.evaluateAll((all) => all.map((one) => one.querySelector("summary").textContent)), [
    "✓ exec echo once done", "✗ exec echo never failed", "✓ exec echo 23 | cat done", "✓ exec echo 23 | cat done",
  ]);
  await tools.last().locator("summary").click();
  assert.match(await tools.last().textContent(), /\n?23/);
  await shot(page, "tools");
  assert.deepEqual(complaints, []);
});

/** A way to the gateway that can be cut. */
async function wire(t, to) {
  const sockets = new Set();
  const own = { isCut: false, cut() {
    own.isCut = true;
    for (const socket of sockets) socket.destroy();
  } };
  const server = net.createServer((socket) => {
    if (own.isCut) return socket.destroy();
    const there = net.connect(to, "127.0.0.1");
    for (const [one, other] of [[socket, there], [there, socket]]) {
      sockets.add(one);
      one.on("error", () => {}).on("close", () => {
        sockets.delete(one);
        other.destroy();
      }).pipe(other);
    }
  });
  const port = await freePort();
  await new Promise((resolve, reject) => server.once("error", reject).listen(port, "127.0.0.1", resolve));
  t.after(() => {
    own.cut();
    server.close();
  });
  return Object.assign(own, { url: `http://127.0.0.1:${port}` });
}

test("a lost connection comes back by itself: nothing is missed, nothing is said twice", async (t) => {
  const way = await wire(t, ours.port);
  const { page, complaints, say, answer, said, enter, composer } = await open(t);
  await enter(way.url);
  await page.getByRole("button", { name: "New chat" }).click();
  await said.getByText("Nothing has been said here yet.").waitFor();
  await say("SCRIPT slow Begun before, ended behind its back.");
  await answer("Begun");
  way.cut();
  await page.getByText("The connection to the gateway is lost.").waitFor();
  model.release();
  await composer.fill("SCRIPT say Sent without a connection.");
  await composer.press("Enter");
  await said.getByText("Waits for the connection …").waitFor();
  await shot(page, "lost");
  way.isCut = false;
  await answer("Begun before, ended behind its back.");
  await answer("Sent without a connection.");
  assert.equal(asked("Sent without a connection."), 1);
  assert.equal(await said.getByText("ended behind its back.").count(), 2, "the question and the answer, each once");
  // What was not taken outlives the page: this one never connects again.
  await page.evaluate(() => {
    globalThis.WebSocket = function Never() {
      this.close = () => {};
    };
  });
  way.cut();
  await page.getByText("The connection to the gateway is lost.").waitFor();
  await say("SCRIPT say Sent by a page that is gone.");
  await said.getByText("Waits for the connection …").waitFor();
  way.isCut = false;
  await page.reload();
  await answer("Sent by a page that is gone.");
  assert.equal(asked("Sent by a page that is gone."), 1);
  assert.equal(await page.evaluate(() => sessionStorage.getItem("openclaw-chat-sent")), "[]");
  // The gateway itself begins anew.
  await ours.restart();
  await say("SCRIPT say After the restart.");
  await answer("After the restart.");
  const unexpected = complaints.filter((text) => !/WebSocket connection to .* failed/.test(text));
  assert.deepEqual(unexpected, []);
});

test("on a phone, in the dark, by the keyboard alone", async (t) => {
  const { page, complaints, say, answer, enter, composer } = await open(t, { viewport: { width: 375, height: 667 }, colorScheme: "dark" });
  await enter(ours.url);
  await answer("Half of it, then the rest.");
  assert.deepEqual(await faults(page), []);
  await shot(page, "phone");
  const menu = page.getByRole("button", { name: "Chats" });
  await menu.focus();
  await page.keyboard.press("Enter");
  const chats = page.getByRole("navigation", { name: "Chats" });
  await chats.waitFor();
  assert.ok((await chats.getByRole("listitem").count()) >= 3);
  await shot(page, "phone-chats");
  await page.keyboard.press("Escape");
  await chats.waitFor({ state: "hidden" });
  assert.equal(await page.evaluate(() => document.activeElement.id), "menu");
  await menu.press("Enter");
  await chats.getByRole("listitem").first().getByRole("button").focus();
  await page.keyboard.press("Enter");
  await chats.waitFor({ state: "hidden" });
  await until("the focus to be in the message", () => composer.evaluate((one) => one === document.activeElement));
  await composer.fill("line one");
  await page.keyboard.press("Shift+Enter");
  assert.equal(await composer.inputValue(), "line one\n");
  await say("SCRIPT say Said from a phone.");
  await answer("Said from a phone.");
  assert.deepEqual(complaints, []);
});

test("without a model the page says what to set; Ollama that comes up is found and used", async (t) => {
  assert.equal(ollama.looked.length, 0, "a file that names a provider is all that counts");
  const port = await freePort();
  const bot = await startBotApi();
  t.after(() => bot.stop());
  const telegram = { botToken: bot.token, apiRoot: bot.url, dmPolicy: "open", allowFrom: ["*"] };
  const bare = await startOurs({ config: { gateway: { auth: { mode: "none" } }, channels: { telegram } }, toml: ALONE, env: { OLLAMA_HOST: `127.0.0.1:${port}` } });
  t.after(() => bare.stop());
  const { page, complaints, say, answer, said, composer } = await open(t);
  await page.goto(bare.url);
  await composer.waitFor();
  const missing = page.locator("#banner").getByText("No model is set: add one under models.providers in openclaw.json (baseUrl, api, models), or start Ollama on the gateway's machine; this page goes on by itself.");
  await missing.waitFor();
  await shot(page, "no-model");
  await say("Anybody?");
  await said.getByText(/^Not sent: No model is set/).waitFor();
  bot.say(bot.direct(1), 1, "SCRIPT say Late, but answered.");
  await until("the log to say what a message waits for", () => /a message from a chat waits: no model is set: start Ollama on this machine, or add one under models\.providers/.test(bare.child.output));
  await page.reload();
  await said.getByText(/^Not sent: No model is set/).waitFor();
  const local = await startProviders({ port });
  t.after(() => local.stop());
  await missing.waitFor({ state: "hidden" });
  await said.getByRole("button", { name: "Send again" }).click();
  await answer("Hello from the scripted model.");
  await say("SCRIPT say By a model that nobody configured.");
  await answer("By a model that nobody configured.");
  await until("the message that waited to be answered", () => bot.sent.some(({ text }) => text === "Late, but answered."));
  assert.equal(local.requests[0].api, "ollama");
  assert.ok(local.requests[0].call.options.num_ctx <= 32768);
  assert.ok(local.looked.length < 5, `${local.looked.length} questions`);
  assert.deepEqual(complaints, []);
  await bare.restart();
  await until("the summary's line", () => bare.child.output.includes(`model     ollama/scripted-1, found at http://127.0.0.1:${port}`));
});

test("beside the Control UI it has an address of its own; a browser elsewhere is approved by a person", async (t) => {
  const toml = `[control_ui]\npackage = ${JSON.stringify(path.dirname(openclawEntry))}\n`;
  const away = { attach: { wsUrl: `ws://127.0.0.1:${await freePort()}`, token: TOKEN } };
  const [beside, hybrid] = await Promise.all([startOurs({ config: { ...modelConfig(model), gateway: { bind: "lan", auth: { mode: "password", password: "correct horse" }, controlUi: { allowedOrigins: [elsewhere.origin] } } }, toml, port: elsewhere.port }), startOurs({ upstream: away, toml: ALONE, waitReady: false })]);
  t.after(() => Promise.all([beside.stop(), hybrid.stop()]));
  assert.match(await (await fetch(beside.url)).text(), /data-openclaw-control-ui-build-id/);
  const { page, complaints, say, answer, composer } = await open(t);
  await page.goto(`${elsewhere.origin}/console/chat/`);
  await page.getByLabel("Gateway password").fill("correct horse");
  await page.keyboard.press("Enter");
  await page.getByText("This browser has to be approved once.").waitFor();
  const [, id] = /openclaw-gateway devices approve ([0-9a-f-]{36})\./.exec(await page.locator("#banner").textContent());
  execFileSync(gatewayBinary(), ["devices", "approve", id], { env: beside.env, cwd: beside.stateDir });
  await composer.waitFor();
  await say("SCRIPT say Beside it.");
  await answer("Beside it.");
  assert.deepEqual(complaints, []);
  const [admin] = await until("the admin listener's address", () => /http:\/\/\S+(?=\/console\/)/.exec(beside.child.output));
  assert.equal((await fetch(`${admin}/console/chat/`)).status, 404);
  const status = await until("the page", async () => (await fetch(hybrid.url)).text());
  assert.match(status, /<h1>The gateway is running\.<\/h1>/);
});
