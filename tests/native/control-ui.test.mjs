// The Control UI's files, byte for byte and header for header as the original serves them, without its help.
import assert from "node:assert/strict";
import fs from "node:fs";
import http from "node:http";
import path from "node:path";
import test, { after, before } from "node:test";
import { startOriginal, startOurs, TOKEN } from "../lib/gateway.mjs";
import { openclawEntry, tempDir, until } from "../lib/tools.mjs";

const PACKAGE = path.dirname(openclawEntry);
const UI = path.join(PACKAGE, "dist/control-ui");
const PUBLIC_BUILD = fs.readFileSync(path.join(UI, "index.html"), "utf8").match(/control-ui-build-id="([^"]+)"/)[1];
const names = (folder, suffix) => fs.readdirSync(path.join(UI, folder)).filter((name) => name.endsWith(suffix)).sort();
const [script] = names("assets", ".js").filter((name) => fs.statSync(path.join(UI, "assets", name)).size > 100_000);
const [style] = names("assets", ".css");
const [font] = names("fonts", ".woff2");

const toml = `[control_ui]\npackage = ${JSON.stringify(PACKAGE)}\n`;
const HTML = { accept: "text/html,application/xhtml+xml,*/*;q=0.8" };

function get(target, requestPath, { method = "GET", headers = {} } = {}) {
  return new Promise((resolve, reject) => {
    const request = http.request({ host: "127.0.0.1", port: target.port, path: requestPath, method, headers, agent: false }, (response) => {
      const chunks = [];
      response.on("data", (chunk) => chunks.push(chunk));
      response.on("error", reject);
      response.on("end", () => resolve({ status: response.statusCode, headers: response.headers, body: Buffer.concat(chunks) }));
    });
    request.on("error", reject);
    request.end();
  });
}

/** What may differ: how the connection goes on, and the time. */
function comparable(answer) {
  const { date, connection, "keep-alive": keep, "transfer-encoding": chunked, "content-length": length, ...headers } = answer.headers;
  return { status: answer.status, headers, length: answer.body.length, body: answer.body.toString("latin1") };
}

const cases = (base = "") => ({
  page: [`${base}/`, { headers: HTML }],
  "page, packed": [`${base}/`, { headers: { ...HTML, "accept-encoding": "gzip" }, packed: true }],
  "page by name": [`${base}/index.html`],
  "page by HEAD": [`${base}/`, { method: "HEAD" }],
  "page that nobody can read": [`${base}/`, { headers: { "accept-encoding": "identity;q=0" } }],
  "a page of the application": [`${base}/chat/main`, { headers: HTML }],
  "a page of the application, not as a page": [`${base}/chat/main`, { headers: { accept: "application/json" } }],
  "a deep asset": [`${base}/chat/deep/assets/${script}`],
  script: [`${base}/assets/${script}`],
  "script, brotli": [`${base}/assets/${script}`, { headers: { "accept-encoding": "gzip, deflate, br" } }],
  "script, gzip": [`${base}/assets/${script}`, { headers: { "accept-encoding": "gzip" } }],
  "script, gzip before brotli": [`${base}/assets/${script}`, { headers: { "accept-encoding": "gzip;q=1, br;q=0.2" } }],
  "script by HEAD": [`${base}/assets/${script}`, { method: "HEAD", headers: { "accept-encoding": "br" } }],
  style: [`${base}/assets/${style}`],
  "packed file by name": [`${base}/assets/${script}.br`],
  "missing asset": [`${base}/assets/nope-12345678.js`, { headers: HTML }],
  icon: [`${base}/favicon.ico`],
  "icon of this build": [`${base}/favicon.svg?v=${PUBLIC_BUILD}`],
  "icon of another build": [`${base}/favicon.svg?v=${"x".repeat(80)}`],
  "worker of this build": [`${base}/sw.js?v=${PUBLIC_BUILD}`],
  manifest: [`${base}/manifest.webmanifest`, { headers: { "accept-encoding": "br" } }],
  font: [`${base}/fonts/${font}?v=${PUBLIC_BUILD}`],
  "list of assets": [`${base}/asset-manifest.json`],
  "card to share": [`${base}/share/card.png`],
  "unknown file": [`${base}/nope.txt`, { headers: HTML }],
  "any of it": [`${base}/favicon.ico`, { headers: { "if-none-match": "*" } }],
  "some tag": [`${base}/favicon.ico`, { headers: { "if-none-match": '"x"' } }],
  "not since": [`${base}/favicon.ico`, { headers: { "if-modified-since": new Date().toUTCString() } }],
  "since long ago": [`${base}/favicon.ico`, { headers: { "if-modified-since": new Date(0).toUTCString() } }],
  "outside, encoded": [`${base}/..%2f..%2f..%2fpackage.json`],
  "outside by an asset": [`${base}/assets/..%2f..%2f..%2fpackage.json`],
  "inside after all": [`${base}/assets/..%2ffavicon.ico`],
  "a null": [`${base}/a%00.js`],
  "a folder": [`${base}/assets/`, { headers: { accept: "application/json" } }],
  "configuration of a stranger": [`${base}/control-ui-config.json`],
  "configuration with a wrong token": [`${base}/control-ui-config.json`, { headers: { authorization: "Bearer nope" } }],
  configuration: [`${base}/control-ui-config.json`, { headers: { authorization: `Bearer ${TOKEN}` } }],
  "configuration by HEAD": [`${base}/control-ui-config.json`, { method: "HEAD", headers: { authorization: `Bearer ${TOKEN}` } }],
  "configuration by its old name": [`${base}/__openclaw/control-ui-config.json`, { headers: { authorization: `Bearer ${TOKEN}` } }],
});

const bare = {
  "icon by its other name": ["/__openclaw__/favicon.ico"],
  "configuration by its other name": ["/__openclaw__/control-ui-config.json", { headers: { authorization: `Bearer ${TOKEN}` } }],
  "another mount": ["/ui/"],
};
const mounted = { "without the slash": ["/panel"], "without the slash, with a query": ["/panel?x=1"], "beside it": ["/", { headers: HTML }] };

async function compare(original, ours, all) {
  const wrong = [];
  for (const [name, [requestPath, options]] of Object.entries(all)) {
    const [theirs, own] = await Promise.all([original, ours].map(async (target) => comparable(await get(target, requestPath, options))));
    if (options?.packed) delete theirs.length, delete own.length, delete theirs.body, delete own.body;
    try {
      assert.deepEqual(own, theirs);
    } catch {
      const shown = ({ body, ...rest }) => JSON.stringify({ ...rest, body: body?.slice(0, 300) });
      wrong.push(`${name} ${requestPath}\n  theirs ${shown(theirs)}\n  ours   ${shown(own)}`);
    }
  }
  assert.ok(wrong.length === 0, wrong.join("\n"));
}

const extra = {
  gateway: { controlUi: { environment: { label: "Test <1>", color: "red" } } },
  ui: { seamColor: "#123456" },
  agents: { entries: { main: { identity: { name: "Otto", emoji: "🦦" } } } },
};

let original;
before(async () => (original = await startOriginal({ config: { gateway: {} } })));
after(() => original.stop());

test("without OpenClaw running, at the root", async (t) => {
  const ours = await startOurs({ toml });
  t.after(() => ours.stop());
  await compare(original, ours, { ...cases(), ...bare });
  // The original asks for a token before it says that there is no such path; there is nothing to guard here.
  assert.equal((await get(ours, "/%ff.js")).status, 404);
});

test("in front of OpenClaw, and while it is down", async (t) => {
  const ours = await startOurs({ upstream: { attach: original }, toml });
  t.after(() => ours.stop());
  await until("the upstream", async () => (await get(ours, "/v1/models")).headers["content-type"] !== undefined);
  await compare(original, ours, cases());
});

test("below a path, with an environment and an identity", async (t) => {
  const config = { ...extra, gateway: { controlUi: { ...extra.gateway.controlUi, basePath: "/panel/" } } };
  const theirs = await startOriginal({ config });
  t.after(() => theirs.stop());
  const ours = await startOurs({ config, toml });
  t.after(() => ours.stop());
  await compare(theirs, ours, { ...cases("/panel"), ...mounted });
});

test("a link that leads outside is not followed, one that stays inside is", async (t) => {
  const root = tempDir("ui");
  fs.writeFileSync(path.join(root, "index.html"), "<html><script>1</script></html>");
  fs.writeFileSync(path.join(root, "real.txt"), "inside");
  fs.symlinkSync("real.txt", path.join(root, "link.txt"));
  fs.symlinkSync("/etc/hostname", path.join(root, "out.txt"));
  fs.linkSync(path.join(root, "real.txt"), path.join(root, "hard.txt"));
  const config = { gateway: { controlUi: { root } } };
  const theirs = await startOriginal({ config });
  t.after(() => theirs.stop());
  const ours = await startOurs({ config });
  t.after(() => ours.stop());
  await compare(theirs, ours, Object.fromEntries(["/", "/link.txt", "/out.txt", "/hard.txt", "/real.txt", "/index.html"].map((name) => [name, [name]])));
});

test("without a package there is a page of ours that says so, and says what to do", async (t) => {
  const ours = await startOurs({ env: { PATH: "/usr/bin:/bin" }, toml: `[control_ui]\npackage = "/nowhere"\n` });
  t.after(() => ours.stop());
  const page = await get(ours, "/", { headers: HTML });
  assert.equal(page.status, 200);
  assert.match(page.body.toString(), /\/nowhere is not an openclaw package[^]*npm install -g openclaw/);
  assert.match(page.headers["content-security-policy"], /default-src 'none'/);
  assert.equal((await get(ours, "/assets/x.js", { headers: HTML })).status, 404);
  assert.equal((await get(ours, "/api/nope", { headers: HTML })).status, 404);
  assert.match(ours.child.output, /correct \[control_ui\] package in openclaw-gateway\.toml/);
});

test("the pages are handed back to the upstream while running", async (t) => {
  const ours = await startOurs({ toml });
  t.after(() => ours.stop());
  assert.equal((await get(ours, "/", { headers: HTML })).status, 200);
  const file = path.join(ours.stateDir, "openclaw-rs/openclaw-gateway.toml");
  fs.writeFileSync(file, `${fs.readFileSync(file, "utf8")}native = false\n`);
  await until("the pages to be handed back", async () => (await get(ours, "/", { headers: HTML })).status === 404);
});
