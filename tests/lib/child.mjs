// One child process with its output kept, killed when the suite ends.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { PATIENCE_MS, until } from "./tools.mjs";

const running = new Set();
process.on("exit", () => {
  for (const child of running) child.killTree("SIGKILL");
});

export class Child {
  constructor(command, args, { env, cwd, label = command } = {}) {
    this.label = label;
    this.output = "";
    this.exit = null;
    // Its own process group: OpenClaw starts helpers that must die with it.
    this.process = spawn(command, args, { env, cwd, detached: true, stdio: ["ignore", "pipe", "pipe"] });
    this.pid = this.process.pid;
    running.add(this);
    for (const stream of [this.process.stdout, this.process.stderr]) {
      stream.setEncoding("utf8").on("data", (text) => (this.output += text));
    }
    this.process.on("exit", (code, signal) => {
      this.exit = { code, signal };
      running.delete(this);
    });
  }

  kill(signal = "SIGTERM") {
    if (!this.exit) this.process.kill(signal);
  }

  killTree(signal = "SIGKILL") {
    try {
      process.kill(-this.pid, signal);
    } catch (error) {
      if (error.code !== "ESRCH") throw error;
    }
  }

  async waitExit(timeoutMs = PATIENCE_MS) {
    await until(`${this.label} to exit`, () => this.exit, { timeoutMs });
    return this.exit;
  }

  async stop(timeoutMs = PATIENCE_MS) {
    if (!this.exit) {
      this.kill("SIGTERM");
      await Promise.race([once(this.process, "exit"), new Promise((r) => setTimeout(r, timeoutMs).unref())]);
    }
    this.killTree("SIGKILL");
    return this.exit;
  }
}
