// Every command of ours that a document tells people to type is one that the program takes.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { gatewayBinary, isolatedEnv, tempDir } from "../lib/tools.mjs";

const ROOT = path.join(import.meta.dirname, "../..");

/** `[document, command]` of the shell blocks and of what stands between backquotes, without comments. */
function documented() {
  const files = ["README.md", ...fs.readdirSync(path.join(ROOT, "docs")).filter((name) => name.endsWith(".md")).map((name) => `docs/${name}`)];
  const found = [];
  for (const file of files) {
    const text = fs.readFileSync(path.join(ROOT, file), "utf8");
    const lines = [...text.matchAll(/```sh\n([^]*?)```/g)].flatMap(([, block]) => block.split("\n").flatMap((line) => line.replace(/\s#\s.*$/, "").split("&&")));
    const spans = [...text.replaceAll(/```[^]*?```/g, "").matchAll(/`([^`]+)`/g)].map(([, span]) => span.replaceAll("\n", " "));
    for (const command of [...lines, ...spans].map((line) => line.trim().replace(/^sudo /, ""))) {
      if (/^openclaw-gateway [a-z][^;]*$/.test(command)) found.push([file, command]);
    }
  }
  return found;
}

/** What is not run: it would go on for ever, reach out, or change this machine; its words are looked at all the same. */
const STAYS = /^openclaw-gateway (run|channels add|service install(?!.*--dry-run)|service uninstall|(adopt|uninstall)(?!.*--dry-run))\b/;

test("commands in documents are taken by the program", async (t) => {
  const home = tempDir("documents");
  t.after(() => fs.rmSync(home, { recursive: true, force: true }));
  fs.mkdirSync(path.join(home, "notes"));
  fs.writeFileSync(path.join(home, "notes/old.md"), "the spare key is with Ada\n");
  const env = { ...isolatedEnv(path.join(home, "state")), HOME: home, BIN: gatewayBinary() };
  const run = (command) => new Promise((resolve) => {
    const script = `openclaw_gateway() { "$BIN" "$@"; }\n${command.replace(/^openclaw-gateway/, "openclaw_gateway")}`;
    const child = execFile("/bin/sh", ["-c", script], { env, cwd: home, timeout: 120_000 }, (error, out, err) => resolve({ code: error ? error.code : 0, text: out + err }));
    child.stdin.end();
  });
  const all = documented();
  const seen = new Set();
  for (const [file, command] of all) {
    // `a|b` is a choice, `…` leaves something out: each choice is a command, what is left out can't be run.
    const choices = /(\S+\|\S+)/.exec(command)?.[1].split("|") ?? [null];
    for (const choice of choices) {
      let one = (choice ? command.replace(/\S+\|\S+/, choice) : command).replaceAll(/<(\w+)>/g, "X").replaceAll("/var/backups", home);
      if (seen.has(one)) continue;
      seen.add(one);
      if (one.includes("…") || STAYS.test(one)) one = `${one.replaceAll(/\s…/g, "").split(/\s(?=-|\S*=)/)[0]} --help`;
      const { code, text } = await run(one);
      // A name of several commands alone is answered with their list; a sentence may name a command without its arguments.
      const taken = Number.isInteger(code) && (code !== 2 || !/^error: (?!the following required)/m.test(text));
      assert.ok(taken, `${file}: ${command}\n${code} ${text}`);
    }
  }
  assert.ok(seen.size > 35, `${seen.size} commands`);
  t.diagnostic(`${seen.size} commands of ${new Set(all.map(([file]) => file)).size} documents`);
});
