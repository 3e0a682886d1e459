// A sample's points: unpacked from int16, their places, errors and the colours of errors.

import {state} from "./state.js";

const decode = text => {
  const bytes = Uint8Array.from(atob(text), c => c.charCodeAt(0));
  return new Int16Array(bytes.buffer);
};

export function point(scene, key, frame, k) {
  const i = 3 * (frame * scene[`${key}Count`] + k);
  const p = scene[key];
  return p[i] === -32768 ? null : [p[i] * scene.unit, p[i + 1] * scene.unit, p[i + 2] * scene.unit];
}

const HEAT = [
  [44, 123, 182],
  [171, 217, 233],
  [255, 255, 191],
  [253, 174, 97],
  [215, 25, 28],
];
export function heat(x) {
  const at = Math.max(0, Math.min(0.9999, x)) * (HEAT.length - 1);
  const i = Math.floor(at);
  return HEAT[i].map((c, a) => Math.round(c + (at - i) * (HEAT[i + 1][a] - c)));
}

export function errorOf(frame, k) {
  const s = state.sample.scene;
  const a = point(s, "generated", frame, k);
  const b = point(s, "true", frame, k);
  return a && b ? 1000 * Math.hypot(a[0] - b[0], a[1] - b[1], a[2] - b[2]) : null;
}

export const comparable = s => Boolean(s?.generated && s.true && s.generatedCount === s.trueCount);
// Unpacks the sample's points when it is shown for the first time.
export function preparePoints() {
  const scene = state.sample.scene;
  if (!scene || typeof (scene.generated || scene.true) !== "string") return;
  for (const key of ["generated", "true"])
    if (scene[key]) {
      scene[key] = decode(scene[key]);
      scene[`${key}Count`] = scene[key].length / 3 / scene.frames;
    }
  if (scene.views) {
    scene.views = decode(scene.views);
    scene.viewsCount = scene.views.length / 3 / scene.frames / scene.cameras.length;
  }
  scene.worst = worstError(scene);
}

// Millimetres: the end of the scale of colours, 97% of all errors are below it.
function worstError(scene) {
  const all = [];
  if (comparable(scene))
    for (let n = 0; n < scene.frames; n++)
      for (let k = 0; k < scene.trueCount; k++) {
        const e = errorOf(n, k);
        if (e !== null) all.push(e);
      }
  all.sort((a, b) => a - b);
  return Math.max(all.length ? all[Math.floor(0.97 * (all.length - 1))] : 1, 0.1);
}
