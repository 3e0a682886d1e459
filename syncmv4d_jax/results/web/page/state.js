// The page's data, what is shown of it, and who is told when that changes.

import {parse} from "./elements.js";

export const data = parse("summary");
export const evaluation = data.evaluation;
export const definitions = evaluation ? evaluation.definitions : {};
export const samples = data.samples;
export const ids = samples.map((_, i) => i);
export const names = samples.map(s => s.id);
const cache = new Map();
export const load = i => {
  if (!cache.has(i)) cache.set(i, parse(`sample-${i}`));
  return cache.get(i);
};

export const state = {
  at: 0,
  frame: 0,
  playing: false,
  since: 0,
  timer: 0,
  sample: null,
  videos: [],
  overlays: [],
  order: ids.slice(),
  speed: 1,
  sort: "",
  best: false,
  urls: [],
};

export function title(m) {
  const d = definitions[m];
  return (
    d.title +
    (d.unit ? ` [${d.unit}]` : "") +
    (d.better === "lower" ? "\u00a0↓" : d.better === "higher" ? "\u00a0↑" : "\u00a0→\u00a01")
  );
}

export function badness(m, x) {
  const better = definitions[m].better;
  return better === "lower" ? x : better === "higher" ? -x : Math.abs(x - better);
}

export function scoreOf(m, name) {
  // null where undefined, and for metrics of the whole set (FID)
  const cell = evaluation?.rows.model[m];
  const values = cell?.per_sample || {};
  return values[name] === undefined ? null : values[name];
}

export const choice = {mode: "none", point: -1, reference: 0};
// Who draws what has changed: start.js says it once, for "sample", "frame" and "choice".
const listeners = {};
export function on(what, functions) {
  listeners[what] = functions;
}

export function tell(what) {
  for (const draw of listeners[what]) draw();
}
