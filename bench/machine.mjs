// What the machine is and how busy, and what a process tree uses: figures without these say nothing.
import { execFileSync } from "node:child_process";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { openclawPackage, repoRoot } from "../tests/lib/tools.mjs";

/** USER_HZ: ticks per second of /proc/<pid>/stat. */
const TICKS = 100;

function output(command, args) {
  try {
    return execFileSync(command, args, { cwd: repoRoot, encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] }).trim();
  } catch (error) {
    // wrk prints its version and exits 1.
    return `${error.stdout ?? ""}`.trim() || null;
  }
}

export function machine() {
  const cpus = os.cpus();
  return {
    cpu: cpus[0]?.model ?? "unknown",
    cores: os.availableParallelism(),
    memoryGb: Math.round(os.totalmem() / 2 ** 30),
    kernel: `${os.type()} ${os.release()}`,
    load: loadAverage(),
  };
}

export function versions() {
  return {
    openclaw: JSON.parse(fs.readFileSync(path.join(openclawPackage, "package.json"), "utf8")).version,
    node: process.version,
    rustc: output("rustc", ["--version"]),
    wrk: output("wrk", ["--version"])?.split("\n")[0].replace(/ \[.*/, "") ?? null,
    commit: output("git", ["describe", "--always", "--dirty", "--exclude", "*"]),
  };
}

/** One minute load average. */
export function loadAverage() {
  return Math.round(os.loadavg()[0] * 100) / 100;
}

/** The process and all its descendants. */
export function tree(pid) {
  const found = [];
  const pending = [pid];
  while (pending.length) {
    const next = pending.pop();
    let tasks;
    try {
      tasks = fs.readdirSync(`/proc/${next}/task`);
    } catch {
      continue;
    }
    found.push(next);
    for (const task of tasks) {
      try {
        pending.push(...fs.readFileSync(`/proc/${next}/task/${task}/children`, "utf8").split(" ").filter(Boolean).map(Number));
      } catch {
        // The thread ended between the two reads.
      }
    }
  }
  return found;
}

/** Whether the process has ended. A zombie has: when init reaps it is not ours to time. */
export function hasEnded(pid) {
  try {
    const stat = fs.readFileSync(`/proc/${pid}/stat`, "utf8");
    return stat[stat.lastIndexOf(")") + 2] === "Z";
  } catch {
    return true;
  }
}

/** CPU seconds (user and system) used so far by the tree. */
export function treeCpuS(pid) {
  let ticks = 0;
  for (const each of tree(pid)) {
    try {
      const stat = fs.readFileSync(`/proc/${each}/stat`, "utf8");
      const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
      ticks += Number(fields[11]) + Number(fields[12]);
    } catch {
      // Ended.
    }
  }
  return ticks / TICKS;
}

/** Resident (RSS) and proportional (PSS) memory of the tree and of each process in it, in MB (2^20). */
export function treeMemory(pid) {
  const processes = [];
  for (const each of tree(pid)) {
    try {
      const rollup = fs.readFileSync(`/proc/${each}/smaps_rollup`, "utf8");
      const kb = (key) => Number(rollup.match(new RegExp(`^${key}:\\s+(\\d+)`, "m"))?.[1] ?? 0);
      const args = fs.readFileSync(`/proc/${each}/cmdline`, "utf8").split("\0").filter(Boolean);
      processes.push({ pid: each, command: args.map((arg) => path.basename(arg)).slice(0, 3).join(" "), rssMb: mb(kb("Rss")), pssMb: mb(kb("Pss")) });
    } catch {
      // Ended.
    }
  }
  const sum = (key) => Math.round(processes.reduce((total, one) => total + one[key], 0) * 10) / 10;
  return { rssMb: sum("rssMb"), pssMb: sum("pssMb"), processes };
}

/** VmRSS of one process in MB, as the targets count it. */
export function vmRssMb(pid) {
  const status = fs.readFileSync(`/proc/${pid}/status`, "utf8");
  return mb(Number(status.match(/^VmRSS:\s+(\d+)/m)[1]));
}

function mb(kb) {
  return Math.round((kb / 1024) * 10) / 10;
}

/** Runs `body` and answers `{result, cores, peakRssMb}` of the tree meanwhile. */
export async function watched(pid, body) {
  let peakRssMb = treeRssMb(pid);
  const timer = setInterval(() => (peakRssMb = Math.max(peakRssMb, treeRssMb(pid))), 200);
  const started = process.hrtime.bigint();
  const before = treeCpuS(pid);
  try {
    const result = await body();
    const seconds = Number(process.hrtime.bigint() - started) / 1e9;
    return { result, cores: Math.round(((treeCpuS(pid) - before) / seconds) * 100) / 100, peakRssMb: Math.max(peakRssMb, treeRssMb(pid)) };
  } finally {
    clearInterval(timer);
  }
}

/** Cheap enough to sample (smaps_rollup of a big process is not). */
function treeRssMb(pid) {
  let total = 0;
  for (const each of tree(pid)) {
    try {
      total += vmRssMb(each);
    } catch {
      // Ended.
    }
  }
  return Math.round(total * 10) / 10;
}
