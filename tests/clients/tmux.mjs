// A terminal of a fixed size, on a tmux server of its own, with one program in it.
import { execFile } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import { promisify } from "node:util";
import { PATIENCE_MS, tempDir, until } from "../lib/tools.mjs";

const run = promisify(execFile);

export class Terminal {
  static async open(command, { env, cwd, columns = 110, rows = 40 }) {
    const terminal = new Terminal();
    terminal.dir = tempDir("tmux");
    terminal.socket = path.join(terminal.dir, "socket");
    terminal.env = { ...env, TERM: "screen-256color", LANG: "C.UTF-8" };
    const conf = path.join(terminal.dir, "tmux.conf");
    fs.writeFileSync(conf, "set -g status off\n");
    // A shell stays when the program ends and says how, so that its last words can be read. tmux itself does not always say it.
    const program = ["sh", "-c", '"$0" "$@"; echo "left with $?"; exec cat', ...command];
    await run("tmux", ["-u", "-S", terminal.socket, "-f", conf, "new-session", "-d", "-x", String(columns), "-y", String(rows), "-c", cwd, ...program],
      { env: terminal.env });
    return terminal;
  }

  async #tmux(...args) {
    return (await run("tmux", ["-u", "-S", this.socket, ...args], { env: this.env })).stdout;
  }

  async screen() {
    return this.#tmux("capture-pane", "-p");
  }

  /** Waits until the screen satisfies `match`; the error shows the last screen. */
  async waitFor(what, match, { timeoutMs = PATIENCE_MS } = {}) {
    let screen = "";
    try {
      return await until(what, async () => {
        screen = await this.screen();
        return (match instanceof RegExp ? match.test(screen) : match(screen)) && screen;
      }, { timeoutMs, everyMs: 100 });
    } catch (error) {
      throw new Error(`${error.message}; the screen is:\n${screen}`, { cause: error });
    }
  }

  /** The same, once two looks show the same: what is drawn piece by piece is not seen half drawn. */
  async still(what, match, options) {
    let before;
    return this.waitFor(`${what}, and nothing more to be drawn`, (screen) => {
      const same = screen === before;
      before = screen;
      return same && (match instanceof RegExp ? match.test(screen) : match(screen));
    }, options);
  }

  async type(text) {
    await this.#tmux("send-keys", "-l", text);
  }

  async press(...keys) {
    await this.#tmux("send-keys", ...keys);
  }

  async close() {
    await this.#tmux("kill-server");
    fs.rmSync(this.dir, { recursive: true, force: true });
  }
}
