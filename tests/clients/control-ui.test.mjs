// The unmodified Control UI in headless Chromium. Screenshots are kept in artifacts/control-ui.
import assert from "node:assert/strict";
import fs from "node:fs";
import path from "node:path";
import { chromium } from "playwright-core";
import { TOKEN } from "../lib/gateway.mjs";
import { PATIENCE_MS, repoRoot, tempDir, until } from "../lib/tools.mjs";
import { maskText } from "./masks.mjs";
import { ANSWER, FIRST_HALF, TITLE } from "./model.mjs";
import { compareSides } from "./sides.mjs";

const screenshots = path.join(repoRoot, "artifacts/control-ui");
const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium";
const FLAGS = [
  "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
  "--disable-sync",
];
const MASKS = [
  [/Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday/g, "<day>"],
  [/<day>, \w+ \d+, \d{4} at [\d:]+ [AP]M( \w+)?/g, "<when>"],
  [/\bDone in [^"\n]*? (?=\d+ output)/g, "Done in <span> "],
  [/-[0-9a-f]{32}\b/g, "-<uuid>"],
  [/\b\d+m? ago\b/g, "<ago>"],
  [/\/avatar\?v=\d+/g, "/avatar?v=<time>"],
  [/__openclaw__\/cap\/[\w-]+/g, "__openclaw__/cap/<token>"],
];

/** One browser with a fresh profile, and everything the page asked for, said and received. */
class Browser {
  requests = [];
  consoleErrors = [];
  sockets = [];
  inFlight = new Set();
  lastAsked = Date.now();

  static async open(side) {
    const browser = new Browser();
    browser.side = side;
    browser.profile = tempDir("chromium");
    browser.context = await chromium.launchPersistentContext(browser.profile, {
      executablePath: CHROMIUM, headless: true, args: FLAGS, viewport: { width: 1280, height: 800 }, locale: "en-US", timezoneId: "UTC",
    });
    browser.page = browser.context.pages()[0] ?? (await browser.context.newPage());
    browser.page.setDefaultTimeout(PATIENCE_MS);
    const { page } = browser;
    page.on("console", (message) => message.type() === "error" && browser.consoleErrors.push(browser.mask(`${message.text()} ${message.location().url}`)));
    page.on("pageerror", (error) => browser.consoleErrors.push(browser.mask(`uncaught: ${error.message}`)));
    page.on("request", (request) => {
      browser.inFlight.add(request);
      browser.lastAsked = Date.now();
    });
    page.on("framenavigated", (frame) => frame === page.mainFrame() && browser.inFlight.clear());
    page.on("response", (response) => {
      browser.inFlight.delete(response.request());
      browser.requests.push({ method: response.request().method(), url: browser.mask(response.url()), status: response.status() });
    });
    page.on("requestfailed", (request) => {
      browser.inFlight.delete(request);
      browser.requests.push({ method: request.method(), url: browser.mask(request.url()), failed: request.failure()?.errorText });
    });
    page.on("websocket", (socket) => {
      const seen = { calls: new Map(), open: new Set(), refused: [], events: new Set(), closed: false };
      browser.sockets.push(seen);
      socket.on("framesent", ({ payload }) => {
        const frame = JSON.parse(payload);
        seen.calls.set(frame.id, frame.method);
        seen.open.add(frame.id);
        browser.lastAsked = Date.now();
      });
      socket.on("framereceived", ({ payload }) => {
        const frame = JSON.parse(payload);
        seen.open.delete(frame.id);
        if (frame.type === "event") seen.events.add(frame.event);
        else if (!frame.ok) seen.refused.push(`${seen.calls.get(frame.id)}: ${frame.error?.code} ${browser.mask(frame.error?.message ?? "")}`);
        else if (frame.payload?.type === "hello-ok") seen.hello = frame.payload;
      });
      socket.on("close", () => (seen.closed = true));
    });
    return browser;
  }

  mask(text) {
    return maskText(text, this.side, MASKS).join("\n");
  }

  get composer() {
    return this.page.getByRole("textbox", { name: "Chat composer" });
  }

  async say(text) {
    await this.composer.fill(text);
    await this.composer.press("Enter");
  }

  /** The accessibility tree of a part of the page, as text: what a person can read and press. */
  async outline(selector) {
    const text = await this.page.locator(selector).ariaSnapshot();
    return maskText(text, this.side, MASKS);
  }

  async shot(name) {
    fs.mkdirSync(screenshots, { recursive: true });
    await this.page.screenshot({ path: path.join(screenshots, `${name}.${this.side.name}.png`) });
  }

  /**
   * Waits until the page has asked all it asks: everything is answered, and it asked nothing more for a second in which it had
   * nothing to do. A page that is still busy, on a busy machine for seconds, may ask when it is done.
   */
  async settled() {
    const waiting = () => [...this.inFlight].map((request) => request.url()).concat([...(this.sockets.at(-1)?.open ?? [])].map((id) => this.sockets.at(-1).calls.get(id)));
    let quietSince = Infinity;
    await until("the page to have its answers", async () => {
      await this.page.evaluate(() => new Promise((resolve) => requestIdleCallback(resolve)));
      quietSince = Math.max(this.lastAsked, Math.min(quietSince, Date.now()));
      if (waiting().length > 0) {
        quietSince = Infinity;
        throw new Error(`not answered: ${waiting().join(", ")}`);
      }
      return Date.now() - quietSince > 1000;
    }, { everyMs: 100 });
  }

  /** The paragraphs of the conversation that say `text`. */
  said(text) {
    return this.page.getByRole("log").getByRole("paragraph").filter({ hasText: text });
  }

  async connected() {
    await this.page.getByRole("status").filter({ hasText: /^Connected$/ }).first().waitFor();
  }

  async close() {
    await this.context.close();
    fs.rmSync(this.profile, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
  }
}

let browser;
/** What the chat shows, without the parts whose number follows timing. */
const chat = async () => (await browser.outline('main [role="log"], main section[aria-label="Chat"]')).filter((line) => line.trim() !== "- status");
const unique = (list) => [...new Set(list)].sort();

const steps = {
  "loads with the token in the address, and connects": async (side) => {
    browser = await Browser.open(side);
    await browser.page.goto(`${side.target.url}/#token=${TOKEN}`);
    await browser.composer.waitFor();
    await browser.connected();
    await browser.settled();
    await browser.shot("1-loaded");
    assert.ok(!browser.page.url().includes(TOKEN), "the token stays in the address bar");
    const [{ hello, calls, refused }] = browser.sockets;
    return {
      url: browser.mask(browser.page.url()),
      title: await browser.page.title(),
      outline: await browser.outline("body"),
      // The first letter of the assistant's name is asked for as a picture when the page is drawn before it knows better.
      requests: unique(browser.requests.filter(({ url }) => !url.endsWith("/chat/A")).map(({ method, url, status, failed }) => `${method} ${url} ${status ?? failed}`)),
      calls: unique(calls.values()),
      refused: unique(refused),
      methods: hello.features.methods,
      events: hello.features.events,
    };
  },
  "shows the first half of an answer while the model waits": async (side) => {
    await browser.say("HOLD the line please");
    await browser.said(FIRST_HALF).waitFor();
    await browser.shot("2-half-an-answer");
    assert.equal(await browser.said(ANSWER).count(), 0, "the whole answer is there before the model gave it");
    await browser.page.getByRole("button", { name: "Stop generating" }).waitFor();
    side.model.release();
    await browser.said(ANSWER).waitFor();
    await browser.page.getByRole("button", { name: "Stop generating" }).waitFor({ state: "detached" });
    // What the page adds to a finished answer, once it has asked for the history.
    await browser.page.getByRole("status").filter({ hasText: /Done in/ }).waitFor();
    await browser.page.getByRole("button", { name: "Rewind" }).first().waitFor();
    await browser.settled();
    await browser.shot("3-whole-answer");
    return chat();
  },
  "stops an answer": async (side) => {
    await browser.say("HOLD this until I stop it");
    await browser.said(FIRST_HALF).nth(1).waitFor();
    await browser.page.getByRole("button", { name: "Stop generating" }).click();
    await browser.page.getByRole("button", { name: "Stop generating" }).waitFor({ state: "detached" });
    side.model.release();
    await browser.settled();
    return (await chat()).filter((line) => /paragraph|stop|abort/i.test(line));
  },
  "lists a new conversation among the sessions": async () => {
    await browser.page.getByRole("link", { name: "New conversation" }).first().click();
    const box = browser.page.getByRole("textbox", { name: "What should this session work on?" });
    await box.waitFor();
    // The page asks for agents and folders first, and draws itself anew when it has them.
    await browser.settled();
    await box.fill("A second conversation");
    await box.press("Enter");
    await browser.said(ANSWER).waitFor();
    await browser.page.getByRole("listitem").getByRole("link", { name: TITLE }).waitFor();
    await browser.page.getByRole("button", { name: "Stop generating" }).waitFor({ state: "detached" });
    await browser.settled();
    await browser.shot("4-new-conversation");
    return { url: browser.mask(browser.page.url()), list: await browser.outline('[role="list"][aria-label="Other"], ul[aria-label="Other"]') };
  },
  "shows both on the sessions page": async () => {
    await browser.page.goto(`${browser.side.target.url}/sessions`);
    await browser.page.getByRole("row").filter({ hasText: "agent:main:main" }).first().waitFor();
    await browser.page.getByRole("row").filter({ hasText: TITLE }).first().waitFor();
    await browser.settled();
    await browser.shot("5-sessions");
    return (await browser.outline("main table")).filter((line) => /^\s*- cell/.test(line));
  },
  "keeps the conversation over a reload": async () => {
    await browser.page.goto(`${browser.side.target.url}/chat/main`);
    await browser.said(ANSWER).waitFor();
    await browser.page.reload();
    await browser.connected();
    await browser.said(ANSWER).waitFor();
    await browser.settled();
    await browser.shot("6-reloaded");
    return (await chat()).filter((line) => /paragraph/.test(line));
  },
  "shows its other pages": async () => {
    const pages = {};
    for (const name of ["Agents", "Systems", "Automations"]) {
      await browser.page.getByRole("navigation").getByRole("link", { name, exact: true }).click();
      await browser.settled();
      await browser.shot(`7-${name.toLowerCase()}`);
      pages[name] = browser.mask(browser.page.url());
    }
    return pages;
  },
  "reconnects by itself after the gateway restarts, and answers": async (side) => {
    await browser.page.goto(`${side.target.url}/chat/main`);
    await browser.connected();
    await browser.settled();
    const before = browser.sockets.length;
    await side.target.restart();
    await until("a new socket with a hello", () => browser.sockets.slice(before).some(({ hello }) => hello));
    await browser.connected();
    await browser.say("are you back");
    await browser.said("are you back").waitFor();
    await browser.said(ANSWER).nth(1).waitFor();
    await browser.settled();
    await browser.shot("8-after-restart");
    return (await chat()).filter((line) => /paragraph/.test(line));
  },
};

const oursOnly = {
  // The page's own handshake is the upstream's to judge: its socket stays open while that is away, and it is asked to come
  // again once when that is back.
  "stays connected while OpenClaw is away, comes again once when it is back, and answers": async (side) => {
    const sockets = browser.sockets.length;
    const socket = browser.sockets.at(-1);
    const answers = await browser.said(ANSWER).count();
    await side.original.child.stop();
    await until("ours to notice", async () => (await fetch(`${side.target.url}/readyz`)).status === 503);
    assert.ok(!socket.closed, "the page's socket was closed with OpenClaw");
    await browser.connected();
    await side.original.restart();
    await until("a new socket with a hello", () => browser.sockets.slice(sockets).some(({ hello }) => hello));
    await browser.connected();
    await browser.say("did you notice");
    await browser.said("did you notice").waitFor();
    await browser.said(ANSWER).nth(answers).waitFor();
    await browser.shot("9-after-upstream-restart");
    const came = browser.sockets.slice(sockets).map(({ hello, refused, calls, closed }) => ({ hello: Boolean(hello), refused, calls: calls.size, closed }));
    assert.equal(came.length, 1, `the page came more than once: ${JSON.stringify(came)}`);
  },
};

const last = {
  "makes no error of its own in the console": async () => {
    await browser.close();
    // Whether the page knocks, or asks for a file, while the gateway is away follows timing.
    return unique(browser.consoleErrors.filter((error) => !/^WebSocket connection to .* failed|^Failed to load resource: net::ERR_/.test(error)));
  },
};

compareSides("control-ui", [{ steps }, { steps: oursOnly, only: "ours" }, { steps: last }]);
