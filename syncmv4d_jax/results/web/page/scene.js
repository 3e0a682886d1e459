// The 3D view: points, trails, errors and cameras on a plain canvas, turned by hand.
//
// The world's z is up. The first look is from beside the cameras. Cameras far from the scene are
// drawn nearer, along their true direction, so that the points stay large.

import {$, css} from "./elements.js";
import {comparable, errorOf, heat, point} from "./points.js";
import {choice, state} from "./state.js";

const view = {turn: null, tilt: 0.5, zoom: 1};
export function prepareTracks() {
  const scene = state.sample.scene;
  $("tracks-section").hidden = !scene;
  if (!scene) return;
  $("true-part").hidden = !scene.true;
  $("errors-part").hidden = $("colours-part").hidden = !comparable(scene);
  view.home = home(scene);
  if (view.turn === null) view.turn = view.home;
}

function home(scene) {
  const eyes = scene.cameras.map(shape => shape[0]);
  const mean = i => eyes.reduce((sum, eye) => sum + eye[i], 0);
  return Math.atan2(mean(0), -mean(1)) + 0.4;
}

function camera(width, height, scene) {
  const ct = Math.cos(view.turn);
  const st = Math.sin(view.turn);
  const cp = Math.cos(view.tilt);
  const sp = Math.sin(view.tilt);
  const size = (0.34 * Math.min(0.8 * width, height) * view.zoom) / scene.radius;
  const far = 6 * scene.radius;
  return (x, y, z) => {
    const a = ct * x + st * y;
    const b = -st * x + ct * y;
    const depth = cp * b - sp * z;
    const up = sp * b + cp * z;
    const near = far / Math.max(far + depth, 0.2 * far);
    return [width / 2 + a * size * near, height / 2 - up * size * near, near];
  };
}

function polyline(ink, place, points, close) {
  ink.beginPath();
  points.forEach((p, i) => {
    const [x, y] = place(...p);
    if (i) ink.lineTo(x, y);
    else ink.moveTo(x, y);
  });
  if (close) ink.closePath();
  ink.stroke();
}

export function drawTracks() {
  const scene = state.sample?.scene;
  const canvas = $("tracks");
  if (!scene) return;
  const width = canvas.clientWidth;
  const height = canvas.clientHeight;
  const ratio = devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const ink = canvas.getContext("2d");
  ink.setTransform(ratio, 0, 0, ratio, 0, 0);
  ink.clearRect(0, 0, width, height);
  const place = camera(width, height, scene);
  drawGround(ink, place, scene);
  if ($("show-cameras").checked) drawCameras(ink, place, scene);
  const shown = ["true", "generated"].filter(key => scene[key] && $(`show-${key}`).checked);
  const colours = {generated: css("--made"), true: css("--true")};
  if ($("show-trails").checked)
    for (const key of shown) drawTrails(ink, place, scene, key, colours[key]);
  if (
    $("show-errors").checked &&
    scene.generated &&
    scene.true &&
    scene.generatedCount === scene.trueCount
  )
    drawErrors(ink, place, scene);
  const hot = $("show-heat").checked && comparable(scene);
  ink.strokeStyle = css("--soft");
  ink.lineWidth = 0.6;
  for (const key of shown) {
    ink.fillStyle = colours[key];
    ink.globalAlpha = hot && key === "true" ? 0.25 : 0.9;
    for (let k = 0; k < scene[`${key}Count`]; k++) {
      const p = point(scene, key, state.frame, k);
      if (!p) continue;
      const [x, y, near] = place(...p);
      const r = 2.3 * near;
      if (hot && key === "generated")
        ink.fillStyle = `rgb(${heat(errorOf(state.frame, k) / scene.worst)})`;
      ink.beginPath();
      ink.arc(x, y, r, 0, 7);
      ink.fill();
      if (hot && key === "generated") ink.stroke();
    }
  }
  ink.globalAlpha = 1;
  if (choice.mode !== "none" && choice.point >= 0) drawRing(ink, place, scene, shown);
}

function drawRing(ink, place, scene, shown) {
  ink.strokeStyle = css("--ink");
  ink.lineWidth = 1.6;
  for (const key of shown) {
    const k = choice.point * scene.each;
    const p = k < scene[`${key}Count`] ? point(scene, key, state.frame, k) : null;
    if (!p) continue;
    const [x, y, near] = place(...p);
    ink.beginPath();
    ink.arc(x, y, 6 * near, 0, 7);
    ink.stroke();
  }
}

function drawGround(ink, place, scene) {
  if (scene.floor === undefined) {
    const key = scene.true ? "true" : "generated";
    let low = Infinity;
    for (let i = 2; i < scene[key].length; i += 3)
      if (scene[key][i] > -32768) low = Math.min(low, scene[key][i]);
    scene.floor = low * scene.unit;
  }
  const r = 1.2 * scene.radius;
  ink.strokeStyle = css("--line");
  ink.lineWidth = 1;
  for (let i = -3; i <= 3; i++) {
    const at = (i / 3) * r;
    polyline(ink, place, [
      [at, -r, scene.floor],
      [at, r, scene.floor],
    ]);
    polyline(ink, place, [
      [-r, at, scene.floor],
      [r, at, scene.floor],
    ]);
  }
}

function drawCameras(ink, place, scene) {
  ink.strokeStyle = ink.fillStyle = css("--soft");
  ink.lineWidth = 1;
  ink.font = "12px system-ui, sans-serif";
  const now = scene.moving ? scene.moving[state.frame] : scene.cameras;
  now.forEach((shape, v) => {
    const eye = shape[0];
    const distance = Math.hypot(...eye);
    const limit = 1.4 * scene.radius;
    const shift = distance > limit ? eye.map(x => x * (limit / distance - 1)) : [0, 0, 0];
    const [o, ...far] = shape.map(p => p.map((x, i) => x + shift[i]));
    polyline(ink, place, far, true);
    for (const corner of far) polyline(ink, place, [o, corner]);
    const [x, y] = place(...o);
    ink.fillText(`view ${v + 1}`, x + 6, y - 4);
  });
}

function drawTrails(ink, place, scene, key, colour) {
  ink.strokeStyle = colour;
  ink.lineWidth = 1;
  const first = Math.max(0, state.frame - 6);
  for (let k = 0; k < scene[`${key}Count`]; k += 2) {
    let from = null;
    for (let n = first; n <= state.frame; n++) {
      const p = point(scene, key, n, k);
      const to = p && place(...p);
      if (from && to) {
        ink.globalAlpha = (0.45 * (n - first + 1)) / (state.frame - first + 1);
        ink.beginPath();
        ink.moveTo(from[0], from[1]);
        ink.lineTo(to[0], to[1]);
        ink.stroke();
      }
      from = to;
    }
  }
  ink.globalAlpha = 1;
}

function drawErrors(ink, place, scene) {
  ink.strokeStyle = css("--bad");
  ink.lineWidth = 1;
  ink.globalAlpha = 0.6;
  for (let k = 0; k < scene.trueCount; k++) {
    const a = point(scene, "generated", state.frame, k);
    const b = point(scene, "true", state.frame, k);
    if (a && b) polyline(ink, place, [a, b]);
  }
  ink.globalAlpha = 1;
}

function turn(dx, dy) {
  view.turn -= dx;
  view.tilt = Math.max(-1.5, Math.min(1.5, view.tilt + dy));
  drawTracks();
}

function zoom(by) {
  view.zoom = Math.max(0.2, Math.min(12, view.zoom * by));
  drawTracks();
}

function resetView() {
  Object.assign(view, {turn: view.home, tilt: 0.5, zoom: 1});
  drawTracks();
}

export function listenTracks() {
  const canvas = $("tracks");
  let from = null;
  canvas.onpointerdown = e => {
    from = [e.clientX, e.clientY];
    canvas.setPointerCapture(e.pointerId);
  };
  canvas.onpointermove = e => {
    if (!from) return;
    turn((e.clientX - from[0]) / 120, (e.clientY - from[1]) / 120);
    from = [e.clientX, e.clientY];
  };
  canvas.onpointerup = canvas.onpointercancel = () => {
    from = null;
  };
  canvas.addEventListener(
    "wheel",
    e => {
      e.preventDefault();
      zoom(Math.exp(-e.deltaY / 500));
    },
    {passive: false},
  );
  canvas.onkeydown = e => {
    const keys = {
      ArrowLeft: [-0.12, 0],
      ArrowRight: [0.12, 0],
      ArrowUp: [0, -0.12],
      ArrowDown: [0, 0.12],
    };
    if (keys[e.key]) turn(...keys[e.key]);
    else if (e.key === "+" || e.key === "=") zoom(1.15);
    else if (e.key === "-") zoom(1 / 1.15);
    else if (e.key === "0") resetView();
    else return;
    e.preventDefault();
  };
  for (const key of ["generated", "true", "trails", "errors", "cameras"])
    $(`show-${key}`).onchange = drawTracks;
  $("reset").onclick = resetView;
}
