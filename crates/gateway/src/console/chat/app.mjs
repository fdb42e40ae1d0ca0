// The chat: who is signed in, which conversation is open, what is said in it and what is being answered.
import { secret, takeFromAddress } from "../api.mjs";
import { el, find, say } from "../dom.mjs";
import { canSign, deviceToken, mayHaveKeys } from "./device.mjs";
import { call, Lost, on, start, stop } from "./socket.mjs";
import * as view from "./view.mjs";

const OPEN = "openclaw-chat-open";
const SENT = "openclaw-chat-sent";
const PAGE = 200;
const NOT_YET_MS = 3000;
const mode = document.documentElement.dataset.auth;
const SECRET = mode === "password" ? "password" : "token";
const WHERE = `Give the gateway's ${SECRET}. It is gateway.auth.${SECRET} of openclaw.json on the gateway's machine${SECRET === "token" ? ", or the file token in its openclaw-rs folder" : ""}.`;
const CONNECTING = "Connecting …";
const NO_MODEL = "No model is set: add one under models.providers in openclaw.json (baseUrl, api, models), or start Ollama on the gateway's machine; this page goes on by itself.";

let key = sessionStorage.getItem(OPEN) ?? "main";
/** Nothing yet is known of it: null. */
let messages = null;
let limit = PAGE;
/** The turn that works: `{runId, parts, doing}`. */
let live = null;
/** What was sent from here and is not in the history yet. */
let sent = kept();
const ended = new Set();
const waiting = new Map();
let list = [];
let main = "main";
let isConnected = false;
const faults = { link: "", model: "", last: "" };

/** What the gateway has not taken outlives the page; sent again under its id, it is worked on once. */
function kept() {
  try {
    return JSON.parse(sessionStorage.getItem(SENT)) ?? [];
  } catch {
    return [];
  }
}

function keep() {
  try {
    sessionStorage.setItem(SENT, JSON.stringify(sent.filter((one) => !one.isTaken)));
  } catch {
    // More than a browser keeps: it is here as long as the page.
  }
}

// === what is wrong, in words ===

function tell(which, text) {
  faults[which] = text;
  const shown = [faults.link, faults.model, faults.last].filter(Boolean);
  const box = find("banner");
  box.hidden = shown.length === 0;
  box.className = `banner ${faults.link && faults.link !== CONNECTING ? "bad" : "warn"}`;
  if (box.textContent !== shown.join("")) box.replaceChildren(...shown.map((one) => el("p", {}, one)));
}

const words = (error) => (error.details?.reason === "no-agent" ? NO_MODEL : error.message);

// === signing in ===

function signIn(text, problem = "") {
  stop();
  isConnected = false;
  tell("link", "");
  for (const id of ["main", "side", "new", "menu"]) find(id).hidden = true;
  if (mode !== "token" && mode !== "password") {
    tell("link", problem || text);
    return;
  }
  find("sign-in").hidden = false;
  say("secret-name", SECRET);
  say("sign-in-words", text);
  say("sign-in-error", problem);
  find("token").value = "";
  find("token").focus();
}

find("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  const given = find("token").value.trim();
  if (!given) return;
  secret.set(given);
  find("sign-in").hidden = true;
  tell("link", CONNECTING);
  start();
});

find("sign-out").onclick = () => {
  secret.forget();
  deviceToken.forget();
  sessionStorage.removeItem(OPEN);
  [messages, sent, live] = [null, [], null];
  keep();
  draw();
  signIn(`Signed out. ${WHERE}`);
};

/** Why the gateway does not let this page in; answers when to ask again. */
on.refused = (error) => {
  const { code, requestId } = error.details;
  if (code === "PAIRING_REQUIRED") {
    tell("link", `This browser has to be approved once. On the gateway's machine: openclaw-gateway devices approve ${requestId ?? "<id>, with the id that openclaw-gateway devices list shows"}. This page goes on by itself then.`);
    return NOT_YET_MS;
  }
  if (code === "AUTH_RATE_LIMITED") {
    signIn(WHERE, `Too many wrong ${SECRET}s were tried from this address. Wait ${Math.ceil((error.retryAfterMs ?? 60_000) / 1000)} s.`);
    return undefined;
  }
  if (code === "CONTROL_UI_ORIGIN_NOT_ALLOWED") signIn(WHERE, `The gateway takes no pages from ${location.origin}: add that to gateway.controlUi.allowedOrigins in openclaw.json.`);
  else if (code === "AUTH_TOKEN_MISSING" || code === "AUTH_PASSWORD_MISSING") signIn(WHERE);
  else if (code?.startsWith("AUTH_")) {
    secret.forget();
    signIn(WHERE, mode === "trusted-proxy" ? "This gateway lets people in through its proxy: open the page there." : `The gateway refused this ${SECRET}.`);
  } else if (error.retryAfterMs || error.code === "UNAVAILABLE") {
    tell("link", `The gateway is not ready: ${error.message}.`);
    return error.retryAfterMs ?? NOT_YET_MS;
  } else signIn(WHERE, `The gateway does not let this page in: ${error.message}`);
  return undefined;
};

// === the conversation ===

let isDrawn = true;
function draw() {
  if (!isDrawn) return;
  isDrawn = false;
  requestAnimationFrame(() => {
    isDrawn = true;
    const settled = live && messages ? messages.filter((item) => item.runId !== live.runId || item.kind === "user") : messages ?? [];
    const mine = sent.filter((one) => one.key === key).map((one) => ({
      isLater: live && one.id !== live.runId, id: `sent-${one.id}`, kind: "user", parts: [{ kind: "text", text: one.text }],
      note: one.error ? `Not sent: ${one.error}` : isConnected || one.isTaken ? "" : "Waits for the connection …", again: one.error ? () => deliver(one) : null,
    }));
    const now = live ? [{ id: `live-${live.runId}`, kind: "assistant", isLive: true, parts: live.parts, note: live.parts.at(-1)?.kind === "text" ? "" : live.doing || "…" }] : [];
    view.conversation([...settled, ...mine.filter((one) => !one.isLater), ...now, ...mine.filter((one) => one.isLater)], messages !== null);
    find("stop").hidden = !live;
    const chats = list.some((one) => one.isMain) ? list : [{ key: main, isMain: true }, ...list];
    const title = view.titleOf(chats.find((one) => one.key === key));
    say("title", title);
    document.title = live ? `… ${title}` : title;
    view.sessions(chats, key, choose);
    view.approvals([...waiting.values()], decide);
  });
}

/** What of a turn's whole text comes after `parts`. */
function rest(text, parts) {
  let left = text;
  for (const part of parts) {
    const said = part.kind === "text" ? part.text.trim() : "";
    if (said && left.startsWith(said)) left = left.slice(said.length).trimStart();
  }
  return left;
}

function begin(runId) {
  if (live?.runId !== runId) live = { runId, parts: [], doing: "" };
  return live;
}

/** All that a turn has said so far. */
function grow(run, text) {
  const open = run.parts.at(-1)?.kind === "text" ? run.parts.pop() : null;
  const left = rest(text, run.parts);
  if (left) run.parts.push({ kind: "text", text: left });
  else if (open) run.parts.push(open);
}

/** Events were missed: what is known of a turn may lack parts. */
let isStale = true;
let asked = 0;
/** Reads the open conversation again: what is shown is what the gateway has. */
async function refresh() {
  const mine = ++asked;
  const wanted = key;
  let history;
  try {
    history = await call("chat.history", { sessionKey: wanted, limit });
  } catch (error) {
    if (!(error instanceof Lost)) tell("last", `This conversation can't be shown: ${error.message}`);
    return;
  }
  if (mine !== asked || wanted !== key) return;
  key = history.sessionInfo?.key ?? key;
  sessionStorage.setItem(OPEN, key);
  for (const one of sent) if (one.key === wanted) one.key = key;
  messages = view.items(history.messages ?? []);
  find("earlier").hidden = !history.hasMore || limit >= 1000;
  const known = new Set(messages.map((item) => item.sentAs));
  sent = sent.filter((one) => !known.has(`${one.id}:user`) && !known.has(one.id) && !ended.has(one.id));
  keep();
  const run = history.inFlightRun;
  if (!run || ended.has(run.runId)) {
    if (!live || ended.has(live.runId) || !history.sessionInfo?.activeRunIds?.includes(live.runId)) live = null;
  } else if (live?.runId !== run.runId || isStale) {
    // What it did is in the history, what it says is not yet.
    begin(run.runId).parts = messages.filter((item) => item.runId === run.runId && item.kind !== "user").flatMap((item) => item.parts);
    grow(live, run.text ?? "");
  }
  isStale = false;
  if (history.sessionInfo?.isMain) main = key;
  if (faults.last && !live) tell("last", "");
  draw();
}

async function refreshList() {
  try {
    list = (await call("sessions.list", { limit: 100, includeLastMessage: true, includeDerivedTitles: true, excludeCron: true, excludeSubagents: true })).sessions;
    draw();
  } catch (error) {
    if (!(error instanceof Lost)) console.error(error);
  }
}

/** Once for many that come together. */
function soon(what) {
  let timer;
  return () => {
    timer ??= setTimeout(() => {
      timer = undefined;
      what();
    }, 150);
  };
}
const listSoon = soon(refreshList);
const refreshSoon = soon(refresh);

function show(other) {
  key = other;
  sessionStorage.setItem(OPEN, key);
  [messages, live, limit, isStale] = [null, null, PAGE, true];
  fold(false);
  find("log").scrollTop = find("log").scrollHeight;
  draw();
  refresh();
  find("text").focus();
}
const choose = (other) => other !== key ? show(other) : fold(false);

find("new").onclick = async () => {
  try {
    show((await call("sessions.create", {})).key);
  } catch (error) {
    tell("last", `No new chat was begun: ${error.message}`);
  }
};
find("earlier").onclick = () => {
  limit = Math.min(limit + PAGE, 1000);
  refresh();
};

// === sending and stopping ===

async function deliver(one) {
  one.error = "";
  keep();
  draw();
  try {
    // The same key again after a lost connection: it is worked on once.
    await call("chat.send", { sessionKey: one.key, message: one.text, idempotencyKey: one.id });
    one.isTaken = true;
    keep();
  } catch (error) {
    if (error instanceof Lost && !isConnected) return;
    one.error = words(error);
    keep();
    draw();
  }
}

const text = find("text");
find("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  const said = text.value.trim();
  if (!said) return;
  text.value = "";
  find("log").scrollTop = find("log").scrollHeight;
  const one = { id: crypto.randomUUID(), key, text: said, error: "" };
  sent.push(one);
  deliver(one);
});
text.addEventListener("keydown", (event) => {
  // On a phone the key makes a line.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing || matchMedia("(pointer: coarse)").matches) return;
  event.preventDefault();
  find("composer").requestSubmit();
});
find("stop").onclick = async () => {
  try {
    await call("chat.abort", { sessionKey: key });
  } catch (error) {
    tell("last", `It was not stopped: ${error.message}`);
  }
  text.focus();
};

async function decide(id, decision) {
  try {
    await call("exec.approval.resolve", { id, decision });
    tell("last", "");
  } catch (error) {
    tell("last", `The decision was not taken: ${error.message}`);
    if (error instanceof Lost) return;
  }
  waiting.delete(id);
  draw();
  text.focus();
}

function ask({ id, request, expiresAtMs }) {
  const own = list.find((one) => one.key === request.sessionKey);
  waiting.set(id, { id, request, expiresAtMs, where: request.sessionKey === key || !own ? "" : `for “${view.titleOf(own)}”` });
}

// === what the gateway says ===

on.event = (name, event) => {
  if (name === "exec.approval.requested") ask(event);
  else if (name === "exec.approval.resolved") waiting.delete(event.id);
  else if (name === "sessions.changed") listSoon();
  else if (event.sessionKey !== key || ended.has(event.runId)) return;
  else if (name === "session.message" && event.message?.role === "user") refreshSoon();
  else if (name === "chat") chat(event);
  else if (name === "agent" && event.data) agent(event);
  else return;
  draw();
};

function chat({ runId, state, message, errorMessage }) {
  if (state === "status") begin(runId);
  else if (state === "delta") grow(begin(runId), view.textOf(message?.content));
  else {
    ended.add(runId);
    if (ended.size > 200) ended.delete(ended.values().next().value);
    const said = view.textOf(message?.content);
    say("spoken", state === "error" ? `There is no answer: ${errorMessage}` : state === "aborted" ? "Stopped." : said.slice(0, 1000));
    refresh();
  }
}

function agent({ runId, stream, data }) {
  if (live?.runId !== runId && stream !== "item") return;
  if (stream === "compaction") live.doing = data.phase === "start" ? "Summing up what was said before …" : "";
  else if (stream === "lifecycle" && data.phase === "waiting-approval") live.doing = "Waits for your decision …";
  else if (stream === "lifecycle" && data.phase === "approval-resolved") live.doing = "";
  else if (stream === "item" && data.kind === "tool") {
    const { parts } = begin(runId);
    const at = data.phase === "start" ? -1 : parts.findLastIndex((part) => part.id === data.toolCallId);
    const part = { kind: "tool", id: data.toolCallId, name: data.name, about: data.meta ?? "", status: data.status, result: data.error };
    if (at < 0) parts.push(part);
    else parts[at] = { ...parts[at], status: data.status, result: data.error ?? parts[at].result };
  }
}

on.lost = () => {
  isConnected = false;
  isStale = true;
  tell("link", "The connection to the gateway is lost. This page connects again by itself; what you send meanwhile waits.");
  draw();
};

on.hello = async () => {
  isConnected = true;
  tell("link", "");
  find("sign-in").hidden = true;
  const isFirst = find("main").hidden;
  for (const id of ["main", "side", "new", "menu"]) find(id).hidden = false;
  if (isFirst) text.focus();
  // Refused or lost, the lists are only read less often.
  call("sessions.subscribe").catch(() => {});
  await Promise.all([refreshList(), refresh(), models()]);
  try {
    const known = await call("exec.approval.list");
    waiting.clear();
    known.forEach(ask);
  } catch (error) {
    if (!(error instanceof Lost)) waiting.clear();
  }
  for (const one of sent) if (!one.isTaken && !one.error) deliver(one);
  draw();
};

let looking;
/** Says what is missing as long as there is no model. */
async function models() {
  clearTimeout(looking);
  try {
    const { models: known } = await call("models.list");
    tell("model", known.length === 0 ? NO_MODEL : "");
    if (known.length === 0) looking = setTimeout(() => isConnected && models(), NOT_YET_MS);
  } catch (error) {
    if (!(error instanceof Lost)) console.error(error);
  }
}

setInterval(() => {
  for (const { id, expiresAtMs } of waiting.values()) if (expiresAtMs < Date.now()) waiting.delete(id);
  draw();
}, 10_000);

// === the list of chats, on a narrow screen ===

function fold(isOpen) {
  find("side").classList.toggle("open", isOpen);
  find("menu").setAttribute("aria-expanded", String(isOpen));
}
find("menu").onclick = () => fold(find("menu").getAttribute("aria-expanded") !== "true");
addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || find("menu").getAttribute("aria-expanded") !== "true") return;
  fold(false);
  find("menu").focus();
});

takeFromAddress();
if (!mayHaveKeys()) {
  tell("link", "A browser lets a page have a key of its own over https or on the gateway's machine alone: open it at localhost there, or turn on gateway.tls or gateway.tailscale.");
} else if (!await canSign()) {
  tell("link", "This browser can't make the key (Ed25519) by which the gateway would know it. Use a newer one: Chrome or Edge from 137, Firefox from 129, Safari from 17.");
} else if ((mode === "token" || mode === "password") && !secret.get() && !deviceToken.get()) signIn(WHERE);
else {
  tell("link", CONNECTING);
  start();
}
