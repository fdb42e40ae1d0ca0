// Bar charts as plain SVG: readable on light and dark pages, no script, no font download.

const WIDTH = 760;
const ROW = 30;
const COLOURS = { ours: "#0f766e", original: "#b45309", peer: "#64748b", bad: "#b91c1c" };
const FONT = "font-family='system-ui,-apple-system,Segoe UI,Helvetica,Arial,sans-serif'";

function escape(text) {
  return String(text).replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}

/**
 * Horizontal bars. `bars`: `{label, value, text, kind: "ours"|"original"|"peer"}`; `target`: `{value, text}` draws a
 * line. `log` uses a logarithmic axis (said on the chart).
 */
export function barChart({ title, unit, bars, target = null, log = false }) {
  const known = bars.filter((bar) => typeof bar.value === "number");
  const largest = Math.max(...known.map((bar) => bar.value), target?.value ?? 0, Number.MIN_VALUE);
  const smallest = Math.min(...known.map((bar) => bar.value).filter((value) => value > 0), largest);
  const left = Math.min(300, 24 + Math.max(...bars.map((bar) => bar.label.length)) * 7.4);
  const right = 150;
  const span = WIDTH - left - right;
  // A decade below the smallest, so that no bar has no length.
  const floor = Math.log10(smallest) - 0.5;
  const length = (value) => {
    if (!(value > 0)) return 0;
    return log ? ((Math.log10(value) - floor) / (Math.log10(largest) - floor || 1)) * span : (value / largest) * span;
  };
  const top = 58;
  const height = top + bars.length * ROW + (target ? 34 : 14);
  const lines = [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" width="${WIDTH}" height="${height}" role="img" aria-label="${escape(title)}">`,
    `<rect width="100%" height="100%" rx="8" fill="#ffffff" stroke="#e2e8f0"/>`,
    `<text x="16" y="28" font-size="16" font-weight="600" fill="#0f172a" ${FONT}>${escape(title)}</text>`,
    `<text x="16" y="46" font-size="12" fill="#475569" ${FONT}>${escape(unit)}${log ? ", logarithmic scale" : ""}</text>`,
  ];
  bars.forEach((bar, index) => {
    const y = top + index * ROW;
    const width = Math.max(typeof bar.value === "number" ? 2 : 0, length(bar.value));
    lines.push(
      `<text x="${left - 8}" y="${y + 18}" font-size="13" fill="#0f172a" text-anchor="end" ${FONT}>${escape(bar.label)}</text>`,
      `<rect x="${left}" y="${y + 4}" width="${width.toFixed(1)}" height="20" rx="3" fill="${COLOURS[bar.kind] ?? COLOURS.peer}"/>`,
      `<text x="${(left + width + 6).toFixed(1)}" y="${y + 18}" font-size="13" fill="#0f172a" ${FONT}>${escape(bar.text)}</text>`,
    );
  });
  if (target) {
    const x = (left + length(target.value)).toFixed(1);
    const bottom = top + bars.length * ROW + 4;
    lines.push(
      `<line x1="${x}" x2="${x}" y1="${top - 4}" y2="${bottom}" stroke="${COLOURS.bad}" stroke-width="1.5" stroke-dasharray="5 4"/>`,
      `<text x="${x}" y="${bottom + 16}" font-size="12" fill="${COLOURS.bad}" text-anchor="${Number(x) > WIDTH - 180 ? "end" : "middle"}" ${FONT}>${escape(target.text)}</text>`,
    );
  }
  lines.push("</svg>", "");
  return lines.join("\n");
}
