// The same points drawn on the videos of all views:
//
//   tracks          each view's own copy of the points, one colour a point in every view and row
//   errors          coloured by the distance of the generated point from the true one
//   epipolar lines  the chosen point, and in the other views the line on which it has to lie
//
// A line is the picture of the ray through the chosen point of the reference view. How far another
// view's own copy is from it, in pixels, is what the views disagree about, whatever the depth.

import {$, make, number} from "./elements.js";
import {comparable, errorOf, heat, point} from "./points.js";
import {choice, state, tell} from "./state.js";

export function overlay(key, view) {
  const canvas = make("canvas", null, {class: "over", "aria-hidden": "true"});
  const one = {canvas, view, kind: key === "video" ? "generated" : "true"};
  canvas.onclick = e => pick(one, e.offsetX, e.offsetY);
  state.overlays.push(one);
  return canvas;
}

export function overlayCount() {
  const s = state.sample.scene;
  return s ? Math.ceil((s.generated ? s.generatedCount : s.trueCount) / s.each) : 0;
}

function placeOf(kind, view, frame, m) {
  const s = state.sample.scene;
  if (kind === "generated" && s.views) {
    const i = 3 * ((view * s.frames + frame) * s.viewsCount + m);
    const p = s.views;
    return p[i] === -32768 ? null : [0, 1, 2].map(a => p[i + a] * s.unit + s.centre[a]);
  }
  const k = m * s.each;
  if (!s[kind] || k >= s[`${kind}Count`]) return null;
  const p = point(s, kind, frame, k);
  return p?.map((x, a) => x + s.centre[a]);
}

// Cameras that move have a pose a frame.
function poseOf(view, frame) {
  const s = state.sample.scene;
  return (s.poses ? s.poses[frame] : s.extrinsics)[view];
}

function toCamera(view, frame, p) {
  return poseOf(view, frame).map(r => r[0] * p[0] + r[1] * p[1] + r[2] * p[2] + r[3]);
}

function toPixel(view, q) {
  const k = state.sample.scene.intrinsics[view];
  return [(k[0][0] * q[0] + k[0][1] * q[1]) / q[2] + k[0][2], (k[1][1] * q[1]) / q[2] + k[1][2]];
}

function pixelOf(kind, view, frame, m) {
  const p = placeOf(kind, view, frame, m);
  const q = p && toCamera(view, frame, p);
  return q && q[2] > 1e-3 ? toPixel(view, q) : null;
}

function epipolarLine(kind, from, to, frame, m) {
  const p = placeOf(kind, from, frame, m);
  if (!p || from === to) return null;
  const e = poseOf(from, frame);
  const eye = [0, 1, 2].map(a => -(e[0][a] * e[0][3] + e[1][a] * e[1][3] + e[2][a] * e[2][3]));
  const a = toCamera(to, frame, eye);
  const b = toCamera(to, frame, p);
  const ends = [];
  let low = 0.05;
  let high = 20; // of the point's distance, where in front of the other camera
  const slope = b[2] - a[2];
  const at = (0.01 - a[2]) / slope;
  if (slope > 0) low = Math.max(low, at);
  else high = Math.min(high, at);
  if (!(low < high)) return null;
  for (const x of [low, high])
    ends.push(
      toPixel(
        to,
        a.map((y, i) => y + x * (b[i] - y)),
      ),
    );
  return ends;
}

function lineDistance([[x0, y0], [x1, y1]], [x, y]) {
  return Math.abs((x1 - x0) * (y - y0) - (y1 - y0) * (x - x0)) / Math.hypot(x1 - x0, y1 - y0);
}

export function prepareOverlays() {
  const s = state.sample.scene;
  const count = overlayCount();
  $("overlay-section").hidden = !s;
  choice.point = Math.min(choice.point, count - 1);
  if (!s) return;
  $("point").max = count;
  $("overlay").querySelector("[value=errors]").disabled = !comparable(s);
  $("show-heat").disabled = $("show-errors").disabled = !comparable(s);
  if (choice.mode === "errors" && !comparable(s)) choice.mode = $("overlay").value = "none";
  if (s.hues) return;
  const kind = s.generated ? "generated" : "true";
  s.hues = Array.from({length: count}, (_, m) => {
    const p = point(s, kind, 0, m * s.each) || [0, 0, 0];
    return `hsl(${((Math.atan2(p[1], p[0]) * 180) / Math.PI + 360) % 360} 95% ${Math.max(
      50,
      Math.min(78, 64 + (14 * p[2]) / s.radius),
    )}%)`;
  });
}

export function drawOverlays() {
  if (!state.sample || !state.sample.scene) return;
  $("legend").hidden = choice.mode !== "errors" && !$("show-heat").checked;
  $("legend-most").textContent = `${number(state.sample.scene.worst)} mm`;
  for (const one of state.overlays) drawOverlay(one);
  describePoint();
}

function drawOverlay({canvas, view, kind}) {
  const width = canvas.clientWidth;
  const height = canvas.clientHeight;
  const ratio = devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  const ink = canvas.getContext("2d");
  const s = state.sample.scene;
  if (choice.mode === "none" || !width || (!s[kind] && !(kind === "generated" && s.views))) return;
  ink.setTransform(ratio, 0, 0, ratio, 0, 0);
  const put = x => [((x[0] + 0.5) / s.size[1]) * width, ((x[1] + 0.5) / s.size[0]) * height];
  const size = Math.max(1.5, Math.min(3, width / 160));
  const lines = choice.mode === "lines";
  ink.globalAlpha = lines ? 0.4 : 1;
  for (let m = 0; m < overlayCount(); m++) {
    const at = pixelOf(kind, view, state.frame, m);
    const e = errorOf(state.frame, m * s.each);
    if (!at || (choice.mode === "errors" && e === null)) continue;
    const colour = choice.mode === "errors" ? `rgb(${heat(e / s.worst)})` : s.hues[m];
    if (choice.mode === "tracks") trail(ink, put, kind, view, m, colour);
    dot(ink, put(at), size, colour);
  }
  ink.globalAlpha = 1;
  if (choice.point >= 0) drawChosen(ink, put, kind, view, size);
}

function trail(ink, put, kind, view, m, colour) {
  ink.strokeStyle = colour;
  ink.lineWidth = 1.2;
  ink.globalAlpha = 0.55;
  ink.beginPath();
  let on = false;
  for (let n = Math.max(0, state.frame - 6); n <= state.frame; n++) {
    const at = pixelOf(kind, view, n, m);
    if (at) {
      if (on) ink.lineTo(...put(at));
      else ink.moveTo(...put(at));
    }
    on = Boolean(at);
  }
  ink.stroke();
  ink.globalAlpha = 1;
}

function dot(ink, [x, y], size, colour) {
  ink.fillStyle = colour;
  ink.strokeStyle = "rgba(0,0,0,.55)";
  ink.lineWidth = 0.8;
  ink.beginPath();
  ink.arc(x, y, size, 0, 7);
  ink.fill();
  ink.stroke();
}

function drawChosen(ink, put, kind, view, size) {
  const line =
    choice.mode === "lines" &&
    epipolarLine(kind, choice.reference, view, state.frame, choice.point);
  for (const [colour, wide] of [
    ["rgba(0,0,0,.7)", 3.5],
    ["#ffe14d", 1.6],
  ]) {
    ink.strokeStyle = colour;
    ink.lineWidth = wide;
    if (line) {
      ink.beginPath();
      ink.moveTo(...put(line[0]));
      ink.lineTo(...put(line[1]));
      ink.stroke();
    }
    const at = pixelOf(kind, view, state.frame, choice.point);
    if (!at) continue;
    ink.beginPath();
    ink.arc(...put(at), 2.4 * size, 0, 7);
    ink.stroke();
    if (wide < 2) dot(ink, put(at), size, "#ffe14d");
  }
}

function describePoint() {
  const s = state.sample.scene;
  const parts = [];
  $("point").value = choice.point + 1;
  if (choice.point >= 0 && choice.mode !== "none") {
    parts.push(`Point ${choice.point + 1} of ${overlayCount()}, frame ${state.frame + 1}`);
    const e = comparable(s) ? errorOf(state.frame, choice.point * s.each) : null;
    if (e !== null) parts.push(`${number(e)} mm from the true one`);
    const away = s.extrinsics
      .map((_, v) => {
        const line = epipolarLine("generated", choice.reference, v, state.frame, choice.point);
        const at = line && pixelOf("generated", v, state.frame, choice.point);
        return at ? `view ${v + 1}: ${number(lineDistance(line, at))} px` : "";
      })
      .filter(Boolean);
    if (choice.mode === "lines" && s.views && away.length)
      parts.push(`off the line of view ${choice.reference + 1}: ${away.join(", ")}`);
  } else if (choice.mode !== "none") parts.push("Click a point, or give its number");
  $("point-text").textContent = parts.join(" · ");
}

function pick(one, x, y) {
  if (choice.mode === "none") return;
  const s = state.sample.scene;
  const {clientWidth: w, clientHeight: h} = one.canvas;
  let best = 20;
  let found = -1;
  for (let m = 0; m < overlayCount(); m++) {
    const at = pixelOf(one.kind, one.view, state.frame, m);
    if (!at) continue;
    const far = Math.hypot(
      ((at[0] + 0.5) / s.size[1]) * w - x,
      ((at[1] + 0.5) / s.size[0]) * h - y,
    );
    if (far < best) {
      best = far;
      found = m;
    }
  }
  choice.reference = one.view;
  choose(found);
}

export function choose(m) {
  choice.point = m;
  tell("choice");
}

export function listenOverlays() {
  $("overlay").onchange = e => {
    choice.mode = e.target.value;
    if (choice.mode === "lines" && choice.point < 0) choice.point = Math.floor(overlayCount() / 2);
    tell("choice");
  };
  $("point").oninput = e => choose(Math.min(+e.target.value || 0, overlayCount()) - 1);
  $("show-heat").onchange = () => tell("choice");
}
