"""The report's behaviour: one clock for all videos, sorting, tables, curves, tracks in 3D.

All videos are paused; the clock sets their time to the middle of the current frame, so they can't
drift apart, and the 3D view draws the same frame.
"""

SCRIPT = r"""
"use strict";
const $ = id => document.getElementById(id);
const parse = id => JSON.parse($(id).textContent);
const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const make = (tag, text, attributes = {}) => {
  const node = document.createElement(tag);
  if (text !== undefined && text !== null) node.textContent = text;
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
};
const row = (parent, cells) => { const tr = make("tr"); tr.append(...cells); parent.append(tr);
  return tr; };
const number = x => x === null || x === undefined ? "–" : Math.abs(x) >= 1000 ? x.toFixed(0)
  : x === 0 ? "0" : Math.abs(x) < 1e-3 ? x.toExponential(1) : String(+x.toPrecision(3));
const data = parse("summary"), evaluation = data.evaluation;
const definitions = evaluation ? evaluation.definitions : {};
const ids = Array.from({length: data.samples}, (_, i) => i);
const cache = new Map();
const load = i => { if (!cache.has(i)) cache.set(i, parse("sample-" + i)); return cache.get(i); };
const names = ids.map(i => /"id":"((?:[^"\\]|\\.)*)"/.exec($("sample-" + i).textContent)[1])
  .map(x => JSON.parse('"' + x + '"'));
const state = {at: 0, frame: 0, playing: false, since: 0, timer: 0, sample: null, videos: [],
  order: ids.slice(), speed: 1, sort: "", urls: []};

function title(m) { const d = definitions[m];
  return d.title + (d.unit ? " [" + d.unit + "]" : "")
    + (d.better === "lower" ? "\u00a0↓" : d.better === "higher" ? "\u00a0↑" : "\u00a0→\u00a01"); }
function badness(m, x) { const better = definitions[m].better;
  return better === "lower" ? x : better === "higher" ? -x : Math.abs(x - better); }
function valueOf(m, name) { const cell = evaluation.rows.model[m];
  return cell && cell.per_sample[name] !== undefined ? cell.per_sample[name] : null; }

function blob(text) {
  const bytes = Uint8Array.from(atob(text), c => c.charCodeAt(0));
  const url = URL.createObjectURL(new Blob([bytes], {type: "video/mp4"}));
  state.urls.push(url);
  return url;
}
const PANELS = {"Videos": [["video", "Generated", "made"], ["true_video", "Ground truth", "true"]],
  "Motion as colours": [["motion", "Generated", "made"], ["true_motion", "Ground truth", "true"]]};
function showClips() {
  state.urls.splice(0).forEach(URL.revokeObjectURL);
  state.videos = [];
  const panels = [];
  for (const [name, lines] of Object.entries(PANELS)) {
    const there = lines.filter(([key]) => state.sample.clips[key]);
    if (!there.length) continue;
    const panel = make("div", null, {class: "panel"});
    panel.append(make("h2", name), ...there.map(line => clipLine(name, ...line)));
    panels.push(panel);
  }
  $("clips").replaceChildren(...panels);
  $("clips").classList.toggle("both", panels.length > 1);
}
function clipLine(panel, key, label, kind) {
  const line = make("div", null, {class: "line " + kind});
  const views = make("div", null, {class: "views"});
  line.append(make("span", label), views);
  state.sample.clips[key].forEach((clip, v) => {
    const video = make("video", null, {muted: "", playsinline: "", preload: "auto",
      "aria-label": `${panel}, ${label}, view ${v + 1}`});
    video.muted = true;
    video.addEventListener("loadeddata", () => seek(video));
    video.addEventListener("seeked", () => { video.busy = false; seek(video); });
    video.addEventListener("loadedmetadata", () =>
      video.classList.toggle("small", video.videoWidth < 100));
    video.src = blob(clip);
    views.append(video);
    state.videos.push(video);
  });
  return line;
}
function seek(video) {
  const wanted = (state.frame + 0.5) / state.sample.fps;
  if (video.readyState < 1 || video.busy || Math.abs(video.currentTime - wanted) < 1e-3) return;
  video.busy = true;
  video.currentTime = wanted;
}
function setFrame(frame) {
  state.frame = frame;
  $("seek").value = frame;
  $("frame").textContent = (frame + 1) + " / " + state.sample.frames;
  state.videos.forEach(seek);
  drawTracks();
}
function play(on) {
  state.playing = on;
  $("play").textContent = on ? "Pause" : "Play";
  clearInterval(state.timer);
  state.since = performance.now();
  if (on) state.timer = setInterval(tick, 12);
}
function tick() {
  const length = 1000 / (state.sample.fps * state.speed);
  const steps = Math.floor((performance.now() - state.since) / length);
  if (steps <= 0) return;
  state.since += steps * length;
  setFrame((state.frame + steps) % state.sample.frames);
}
function show(i) {
  state.at = i;
  state.sample = load(i);
  $("sample").value = i;
  $("seek").max = state.sample.frames - 1;
  $("prompt").textContent = state.sample.prompt ? "“" + state.sample.prompt + "”" : "";
  $("notes").hidden = !state.sample.notes;
  $("notes").textContent = state.sample.notes;
  state.frame = Math.min(state.frame, state.sample.frames - 1);
  showClips(); prepareTracks(); showValues(); markScene();
  setFrame(state.frame);
}
function step(by) {
  const n = state.order.length, at = state.order.indexOf(state.at);
  show(state.order[(at + by + n) % n]);
}
function sortBy(metric) {
  state.sort = metric;
  state.order = ids.slice();
  if (metric) state.order.sort((a, b) => {
    const x = valueOf(metric, names[a]), y = valueOf(metric, names[b]);
    return (y === null ? -Infinity : badness(metric, y))
      - (x === null ? -Infinity : badness(metric, x)) || a - b;
  });
  $("sample").replaceChildren(...state.order.map(i => {
    const x = metric ? valueOf(metric, names[i]) : null;
    return make("option", names[i] + (metric ? "  (" + number(x) + ")" : ""), {value: i});
  }));
  $("sample").value = state.at;
  $("sort").value = metric;
  showScenes();
}
function showValues() {
  const table = $("values"), name = names[state.at];
  table.replaceChildren();
  $("values-section").hidden = !evaluation;
  if (!evaluation) return;
  const head = make("thead"), body = make("tbody");
  row(head, [make("th", "", {scope: "col"}), make("th", "this", {scope: "col"}),
    make("th", "mean", {scope: "col"})]);
  for (const m of Object.keys(evaluation.rows.model)) {
    row(body, [make("th", title(m), {scope: "row", title: definitions[m].text}),
      make("td", number(valueOf(m, name))),
      make("td", number(evaluation.rows.model[m].value), {class: "soft"})]);
  }
  table.append(head, body);
}
function showMetrics() {
  const sets = ["tracks", "video"].flatMap(kind => {
    const all = Object.keys(definitions).filter(m => definitions[m].kind === kind
      && Object.values(evaluation.rows).some(r => r[m] && r[m].value !== null));
    return all.length > 9 ? [[kind, all.slice(0, 8)], [kind, all.slice(8)]] : [[kind, all]];
  });
  for (const [kind, known] of sets) {
    if (!known.length) continue;
    const box = make("div", null, {class: "scroll", style: "margin-bottom:12px", tabindex: 0,
      role: "region", "aria-label": "Metrics of " + kind});
    const table = make("table"), head = make("thead"), body = make("tbody");
    row(head, [make("th", kind, {scope: "col"}), ...known.map(m =>
      make("th", title(m), {scope: "col", title: definitions[m].text}))]);
    for (const [name, cells] of Object.entries(evaluation.rows)) {
      if (!known.some(m => cells[m] && cells[m].value !== null)) continue;
      const found = known.map(m => {
        const td = make("td", number(cells[m] ? cells[m].value : null));
        if (cells[m] && cells[m].se !== null)
          td.append(make("br"), make("span", "± " + number(cells[m].se), {class: "se"}));
        return td;
      });
      row(body, [make("th", name.replaceAll("_", " "), {scope: "row"}), ...found])
        .className = name;
    }
    table.append(head, body); box.append(table); $("metrics").append(box);
  }
}
function showChecks() {
  const head = make("thead"), body = make("tbody");
  row(head, ["check", "wanted", "value", "scenes", "passed"].map(x =>
    make("th", x, {scope: "col"})));
  for (const c of evaluation.checks) {
    const value = number(c.value) + (c.se === null ? "" : " ± " + number(c.se));
    row(body, [make("th", c.name.replaceAll("_", " "), {scope: "row"}), make("td", c.wanted),
      make("td", value), make("td", c.n),
      make("td", c.passed ? "✓ yes" : "✗ no: " + c.why_not, {class: c.passed ? "yes" : "no"})]);
  }
  $("checks").append(head, body);
}
function showScenes() {
  if (!evaluation) return;
  const wanted = ["mv_rpe", "mv_pi", "mv_rpe_cross", "error_mm", "chamfer_mm",
    "object_correlation", "psnr", "psnr_moving", "ssim", "temporal_correlation",
    "temporal_std_ratio"].filter(m => evaluation.rows.model[m]);
  const head = make("thead"), body = make("tbody"), tr = make("tr");
  tr.append(make("th", "scene", {scope: "col"}));
  for (const m of wanted) {
    const th = make("th", null, {scope: "col",
      "aria-sort": state.sort === m ? "descending" : "none"});
    const button = make("button", title(m) + (state.sort === m ? " •" : ""),
      {title: "Sort, worst first: " + definitions[m].text, "data-metric": m});
    button.onclick = () => { sortBy(m); $("scenes").querySelector(`[data-metric=${m}]`).focus(); };
    th.append(button); tr.append(th);
  }
  head.append(tr);
  for (const i of state.order) {
    const first = make("th", null, {scope: "row"}), button = make("button", names[i]);
    first.append(button);
    const line = row(body, [first, ...wanted.map(m => make("td", number(valueOf(m, names[i]))))]);
    line.dataset.sample = i;
    line.onclick = () => { show(i); };
  }
  $("scenes").replaceChildren(head, body);
  markScene();
}
function markScene() {
  for (const line of $("scenes").querySelectorAll("tr[data-sample]"))
    line.setAttribute("aria-current", String(+line.dataset.sample === state.at));
}
function showDefinitions() {
  const head = make("thead"), body = make("tbody");
  row(head, ["metric", "definition", "aligned by"].map(x => make("th", x, {scope: "col"})));
  for (const [m, d] of Object.entries(definitions))
    row(body, [make("th", title(m), {scope: "row"}), make("td", d.text), make("td", d.alignment)]);
  $("definitions").append(head, body);
}
"""

CURVES = r"""
const HUES = ["--made", "--true", "--good", "--bad", "--soft"];
const hidden = new Set();
function svg(tag, attributes, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  return node;
}
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

START = r"""
function headline() {
  const parts = [];
  if (evaluation) {
    const good = evaluation.checks.filter(c => c.passed).length;
    parts.push(evaluation.scenes + (evaluation.scenes === 1 ? " scene" : " scenes"),
      evaluation.views + " views, " + evaluation.frames + " frames of "
      + evaluation.resolution.join(" × ") + " at " + evaluation.fps + " fps",
      evaluation.points + " points",
      good + " of " + evaluation.checks.length + " checks passed");
  } else parts.push(data.samples + " samples");
  if (data.left_out.length) parts.push(data.left_out.length + " samples are not on this page");
  $("headline").textContent = parts.join(" · ");
}
function listen() {
  $("play").onclick = () => play(!state.playing);
  $("seek").oninput = e => { play(false); setFrame(+e.target.value); };
  $("speed").onchange = e => { state.speed = +e.target.value; };
  $("sample").onchange = e => show(+e.target.value);
  $("before").onclick = () => step(-1);
  $("after").onclick = () => step(1);
  $("sort").onchange = e => sortBy(e.target.value);
  addEventListener("keydown", e => {
    if (/^(INPUT|SELECT|BUTTON|SUMMARY|CANVAS)$/.test(e.target.tagName) || e.ctrlKey || e.metaKey)
      return;
    if (e.key === " ") play(!state.playing);
    else if (e.key === "ArrowLeft" || e.key === "ArrowRight") {
      play(false);
      const by = e.key === "ArrowRight" ? 1 : state.sample.frames - 1;
      setFrame((state.frame + by) % state.sample.frames);
    } else if (e.key === "n") step(1);
    else if (e.key === "p") step(-1);
    else return;
    e.preventDefault();
  });
  addEventListener("resize", drawCurves);
}
function start() {
  headline(); listen(); listenTracks();
  const sorts = evaluation ? Object.keys(evaluation.rows.model) : [];
  $("sort").append(make("option", "order of records", {value: ""}),
    ...sorts.map(m => make("option", definitions[m].title + ", worst first", {value: m})));
  if (evaluation) { showMetrics(); showChecks(); showDefinitions(); }
  for (const id of ["metrics", "checks", "scenes"]) $(id + "-section").hidden = !evaluation;
  showCurveOptions(); drawCurves();
  if (data.samples) { sortBy(""); show(0); }
  document.body.dataset.ready = "1";
}
start();
"""
