// Loss curves over training steps.

import {$, make, number, svg} from "./elements.js";
import {data} from "./state.js";

const HUES = ["--made", "--true", "--good", "--bad", "--soft"];
const hidden = new Set();
function series() {
  const keys = [...new Set(data.curves.flatMap(r => Object.keys(r)))].filter(
    k => k === "loss" || k.startsWith("loss_"),
  );
  return keys
    .map((key, i) => ({
      key,
      hue: `var(${HUES[i % HUES.length]})`,
      dash: i < HUES.length ? "" : "5 4",
      points: data.curves
        .filter(r => Number.isFinite(r[key]) && r[key] > 0)
        .map(r => [r.step, r[key]]),
    }))
    .filter(s => s.points.length);
}

function ticks(low, high) {
  const found = [];
  for (let e = Math.floor(low); e <= Math.ceil(high); e++)
    for (const m of [1, 2, 5]) {
      const x = e + Math.log10(m);
      if (x >= low && x <= high) found.push(x);
    }
  const every = Math.ceil(found.length / 8);
  return found.filter((_, i) => i % every === 0);
}

export function drawCurves() {
  const all = series();
  const canvas = $("curves");
  $("curves-section").hidden = !all.length;
  if (!all.length) return;
  const shown = all.filter(s => !hidden.has(s.key));
  const width = canvas.clientWidth;
  const height = canvas.clientHeight;
  canvas.setAttribute("viewBox", `0 0 ${width} ${height}`);
  canvas.replaceChildren();
  const box = {left: 58, right: width - 14, top: 14, bottom: height - 34};
  const points = (shown.length ? shown : all).flatMap(s => s.points);
  const xs = points.map(p => p[0]);
  const ys = points.map(p => Math.log10(p[1]));
  const x0 = Math.min(...xs);
  const x1 = Math.max(...xs, x0 + 1);
  let y0 = Math.min(...ys);
  let y1 = Math.max(...ys);
  if (y1 - y0 < 0.05) {
    y0 -= 0.05;
    y1 += 0.05;
  }
  const px = x => box.left + ((x - x0) / (x1 - x0)) * (box.right - box.left);
  const py = y => box.bottom - ((y - y0) / (y1 - y0)) * (box.bottom - box.top);
  for (const y of ticks(y0, y1)) {
    canvas.append(
      svg("line", {x1: box.left, x2: box.right, y1: py(y), y2: py(y), style: "stroke:var(--line)"}),
    );
    canvas.append(
      svg("text", {x: box.left - 8, y: py(y) + 4, "text-anchor": "end"}, number(10 ** y)),
    );
  }
  for (let i = 0; i <= 4; i++) {
    const x = x0 + (i / 4) * (x1 - x0);
    canvas.append(
      svg(
        "text",
        {x: px(x), y: height - 12, "text-anchor": i === 0 ? "start" : i === 4 ? "end" : "middle"},
        Math.round(x) + (i === 4 ? " steps" : ""),
      ),
    );
  }
  drawStages(canvas, px, box);
  for (const s of shown)
    canvas.append(
      svg("polyline", {
        fill: "none",
        "stroke-width": s.key === "loss" ? 2 : 1.4,
        "stroke-dasharray": s.dash,
        style: `stroke:${s.hue}`,
        points: s.points
          .map(p => `${px(p[0]).toFixed(1)},${py(Math.log10(p[1])).toFixed(1)}`)
          .join(" "),
      }),
    );
}

function drawStages(canvas, px, box) {
  let last = data.curves.length ? data.curves[0].stage : "";
  for (const r of data.curves) {
    if (r.stage === last) continue;
    last = r.stage;
    canvas.append(
      svg("line", {
        x1: px(r.step),
        x2: px(r.step),
        y1: box.top,
        y2: box.bottom,
        style: "stroke:var(--soft)",
        "stroke-dasharray": "2 3",
      }),
    );
    canvas.append(svg("text", {x: px(r.step) + 4, y: box.top + 10}, r.stage));
  }
}

export function showCurveOptions() {
  for (const s of series()) {
    const label = make("label");
    const check = make("input", null, {type: "checkbox", checked: ""});
    check.onchange = () => {
      if (check.checked) hidden.delete(s.key);
      else hidden.add(s.key);
      drawCurves();
    };
    label.append(check, make("span", null, {class: "dot", style: `background:${s.hue}`}), s.key);
    $("curve-options").append(label);
  }
}
