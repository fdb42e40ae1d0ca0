// A small graph of the last minutes: one line for each side.
import { SPAN_MS } from "./figures.mjs";

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 150;
const EDGE = { left: 52, right: 8, top: 8, bottom: 20 };
/** A longer silence between two points is a gap. */
const GAP_MS = 12_000;

function node(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

/** The least of 1, 2, 5, 10, 20, … that is not below `value`. */
function round(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value * 0.999);
}

/** From a value to its height (0 at the bottom, 1 at the top), and the values that get a line. */
function scale(values, isLog) {
  if (!isLog) {
    const top = round(Math.max(1, ...values));
    return { height: (value) => value / top, marks: [0, top / 2, top] };
  }
  const low = Math.floor(Math.log10(Math.min(...values, 1000)));
  const high = Math.max(low + 1, Math.ceil(Math.log10(Math.max(...values, 1000))));
  const marks = [];
  for (let power = low; power <= high; power += Math.max(1, Math.round((high - low) / 3))) marks.push(10 ** power);
  return { height: (value) => (Math.log10(value) - low) / (high - low), marks };
}

/** `lines`: `{name, class, points: [[atMs, value or null]]}`. */
export function draw(figure, lines, { nowMs, format, isLog = false }) {
  const values = lines.flatMap((line) => line.points.map(([, value]) => value).filter((value) => value !== null));
  const width = Math.max(220, Math.round(figure.clientWidth) - 34);
  const inner = { width: width - EDGE.left - EDGE.right, height: HEIGHT - EDGE.top - EDGE.bottom };
  const { height, marks } = scale(values, isLog);
  const x = (atMs) => EDGE.left + inner.width * (1 - (nowMs - atMs) / SPAN_MS);
  const y = (value) => EDGE.top + inner.height * (1 - height(value));
  const last = lines.map((line) => `${line.name} ${format(line.points.at(-1)?.[1] ?? null)}`).join(", ");
  const svg = node("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": `${figure.firstElementChild.textContent} over the last five minutes; now: ${last}` });
  for (const mark of marks) {
    svg.append(node("line", { x1: EDGE.left, x2: width - EDGE.right, y1: y(mark), y2: y(mark) }));
    svg.append(node("text", { x: EDGE.left - 6, y: y(mark) + 4, "text-anchor": "end" }, format(mark)));
  }
  svg.append(node("text", { x: EDGE.left, y: HEIGHT - 4 }, "5 min ago"));
  svg.append(node("text", { x: width - EDGE.right, y: HEIGHT - 4, "text-anchor": "end" }, "now"));
  for (const line of lines) {
    let path = "";
    let before = null;
    for (const [atMs, value] of line.points) {
      if (value === null) {
        before = null;
        continue;
      }
      const joined = before !== null && atMs - before <= GAP_MS;
      // A single point is a short line, so that it is seen.
      path += `${joined ? "L" : `M${(x(atMs) - 1).toFixed(1)} ${y(value).toFixed(1)}L`}${x(atMs).toFixed(1)} ${y(value).toFixed(1)}`;
      before = atMs;
    }
    svg.append(node("path", { class: line.class, d: path }));
  }
  figure.querySelector("svg")?.remove();
  figure.append(svg);
}
