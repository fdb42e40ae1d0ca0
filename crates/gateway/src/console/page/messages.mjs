// Messages that wait, those that could not be delivered, and what happened to one.
import { call, order, Refused } from "./api.mjs";
import { confirmed, el, find, keyed, outcome, rows, say, tag } from "./dom.mjs";
import { ago, clock, count } from "./figures.mjs";

/** Rows of each kind that are asked for. */
const LETTERS_MAX = 50;
const STATES = { pending: "waits to be sent", leased: "is being sent", in_doubt: "in doubt", dead: "dead", inbound: "waits for an agent" };

/** What waits, by channel. Answers how many are dead and in doubt. */
export function showQueue(queue, nowMs) {
  if (!queue) {
    say("queue-words", "The message path is not up yet.");
    return { dead: 0, doubt: 0 };
  }
  const sum = (...states) => queue.waiting.filter((one) => states.includes(one.state)).reduce((all, one) => all + one.rows, 0);
  const waiting = queue.waiting.filter((one) => !["dead", "in_doubt"].includes(one.state));
  const oldest = Math.min(...waiting.map((one) => one.oldestMs));
  const [open, doubt, dead] = [sum("pending", "leased", "inbound"), sum("in_doubt"), sum("dead")];
  say("queue-words", queue.healthy
    ? `${open === 0 ? "Nothing waits" : `${count(open, "message")} ${open === 1 ? "waits" : "wait"}, the oldest came ${ago(oldest, nowMs)}`}; ${doubt} in doubt, ${dead} dead.`
    : "The message store is not open: nothing can be accepted or shown. The banner above says why; it goes on by itself when the disk does.");
  rows(find("queue"), ["", "State", "Messages", "Oldest"], queue.waiting, (one) => `${one.channel}/${one.state}`, (one) => [
    el("strong", {}, one.channel),
    STATES[one.state] ?? one.state,
    String(one.rows),
    ago(one.oldestMs, nowMs),
  ]);
  return { dead, doubt };
}

function letter(row, isInbound) {
  return {
    id: row.id,
    isInbound,
    where: `${row.channel}/${row.account}${isInbound ? "" : ` → ${row.target}`}`,
    state: isInbound ? "not answered" : row.state === "dead" ? "dead" : "in doubt",
    error: (isInbound ? row.note : row.error) ?? "no reason is known",
    attempts: row.attempts,
    atMs: row.updatedMs ?? row.updatedAt,
  };
}

/** Orders so far: a list that was asked for before one still has what it did away with. */
let orders = 0;

async function give(id, path, method, done, row) {
  orders += 1;
  try {
    await order(path, method);
    orders += 1;
    row.remove();
    find("dead-h").focus();
    outcome(done);
    if (timeline === id) await refreshWhy();
  } catch (error) {
    outcome(error instanceof Refused && error.status === 409 ? `Nothing was done: it is no longer in this state. ${error.message}` : `Nothing was done: ${error.message}`, "bad");
  }
}

function card({ id, isInbound, where }) {
  const path = `api/dead-letters/${encodeURIComponent(id)}`;
  const button = (text, name, act, kind = "") => el("button", { type: "button", class: kind, "aria-label": `${name}: ${where}`, onclick: act }, text);
  const made = el("li", { class: "letter card" },
    el("p", {}, el("strong", {}, where), " ", el("span", { class: "tag bad" })),
    el("p", { class: "error" }),
    el("p", { class: "meta" }),
    el("div", { class: "actions" },
      button("Why", "Why", () => { find("why-id").value = id; openWhy(id, true); }),
      button(isInbound ? "Answer again" : "Send again", isInbound ? "Answer again" : "Send again",
        () => give(id, `${path}/resend`, "POST", isInbound ? "It waits for an agent again." : "It is on its way again.", made)),
      button("Drop", "Drop", async () => {
        const what = isInbound ? `Drop the message ${id} from ${where}? No agent answers it` : `Drop the message ${id} to ${where}? It is not sent`;
        if (await confirmed(`${what}, and that can't be taken back.`, "Drop it")) {
          await give(id, path, "DELETE", "Dropped.", made);
        }
      }, "danger")));
  return made;
}

/** What was given up or is in doubt. */
export async function showDead(nowMs) {
  const asked = orders;
  const { outbound, inbound } = await call(`api/dead-letters?limit=${LETTERS_MAX}`);
  if (asked !== orders) return;
  const letters = [...outbound.map((row) => letter(row, false)), ...inbound.map((row) => letter(row, true))];
  const isCut = outbound.length >= LETTERS_MAX || inbound.length >= LETTERS_MAX;
  say("dead-words", letters.length === 0 ? "None: whatever was accepted was delivered, or is still tried."
    : isCut ? `The last ${letters.length}; openclaw-gateway messages dead lists all.`
      : letters.some((one) => one.state === "in doubt") ? "In doubt: it went out, and whether it arrived is not known. Look into the chat before it is sent again."
        : "These were given up. Why says what was tried; correct the cause, then send them again or drop them.");
  keyed(find("dead"), letters, (one) => one.id, card, (item, one) => {
    const [title, error, meta] = item.children;
    const state = title.lastElementChild;
    state.className = one.state === "in doubt" ? "tag warn" : "tag bad";
    say(state, one.state);
    say(error, one.error);
    say(meta, `${count(one.attempts, "attempt")}, last ${ago(one.atMs, nowMs)} · ${one.id}`);
  });
}

/** The message whose time line is shown. */
let timeline = null;

async function openWhy(id, moveThere) {
  timeline = id;
  await refreshWhy();
  if (moveThere) find("why").focus();
}

export async function refreshWhy() {
  if (timeline === null) return;
  const box = find("why");
  let shown;
  try {
    const { steps } = await call(`api/why/${encodeURIComponent(timeline)}`);
    shown = [el("ol", { class: "lines" }, ...steps.map((step) => el("li", {}, `${clock(step.atMs)}  `, el("strong", {}, step.step), `  ${step.detail}`)))];
  } catch (error) {
    shown = [el("p", {}, error instanceof Refused && error.status === 404 ? `No message has this id: ${timeline}` : error.message)];
  }
  const text = shown.map((one) => one.textContent).join();
  if (box.dataset.shown !== text) {
    box.dataset.shown = text;
    box.replaceChildren(...shown);
  }
  box.hidden = false;
}

find("why-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const id = find("why-id").value.trim();
  if (id) openWhy(id, false);
});

/** Accounts that run here. */
export async function showChannels(nowMs) {
  const { channels } = await call("api/channels");
  const accounts = Object.entries(channels).flatMap(([channel, list]) => list.map((one) => ({ channel, ...one })));
  say("channels-words", accounts.length === 0
    ? "No channel account runs here. [channels] native in openclaw-gateway.toml takes one over; the others are OpenClaw's."
    : `${count(accounts.length, "account")} ${accounts.length === 1 ? "runs" : "run"} here; the others are OpenClaw's.`);
  rows(find("accounts"), ["", "", "Received", "Sent", "Error"], accounts, (one) => `${one.channel}/${one.accountId}`, (one) => [
    el("strong", {}, `${one.channel}/${one.accountId}${one.name ? ` (${one.name})` : ""}`),
    one.connected ? tag("good", "connected") : one.running ? tag("warn", "connecting") : tag("bad", "stopped"),
    ago(one.lastInboundAt, nowMs),
    ago(one.lastOutboundAt, nowMs),
    one.lastError ?? "",
  ]);
}
