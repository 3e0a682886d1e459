"""The report's plots: depth and scale, errors over time, errors of every point, loss curves."""

PLOTS = r"""
function svg(tag, attributes, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  return node;
}
const COLOURS = {generated: "var(--made)", true: "var(--true)"};
function drawPlots() {
  if (!state.sample) return;
  drawDepth(); drawErrorCurve(); drawHeat(); markPlots();
  $("plots-section").hidden = $("depth-part").hidden && $("error-part").hidden;
}
function axes(canvas, box, low, high, frames) {
  const py = y => box.bottom - (y - low) / (high - low) * (box.bottom - box.top);
  const px = n => box.left + (n + 0.5) / frames * (box.right - box.left);
  const step = 10 ** Math.floor(Math.log10((high - low) / 2));
  const every = [1, 2, 5].map(m => m * step).find(x => (high - low) / x <= 5) || 10 * step;
  for (let y = Math.ceil(low / every) * every; y <= high; y += every) {
    canvas.append(svg("line", {x1: box.left, x2: box.right, y1: py(y), y2: py(y),
      style: "stroke:var(--line)"}));
    if (box.labels) canvas.append(svg("text", {x: box.left - 6, y: py(y) + 4,
      "text-anchor": "end"}, String(+y.toPrecision(3))));
  }
  canvas.append(svg("line", {y1: box.top, y2: box.bottom, class: "now", "data-left": box.left,
    "data-right": box.right, "data-frames": frames, style: "stroke:var(--soft)"}));
  return {px, py};
}
function path(points) { return points.map(p => p.map(x => x.toFixed(1)).join(",")).join(" "); }
function drawDepth() {
  const {depth, scale} = state.sample, keys = ["true", "generated"].filter(k => depth[k]);
  $("depth-part").hidden = !keys.length;
  if (!keys.length) return;
  const canvas = $("depth"), width = canvas.clientWidth, height = canvas.clientHeight;
  const views = depth[keys[0]].length, gap = 14, left = 46;
  const wide = (width - left - 8 - gap * (views - 1)) / views;
  const all = keys.flatMap(k => depth[k].flat(2)).concat(Object.values(scale).flat(2))
    .filter(Number.isFinite);
  const low = Math.min(...all), high = Math.max(...all), room = 0.06 * (high - low) + 1e-3;
  canvas.setAttribute("viewBox", `0 0 ${width} ${height}`);
  canvas.replaceChildren();
  for (let v = 0; v < views; v++) {
    const x = left + v * (wide + gap);
    const box = {left: x, right: x + wide, top: 26, bottom: height - 12, labels: v === 0};
    const {px, py} = axes(canvas, box, low - room, high + room, state.sample.frames);
    canvas.append(svg("text", {x: box.left, y: 17}, "view " + (v + 1)));
    for (const key of keys) {
      const known = depth[key][v].map((q, n) => [n, q]).filter(p => p[1]);
      const edge = i => known.map(([n, q]) => [px(n), py(q[i])]);
      canvas.append(svg("polygon", {points: path([...edge(0), ...edge(2).reverse()]),
        style: `fill:${COLOURS[key]};opacity:.16`}));
      canvas.append(svg("polyline", {points: path(edge(1)), fill: "none", "stroke-width": 2,
        style: `stroke:${COLOURS[key]}`}));
      for (const y of (scale[key] || [])[v] || []) if (Number.isFinite(y))
        canvas.append(svg("line", {x1: box.left, x2: box.right, y1: py(y), y2: py(y),
          "stroke-dasharray": "5 4", "stroke-width": 1.5, style: `stroke:${COLOURS[key]}`}));
    }
  }
}
function errorsAt(n) {
  const s = state.sample.scene, found = [];
  for (let k = 0; k < s.trueCount; k++) { const e = errorOf(n, k); if (e !== null) found.push(e); }
  return found.sort((a, b) => a - b);
}
function drawErrorCurve() {
  const s = state.sample.scene;
  $("error-part").hidden = $("heat-part").hidden = !comparable(s);
  if (!comparable(s)) return;
  const canvas = $("error"), width = canvas.clientWidth, height = canvas.clientHeight;
  canvas.setAttribute("viewBox", `0 0 ${width} ${height}`);
  canvas.replaceChildren();
  const rows = Array.from({length: s.frames}, (_, n) => errorsAt(n));
  const mean = r => r.length ? r.reduce((a, b) => a + b, 0) / r.length : 0;
  const curves = [["mean", rows.map(mean), ""],
    ["worst tenth", rows.map(r => r.length ? r[Math.floor(0.9 * (r.length - 1))] : 0), "5 4"]];
  const high = 1.1 * Math.max(...curves.flatMap(c => c[1]), 0.1);
  const box = {left: 46, right: width - 8, top: 26, bottom: height - 12, labels: true};
  const {px, py} = axes(canvas, box, 0, high, s.frames);
  for (const [, values, dash] of curves)
    canvas.append(svg("polyline", {points: path(values.map((y, n) => [px(n), py(y)])),
      fill: "none", "stroke-width": 2, "stroke-dasharray": dash, style: "stroke:var(--bad)"}));
  canvas.append(svg("text", {x: box.left, y: 17}, "mm: mean (line), worst tenth (dashed)"));
  canvas.setAttribute("aria-label", "Error over time: mean " + number(mean(curves[0][1]))
    + " mm, first frame " + number(curves[0][1][0]) + ", last " + number(curves[0][1].at(-1)));
}
function drawHeat() {
  const s = state.sample.scene;
  if (!comparable(s)) return;
  const canvas = $("heat"), rows = [];
  for (let k = 0; k < s.trueCount; k++) {
    const row = Array.from({length: s.frames}, (_, n) => errorOf(n, k));
    rows.push([row.reduce((a, b) => a + (b || 0), 0), row, k]);
  }
  rows.sort((a, b) => b[0] - a[0]);
  canvas.width = s.frames; canvas.height = rows.length;
  const ink = canvas.getContext("2d"), image = ink.createImageData(s.frames, rows.length);
  rows.forEach(([, row], y) => row.forEach((e, n) => {
    const colour = e === null ? [128, 128, 128] : heat(e / s.worst);
    image.data.set([...colour, 255], 4 * (y * s.frames + n));
  }));
  ink.putImageData(image, 0, 0);
  s.heatRows = rows.map(r => r[2]);
  $("heat-most").textContent = number(s.worst) + " mm";
  canvas.onclick = e => {
    const y = Math.floor(e.offsetY / canvas.clientHeight * rows.length);
    play(false);
    setFrame(Math.min(s.frames - 1, Math.floor(e.offsetX / canvas.clientWidth * s.frames)));
    choose(Math.min(Math.round(s.heatRows[y] / s.each), overlayCount() - 1));
  };
}
function markPlots() {
  if (!state.sample) return;
  for (const line of document.querySelectorAll("line.now")) {
    const [left, right, frames] = ["left", "right", "frames"].map(k => +line.dataset[k]);
    const x = left + (state.frame + 0.5) / frames * (right - left);
    line.setAttribute("x1", x); line.setAttribute("x2", x);
  }
  $("heat-now").style.left = 100 * (state.frame + 0.5) / state.sample.frames + "%";
}
"""

CURVES = r"""
const HUES = ["--made", "--true", "--good", "--bad", "--soft"];
const hidden = new Set();
function series() {
  const keys = [...new Set(data.curves.flatMap(r => Object.keys(r)))]
    .filter(k => k === "loss" || k.startsWith("loss_"));
  return keys.map((key, i) => ({key, hue: `var(${HUES[i % HUES.length]})`,
    dash: i < HUES.length ? "" : "5 4",
    points: data.curves.filter(r => Number.isFinite(r[key]) && r[key] > 0)
      .map(r => [r.step, r[key]])})).filter(s => s.points.length);
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
function drawCurves() {
  const all = series(), canvas = $("curves");
  $("curves-section").hidden = !all.length;
  if (!all.length) return;
  const shown = all.filter(s => !hidden.has(s.key));
  const width = canvas.clientWidth, height = canvas.clientHeight;
  canvas.setAttribute("viewBox", `0 0 ${width} ${height}`);
  canvas.replaceChildren();
  const box = {left: 58, right: width - 14, top: 14, bottom: height - 34};
  const points = (shown.length ? shown : all).flatMap(s => s.points);
  const xs = points.map(p => p[0]), ys = points.map(p => Math.log10(p[1]));
  const x0 = Math.min(...xs), x1 = Math.max(...xs, x0 + 1);
  let y0 = Math.min(...ys), y1 = Math.max(...ys);
  if (y1 - y0 < 0.05) { y0 -= 0.05; y1 += 0.05; }
  const px = x => box.left + (x - x0) / (x1 - x0) * (box.right - box.left);
  const py = y => box.bottom - (y - y0) / (y1 - y0) * (box.bottom - box.top);
  for (const y of ticks(y0, y1)) {
    canvas.append(svg("line", {x1: box.left, x2: box.right, y1: py(y), y2: py(y),
      style: "stroke:var(--line)"}));
    canvas.append(svg("text", {x: box.left - 8, y: py(y) + 4, "text-anchor": "end"},
      number(10 ** y)));
  }
  for (let i = 0; i <= 4; i++) {
    const x = x0 + i / 4 * (x1 - x0);
    canvas.append(svg("text", {x: px(x), y: height - 12,
      "text-anchor": i === 0 ? "start" : i === 4 ? "end" : "middle"},
      Math.round(x) + (i === 4 ? " steps" : "")));
  }
  drawStages(canvas, px, box);
  for (const s of shown)
    canvas.append(svg("polyline", {fill: "none", "stroke-width": s.key === "loss" ? 2 : 1.4,
      "stroke-dasharray": s.dash, style: `stroke:${s.hue}`,
      points: s.points.map(p => px(p[0]).toFixed(1) + "," + py(Math.log10(p[1])).toFixed(1))
        .join(" ")}));
}
function drawStages(canvas, px, box) {
  let last = data.curves.length ? data.curves[0].stage : "";
  for (const r of data.curves) {
    if (r.stage === last) continue;
    last = r.stage;
    canvas.append(svg("line", {x1: px(r.step), x2: px(r.step), y1: box.top, y2: box.bottom,
      style: "stroke:var(--soft)", "stroke-dasharray": "2 3"}));
    canvas.append(svg("text", {x: px(r.step) + 4, y: box.top + 10}, r.stage));
  }
}
function showCurveOptions() {
  for (const s of series()) {
    const label = make("label"), check = make("input", null, {type: "checkbox", checked: ""});
    check.onchange = () => {
      if (check.checked) hidden.delete(s.key); else hidden.add(s.key);
      drawCurves();
    };
    label.append(check, make("span", null, {class: "dot", style: "background:" + s.hue}), s.key);
    $("curve-options").append(label);
  }
}
"""
