// Wires everything and shows the first sample.

import {drawCurves, showCurveOptions} from "./curves.js";
import {$, make} from "./elements.js";
import {drawOverlays, listenOverlays, prepareOverlays} from "./overlays.js";
import {play, seekAll, setFrame, show, showClips, step} from "./player.js";
import {drawPlots, markPlots} from "./plots.js";
import {preparePoints} from "./points.js";
import {drawTracks, listenTracks, prepareTracks} from "./scene.js";
import {data, definitions, evaluation, on, samples, state} from "./state.js";
import {
  arrange,
  markScene,
  showChecks,
  showDefinitions,
  showMetrics,
  showValues,
  sortBy,
} from "./tables.js";

function headline() {
  const parts = [];
  if (evaluation) {
    const good = evaluation.checks.filter(c => c.passed).length;
    parts.push(
      `${evaluation.scenes} ${evaluation.scenes === 1 ? "scene" : "scenes"}`,
      `${evaluation.views} views, ${evaluation.frames} frames of ${evaluation.resolution.join(" × ")}` +
        ` at ${evaluation.fps} fps`,
      `${evaluation.points} points`,
      `${good} of ${evaluation.checks.length} checks passed`,
    );
  } else parts.push(`${samples.length} ${samples.length === 1 ? "sample" : "samples"}`);
  if (data.left_out.length) parts.push(`${data.left_out.length} samples are not on this page`);
  $("headline").textContent = parts.join(" · ");
}

function listen() {
  $("play").onclick = () => play(!state.playing);
  $("seek").oninput = e => {
    play(false);
    setFrame(+e.target.value);
  };
  $("speed").onchange = e => {
    state.speed = +e.target.value;
  };
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
  addEventListener("resize", () => {
    drawTracks();
    drawCurves();
    drawPlots();
    drawOverlays();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    drawTracks();
    drawCurves();
  });
}

function start() {
  on("sample", [
    preparePoints,
    showClips,
    prepareTracks,
    prepareOverlays,
    showValues,
    drawPlots,
    markScene,
  ]);
  on("frame", [seekAll, drawTracks, drawOverlays, markPlots]);
  on("choice", [drawOverlays, drawTracks]);
  headline();
  listen();
  listenTracks();
  listenOverlays();
  const sorts = evaluation
    ? Object.keys(evaluation.rows.model).filter(m => evaluation.rows.model[m].per_sample)
    : [];
  $("sort").append(
    make("option", "order of records", {value: ""}),
    ...sorts.map(m => make("option", `${definitions[m].title}, worst first`, {value: m})),
  );
  if (evaluation) {
    showMetrics();
    showChecks();
    showDefinitions();
  }
  for (const id of ["metrics", "checks"]) $(`${id}-section`).hidden = !evaluation;
  $("sort-part").hidden = !sorts.length;
  $("before").hidden = $("after").hidden = samples.length < 2;
  $("definitions-part").hidden = !evaluation;
  $("scenes-section").hidden = samples.length < 2 && !evaluation;
  showCurveOptions();
  drawCurves();
  if (samples.length) {
    sortBy(sorts.includes("mv_rpe") ? "mv_rpe" : "");
    show(state.order[0]);
  }
  document.body.dataset.ready = "1";
}
start();
