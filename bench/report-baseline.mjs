// docs/baseline.md and its charts, from one recorded baseline.
import { figure, median, medianOf } from "./numbers.mjs";
import { preamble, spread, table } from "./report-parts.mjs";
import { barChart } from "./svg.mjs";

/** `{markdown, charts: {name: svg}}`; charts are linked from `folder` beside the document. */
export function renderBaseline(recorded, { folder, source }) {
  const { baseline: data } = recorded;
  const lines = [
    "# Baseline: the original gateway",
    "",
    "What OpenClaw's own TypeScript gateway costs and how fast it answers, measured by the harness that measures ours",
    "(`docs/benchmarks.md`). Every ratio we publish is against figures taken the same way.",
    "",
    ...preamble(recorded, { command: `node bench/run.mjs --baseline${recorded.mode === "full" ? "" : ` --${recorded.mode}`}`, source }),
    `State: fresh directory, token auth, loopback, default plugins, ${data.turns.seededSessions} seeded sessions, one scripted`,
    "OpenAI-compatible model on loopback that answers at once. Memory and CPU are of the whole process tree (the gateway and",
    "the helpers it starts): RSS counts shared pages once per process, PSS shares them out; CPU in cores (1.0 = one core busy).",
    "",
  ];
  const charts = {};
  const chart = (name, options) => {
    charts[`${name}.svg`] = barChart(options);
    lines.push(`![${options.title}](${folder}/${name}.svg)`, "");
  };

  lines.push("## Throughput and latency", "", "50 connections, closed loop: each sends its next request when the answer to the last one arrived.", "");
  lines.push(...table(
    ["operation", "per second", "range", "p50 ms", "p99 ms", "max ms", "answer bytes", "CPU cores", "CPU ms per call", "tree RSS at most MB", "errors"],
    data.throughput.map(({ name, rounds }) => {
      const perSecond = medianOf(rounds, "perSecond");
      return [
        name, figure(perSecond), spread(rounds, "perSecond"), figure(medianOf(rounds, "latencyMs.p50")), figure(medianOf(rounds, "latencyMs.p99")),
        figure(medianOf(rounds, "latencyMs.max")), figure(medianOf(rounds, "responseBytes")), figure(medianOf(rounds, "cores")),
        figure((medianOf(rounds, "cores") / perSecond) * 1000), figure(Math.max(...rounds.map((round) => round.peakRssMb))),
        String(rounds.reduce((sum, round) => sum + round.errors.count, 0)),
      ];
    }),
  ));
  chart("throughput", {
    title: "Throughput of the original, 50 connections", unit: "answers per second", log: true,
    bars: data.throughput.map(({ name, rounds }) => bar(name, medianOf(rounds, "perSecond"), "/s")),
  });
  lines.push("<details><summary>Commands</summary>", "", ...data.throughput.map(({ name, command }) => `- ${name}: \`${command}\``), "", "</details>", "");

  const { turns } = data;
  lines.push("## Agent turns", "", "`agent` from request to final answer; nearly all of it is the gateway, since the model answers at once.", "");
  lines.push(...table(["measure", "value"], [
    ["first turn after start", `${figure(turns.firstMs)} ms`],
    [`${turns.sequentialMs.length} turns one after the other, median`, `${figure(median(turns.sequentialMs))} ms (${figure(Math.min(...turns.sequentialMs))} to ${figure(Math.max(...turns.sequentialMs))})`],
    ["CPU meanwhile", `${figure(turns.sequentialCores)} cores`],
    [`${turns.concurrentMs.length} turns at once in as many sessions, median`, `${figure(median(turns.concurrentMs))} ms`],
    ["throughput of those", `${figure(turns.concurrentPerSecond)} turns/s`],
    ["requests that reached the model", figure(turns.modelRequests)],
  ]));

  lines.push("## Start and stop", "");
  lines.push(...table(["start", "to `/healthz` 200, ms", "to `/readyz` 200, ms"], data.starts.map((start) => [`on ${start.state} state`, figure(start.healthzMs), figure(start.readyzMs)])));
  lines.push(`SIGTERM to exit, no client connected: ${figure(data.stopMs)} ms.`, "");

  lines.push("## Memory", "", `CPU while idle: ${figure(data.idleCores)} cores.`, "");
  lines.push(...table(["when", "RSS MB", "PSS MB", "processes"], data.memory.map((at) => [at.when, figure(at.rssMb), figure(at.pssMb), at.processes.map((one) => `${one.command} ${figure(one.rssMb)}`).join("; ")])));
  chart("memory", {
    title: "Memory of the original's process tree", unit: "RSS, MB",
    bars: data.memory.map((at) => bar(at.when, at.rssMb, " MB")),
  });

  const usable = data.operations.filter((one) => one.loaded.latencyMs.count > one.loaded.errors.count);
  const slow = usable.toSorted((a, b) => (b.loaded.latencyMs.p50 ?? 0) - (a.loaded.latencyMs.p50 ?? 0));
  lines.push("## Slowest operations under the same load", "", `${data.operations.length} reading methods, each alone (1 connection) and under the same 50 connections; sorted by p50 under load.`, "");
  lines.push(...table(
    ["method", "p50 ms, 50 conns", "p99 ms", "per second", "p50 ms, 1 conn", "answer bytes", "CPU cores", "answers", "errors"],
    slow.map(({ method, alone, loaded, cores }) => [
      `\`${method}\``, figure(loaded.latencyMs.p50), figure(loaded.latencyMs.p99), figure(loaded.perSecond), figure(alone.latencyMs.p50),
      figure(loaded.responseBytes), figure(cores), figure(loaded.latencyMs.count), String(loaded.errors.count),
    ]),
  ));
  const silent = data.operations.filter((one) => !usable.includes(one));
  for (const one of silent) {
    const why = one.loaded.errors.samples?.[0] ?? `no answer within ${figure(one.loaded.seconds)} s`;
    lines.push(`- \`${one.method}\`: no result under load (${why})`);
  }
  if (silent.length) lines.push("");
  chart("slowest", {
    title: "The 20 slowest reading operations, 50 connections", unit: "p50, ms", log: true,
    bars: slow.slice(0, 20).map(({ method, loaded }) => bar(method, loaded.latencyMs.p50, " ms")),
  });

  if (data.profiles.length) {
    lines.push("## Where the time goes", "", "Self time of the main thread under 50 connections, from the original's own `diagnostics.cpuProfile` (5 s, a sample every 10 ms).", "");
    for (const { method, top, error } of data.profiles) {
      lines.push(`### \`${method}\``, "");
      if (error) lines.push(error, "");
      else lines.push(...table(["function", "self time"], top.map(({ name, share }) => [`\`${name}\``, `${(share * 100).toFixed(1)} %`])));
    }
  }
  return { markdown: `${lines.join("\n").trimEnd()}\n`, charts };
}

function bar(label, value, unit) {
  return { label, value, text: `${figure(value)}${unit}`, kind: "original" };
}
