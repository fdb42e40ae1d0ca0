// The page: signs in, asks the gateway every two seconds while somebody looks, and says when it does not answer.
import { call, Refused, secret, takeFromAddress, Unreachable } from "./api.mjs";
import * as config from "./config.mjs";
import { el, find, say } from "./dom.mjs";
import { clock, count, duration, mib } from "./figures.mjs";
import * as log from "./log.mjs";
import * as messages from "./messages.mjs";
import * as rollout from "./rollout.mjs";
import * as traffic from "./traffic.mjs";
import * as upstream from "./upstream.mjs";

const EVERY_MS = 2000;
/** Lists are asked for every so many rounds, and whenever their counts change. */
const LISTS_EVERY = 3;

const mode = document.documentElement.dataset.auth;
const asksSecret = mode === "token" || mode === "password";
let timer;
let busy = false;
let isSignedIn = false;
let rounds = 0;
let counts = "";
let answeredAtMs = null;

// === what is wrong, in words ===

function banner(kind, ...texts) {
  const box = find("banner");
  box.hidden = texts.length === 0;
  const text = `${kind}\n${texts.join("\n")}`;
  if (box.dataset.shown === text) return;
  box.dataset.shown = text;
  box.className = `banner ${kind}`;
  box.replaceChildren(...texts.map((one) => el("p", {}, one)));
}

function judge(now, status, behind, { dead, doubt }) {
  const bad = [];
  const warn = [];
  for (const fault of now.failing) {
    if (fault.startsWith("store: ")) {
      bad.push(`Messages can't be stored: ${fault.slice(7)}. New ones are refused, what was accepted is safe. Look at the disk; it goes on by itself when the disk does.`);
    } else if (!behind) warn.push(`Not everything works: ${fault}.`);
  }
  if (behind && ["down", "gone", "stopped", "starting"].includes(behind.state)) warn.push(upstream.words(behind));
  if (status?.guard.state === "tripped") warn.push(`The rollout's guard went back to 0 %: ${status.guard.trip.text}. Find the cause, then promote or set a percent below.`);
  if (dead) warn.push(`${count(dead, "message")} could not be delivered: see the dead letters below.`);
  if (doubt) warn.push(`${count(doubt, "message")} in doubt: sent, but whether ${doubt === 1 ? "it" : "they"} arrived is not known.`);
  if (now.reloadsRefused) warn.push(`A changed configuration was refused ${count(now.reloadsRefused, "time")} since the start; if the file is still wrong, the log below says where.`);
  if (bad.length + warn.length === 0) banner("good", "Everything works.");
  else banner(bad.length ? "bad" : "warn", ...bad, ...warn);
}

// === signing in ===

const SECRET = mode === "password" ? "password" : "token";
say("secret-name", SECRET);
const WHERE = `Give the gateway's ${SECRET}. It is gateway.auth.${SECRET} of openclaw.json on the gateway's machine${SECRET === "token" ? ", or the file token in its openclaw-rs folder" : ""}.`;

function signIn(words, problem = "") {
  clearTimeout(timer);
  isSignedIn = false;
  banner("");
  find("main").hidden = find("sign-out").hidden = document.querySelector("nav").hidden = true;
  if (!asksSecret) {
    banner("bad", problem || words);
    return;
  }
  find("sign-in").hidden = false;
  say("sign-in-words", words);
  say("sign-in-error", problem);
  find("token").value = "";
  find("token").focus();
}

find("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  const given = find("token").value.trim();
  if (/[^\x20-\x7e]/.test(given)) {
    signIn(WHERE, `This ${SECRET} has characters that no browser can send.`);
    return;
  }
  if (given) {
    secret.set(given);
    round();
  }
});

find("sign-out").onclick = () => {
  secret.forget();
  config.forget();
  signIn(`Signed out. ${WHERE}`);
};

function refused(error) {
  secret.forget();
  const wait = error.retryAfter ? ` Wait ${duration(error.retryAfter * 1000)}.` : "";
  if (error.status === 429) signIn(WHERE, `Too many wrong ${SECRET}s were tried from this address.${wait}`);
  else if (error.status === 403) signIn(WHERE, `The gateway does not let this page in: ${error.message}`);
  else if (mode === "trusted-proxy") signIn("", "This gateway lets people in through its proxy: open the page there, as a user with operator.admin.");
  else signIn(WHERE, `The gateway refused this ${SECRET}.`);
}

// === asking ===

/** A part that could not be had says so itself; the rest is shown. */
async function part(words, what) {
  try {
    return await what();
  } catch (error) {
    if (error instanceof Unreachable || [401, 429].includes(error.status)) throw error;
    if (!(error instanceof Refused)) console.error(error);
    say(words, `This part can't be shown: ${error.message}`);
    return null;
  }
}

async function ask() {
  const now = await call("api/console");
  if (!isSignedIn) {
    isSignedIn = true;
    find("sign-in").hidden = true;
    find("main").hidden = document.querySelector("nav").hidden = false;
    find("sign-out").hidden = !secret.get();
    rounds = 0;
  }
  say("who", `${now.version}, speaks as OpenClaw ${now.openclaw} · up ${duration(now.uptimeMs)} · pid ${now.pid} · ${mib(now.memory)}`);
  const asked = rollout.moment();
  const [status, behind] = await Promise.all([
    part("rollout-words", async () => call("api/rollout")),
    part("upstream-words", async () => call("api/upstream")),
  ]);
  if (status) rollout.show(status, asked);
  if (behind) upstream.show(behind);
  if (rounds === 0) {
    const before = await part("traffic-words", async () => call("api/console/history"));
    if (before) traffic.recall(before, now.nowMs);
  }
  traffic.show(now, behind?.state);
  const held = messages.showQueue(now.queue, now.nowMs);
  judge(now, status, behind, held);
  const jobs = [part("log-words", () => log.refresh(now))];
  const seen = `${now.bootId}/${held.dead}/${held.doubt}`;
  if (rounds++ % LISTS_EVERY === 0 || seen !== counts) {
    counts = seen;
    jobs.push(part("dead-words", () => messages.showDead(now.nowMs)), part("channels-words", () => messages.showChannels(now.nowMs)));
  }
  jobs.push(part("dead-words", () => messages.refreshWhy()));
  await Promise.all(jobs);
}

function reachable(is) {
  find("main").classList.toggle("stale", !is);
  for (const button of document.querySelectorAll("main button")) button.inert = !is;
}

async function round() {
  if (busy) return;
  busy = true;
  clearTimeout(timer);
  try {
    await ask();
    answeredAtMs = Date.now();
    reachable(true);
  } catch (error) {
    if (error instanceof Unreachable) {
      reachable(false);
      banner("bad",
        `The gateway does not answer${answeredAtMs ? ` since ${clock(answeredAtMs)}; what is below is from then` : ""} (${error.message}). This page tries again every ${EVERY_MS / 1000} s and comes back by itself.`,
        "If it stays away, on its machine: openclaw-gateway service status, and openclaw-gateway doctor.");
    } else if (error instanceof Refused && [401, 403, 429].includes(error.status)) {
      refused(error);
      return;
    } else {
      if (!(error instanceof Refused)) console.error(error);
      banner("bad", `This page does not understand what the gateway says: ${error.message}. Load it again if the gateway was replaced.`);
    }
  } finally {
    busy = false;
  }
  if (!document.hidden) timer = setTimeout(round, EVERY_MS);
}

// Nobody looks: nothing is asked.
document.addEventListener("visibilitychange", () => {
  clearTimeout(timer);
  if (!document.hidden && (isSignedIn || !asksSecret)) round();
});

takeFromAddress();
if (asksSecret && !secret.get()) signIn(WHERE);
else round();
