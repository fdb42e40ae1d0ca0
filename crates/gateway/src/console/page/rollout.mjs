// How many clients are answered here, what watches it, and orders to change it.
import { order } from "./api.mjs";
import { el, find, outcome, rows, say } from "./dom.mjs";
import { count, duration } from "./figures.mjs";

const slider = find("percent");
/** What the gateway said last. */
let known = null;
/** The person has moved the slider and not set it yet: what comes in does not move it back. */
let isMoved = false;
/** Orders so far: an answer that was asked for before one is older than what it did. */
let orders = 0;
export const moment = () => orders;

const NAMES = { errors: "Failed calls", p99: "p99", queue: "Oldest message", mismatch: "Different answers" };

function label() {
  const value = Number(slider.value);
  say("percent-words", `${value} %`);
  say("rollout-set", `Set to ${value} %`);
}

slider.addEventListener("input", () => {
  isMoved = known !== null && Number(slider.value) !== known.percent;
  label();
});

async function give(query, done) {
  orders += 1;
  try {
    const status = await order(`api/rollout?${query}`);
    orders += 1;
    isMoved = false;
    show(status);
    outcome(done(status));
  } catch (error) {
    outcome(`Nothing was changed: ${error.message}`, "bad");
  }
}

find("rollout-form").addEventListener("submit", (event) => {
  event.preventDefault();
  give(`set=${slider.value}`, (status) => `Set to ${status.percent} %.`);
});
find("rollout-promote").onclick = () => give("promote", (status) => `Promoted to ${status.percent} %.`);
find("rollout-pause").onclick = () => give("pause", (status) => `Paused at ${status.percent} %: promote is refused until a percent is set.`);
find("rollout-rollback").onclick = () => give("rollback", () => "Rolled back: new calls go to OpenClaw.");

function words({ upstream, percent, effective, paused, reason, setAtMs }) {
  const since = setAtMs ? ` (${duration(Date.now() - setAtMs)} ago)` : "";
  if (upstream === "off") {
    return `No OpenClaw is configured, so everything is answered here. The percent is kept as ${percent} % for when there is one.`;
  }
  const share = effective === 100 ? "All clients are answered here" : effective === 0 ? "No client is answered here: all go to OpenClaw" : `${effective} % of the clients are answered here, the others by OpenClaw`;
  return `${share}. Why: ${reason}${since}.${paused ? " Promoting is paused." : ""}`;
}

const GUARD = {
  off: (guard) => `The guard is off: ${guard.why}. Nothing goes back by itself.`,
  watching: (guard) => `The guard is on and can't judge yet: ${guard.why}.`,
  ok: (guard) => `The guard is on and content: ${count(guard.calls.native, "call")} here and ${guard.calls.upstream} at OpenClaw in ${guard.windowS} s.`,
  tripped: (guard) => `The guard went back to 0 %: ${guard.trip.text}. It stays there until a person promotes or sets a percent.`,
};

export function show(status, asked = orders) {
  if (asked !== orders) return;
  known = status;
  // Nothing can be chosen before it is known what is.
  slider.disabled = find("rollout-set").disabled = false;
  if (!isMoved) slider.value = status.percent;
  label();
  say("rollout-words", words(status));
  const held = status.guard.state === "tripped" ? 0 : status.percent;
  const next = status.steps.find((step) => step > held);
  const promote = find("rollout-promote");
  promote.disabled = status.paused || next === undefined;
  say(promote, status.paused ? "Promote (paused)" : next === undefined ? "Promote (at 100 %)" : `Promote to ${next} %`);
  find("rollout-pause").disabled = status.paused;
  find("rollout-rollback").disabled = status.percent === 0 && status.effective === 0;
  say("guard-words", GUARD[status.guard.state]?.(status.guard) ?? status.guard.state);
  const signals = status.guard.state === "off" ? [] : status.guard.signals;
  rows(find("guard"), [], signals, (one) => one.signal, (one) => [
    el("span", { class: one.past ? "tag bad" : "" }, NAMES[one.signal] ?? one.signal),
    one.text.native ?? "–",
    one.text.upstream ?? "–",
    one.text.bound,
  ]);
}
