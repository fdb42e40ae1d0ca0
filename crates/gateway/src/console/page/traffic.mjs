// Calls by who answers them: now, and over the last minutes.
import { draw } from "./chart.mjs";
import { el, facts, find, say } from "./dom.mjs";
import { History, micros, perSecond } from "./figures.mjs";

const history = new History();
const SIDES = [
  { side: "native", list: "here", name: "here", class: "native" },
  { side: "upstream", list: "there", name: "OpenClaw", class: "theirs" },
];

for (const id of ["rate", "slow"]) {
  const caption = find(id).querySelector("figcaption");
  caption.append(el("span", { class: "key native" }, "— here"), el("span", { class: "key theirs" }, "-- OpenClaw"));
}

/** What the gateway saw before this page was opened, and before `untilMs`: it may have looked again since the page did. */
export function recall({ bootId, boundsUs, samples }, untilMs) {
  if (history.points.length > 0) return;
  for (const sample of samples) if (sample.nowMs < untilMs) history.push({ bootId, boundsUs, ...sample });
}

export function show(now, upstreamState) {
  history.push(now);
  const latest = history.latest;
  const isAlone = upstreamState === "off";
  for (const theirs of document.querySelectorAll("#traffic .theirs:not(path)")) theirs.hidden = isAlone;
  for (const { side, list } of SIDES) {
    const figures = latest?.[side];
    const none = figures && figures.rate === 0;
    facts(find(list), [
      ["calls/s", figures ? perSecond(figures.rate) : "…"],
      ["failed/s", figures ? perSecond(figures.failed) : "…"],
      ["p50", figures && !none ? `≤ ${micros(figures.p50)}` : "–"],
      ["p99", figures && !none ? `≤ ${micros(figures.p99)}` : "–"],
    ]);
  }
  const behind = isAlone ? "No OpenClaw is configured: every call is answered here." : "";
  const clients = now.connections === 1 ? "1 client is connected" : `${now.connections} clients are connected`;
  say("traffic-words", `${clients}. ${behind}`.trim());
  const sides = isAlone ? SIDES.slice(0, 1) : SIDES;
  const of = (what) => sides.map(({ side, name, class: kind }) => ({ name, class: kind, points: history.points.map((point) => [point.at, point[side][what]]) }));
  draw(find("rate"), of("rate"), { nowMs: now.nowMs, format: (value) => (value === null ? "none" : String(Number(value.toPrecision(2)))) });
  draw(find("slow"), of("p99"), { nowMs: now.nowMs, format: (value) => (value === null ? "no calls" : micros(value)), isLog: true });
}
