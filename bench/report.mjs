// docs/benchmarks.md and its charts, from one recorded run.
import { figure, median, medianOf, percent, times } from "./numbers.mjs";
import { preamble, spread, table } from "./report-parts.mjs";
import { barChart } from "./svg.mjs";

/** `{markdown, charts: {name: svg}}`; charts are linked from `folder` beside the document. `others`: runs of other days, `{source, recorded}`. */
export function renderBenchmarks(recorded, { folder, source, others = [] }) {
  const { measures } = recorded;
  const checks = measures.flatMap((measure) => measure.checks.map((check) => ({ measure, ...check })));
  const missed = checks.filter((check) => !check.ok);
  const lines = [
    "# Benchmarks",
    "",
    "Our gateway, the original one and bare peers under the same load in one run, in turn. The original alone, with its",
    "slowest operations, is in [baseline.md](baseline.md).",
    "",
    ...preamble(recorded, { command: `node bench/run.mjs${recorded.mode === "full" ? "" : ` --${recorded.mode}`}`, source }),
    "## Targets",
    "",
    `${checks.length - missed.length} of ${checks.length} met.`,
    "",
    ...table(["measure", "figure", "measured", "target", ""], checks.map((check) => [
      check.measure.title, check.what, written(check.value, check.unit), `${{ ">=": "≥", "<=": "≤", "<": "<" }[check.compare]} ${written(check.target, check.unit)}`, check.ok ? "met" : "**missed**",
    ])),
    ...limits(measures, missed),
    ...otherRuns(others),
  ];
  const charts = {};
  const chart = (name, options) => {
    charts[`${name}.svg`] = barChart(options);
    lines.push(`![${options.title.replaceAll("`", "")}](${folder}/${name}.svg)`, "");
  };
  for (const measure of measures) {
    lines.push(`## ${measure.title}`, "", `\`${measure.command}\``, "", `Load average before: ${figure(measure.load)}.`, "");
    if (measure.throughput) throughput(measure, lines, chart);
    if (measure.rounds) bridged(measure, lines, chart);
    if (measure.fanout) fanout(measure, lines, chart);
    if (measure.starts) starts(measure, lines, chart);
    if (measure.memory) memory(measure, lines, chart);
    if (measure.facts) lines.push(...table(["fact", "value"], Object.entries(measure.facts).map(([name, value]) => [name, figure(value)])));
    if (measure.stops) stops(measure, lines, chart);
  }
  return { markdown: `${lines.join("\n").trimEnd()}\n`, charts };
}

/** What stands in the way of a missed ratio to the original: how far from it a program that does nothing else comes on this machine. */
function limits(measures, missed) {
  const rate = (rows, kind) => medianOf(rows?.find((row) => row.kind === kind)?.rounds ?? [], "perSecond");
  const bare = (measure) => measure.throughput?.find((row) => row.kind === "peer");
  const lines = missed.filter((check) => check.what === "against the original").map(({ measure, target }) => {
    // Where a measure has no peer of its own, the bare WebSocket stands for it; its messages are the smallest there are.
    const of = bare(measure) ? measure : measures.find((other) => /WebSocket echo/.test(bare(other)?.label ?? ""));
    if (!of) return undefined;
    const reach = rate(of.throughput, "peer") / rate(measure.throughput, "original");
    const microseconds = (row) => figure((medianOf(row.rounds, "cores") / medianOf(row.rounds, "perSecond")) * 1e6);
    const own = measure.throughput.find((row) => row.kind === "ours");
    return `- ${measure.title}: ${bare(of).label} reaches ${times(reach)} on this machine, with ${microseconds(bare(of))} µs of CPU for a call; ours takes ${microseconds(own)}.${reach < target ? " The target is beyond the machine's sockets." : ""}`;
  }).filter(Boolean);
  return lines.length ? ["Of what was missed, the limit beside it:", "", ...lines, ""] : [];
}

function otherRuns(others) {
  if (!others.length) return [];
  return ["Other machines differ, the original more than we do:", "", ...table(["recorded", "machine", "met", "missed"], others.map(({ source, recorded }) => {
    const checks = recorded.measures.flatMap((measure) => measure.checks.map((check) => ({ measure, ...check })));
    const missed = checks.filter((check) => !check.ok);
    return [
      `[${recorded.date.slice(0, 10)}](../${source})`, recorded.machine.cpu, `${checks.length - missed.length} of ${checks.length}`,
      missed.map((check) => `${check.measure.title}, ${check.what}: ${written(check.value, check.unit)}`).join("; ") || "–",
    ];
  }))];
}

function written(value, unit) {
  if (unit === "×") return times(value);
  if (unit === "share") return percent(value);
  return `${figure(value)} ${unit}`;
}

function throughput(measure, lines, chart) {
  const ours = medianOf(measure.throughput[0].rounds, "perSecond");
  lines.push(...table(
    ["", "per second (median)", "range", "p50 ms", "p99 ms", "server CPU cores", "server CPU µs per call", "errors", "ours ÷ this"],
    measure.throughput.map(({ label, rounds }) => {
      const perSecond = medianOf(rounds, "perSecond");
      return [
        label, figure(perSecond), spread(rounds, "perSecond"), figure(medianOf(rounds, "latencyMs.p50")), figure(medianOf(rounds, "latencyMs.p99")),
        figure(medianOf(rounds, "cores")), figure((medianOf(rounds, "cores") / perSecond) * 1e6), String(rounds.reduce((sum, round) => sum + (round.errors?.count ?? round.refused ?? 0), 0)), times(ours / perSecond),
      ];
    }),
  ));
  chart(measure.name, {
    title: plain(measure.title), unit: `answers per second, median of ${measure.throughput[0].rounds.length} rounds`,
    bars: measure.throughput.map(({ kind, label, rounds }) => ({ kind, label, value: medianOf(rounds, "perSecond"), text: `${figure(medianOf(rounds, "perSecond"))}/s · p99 ${figure(medianOf(rounds, "latencyMs.p99"))} ms` })),
  });
}

function bridged(measure, lines, chart) {
  const bars = [];
  const rows = [];
  for (const [name, keys] of [["p50", "latencyMs.p50"], ["p90", "latencyMs.p90"], ["p99", "latencyMs.p99"]]) {
    const [direct, through] = [medianOf(measure.rounds, `direct.${keys}`), medianOf(measure.rounds, `through.${keys}`)];
    const added = median(measure.rounds.map((round) => keys.split(".").reduce((value, key) => value[key], round.through) - keys.split(".").reduce((value, key) => value[key], round.direct)));
    rows.push([name, figure(direct), figure(through), figure(added)]);
    bars.push({ kind: "original", label: `direct, ${name}`, value: direct, text: `${figure(direct)} ms` }, { kind: "ours", label: `through us, ${name}`, value: through, text: `${figure(through)} ms` });
  }
  lines.push(...table(["", "direct ms", "through us ms", "added ms (median of the rounds' differences)"], rows));
  lines.push(
    "Latency counts from the moment each call was due, so a stall shows in all that it delays. Both ways are asked within each slot of 5 ms, so that",
    `they meet the same original. The generator itself was late by ${figure(medianOf(measure.rounds, "sentLateMs.p50"))} ms at p50 and ${figure(medianOf(measure.rounds, "sentLateMs.p99"))} ms at p99 (in both ways alike); our process used ${figure(medianOf(measure.rounds, "cores"))} cores.`,
    "",
  );
  chart(measure.name, { title: plain(measure.title), unit: "ms", bars });
}

function fanout(measure, lines, chart) {
  lines.push(...table(
    ["", "event", "rounds", "bytes", "first client ms", "last client ms", "first to last ms (median)", "worst", "last after the event's time stamp ms"],
    measure.fanout.map(({ label, event, rounds }) => [
      label, event, String(rounds.length), figure(rounds.at(-1).bytes), event === "tick" ? "–" : figure(medianOf(rounds, "firstMs")), event === "tick" ? "–" : figure(medianOf(rounds, "lastMs")),
      figure(medianOf(rounds, "spreadMs")), figure(Math.max(...rounds.map((round) => round.spreadMs))), figure(medianOf(rounds, "lastSinceTsMs")),
    ]),
  ));
  lines.push("First and last count from the cause: a UI client starts to connect. Ours gathers presence changes for up to a second, so what is held to the target is the spread.", "");
  chart(measure.name, {
    title: plain(measure.title), unit: "first to last client, ms, median", target: { value: 20, text: "target 20 ms" },
    bars: measure.fanout.map(({ kind, label, event, rounds }) => ({ kind, label: `${label}, ${event.split(",")[0]}`, value: medianOf(rounds, "spreadMs"), text: `${figure(medianOf(rounds, "spreadMs"))} ms` })),
  });
}

function starts(measure, lines, chart) {
  const largest = (rows, key) => Math.max(...rows.map((row) => row[key]));
  lines.push(...table(
    ["", "starts", "`/healthz` 200 ms (median)", "`/readyz` 200 ms (median)", "worst"],
    measure.starts.map(({ label, starts: rows }) => [label, String(rows.length), figure(medianOf(rows, "healthzMs")), figure(medianOf(rows, "readyzMs")), figure(largest(rows, "readyzMs"))]),
  ));
  chart(measure.name, {
    title: plain(measure.title), unit: "ms, median", log: true,
    bars: measure.starts.map(({ kind, label, starts: rows }) => ({ kind, label, value: medianOf(rows, "readyzMs"), text: `${figure(medianOf(rows, "readyzMs"))} ms` })),
  });
}

function memory(measure, lines, chart) {
  lines.push(...table(["", "RSS MB", "PSS MB", "all connected after s"], measure.memory.map((row) => [row.label, figure(row.rssMb), figure(row.pssMb), figure(row.connectSeconds)])));
  chart(measure.name, {
    title: plain(measure.title), unit: "RSS, MB", log: true,
    bars: measure.memory.map(({ kind, label, rssMb }) => ({ kind, label, value: rssMb, text: `${figure(rssMb)} MB` })),
  });
}

function stops(measure, lines, chart) {
  const tally = (counts) => Object.entries(counts).map(([name, count]) => `${count} × ${name}`).join(", ") || "–";
  lines.push(...table(
    ["", "exit ms", "whole tree gone ms", "exit code", "`shutdown` events", "closes", "answers to calls in flight"],
    measure.stops.map(({ label, exitMs, goneMs, exit, ended }) => [label, figure(exitMs), figure(goneMs), String(exit), String(ended.events.shutdown ?? 0), tally(ended.closes), tally(ended.answers)]),
  ));
  const labels = [...new Set(measure.stops.map(({ label }) => label))];
  chart(measure.name, {
    title: plain(measure.title), unit: "ms until the whole process tree is gone, worst",
    bars: labels.map((label) => {
      const rows = measure.stops.filter((row) => row.label === label);
      const value = Math.max(...rows.map((row) => row.goneMs));
      return { kind: rows[0].kind, label: plain(label), value, text: `${figure(value)} ms` };
    }),
  });
}

function plain(text) {
  return text.replaceAll("`", "");
}
