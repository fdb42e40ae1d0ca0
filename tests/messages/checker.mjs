// Judges a run by what senders were told and what the receiver logged: content and order, never by ids of ours.

/**
 * `accepted`: `{lane, n, text}` that was answered with 2xx, `n` ascending within a lane in the order of sending.
 * `offered`: texts that were sent at all. `received`: `{lane, text}` in the order of arrival.
 * `excused`: texts that may be missing or come twice (held in doubt, or sent again from doubt).
 * Answers what is wrong, in words; empty: nothing.
 */
export function judge({ accepted, offered, received, excused = new Set() }) {
  const wrong = [];
  const arrivals = new Map();
  for (const [at, entry] of received.entries()) {
    const key = `${entry.lane}\n${entry.text}`;
    if (!offered.has(key)) wrong.push(`altered or foreign: ${JSON.stringify(entry.text.slice(0, 80))} in ${entry.lane} was never sent`);
    if (!arrivals.has(key)) arrivals.set(key, []);
    arrivals.get(key).push(at);
  }
  const lanes = new Map();
  for (const message of accepted) {
    const key = `${message.lane}\n${message.text}`;
    const at = arrivals.get(key);
    if (!at && !excused.has(key)) wrong.push(`lost: ${message.lane} number ${message.n} was accepted and never arrived`);
    if (!at) continue;
    if (!lanes.has(message.lane)) lanes.set(message.lane, []);
    if (!excused.has(key)) lanes.get(message.lane).push({ n: message.n, at: at[0] });
  }
  for (const [key, at] of arrivals) {
    if (at.length > 1 && !excused.has(key)) wrong.push(`repeated: ${JSON.stringify(key.slice(0, 80))} arrived ${at.length} times`);
  }
  for (const [lane, list] of lanes) {
    list.sort((a, b) => a.n - b.n);
    for (let i = 1; i < list.length; i++) {
      if (list[i].at < list[i - 1].at) wrong.push(`order: ${lane} number ${list[i].n} arrived before number ${list[i - 1].n}`);
    }
  }
  return wrong;
}

export const keyOf = (lane, text) => `${lane}\n${text}`;

/** A repeatable source of numbers in 0..1 (mulberry32). */
export function random(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}
