// Depth and scale, errors over time, errors of every point.

import {$, number, svg} from "./elements.js";
import {choose, overlayCount} from "./overlays.js";
import {play, setFrame} from "./player.js";
import {comparable, errorOf, heat} from "./points.js";
import {state} from "./state.js";

const COLOURS = {generated: "var(--made)", true: "var(--true)"};
export function drawPlots() {
  if (!state.sample) return;
  drawDepth();
  drawErrorCurve();
  drawHeat();
  markPlots();
  $("plots-section").hidden = $("depth-part").hidden && $("error-part").hidden;
}

function axes(canvas, box, low, high, frames) {
  const py = y => box.bottom - ((y - low) / (high - low)) * (box.bottom - box.top);
  const px = n => box.left + ((n + 0.5) / frames) * (box.right - box.left);
  const step = 10 ** Math.floor(Math.log10((high - low) / 2));
  const every = [1, 2, 5].map(m => m * step).find(x => (high - low) / x <= 5) || 10 * step;
  for (let y = Math.ceil(low / every) * every; y <= high; y += every) {
    canvas.append(
      svg("line", {x1: box.left, x2: box.right, y1: py(y), y2: py(y), style: "stroke:var(--line)"}),
    );
    if (box.labels)
      canvas.append(
        svg(
          "text",
          {x: box.left - 6, y: py(y) + 4, "text-anchor": "end"},
          String(+y.toPrecision(3)),
        ),
      );
  }
  canvas.append(
    svg("line", {
      y1: box.top,
      y2: box.bottom,
      class: "now",
      "data-left": box.left,
      "data-right": box.right,
      "data-frames": frames,
      style: "stroke:var(--soft)",
    }),
  );
  return {px, py};
}

function path(points) {
  return points.map(p => p.map(x => x.toFixed(1)).join(",")).join(" ");
}

function drawDepth() {
  const {depth, scale} = state.sample;
  const keys = ["true", "generated"].filter(k => depth[k]);
  $("depth-part").hidden = !keys.length;
  if (!keys.length) return;
  const canvas = $("depth");
  const width = canvas.clientWidth;
  const height = canvas.clientHeight;
  const views = depth[keys[0]].length;
  const gap = 14;
  const left = 46;
  const wide = (width - left - 8 - gap * (views - 1)) / views;
  const all = keys
    .flatMap(k => depth[k].flat(2))
    .concat(Object.values(scale).flat(2))
    .filter(Number.isFinite);
  const low = Math.min(...all);
  const high = Math.max(...all);
  const room = 0.06 * (high - low) + 1e-3;
  canvas.setAttribute("viewBox", `0 0 ${width} ${height}`);
  canvas.replaceChildren();
  for (let v = 0; v < views; v++) {
    const x = left + v * (wide + gap);
    const box = {left: x, right: x + wide, top: 26, bottom: height - 12, labels: v === 0};
    const {px, py} = axes(canvas, box, low - room, high + room, state.sample.frames);
    canvas.append(svg("text", {x: box.left, y: 17}, `view ${v + 1}`));
    for (const key of keys) {
      const known = depth[key][v].map((q, n) => [n, q]).filter(p => p[1]);
      const edge = i => known.map(([n, q]) => [px(n), py(q[i])]);
      canvas.append(
        svg("polygon", {
          points: path([...edge(0), ...edge(2).reverse()]),
          style: `fill:${COLOURS[key]};opacity:.16`,
        }),
      );
      canvas.append(
        svg("polyline", {
          points: path(edge(1)),
          fill: "none",
          "stroke-width": 2,
          style: `stroke:${COLOURS[key]}`,
        }),
      );
      for (const y of (scale[key] || [])[v] || [])
        if (Number.isFinite(y))
          canvas.append(
            svg("line", {
              x1: box.left,
              x2: box.right,
              y1: py(y),
              y2: py(y),
              "stroke-dasharray": "5 4",
              "stroke-width": 1.5,
              style: `stroke:${COLOURS[key]}`,
            }),
          );
    }
  }
}

function errorsAt(n) {
  const s = state.sample.scene;
  const found = [];
  for (let k = 0; k < s.trueCount; k++) {
    const e = errorOf(n, k);
    if (e !== null) found.push(e);
  }
  return found.sort((a, b) => a - b);
}

function drawErrorCurve() {
  const s = state.sample.scene;
  $("error-part").hidden = $("heat-part").hidden = !comparable(s);
  if (!comparable(s)) return;
  const canvas = $("error");
  const width = canvas.clientWidth;
  const height = canvas.clientHeight;
  canvas.setAttribute("viewBox", `0 0 ${width} ${height}`);
  canvas.replaceChildren();
  const rows = Array.from({length: s.frames}, (_, n) => errorsAt(n));
  const mean = r => (r.length ? r.reduce((a, b) => a + b, 0) / r.length : 0);
  const curves = [
    ["mean", rows.map(mean), ""],
    ["worst tenth", rows.map(r => (r.length ? r[Math.floor(0.9 * (r.length - 1))] : 0)), "5 4"],
  ];
  const high = 1.1 * Math.max(...curves.flatMap(c => c[1]), 0.1);
  const box = {left: 46, right: width - 8, top: 26, bottom: height - 12, labels: true};
  const {px, py} = axes(canvas, box, 0, high, s.frames);
  for (const [, values, dash] of curves)
    canvas.append(
      svg("polyline", {
        points: path(values.map((y, n) => [px(n), py(y)])),
        fill: "none",
        "stroke-width": 2,
        "stroke-dasharray": dash,
        style: "stroke:var(--bad)",
      }),
    );
  canvas.append(svg("text", {x: box.left, y: 17}, "mm: mean (line), worst tenth (dashed)"));
  canvas.setAttribute(
    "aria-label",
    "Error over time: mean " +
      number(mean(curves[0][1])) +
      " mm, first frame " +
      number(curves[0][1][0]) +
      ", last " +
      number(curves[0][1].at(-1)),
  );
}

function drawHeat() {
  const s = state.sample.scene;
  if (!comparable(s)) return;
  const canvas = $("heat");
  const rows = [];
  for (let k = 0; k < s.trueCount; k++) {
    const row = Array.from({length: s.frames}, (_, n) => errorOf(n, k));
    rows.push([row.reduce((a, b) => a + (b || 0), 0), row, k]);
  }
  rows.sort((a, b) => b[0] - a[0]);
  canvas.width = s.frames;
  canvas.height = rows.length;
  const ink = canvas.getContext("2d");
  const image = ink.createImageData(s.frames, rows.length);
  for (const [y, [, row]] of rows.entries())
    for (const [n, e] of row.entries()) {
      const colour = e === null ? [128, 128, 128] : heat(e / s.worst);
      image.data.set([...colour, 255], 4 * (y * s.frames + n));
    }
  ink.putImageData(image, 0, 0);
  s.heatRows = rows.map(r => r[2]);
  $("heat-most").textContent = `${number(s.worst)} mm`;
  canvas.onclick = e => {
    const y = Math.floor((e.offsetY / canvas.clientHeight) * rows.length);
    play(false);
    setFrame(Math.min(s.frames - 1, Math.floor((e.offsetX / canvas.clientWidth) * s.frames)));
    choose(Math.min(Math.round(s.heatRows[y] / s.each), overlayCount() - 1));
  };
}

export function markPlots() {
  if (!state.sample) return;
  for (const line of document.querySelectorAll("line.now")) {
    const [left, right, frames] = ["left", "right", "frames"].map(k => +line.dataset[k]);
    const x = left + ((state.frame + 0.5) / frames) * (right - left);
    line.setAttribute("x1", x);
    line.setAttribute("x2", x);
  }
  $("heat-now").style.left = `${(100 * (state.frame + 0.5)) / state.sample.frames}%`;
}
