"use strict";
// From a chain of turns, cuts and a box to one cut and one size. All of them are linear, so they become a single
// resampling. How sides are rounded and where a cut lies is as sharp does it: `ResolveShrink` and `CalculateCrop`.
const { MediaError } = require("./errors.cjs");

/** Orientation as: transpose, then mirror across, then mirror down. The place in the list is EXIF's value less 1. */
const ORIENTATIONS = [
  [0, 0, 0], [0, 1, 0], [0, 1, 1], [0, 0, 1], [1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 0, 1],
];

function exif([swap, x, y]) {
  return 1 + ORIENTATIONS.findIndex((other) => other[0] === swap && other[1] === x && other[2] === y);
}

/** A quarter turn clockwise is a transposition and a mirroring across. */
function turned([swap, x, y], quarters) {
  let state = [swap, x, y];
  for (let i = 0; i < quarters; i++) state = [state[0] ^ 1, state[2] ^ 1, state[1]];
  return state;
}

/** `facts` of the file and the chain's state → options of the engine. */
function geometry(facts, { oriented, angle = 0, rotatesFirst = false, flip, flop, resize, extractBefore, extractAfter }) {
  let orientation = ORIENTATIONS[(oriented ? facts.orientation : 1) - 1];
  const quarters = angle / 90;
  if (rotatesFirst) orientation = turned(orientation, quarters);
  const [whole, other] = orientation[0] ? [facts.height, facts.width] : [facts.width, facts.height];

  // The part of the upright image that is kept, and the size it becomes.
  let part = { left: 0, top: 0, width: whole, height: other };
  if (extractBefore) part = within(extractBefore, part);
  let size = { width: part.width, height: part.height };
  if (resize && (resize.width || resize.height)) ({ part, size } = boxed(part, resize));
  if (extractAfter) {
    const kept = within(extractAfter, { left: 0, top: 0, ...size });
    part = inside(part, size, kept);
    size = { width: kept.width, height: kept.height };
  }

  let frame = { width: whole, height: other };
  const mirror = (across) => {
    orientation = across ? [orientation[0], orientation[1] ^ 1, orientation[2]] : [orientation[0], orientation[1], orientation[2] ^ 1];
    part = across ? { ...part, left: frame.width - part.left - part.width } : { ...part, top: frame.height - part.top - part.height };
  };
  if (flip) mirror(false);
  if (flop) mirror(true);
  for (let i = 0; i < (rotatesFirst ? 0 : quarters); i++) {
    orientation = turned(orientation, 1);
    part = { left: frame.height - part.top - part.height, top: part.left, width: part.height, height: part.width };
    frame = { width: frame.height, height: frame.width };
    size = { width: size.height, height: size.width };
  }
  // Not below 0 by a rounding error.
  part = { ...part, left: Math.max(0, part.left), top: Math.max(0, part.top) };
  return { crop: part, maxWidth: size.width, maxHeight: size.height, fit: "exact", orientation: exif(orientation) };
}

function within(area, { left, top, width, height }) {
  if (area.left + area.width > width || area.top + area.height > height) {
    throw new MediaError("extract_area: bad extract area", { code: "options" });
  }
  return { left: left + area.left, top: top + area.top, width: area.width, height: area.height };
}

/** The part of `part` that `kept` is, once `part` has become `size`. */
function inside(part, size, kept) {
  const [x, y] = [part.width / size.width, part.height / size.height];
  return { left: part.left + kept.left * x, top: part.top + kept.top * y, width: kept.width * x, height: kept.height * y };
}

function boxed(part, { width, height, fit, position, withoutEnlargement }) {
  const both = width && height;
  let [x, y] = [width ? part.width / width : 1, height ? part.height / height : 1];
  if (both && fit !== "fill") {
    x = y = fit === "inside" ? Math.max(x, y) : Math.min(x, y);
  } else if (!both && fit !== "fill") {
    x = y = width ? x : y;
  }
  if (withoutEnlargement) [x, y] = [Math.max(1, x), Math.max(1, y)];
  // No side becomes nothing.
  [x, y] = [Math.min(x, part.width), Math.min(y, part.height)];
  const size = { width: Math.max(1, Math.round(part.width / x)), height: Math.max(1, Math.round(part.height / y)) };
  if (!both || fit !== "cover") return { part, size };
  const kept = { width: Math.min(width, size.width), height: Math.min(height, size.height) };
  const place = (room, where) => (where < 0 ? 0 : where > 0 ? room : Math.floor((room + 1) / 2));
  kept.left = place(size.width - kept.width, position[0]);
  kept.top = place(size.height - kept.height, position[1]);
  return { part: inside(part, size, kept), size: { width: kept.width, height: kept.height } };
}

module.exports = { geometry };
