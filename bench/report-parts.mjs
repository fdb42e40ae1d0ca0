// What both documents share.
import { figure, pick } from "./numbers.mjs";

/** Where, when, with what and how these figures were taken. */
export function preamble(recorded, { command, source }) {
  const { machine, versions } = recorded;
  const busy = Math.max(machine.load, recorded.loadAtEnd ?? 0);
  const lines = [
    `Recorded ${recorded.date.slice(0, 16).replace("T", " ")} UTC by \`${command}\`, mode **${recorded.mode}**; raw results: [\`${source}\`](../${source}).`,
    `Machine: ${machine.cpu}, ${machine.cores} cores shared by the server and the load generator, ${machine.memoryGb} GB, ${machine.kernel}; load average ${figure(machine.load)} before, ${figure(recorded.loadAtEnd)} after.`,
    `Versions: OpenClaw ${versions.openclaw}, Node ${versions.node}, ${versions.rustc ?? "rustc unknown"}, ${versions.wrk ?? "no wrk"}, this repository at ${versions.commit}.`,
    "",
  ];
  if (machine.load > machine.cores * 0.5) {
    lines.push(`> Other work was running (load average ${figure(busy)} on ${machine.cores} cores before the first measure): treat the absolute figures as pessimistic.`, "");
  }
  return lines;
}

export function table(head, rows) {
  const cell = (text) => String(text).replaceAll("|", "\\|").replaceAll("\n", " ");
  return [`| ${head.map(cell).join(" | ")} |`, `|${head.map(() => "---|").join("")}`, ...rows.map((row) => `| ${row.map(cell).join(" | ")} |`), ""];
}

/** Smallest to largest over the rounds. */
export function spread(rounds, keys) {
  const values = rounds.map((round) => pick(round, keys)).filter((value) => typeof value === "number");
  return values.length > 1 ? `${figure(Math.min(...values))} – ${figure(Math.max(...values))}` : "–";
}
