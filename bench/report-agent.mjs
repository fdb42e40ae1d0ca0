// docs/agent-benchmarks.md from the lines of `make bench-agent`.
import { figure, medianOf, times } from "./numbers.mjs";
import { preamble, spread, table } from "./report-parts.mjs";

const SIDES = { ours: "ours", original: "the original", direct: "the model, without a gateway" };

export function agentReport(text, source) {
  const rows = text.trim().split("\n").map((line) => JSON.parse(line));
  const of = (kind, side) => rows.filter((row) => row.kind === kind && row.side === side && !row.error);
  const conditions = rows.find(({ kind }) => kind === "conditions");
  const recorded = { ...conditions, loadAtEnd: rows.at(-1).load };
  const filled = Object.fromEntries(["ours", "original"].map((side) => [side, of("filled", side)[0]]));
  const borne = bears(of("streams", "original"));
  const checks = targets({ of, filled, borne });
  const missed = checks.filter(({ ok }) => ok === false);
  const flags = { full: "", quick: " ARGS=--quick", smoke: " ARGS=--smoke" }[conditions.mode];
  return `${[
    "# Agents that run here, beside the original",
    "",
    "An agent of our gateway without any TypeScript and the same agent in OpenClaw, in turn, with the same scripted model: one that",
    "answers at once, and one of 20 tokens a second. The code is `crates/gateway/src/assistant`, the harness `bench/agent.mjs`.",
    "",
    ...preamble(recorded, { command: `make bench-agent${flags}`, source }),
    `A durable write of 4 KiB took ${figure(conditions.fsyncMs.p50)} ms here at p50 and ${figure(conditions.fsyncMs.p99)} ms at p99; a message that is accepted waits for one.`,
    "",
    "## Targets",
    "",
    `${checks.length - missed.length} of ${checks.length} met. Figures are medians of the rounds; × is the original's figure over ours, or ours over it where more is better.`,
    "",
    ...table(["measure", "ours", "the original", "×", "target", ""], checks.map(({ what, ours, original, ratio, target, unit, note, ok }) => [
      what, written(ours, unit), original === null ? "–" : `${written(original, unit)}${note ? ` (${note})` : ""}`, times(ratio), target, ok === undefined ? "" : ok ? "met" : "**missed**",
    ])),
    ...firstTokens(of),
    ...throughput(of),
    ...streaming(of),
    ...lists(of, filled),
    ...memory(rows),
    ...failures(rows),
  ].join("\n").trimEnd()}\n`;
}

function written(value, unit) {
  return value === null || value === undefined ? "–" : `${figure(value)} ${unit}`;
}

/** The largest number of streams that all ended with all their tokens; else the largest that was tried. */
function bears(rows) {
  const whole = rows.filter(({ streams, arrived, failed, lost }) => arrived === streams && !failed && !lost);
  return (whole.length ? whole : rows).toSorted((a, b) => b.streams - a.streams)[0];
}

function targets({ of, filled, borne }) {
  const pair = (kind, keys) => [medianOf(of(kind, "ours"), keys), medianOf(of(kind, "original"), keys)];
  const most = (what, [ours, original], limit, unit = "ms", { strict = false, note } = {}) => ({
    what, ours, original, unit, note, ratio: ours && original ? original / ours : null,
    target: `${strict ? "<" : "≤"} ${limit} ${unit}`, ok: typeof ours !== "number" ? undefined : strict ? ours < limit : ours <= limit,
  });
  const [ourRate, theirRate] = pair("turns", "perSecond");
  const ratio = ourRate && theirRate ? ourRate / theirRate : null;
  const idle = (side) => Math.max(...of("memory", side).filter(({ when }) => when !== "at the end").map(({ rssMb }) => rssMb));
  const streams = of("streams", "ours");
  const held = (key) => (filled.original ? `with ${figure(filled.original[key].done)}` : undefined);
  const few = borne && borne.streams !== streams[0]?.streams ? `${borne.streams} at once` : undefined;
  return [
    most("added time to first token, instant model, p50", pair("first", "added.p50"), 3),
    most("the same, p99", pair("first", "added.p99"), 10),
    most("added time to first token, 20 tokens/s, p50", pair("paced", "added.p50"), 3),
    most("the same, p99", pair("paced", "added.p99"), 10),
    { what: "turns per second, 50 sessions, instant model", ours: ourRate, original: theirRate, unit: "/s", ratio, target: "≥ 50×", ok: ratio === null ? undefined : ratio >= 50 },
    most(`a token to the client, ${streams[0]?.streams ?? 200} streams at 20 tokens/s, p99`, [medianOf(streams, "ms.p99"), borne?.ms.p99 ?? null], 5, "ms", { note: few }),
    most("resident memory meanwhile, at most", [streams.length ? Math.max(...streams.map(({ peakRssMb }) => peakRssMb)) : null, borne?.peakRssMb ?? null], 50, "MB", { strict: true, note: few }),
    most(`\`chat.startup\`, ${figure(filled.ours?.messages.done)} messages, p99`, pair("startup", "ms.p99"), 20, "ms", { strict: true, note: held("messages") }),
    most(`\`sessions.list\`, ${figure(filled.ours?.sessions.done)} sessions, p99`, pair("list", "ms.p99"), 10, "ms", { strict: true, note: held("sessions") }),
    most("resident memory of the whole assistant, idle", [idle("ours"), idle("original")], 20, "MB"),
  ];
}

/** Rows of a table, one for each side that was measured. */
function each(of, kind, cells, sides = Object.keys(SIDES)) {
  return sides.flatMap((side) => {
    const rounds = of(kind, side);
    return rounds.length ? [[SIDES[side], ...cells(rounds)]] : [];
  });
}

function firstTokens(of) {
  const cells = (rounds) => [
    String(rounds.reduce((sum, { added }) => sum + added.count, 0)), figure(medianOf(rounds, "added.p50")), spread(rounds, "added.p50"), figure(medianOf(rounds, "added.p99")), spread(rounds, "added.p99"),
    figure(medianOf(rounds, "up.p50")), figure(medianOf(rounds, "down.p50")), figure(medianOf(rounds, "end.p50")),
  ];
  const head = ["", "turns", "added p50 ms", "over the rounds", "added p99 ms", "over the rounds", "to the model p50", "back p50", "last token to `final` p50"];
  const cold = (side) => figure(of("cold", side)[0]?.added.p50);
  return [
    "## Time to first token",
    "",
    "From `chat.send` at the client to the first `chat` delta, less what passed in the model between the whole request and its first",
    "token; turns one after the other, ten in a session. *To the model*: until it has the request; *back*: from its first token to",
    `the client. The very first turn of a started gateway: ours ${cold("ours")} ms, the original ${cold("original")} ms.`,
    "",
    "Instant model:",
    "",
    ...table(head, each(of, "first", cells)),
    "20 tokens/s:",
    "",
    ...table(head, each(of, "paced", cells)),
    ...(of("first, long", "ours").length ? ["In the conversation with the most messages (see below), instant model; the model is shown as much of it as fits:", "", ...table(head, each(of, "first, long", cells))] : []),
  ];
}

function throughput(of) {
  return [
    "## Turns per second",
    "",
    "50 sessions at once over one connection; each begins its next turn when one has ended. An answer has eight tokens.",
    "",
    ...table(["", "turns a round", "per second", "over the rounds", "a turn p50 ms", "p99 ms", "server CPU cores", "server CPU ms a turn"], each(of, "turns", (rounds) => [
      String(rounds[0].turns), figure(medianOf(rounds, "perSecond")), spread(rounds, "perSecond"), figure(medianOf(rounds, "ms.p50")), figure(medianOf(rounds, "ms.p99")),
      figure(medianOf(rounds, "cores")), figure((medianOf(rounds, "cores") / medianOf(rounds, "perSecond")) * 1000),
    ])),
  ];
}

function streaming(of) {
  const line = (label, { streams, arrived, failed, lost, ms, deltasPerToken, gatheredMs, peakRssMb, cores }) => [
    label, String(streams), String(arrived), String(failed), String(lost), figure(ms.p50), figure(ms.p99), figure(ms.max), figure(deltasPerToken), figure(gatheredMs), figure(peakRssMb), figure(cores),
  ];
  const rounds = ["ours", "original", "direct"].flatMap((side) => of("streams", side).map((row) => line(SIDES[side], row)));
  return [
    "## Streams at once",
    "",
    "All runs are begun, the model holds its answers until it has been asked by all, then each streams at 20 tokens/s, the first tokens",
    "spread over 50 ms. A token's time is from the model's write to the first event at the client whose text contains it: pieces may",
    "be joined on the way, and one that waits to be joined counts as late as it is. One client sees all runs. Of the original, the most that",
    "it bears was looked for; *asked* is how many of its runs asked the model in time.",
    "",
    ...table(["", "streams", "asked", "failed", "tokens lost", "a token p50 ms", "p99 ms", "worst ms", "events per token", "until all had asked ms", "RSS at most MB", "CPU cores"], rounds),
  ];
}

function lists(of, filled) {
  if (!filled.ours) return [];
  const content = ({ by, messages, sessions }) => `${figure(messages.done)} messages in ${figure(messages.seconds)} s, ${figure(sessions.done)} sessions in ${figure(sessions.seconds)} s, by ${by}`;
  const cells = (rounds) => [String(rounds.reduce((sum, { ms }) => sum + ms.count, 0)), figure(medianOf(rounds, "ms.p50")), figure(medianOf(rounds, "ms.p99")), figure(medianOf(rounds, "ms.max")), figure(medianOf(rounds, "firstMs"))];
  const head = ["", "calls", "p50 ms", "p99 ms", "worst ms", "first call ms"];
  return [
    "## Long conversations, many sessions",
    "",
    `Ours was filled with ${content(filled.ours)}; the original with ${content(filled.original)}. The calls are as the Control UI makes them:`,
    "one page of the newest, sessions with their last message. One after the other.",
    "",
    "`chat.startup`:",
    "",
    ...table(head, each(of, "startup", cells)),
    "`sessions.list`:",
    "",
    ...table(head, each(of, "list", cells)),
  ];
}

function memory(rows) {
  const all = rows.filter(({ kind }) => kind === "memory");
  return [
    "## Memory",
    "",
    "Ours is one process; of the original all of its processes.",
    "",
    ...table(["", "when", "processes", "RSS MB", "PSS MB"], all.map(({ side, when, processes, rssMb, pssMb }) => [SIDES[side], when, String(processes), figure(rssMb), figure(pssMb)])),
  ];
}

function failures(rows) {
  const failed = rows.filter(({ error }) => error);
  if (!failed.length) return [];
  return ["## What the original did not bear", "", ...table(["measure", "round", "error"], failed.map(({ kind, round, error }) => [kind, String(round + 1), error]))];
}
