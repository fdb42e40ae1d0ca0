// The gateway's last log lines, newest first.
import { call } from "./api.mjs";
import { el, find, keyed, say } from "./dom.mjs";
import { clock, logLine } from "./figures.mjs";

const KEPT_MAX = 500;
const RANK = { ERROR: 0, WARN: 1, INFO: 2, DEBUG: 2, TRACE: 2 };
let lines = [];
let after = 0;
let boot = null;

/** Fetches what is new; `written` and `bootId` are the gateway's. */
export async function refresh({ logWritten, bootId }) {
  if (bootId !== boot) {
    boot = bootId;
    lines = [];
    after = 0;
  }
  if (logWritten === after) return;
  const answer = await call(`api/diagnostics/log?after=${after}`);
  const first = answer.after - answer.lines.length;
  lines = [...lines, ...answer.lines.map((raw, at) => ({ ...logLine(raw), n: first + at }))].slice(-KEPT_MAX);
  after = answer.after;
  show();
}

function show() {
  const level = find("level").value;
  const shown = lines.filter((line) => (RANK[line.level] ?? 2) <= RANK[level]).reverse();
  say("log-words", shown.length === 0 ? (level === "INFO" ? "Nothing was logged." : `No ${level === "ERROR" ? "error" : "error or warning"} among the last ${lines.length} lines.`) : "");
  find("lines").hidden = shown.length === 0;
  keyed(find("lines"), shown, (line) => `${boot}/${line.n}`, (line) => el("li", { class: line.level in RANK ? line.level : "INFO" },
    `${Number.isNaN(line.atMs) ? "" : clock(line.atMs)} `, el("span", { class: "level" }, line.level), ` ${line.text} `, el("span", { class: "dim" }, line.more)));
}

find("level").addEventListener("change", show);
