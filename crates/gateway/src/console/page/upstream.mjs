// The OpenClaw gateway behind: how it does, what it wrote, and orders to it.
import { order } from "./api.mjs";
import { confirmed, el, facts, find, keyed, outcome, say } from "./dom.mjs";
import { clock, mib } from "./figures.mjs";

const WORDS = {
  off: "No OpenClaw is configured behind this gateway. What is native works; what only OpenClaw can do is refused.",
  starting: "OpenClaw is starting. Calls for it wait, and are answered when it is ready.",
  ready: "OpenClaw is ready.",
  asleep: "OpenClaw sleeps, since nobody needs it; the first call for it wakes it up.",
};

export function words({ state, why }) {
  return WORDS[state] ?? `OpenClaw is ${state === "stopped" ? "stopped" : "down"}${why ? `: ${why}` : ""}. Calls that only it can answer fail; what is native works, and clients stay connected.`;
}

async function give(what, done) {
  try {
    show(await order(`api/upstream/${what}`));
    outcome(done);
  } catch (error) {
    outcome(`Nothing was done: ${error.message}`, "bad");
  }
}

find("upstream-start").onclick = () => give("start", "OpenClaw is being started.");
find("upstream-restart").onclick = async () => {
  if (await confirmed("Restart OpenClaw? It finishes what it does first; clients stay connected, and calls for it wait meanwhile.", "Restart it")) {
    await give("restart", "OpenClaw is being restarted.");
  }
};

export function show(status) {
  say("upstream-words", words(status));
  find("upstream-card").hidden = status.state === "off";
  const { memory } = status;
  facts(find("upstream-facts"), [
    ["State", status.state],
    ["Version", status.version],
    ["Process", status.pid],
    ["Memory", memory && `${mib(memory.resident)} in ${memory.processes} processes${memory.max ? `, ceiling ${mib(memory.max)}` : ", no ceiling"}`],
    ["Restarts", status.starts === null ? null : `${Math.max(0, status.starts - 1)} since this gateway started${memory?.restarts ? `, ${memory.restarts} of them for memory` : ""}`],
    ["Address", status.address],
    ["Run by", status.supervised ? "this gateway" : "somebody else: restart it by its own means (openclaw gateway restart)"],
  ]);
  find("upstream-restart").disabled = !status.supervised || status.state === "starting";
  find("upstream-start").hidden = !["stopped", "asleep", "down"].includes(status.state) || !status.supervised;
  const lines = status.lastOutput;
  find("output-h").hidden = find("output").hidden = lines.length === 0;
  keyed(find("output"), lines, (line) => `${line.pid}/${line.seq}`, (line) => el("li", {}, `${clock(line.atMs)}  ${line.text}`));
}
