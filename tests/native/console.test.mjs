// The console in a real browser, with a real gateway: what it shows, what it does, what it refuses. Screenshots are kept in
// artifacts/console.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import crypto from "node:crypto";
import fs from "node:fs";
import http from "node:http";
import path from "node:path";
import test, { after, before } from "node:test";
import { chromium } from "playwright-core";
import { History, logLine, quantile } from "../../crates/gateway/src/console/page/figures.mjs";
import { startOurs, TOKEN } from "../lib/gateway.mjs";
import { MessageApi } from "../lib/message-api.mjs";
import { RawClient } from "../lib/raw.mjs";
import { gatewayBinary, PATIENCE_MS, repoRoot, tempDir, until } from "../lib/tools.mjs";
import { post, startReceiver, webhookConfig } from "../lib/webhook-receiver.mjs";

const FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
const shots = path.join(repoRoot, "artifacts/console");
fs.mkdirSync(shots, { recursive: true });
const HOSTILE = "<img src=x onerror=alert(1)>";

let browser;
before(async () => (browser = await chromium.launch({ executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", headless: true, args: FLAGS })));
after(() => browser.close());

/** A page, what it complains of, and where its requests go. */
async function open(t, options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, locale: "en-US", timezoneId: "UTC", ...options });
  t.after(() => context.close());
  const page = await context.newPage();
  page.setDefaultTimeout(PATIENCE_MS);
  const seen = { complaints: [], requests: [] };
  page.on("console", (message) => ["error", "warning"].includes(message.type()) && seen.complaints.push(`${message.text()} ${message.location().url}`));
  page.on("pageerror", (error) => seen.complaints.push(`uncaught: ${error.message}`));
  page.on("request", (request) => seen.requests.push(request));
  return { page, ...seen };
}

/** Where the admin listener of `ours` is, once it says so. */
const adminOf = async (ours) => (await until("the admin listener's address", () => /(http:\/\/\S+)\/console\//.exec(ours.child.output)))[1];

async function signIn(page, address, token = TOKEN) {
  await page.goto(`${address}/console`);
  await page.getByLabel("Gateway token").fill(token);
  await page.keyboard.press("Enter");
}

const isWide = (page) => page.evaluate(() => document.documentElement.scrollWidth > innerWidth);
const shot = (page, name, fullPage = true) => page.screenshot({ path: path.join(shots, `${name}.png`), fullPage });

function cli(ours, ...args) {
  return new Promise((resolve) => {
    execFile(gatewayBinary(), args, { env: ours.env, cwd: ours.stateDir }, (error, stdout, stderr) => resolve({ code: error?.code ?? 0, stdout, stderr }));
  });
}

/** Our gateway with a webhook account, and the system at its other end. */
async function withReceiver(t, env = {}) {
  const receiver = await startReceiver();
  t.after(() => receiver.stop());
  const ours = await startOurs({ config: { channels: { webhook: webhookConfig(receiver) } }, env });
  t.after(() => ours.stop());
  return { receiver, ours, api: new MessageApi(ours) };
}

test("it loads on both listeners, asks for the secret, and refuses a wrong one with what to do", async (t) => {
  const { ours } = await withReceiver(t);
  for (const address of [await adminOf(ours), ours.url]) {
    const { page, complaints, requests } = await open(t);
    await page.goto(`${address}/console`);
    assert.equal(page.url(), `${address}/console/`);
    await page.getByRole("heading", { name: "Sign in" }).waitFor();
    assert.ok(await page.getByText("gateway.auth.token of openclaw.json").isVisible());
    assert.equal(await page.getByRole("main").count(), 0, "nothing is shown to nobody");
    assert.deepEqual(complaints, []);
    assert.ok(requests.every((request) => !request.url().includes("/api/")), "nothing is asked without a secret");
    if (address === ours.url) await shot(page, "sign-in");
    await page.getByLabel("Gateway token").fill("a wrong one");
    await page.getByRole("button", { name: "Sign in" }).click();
    await page.getByText("The gateway refused this token.").waitFor();
    await until("the browser to complain", () => complaints.length > 0);
    assert.deepEqual(complaints.splice(0).map((text) => /401/.test(text)), [true], "one call, and no more of them");
    await page.getByLabel("Gateway token").fill(TOKEN);
    await page.keyboard.press("Enter");
    await page.getByText("Everything works.").waitFor();
    await page.getByText("No OpenClaw is configured: every call is answered here.").waitFor();
    await page.getByText("The guard is off: no OpenClaw is configured. Nothing goes back by itself.").waitFor();
    await page.getByText("No OpenClaw is configured behind this gateway.").waitFor();
    assert.deepEqual(complaints, []);
    assert.ok(requests.every((request) => request.url().startsWith(address)), "no request leaves this gateway");
    assert.ok(requests.every((request) => !request.url().includes(TOKEN)), "no address has the secret");
    await page.getByRole("button", { name: "Sign out" }).click();
    await page.getByText("Signed out.").waitFor();
    assert.equal(await page.evaluate(() => sessionStorage.length), 0);
  }
  // The link that the command prints signs in, and the secret does not stay in the address.
  const link = (await cli(ours, "console")).stdout.trim();
  assert.equal(link, `${ours.url}/console/#token=${encodeURIComponent(TOKEN).replaceAll("-", "%2D")}`);
  const { page, complaints } = await open(t);
  await page.goto(link);
  await page.getByText("Everything works.").waitFor();
  assert.equal(page.url(), `${ours.url}/console/`);
  assert.deepEqual(complaints, []);
});

test("the admin listener keeps messages, the configuration and orders for who has the secret, and foreign pages out", async (t) => {
  const { ours } = await withReceiver(t);
  const admin = await adminOf(ours);
  const ask = (pathname, { method = "GET", headers = {} } = {}) => new Promise((resolve, reject) => {
    const request = http.request(`${admin}${pathname}`, { method, headers }, (response) => {
      response.resume();
      response.on("end", () => resolve(response));
    });
    request.on("error", reject).end();
  });
  const bearer = { authorization: `Bearer ${TOKEN}` };
  const paths = [
    ["GET", "/api/console"], ["GET", "/api/console/config"], ["GET", "/api/console/history"], ["GET", "/api/messages"], ["GET", "/api/dead-letters"], ["GET", "/api/why/x"],
    ["GET", "/api/rollout"], ["POST", "/api/rollout?set=5"], ["GET", "/api/upstream"], ["POST", "/api/upstream/restart"],
    ["POST", "/api/dead-letters/x/resend"], ["DELETE", "/api/dead-letters/x"], ["GET", "/api/diagnostics/log"],
  ];
  for (const [method, pathname] of paths) {
    assert.equal((await ask(pathname, { method })).statusCode, 401, `${method} ${pathname}`);
    for (const headers of [{ host: "evil.example" }, { origin: "http://evil.example" }, { origin: "null" }, { "sec-fetch-site": "cross-site" }, { "sec-fetch-site": "same-site" }]) {
      const answer = await ask(pathname, { method, headers: { ...bearer, ...headers } });
      assert.equal(answer.statusCode, 403, `${method} ${pathname} ${JSON.stringify(headers)}`);
    }
  }
  assert.equal((await ask("/api/console", { headers: { ...bearer, origin: admin } })).statusCode, 200);
  assert.equal((await ask("/api/nothing", { headers: bearer })).statusCode, 404);
  assert.equal((await ask("/webhooks/webhook/default", { method: "POST" })).statusCode, 404, "chats come in at the gateway's own port");
  assert.equal((await ask("/console/app.mjs", { method: "POST" })).statusCode, 405);
  assert.equal((await ask("/console/nothing.mjs")).statusCode, 404);
  // Figures stay open: a scraper has no secret, and its name for this machine is its own affair.
  assert.equal((await ask("/metrics", { headers: { host: "gateway.internal" } })).statusCode, 200);
  const page = await ask("/console/");
  assert.match(page.headers["content-security-policy"], /default-src 'none'.*require-trusted-types-for 'script'/);
  assert.equal(page.headers["x-frame-options"], "DENY");
  assert.equal((await ask("/")).headers.location, "console/");
  assert.equal(JSON.parse(await (await fetch(`${ours.url}/api/rollout`, { headers: bearer })).text()).percent, 100, "nothing was set");
});

test("without authentication, a name that somebody points at this machine opens nothing", async (t) => {
  const ours = await startOurs({ config: { gateway: { auth: { mode: "none" } } } });
  t.after(() => ours.stop());
  const ask = (host) => new Promise((resolve, reject) => {
    const request = http.get(`${ours.url}/api/console`, { headers: { host } }, (response) => {
      response.resume();
      response.on("end", () => resolve(response.statusCode));
    });
    request.on("error", reject);
  });
  assert.equal(await ask("evil.example:18789"), 403);
  assert.equal(await ask(`localhost:${ours.port}`), 200);
  const { page, complaints } = await open(t);
  await page.goto(`${await adminOf(ours)}/console/`);
  await page.getByText("Everything works.").waitFor();
  assert.equal(await page.getByRole("button", { name: "Sign out" }).isVisible(), false, "there is nothing to forget");
  assert.deepEqual(complaints, []);
});

test("a message that failed is shown with why, sent again once its receiver works, or dropped; texts from outside stay texts", async (t) => {
  // No Ollama of this machine is waited for.
  const { receiver, ours, api } = await withReceiver(t, { OLLAMA_HOST: "ollama.example:11434" });
  receiver.behave = () => ({ status: 422, body: JSON.stringify({ error: HOSTILE }) });
  const dead = [];
  for (const target of ["first", `second ${HOSTILE}`]) {
    const { body } = await api.send({ channel: "webhook", target, content: "the body of a message" });
    dead.push(body.message_id);
    await api.settled(body.message_id, ["dead"]);
  }
  // An error in the log that names what a person wrote.
  const own = path.join(ours.stateDir, "openclaw-rs/openclaw-gateway.toml");
  const good = fs.readFileSync(own, "utf8");
  fs.writeFileSync(own, `${good}\n"${HOSTILE}" = 1\n`);
  await until("the refusal in the log", () => ours.child.output.includes("can't be used") && ours.child.output.includes("onerror"));

  const { page, complaints } = await open(t);
  await signIn(page, await adminOf(ours));
  await page.getByText("2 messages could not be delivered: see the dead letters below.").waitFor();
  await page.getByText("A changed configuration was refused 1 time").waitFor();
  const letters = page.locator("#dead > li");
  await until("both dead letters", async () => (await letters.count()) === 2);
  const second = letters.filter({ hasText: "second" });
  await second.getByText(`webhook/default → second ${HOSTILE}`).waitFor();
  await second.getByText("HTTP 422").waitFor();
  assert.match(await page.locator("#lines li.ERROR").first().textContent(), /can't be used.*<img src=x onerror=alert\(1\)>/);
  assert.equal(await page.locator("img").count(), 0);
  assert.ok(!(await page.content()).includes("the body of a message"), "bodies are not shown");

  await letters.filter({ hasText: "first" }).getByRole("button", { name: "Why" }).click();
  const why = page.getByRole("group", { name: "Time line" });
  await why.getByText("attempt", { exact: true }).first().waitFor();
  assert.match(await why.textContent(), /queued.*attempt.*buried.*422/s);
  assert.equal(await page.evaluate(() => document.activeElement.id), "why", "the keyboard is where the answer is");
  await shot(page, "dead-letters");

  receiver.behave = () => "ok";
  await letters.filter({ hasText: "first" }).getByRole("button", { name: "Send again" }).click();
  await page.getByText("It is on its way again.").waitFor();
  await api.settled(dead[0], ["delivered"]);
  assert.deepEqual(receiver.distinct().map((entry) => [entry.target, entry.text]), [["first", "the body of a message"]]);
  await why.getByText("delivered", { exact: true }).waitFor();
  await until("one dead letter less", async () => (await letters.count()) === 1);

  await second.getByRole("button", { name: "Drop" }).click();
  const dialog = page.getByRole("dialog");
  await dialog.getByText(`Drop the message ${dead[1]}`).waitFor();
  await dialog.getByRole("button", { name: "Cancel" }).click();
  assert.equal((await api.call("GET", "/api/dead-letters")).body.outbound.length, 1, "a person may think again");
  await second.getByRole("button", { name: "Drop" }).click();
  await dialog.getByRole("button", { name: "Drop it" }).click();
  await page.getByText("None: whatever was accepted was delivered").waitFor();
  assert.equal((await api.call("GET", "/api/dead-letters")).body.outbound.length, 0);

  // One that nobody answers goes the same way.
  assert.equal((await post(ours, { text: "the body of a question", from: "bob" })).status, 202);
  const unanswered = letters.filter({ hasText: "not answered" });
  await unanswered.getByText("no agent is reachable").waitFor();
  await unanswered.getByRole("button", { name: "Why" }).click();
  await unanswered.getByRole("button", { name: "Drop" }).click();
  await dialog.getByText("from webhook/default? No agent answers it").waitFor();
  await dialog.getByRole("button", { name: "Drop it" }).click();
  await why.getByText("dropped", { exact: true }).waitFor();
  await until("none to be left", async () => (await letters.count()) === 0);
  assert.deepEqual((await api.call("GET", "/api/dead-letters")).body, { outbound: [], inbound: [] });

  // Loaded again, the graphs begin where the gateway's own memory does: one look is enough.
  await until("two samples", async () => (await api.call("GET", "/api/console/history")).body.samples.length >= 2);
  let looks = 0;
  await page.route("**/api/console", (route) => (looks++ === 0 ? route.continue() : undefined));
  await page.reload();
  await page.locator("#rate svg").waitFor();
  assert.match(await page.locator("#rate path.native").getAttribute("d"), /^M.*L/);
  await page.unrouteAll({ behavior: "ignoreErrors" });
  await page.reload();

  // The configuration with its origins, and no secret.
  fs.writeFileSync(own, good);
  await page.locator("#config-load").click();
  await page.getByLabel("Filter").fill("gateway.auth");
  const token = page.locator("#values tr").filter({ hasText: "gateway.auth.token" });
  assert.match(await token.textContent(), /hidden.*openclaw\.json:\d+:\d+/);
  assert.ok(!(await page.content()).includes(TOKEN));
  assert.deepEqual(complaints, []);
});

test("the rollout is set with the slider, and by the keyboard alone", async (t) => {
  const { ours } = await withReceiver(t);
  const percent = async () => JSON.parse((await cli(ours, "rollout", "status", "--json")).stdout).percent;
  const { page, complaints } = await open(t);
  await signIn(page, await adminOf(ours));
  const slider = page.getByLabel("Percent of clients answered here");
  await slider.waitFor();
  await slider.fill("25");
  await page.getByRole("button", { name: "Set to 25 %" }).click();
  await page.getByText("Set to 25 %.").waitFor();
  assert.equal(await percent(), 25);
  // With the keyboard: on from the slider, which steps with the arrows, to its buttons.
  await page.reload();
  await page.getByText("The percent is kept as 25 %").waitFor();
  const focused = () => page.evaluate(() => document.activeElement.id);
  const visited = [];
  for (let presses = 0; presses < 40 && (await focused()) !== "percent"; presses += 1) {
    await page.keyboard.press("Tab");
    visited.push(await focused());
  }
  assert.equal(await focused(), "percent", visited.join());
  assert.equal(await slider.evaluate((element) => getComputedStyle(element).outlineStyle), "solid", "focus is seen");
  for (let step = 0; step < 5; step += 1) await page.keyboard.press("ArrowLeft");
  await page.keyboard.press("Tab");
  assert.equal(await focused(), "rollout-set");
  await page.keyboard.press("Enter");
  await page.getByText("Set to 20 %.").waitFor();
  assert.equal(await percent(), 20);
  await page.keyboard.press("Tab");
  assert.equal(await focused(), "rollout-promote");
  await page.keyboard.press("Space");
  await page.getByText("Promoted to 25 %.").waitFor();
  await page.getByRole("button", { name: "Pause" }).click();
  await page.getByText("Paused at 25 %").waitFor();
  assert.ok(await page.getByRole("button", { name: "Promote (paused)" }).isDisabled());
  // What another person does is seen, and does not move what is being chosen here.
  await slider.fill("70");
  assert.equal((await cli(ours, "rollout", "set", "5")).code, 0);
  await page.getByText("The percent is kept as 5 %").waitFor();
  assert.equal(await slider.inputValue(), "70");
  await page.getByRole("button", { name: "Roll back to 0 %" }).click();
  await page.getByText("Rolled back: new calls go to OpenClaw.").waitFor();
  assert.deepEqual([await percent(), await slider.inputValue()], [0, "0"]);
  // The first link leads past the header.
  await page.reload();
  await page.getByText("Everything works.").waitFor();
  await page.keyboard.press("Tab");
  assert.equal(await page.evaluate(() => document.activeElement.textContent), "Skip to the content");
  assert.deepEqual(complaints, []);
});

test("when the gateway is away the page says so, and comes back by itself; a hidden page asks nothing", async (t) => {
  const { ours } = await withReceiver(t);
  const { page, requests } = await open(t);
  await signIn(page, ours.url);
  await page.getByText("Everything works.").waitFor();
  await ours.child.stop();
  await page.getByText(/The gateway does not answer since \d\d:\d\d:\d\d; what is below is from then \(no connection\)\. This page tries again/).waitFor();
  assert.equal(await page.locator("main.stale").count(), 1);
  await shot(page, "away", false);
  await ours.restart();
  await page.getByText("Everything works.").waitFor();
  // At the end of the round that the words are of.
  await page.locator("main:not(.stale)").waitFor();
  await page.evaluate(() => {
    Object.defineProperty(document, "hidden", { configurable: true, get: () => true });
    document.dispatchEvent(new Event("visibilitychange"));
  });
  await until("what was asked to be answered", () => page.evaluate(() => performance.getEntriesByType("resource").length > 0));
  // A round that was under way may end; no other begins.
  const before = await until("silence", async () => {
    const count = requests.length;
    await page.waitForTimeout(2500);
    return requests.length === count && count;
  });
  await page.evaluate(() => {
    Object.defineProperty(document, "hidden", { configurable: true, get: () => false });
    document.dispatchEvent(new Event("visibilitychange"));
  });
  await until("the page to ask again", () => requests.length > before);
});

test("with a message store that can't be opened, it says what that means and shows the rest", async (t) => {
  const stateDir = tempDir("console-store");
  fs.mkdirSync(path.join(stateDir, "openclaw-rs/messages.db"), { recursive: true, mode: 0o700 });
  const ours = await startOurs({ stateDir, waitReady: false });
  t.after(() => ours.stop());
  const { page } = await open(t);
  await signIn(page, await adminOf(ours));
  await page.getByText(/^Messages can't be stored: .+\. New ones are refused, what was accepted is safe\./).waitFor();
  await page.getByText("The message store is not open: nothing can be accepted or shown.").waitFor();
  await page.getByText("This part can't be shown: ").waitFor();
  await page.getByText("No OpenClaw is configured: every call is answered here.").waitFor();
  await shot(page, "store", false);
});

test("with OpenClaw behind: traffic of both sides, the guard, its state and memory, a restart; on a desk, a phone and in the dark", async (t) => {
  const receiver = await startReceiver();
  t.after(() => receiver.stop());
  receiver.behave = () => ({ status: 410, body: "gone" });
  const ours = await startOurs({
    upstream: "supervise",
    toml: '[channels]\nnative = ["webhook"]\n[rollout]\npercent = 50\n[rollout.guard]\ncalls_min = 10\nwindow_s = 10\n',
  });
  t.after(() => ours.stop());
  const client = await RawClient.open(ours.wsUrl);
  assert.equal((await client.connect({ token: TOKEN })).ok, true);
  const { page, complaints } = await open(t);
  await signIn(page, await adminOf(ours));
  await page.getByText("OpenClaw is ready.").waitFor();
  const calling = setInterval(() => {
    for (const method of ["status", "health", "sessions.list", "agents.list"]) client.send({ type: "req", id: crypto.randomUUID(), method, params: {} });
  }, 100);
  t.after(() => clearInterval(calling));
  const rates = page.locator("#here div:first-child dd, #there div:first-child dd");
  await until("calls on both sides", async () => (await rates.allTextContents()).every((text) => Number(text) > 0));
  assert.match(await page.locator("#rate svg").getAttribute("aria-label"), /^Calls a second.*now: here [\d.]+, OpenClaw [\d.]+$/);
  assert.match(await page.locator("#slow svg").getAttribute("aria-label"), /now: here .+s, OpenClaw .+s$/);
  assert.match(await page.locator("#upstream-facts").textContent(), /Stateready.*Process\d+Memory[\d,]+ MiB in \d+ process/);
  await page.getByText("The guard is on").waitFor();
  await until("points to look at", async () => (await page.locator("#rate path").first().getAttribute("d")).split("L").length > 5);
  await shot(page, "desk");
  await page.emulateMedia({ colorScheme: "dark" });
  await shot(page, "desk-dark");
  const dark = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  assert.equal(dark, "rgb(14, 17, 22)");

  const phone = await open(t, { viewport: { width: 360, height: 740 }, isMobile: true, hasTouch: true });
  await signIn(phone.page, ours.url);
  await phone.page.getByText("OpenClaw is ready.").waitFor();
  await shot(phone.page, "phone");
  await phone.page.emulateMedia({ colorScheme: "dark" });
  await shot(phone.page, "phone-dark", false);
  await phone.page.locator("#config-load").click();
  await phone.page.locator("#values td").filter({ hasText: "rollout.guard.window_s" }).waitFor();
  assert.equal(await phone.page.getByText("limits.buffered_bytes_max").count(), 0);
  await phone.page.getByLabel("Only what is set").uncheck();
  await phone.page.getByText("limits.buffered_bytes_max").waitFor();
  assert.equal(await isWide(phone.page), false, "nothing hangs over the edge of a phone");
  await phone.page.locator("#config").scrollIntoViewIfNeeded();
  await shot(phone.page, "phone-config", false);
  assert.deepEqual(phone.complaints, []);

  clearInterval(calling);
  await page.locator("#upstream-restart").click();
  await page.getByRole("dialog").getByRole("button", { name: "Restart it" }).click();
  await page.getByText("OpenClaw is being restarted.").waitFor();
  await page.locator("#banner").getByText(/OpenClaw is (starting|down)/).waitFor();
  assert.deepEqual(complaints, []);
});

test("figures: rates and percentiles of counters, over restarts and gaps; log lines of either format", () => {
  const boundsUs = [100, 1000, 10_000];
  assert.equal(quantile([0, 0, 0, 0], boundsUs, 0.5), null);
  assert.equal(quantile([98, 1, 1, 0], boundsUs, 0.99), 1000);
  assert.equal(quantile([0, 0, 0, 5], boundsUs, 0.5), 10_000, "longer than every bound is told as the last one");
  const at = (nowMs, native, bootId = "a") => ({ nowMs, bootId, boundsUs, native: { times: [native, 0, 0, 0], failed: native / 10 }, upstream: { times: [0, 0, 0, 0], failed: 0 } });
  const history = new History();
  history.push(at(1000, 100));
  assert.equal(history.latest, undefined, "one look gives no rate");
  history.push(at(3000, 140));
  assert.deepEqual([history.latest.native.rate, history.latest.native.failed, history.latest.native.p99], [20, 2, 100]);
  assert.equal(history.latest.upstream.p50, null);
  history.push(at(5000, 3, "b"));
  assert.equal(history.latest.at, 3000, "another process counts from zero");
  history.push(at(7000, 5, "b"));
  assert.equal(history.latest.native.rate, 1);
  for (let n = 0; n < 1000; n += 1) history.push(at(9000 + n * 2000, 5, "b"));
  assert.ok(history.points.length <= 151, `${history.points.length} points`);
  const json = logLine('{"timestamp":"2026-11-29T12:00:00Z","level":"WARN","message":"slow","method":"health","ms":7,"target":"x"}');
  assert.deepEqual(json, { atMs: Date.parse("2026-11-29T12:00:00Z"), level: "WARN", text: "slow", more: "method=health ms=7" });
  const text = logLine("\u001b[2m2026-11-29T12:00:00Z\u001b[0m \u001b[31mERROR\u001b[0m openclaw_gateway: broken");
  assert.deepEqual([text.level, text.text], ["ERROR", "openclaw_gateway: broken"]);
  assert.equal(logLine('{"timestamp":"2026-11-29T12:00:00Z","level":"ERROR","message":"cut o').level, "ERROR");
});
