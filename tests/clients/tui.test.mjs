// The unmodified `openclaw tui` in a terminal: connects, streams a reply, shows its sessions, survives a restart.
import assert from "node:assert/strict";
import { nodeBinary, openclawEntry, until } from "../lib/tools.mjs";
import { maskText } from "./masks.mjs";
import { ANSWER, FIRST_HALF } from "./model.mjs";
import { compareSides } from "./sides.mjs";
import { Terminal } from "./tmux.mjs";

const MASKS = [
  [/^OpenClaw 2026\.9\.6 \(\w+\) — .*$/gm, "<banner>"],
  [/ · \d+(\.\d+)?s\b/g, " · <s>"],
];
const IDLE = /connected \| (idle|aborted)\b/;
const idleWith = (text) => (screen) => screen.includes(text) && IDLE.test(screen);
/** A screen as compared: without blank lines, whose number follows timing. */
const seen = (screen, side) => maskText(screen, side, MASKS).filter((line) => line !== "");

let terminal;
const steps = {
  "connects and shows where": async (side) => {
    terminal = await Terminal.open([nodeBinary, openclawEntry, "tui"], { env: side.clientEnv(), cwd: side.stateDir });
    return seen(await terminal.waitFor("a connected, idle TUI", IDLE, { timeoutMs: 60_000 }), side);
  },
  "shows the first half of an answer while the model waits": async (side) => {
    await terminal.type("HOLD the line please");
    await terminal.press("Enter");
    const half = await terminal.waitFor("the first half", (screen) => screen.includes(FIRST_HALF), { timeoutMs: 60_000 });
    assert.ok(!half.includes(ANSWER), "the whole answer is there before the model gave it");
    assert.ok(!IDLE.test(half), "idle while an answer is being made");
    side.model.release();
    return seen(await terminal.waitFor("the whole answer", idleWith(ANSWER)), side);
  },
  "stops an answer on Escape": async (side) => {
    await terminal.type("HOLD this one until I press escape");
    await terminal.press("Enter");
    await terminal.waitFor("the first half of the second answer", (screen) => screen.split(FIRST_HALF).length >= 3);
    await terminal.press("Escape");
    const screen = await terminal.waitFor("the run to be aborted", /abort/i);
    side.model.release();
    return seen(screen, side).filter((line) => /abort/i.test(line));
  },
  "answers /status": async (side) => {
    await terminal.type("/status");
    await terminal.press("Enter");
    const screen = await terminal.waitFor("the status", /Recent sessions:/);
    return seen(screen.slice(screen.indexOf("Gateway status")), side);
  },
  "comes back after the gateway restarts": async (side) => {
    await side.target.restart();
    return seen(await terminal.waitFor("the TUI to be connected again", IDLE, { timeoutMs: 60_000 }), side).filter((line) => /connected/.test(line));
  },
  "answers again after it": async (side) => {
    await terminal.type("and now without waiting");
    await terminal.press("Enter");
    await terminal.waitFor("the answer after the restart", (screen) => screen.split("and now without waiting")[1]?.includes(ANSWER) && IDLE.test(screen), { timeoutMs: 60_000 });
    return side.model.requests.length > 0;
  },
  "leaves on /quit": async (side) => {
    await terminal.type("/quit");
    await terminal.press("Enter");
    await until("the TUI to end", () => terminal.ended());
    const screen = await terminal.screen();
    await terminal.close();
    return seen(screen, side).filter((line) => /dead|error/i.test(line)).map((line) => line.replace(/,.*/, ""));
  },
};

compareSides("tui", [{ steps }]);
