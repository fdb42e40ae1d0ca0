// The unmodified `openclaw tui` in a terminal: connects, streams a reply, shows its sessions, survives a restart.
import assert from "node:assert/strict";
import { nodeBinary, openclawEntry } from "../lib/tools.mjs";
import { maskText } from "./masks.mjs";
import { ANSWER, FIRST_HALF } from "./model.mjs";
import { compareSides } from "./sides.mjs";
import { Terminal } from "./tmux.mjs";

const MASKS = [
  [/^OpenClaw 2026\.9\.6 \(\w+\) — .*$/gm, "<banner>"],
  [/ · \d+(\.\d+)?s\b/g, " · <s>"],
  [/^ *Current time: .*$/gm, "<time>"],
  [/^ *Reference UTC: .*$/gm, "<time>"],
  [/Uptime: gateway .*$/gm, "Uptime: <span>"],
  [/duration [\dhms ]+/g, "duration <span> "],
  [/updated (just now|<ago>|\d+[smh] ago)/g, "updated <ago>"],
  // Four seconds after it has connected it says so in fewer words.
  [/^ gateway (re)?connected \|/gm, " connected |"],
  // Asked for once as a run ends, which may be before the run's tokens are counted; `/status` shows them.
  [/ tokens (\?|\d+)\/128k( \(\d+%\))?/g, " tokens <n>/128k"],
];
const IDLE = /connected \| (idle|aborted)\b/;
const idleWith = (text) => (screen) => screen.includes(text) && IDLE.test(screen);
const ABORTED = "run aborted";
const RECONNECTED = "gateway reconnected after transport loss";
/** A screen as compared: without blank lines, whose number follows timing. */
const seen = (screen, side) => maskText(screen, side, MASKS).filter((line) => line !== "");

let terminal;
const steps = {
  "connects and shows where": async (side) => {
    terminal = await Terminal.open([nodeBinary, openclawEntry, "tui"], { env: side.clientEnv(), cwd: side.stateDir });
    return seen(await terminal.still("a connected, idle TUI", IDLE), side);
  },
  "shows the first half of an answer while the model waits": async (side) => {
    await terminal.type("HOLD the line please");
    await terminal.press("Enter");
    const half = await terminal.waitFor("the first half, and a TUI at work", (screen) => screen.includes(FIRST_HALF) && !IDLE.test(screen));
    assert.ok(!half.includes(ANSWER), "the whole answer is there before the model gave it");
    side.model.release();
    return seen(await terminal.still("the whole answer", idleWith(ANSWER)), side);
  },
  "stops an answer on Escape": async (side) => {
    await terminal.type("HOLD this one until I press escape");
    await terminal.press("Enter");
    await terminal.waitFor("the first half of the second answer", (screen) => screen.split(FIRST_HALF).length >= 3);
    await terminal.press("Escape");
    // Its status says `aborted` when the order is answered, and `idle` when the run's own end comes after that.
    const screen = await terminal.still("the run to be aborted", idleWith(ABORTED));
    side.model.release();
    return seen(screen, side).filter((line) => line.includes(ABORTED));
  },
  "answers /status": async (side) => {
    await terminal.type("/status");
    await terminal.press("Enter");
    const screen = await terminal.still("the status", (text) => /Queue: /.test(text) && /connected \| idle\b/.test(text));
    return seen(screen.slice(screen.indexOf("🦞 OpenClaw")), side);
  },
  "comes back after the gateway restarts": async (side) => {
    await side.target.restart();
    return seen(await terminal.still("the TUI to be connected again", idleWith(RECONNECTED)), side).filter((line) => /connected/.test(line));
  },
  "answers again after it": async (side) => {
    await terminal.type("and now without waiting");
    await terminal.press("Enter");
    await terminal.waitFor("the answer after the restart", (screen) => screen.split("and now without waiting")[1]?.includes(ANSWER) && IDLE.test(screen));
    return side.model.requests.length > 0;
  },
  "leaves on /quit": async (side) => {
    await terminal.type("/quit");
    await terminal.press("Enter");
    const screen = await terminal.still("the TUI to end", /left with \d+/);
    await terminal.close();
    return seen(screen, side).filter((line) => /left with|error/i.test(line));
  },
};

compareSides("tui", [{ steps }]);
