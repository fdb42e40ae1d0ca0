// `make bench`: records the original's baseline or compares the two gateways, and writes the documents.
//
//   node bench/run.mjs [--quick|--smoke] [--baseline] [--only NAME,…] [--profile release] [--no-write]
//   node bench/run.mjs --render bench/results/FILE.json     (writes the document again from recorded results)
//
// Runs on the pinned Node. The binaries come from target/<profile>.
import { execFileSync } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import { parseArgs } from "node:util";
import { repoRoot } from "../tests/lib/tools.mjs";
import { useProfile } from "./load.mjs";
import { loadAverage, machine, versions } from "./machine.mjs";

const { values: options } = parseArgs({
  options: {
    quick: { type: "boolean" },
    smoke: { type: "boolean" },
    baseline: { type: "boolean" },
    only: { type: "string" },
    profile: { type: "string", default: "release" },
    "no-write": { type: "boolean" },
    render: { type: "string" },
  },
});

// Ends through `process.exit`, which ends the children too (tests/lib/child.mjs).
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.once(signal, () => process.exit(130));

const began = performance.now();

/** Progress on standard error: results are files. */
function say(what) {
  process.stderr.write(`[bench ${((performance.now() - began) / 1000).toFixed(0).padStart(4)} s] ${what}\n`);
}

async function main() {
  if (options.render) {
    const source = path.relative(repoRoot, path.resolve(options.render));
    return write(JSON.parse(fs.readFileSync(options.render, "utf8")), source);
  }
  if (process.platform !== "linux") throw new Error("the benchmarks read /proc: run them on Linux");
  const mode = options.smoke ? "smoke" : options.quick ? "quick" : "full";
  useProfile(options.profile);
  build(options.profile);
  process.env.GATEWAY_BIN ??= path.join(repoRoot, "target", options.profile, "openclaw-gateway");
  const recorded = { kind: options.baseline ? "baseline" : "benchmarks", mode, profile: options.profile, date: new Date().toISOString(), machine: machine(), versions: versions() };
  const only = options.only?.split(",");
  if (options.baseline) {
    const { baseline } = await import("./baseline.mjs");
    recorded.baseline = await baseline({ mode, say });
  } else {
    const { compare } = await import("./compare.mjs");
    recorded.measures = await compare({ mode, say, only });
  }
  recorded.loadAtEnd = loadAverage();
  recorded.seconds = Math.round((performance.now() - began) / 1000);
  if (options["no-write"]) {
    process.stdout.write(`${JSON.stringify(recorded, null, 1)}\n`);
    return;
  }
  const day = recorded.date.slice(0, 10);
  const source = `bench/results/${day}-${options.baseline ? "baseline-" : ""}${mode}.json`;
  fs.mkdirSync(path.join(repoRoot, "bench/results"), { recursive: true });
  fs.writeFileSync(path.join(repoRoot, source), `${JSON.stringify(recorded, null, 1)}\n`);
  say(`raw results: ${source}`);
  // A smoke run shows that the harness works; its figures are no document. Nor is a part of a run.
  if (mode !== "smoke" && !only) await write(recorded, source);
  else await render(recorded, source);
}

/** Builds the generators and peers (nothing to do when they are fresh); the gateway itself is the caller's to build. */
function build(profile) {
  const names = { dev: "debug" };
  const cargoProfile = Object.keys(names).find((key) => names[key] === profile) ?? profile;
  execFileSync("cargo", ["build", "--quiet", "--locked", "--profile", cargoProfile, "-p", "bench"], { cwd: repoRoot, stdio: ["ignore", "inherit", "inherit"] });
}

async function render(recorded, source) {
  const name = recorded.kind;
  if (name === "baseline") {
    const { renderBaseline } = await import("./report-baseline.mjs");
    return renderBaseline(recorded, { folder: name, source });
  }
  const { renderBenchmarks } = await import("./report.mjs");
  return renderBenchmarks(recorded, { folder: name, source, others: others(recorded) });
}

/** The whole runs of other days that are kept, newest first. */
function others({ date }) {
  const folder = "bench/results";
  const names = fs.readdirSync(path.join(repoRoot, folder)).filter((name) => /^\d{4}-\d\d-\d\d-(quick|full)\.json$/.test(name));
  return names.toSorted().toReversed()
    .map((name) => ({ source: `${folder}/${name}`, recorded: JSON.parse(fs.readFileSync(path.join(repoRoot, folder, name), "utf8")) }))
    .filter(({ recorded }) => recorded.kind === "benchmarks" && recorded.date !== date);
}

async function write(recorded, source) {
  const { markdown, charts } = await render(recorded, source);
  const folder = path.join(repoRoot, "docs", recorded.kind);
  fs.rmSync(folder, { recursive: true, force: true });
  fs.mkdirSync(folder, { recursive: true });
  for (const [name, svg] of Object.entries(charts)) fs.writeFileSync(path.join(folder, name), svg);
  fs.writeFileSync(path.join(repoRoot, "docs", `${recorded.kind}.md`), markdown);
  say(`docs/${recorded.kind}.md and ${Object.keys(charts).length} charts written`);
}

await main();
// Children that would not end must not keep a finished run alive.
process.exit(0);
