"""The report's clock and player: one clock for all videos, which sample is shown, keys.

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
const samples = data.samples, ids = samples.map((_, i) => i), names = samples.map(s => s.id);
const cache = new Map();
const load = i => { if (!cache.has(i)) cache.set(i, parse("sample-" + i)); return cache.get(i); };
const state = {at: 0, frame: 0, playing: false, since: 0, timer: 0, sample: null, videos: [],
  overlays: [], order: ids.slice(), speed: 1, sort: "", best: false, urls: []};

function title(m) { const d = definitions[m];
  return d.title + (d.unit ? " [" + d.unit + "]" : "")
    + (d.better === "lower" ? "\u00a0↓" : d.better === "higher" ? "\u00a0↑" : "\u00a0→\u00a01"); }
function badness(m, x) { const better = definitions[m].better;
  return better === "lower" ? x : better === "higher" ? -x : Math.abs(x - better); }
function valueOf(m, name) {  // null where undefined, and for metrics of the whole set (FID)
  const cell = evaluation && evaluation.rows.model[m], values = (cell && cell.per_sample) || {};
  return values[name] === undefined ? null : values[name];
}

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
  state.videos = []; state.overlays = [];
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
    const frame = make("div", null, {class: "frame"});
    frame.append(video);
    if (PANELS.Videos.some(entry => entry[0] === key)) frame.append(overlay(key, v));
    views.append(frame);
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
  $("seek").setAttribute("aria-valuetext", `${frame + 1} of ${state.sample.frames}`);
  $("frame").textContent = (frame + 1) + " / " + state.sample.frames;
  state.videos.forEach(seek);
  drawTracks(); drawOverlays(); markPlots();
}
function play(on) {
  state.playing = on;
  $("play").textContent = on ? "Pause" : "Play";
  $("point-text").setAttribute("aria-live", on ? "off" : "polite");
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
  const {prompt, notes} = samples[i];
  $("prompt").textContent = prompt ? "“" + prompt + "”" : "";
  $("notes").hidden = !notes.length;
  $("notes").replaceChildren(...notes.map(text => make("li", text)));
  state.frame = Math.min(state.frame, state.sample.frames - 1);
  showClips(); prepareTracks(); prepareOverlays(); showValues(); drawPlots(); markScene();
  setFrame(state.frame);
}
function step(by) {
  const n = state.order.length, at = state.order.indexOf(state.at);
  if (n) show(state.order[at < 0 ? 0 : (at + by + n) % n]);
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
  } else parts.push(samples.length + (samples.length === 1 ? " sample" : " samples"));
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
  for (const id of ["find", "only", "from", "to"]) $(id).oninput = arrange;
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
  addEventListener("resize", () => { drawCurves(); drawPlots(); drawOverlays(); });
}
function start() {
  headline(); listen(); listenTracks(); listenOverlays();
  const sorts = evaluation ? Object.keys(evaluation.rows.model)
    .filter(m => evaluation.rows.model[m].per_sample) : [];
  $("sort").append(make("option", "order of records", {value: ""}),
    ...sorts.map(m => make("option", definitions[m].title + ", worst first", {value: m})));
  if (evaluation) { showMetrics(); showChecks(); showDefinitions(); }
  for (const id of ["metrics", "checks"]) $(id + "-section").hidden = !evaluation;
  $("scenes-section").hidden = samples.length < 2 && !evaluation;
  showCurveOptions(); drawCurves();
  if (samples.length) { sortBy(sorts.includes("mv_rpe") ? "mv_rpe" : ""); show(state.order[0]); }
  document.body.dataset.ready = "1";
}
start();
"""
