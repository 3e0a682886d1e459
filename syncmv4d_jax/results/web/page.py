"""The report's markup and style. report.py fills %%STYLE%%, %%SCRIPT%%, %%DATA%% and the texts."""

STYLE = """
:root { color-scheme: light dark;
  --ground: #fbfbfa; --card: #ffffff; --ink: #1b1c1e; --soft: #5c6066; --line: #dcdedf;
  --accent: #1a5fb4; --made: #1a6fd0; --true: #b34804; --good: #1f7a3d; --bad: #b3261e;
  --hover: #eef3fa; --stage: #f1f2f3; }
@media (prefers-color-scheme: dark) { :root {
  --ground: #15171a; --card: #1d2024; --ink: #e7e8ea; --soft: #a2a7ae; --line: #343940;
  --accent: #8ab4f8; --made: #69a8ff; --true: #ff9f57; --good: #79d694; --bad: #ff8f86;
  --hover: #262c35; --stage: #101214; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1320px; margin: 0 auto; padding: 0 20px 60px; }
h1 { font-size: 22px; margin: 22px 0 2px; letter-spacing: -0.01em; }
h2 { font-size: 16px; margin: 30px 0 10px; }
p { margin: 4px 0 10px; max-width: 75ch; }
.soft { color: var(--soft); }
.pick { display: flex; flex-wrap: wrap; gap: 8px 16px; margin: 10px 0 4px; font-size: 14px; }
.bar { position: sticky; top: 0; z-index: 5; background: var(--ground);
  border-bottom: 1px solid var(--line); padding: 10px 0; display: flex; gap: 14px;
  align-items: center; }
button, select { font: inherit; font-size: 14px; color: var(--ink); background: var(--card);
  border: 1px solid var(--line); border-radius: 6px; padding: 4px 10px; min-height: 32px; }
button { cursor: pointer; } button:hover, select:hover { background: var(--hover); }
button.main { min-width: 84px; background: var(--accent); color: var(--ground);
  border-color: var(--accent); font-weight: 600; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
select { max-width: 100%; min-width: 0; }
#sample { max-width: 300px; }
.group { display: flex; gap: 6px; align-items: center; min-width: 0; }
.seek { flex: 1; display: flex; align-items: center; gap: 10px; }
.seek input { flex: 1; min-width: 80px; accent-color: var(--accent); }
.seek output { font-variant-numeric: tabular-nums; color: var(--soft); white-space: nowrap; }
.clips { display: grid; gap: 10px 28px; grid-template-columns: minmax(0, 1fr); }
@media (min-width: 1000px) { .clips.both { grid-template-columns: repeat(2, minmax(0, 1fr)); } }
.panel { display: grid; gap: 8px; align-content: start; }
.panel h2 { margin: 8px 0 0; }
.line { display: grid; grid-template-columns: minmax(0, 1fr); gap: 2px; }
.line > span { font-size: 13px; color: var(--soft); }
.line.made > span { color: var(--made); font-weight: 600; }
.line.true > span { color: var(--true); font-weight: 600; }
.views { display: grid; gap: 6px; grid-auto-flow: column; grid-auto-columns: 1fr; }
video { width: 100%; display: block; background: var(--stage); border-radius: 4px; }
video.small { image-rendering: pixelated; }
.two { display: grid; grid-template-columns: minmax(0, 3fr) minmax(0, 2fr); gap: 24px; }
.two:has(#values-section[hidden]) { grid-template-columns: minmax(0, 1fr); }
.stage { position: relative; background: var(--stage); border: 1px solid var(--line);
  border-radius: 8px; overflow: hidden; }
.stage canvas { display: block; width: 100%; height: 420px; touch-action: none; cursor: grab; }
.options { display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 8px 0; font-size: 14px;
  align-items: center; }
.options label { display: inline-flex; gap: 6px; align-items: center; }
.dot { width: 10px; height: 10px; border-radius: 50%; display: inline-block; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 8px;
  background: var(--card); }
.tall { max-height: 420px; overflow-y: auto; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px;
  font-variant-numeric: tabular-nums; }
th, td { padding: 6px 10px; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
tbody tr:last-child td, tbody tr:last-child th { border-bottom: 0; }
th:first-child, td:first-child { text-align: left; }
tbody th { font-weight: 500; }
thead th { color: var(--soft); font-weight: 500; vertical-align: bottom; background: var(--card);
  position: sticky; top: 0; }
thead button { border: 0; background: none; padding: 0; color: inherit; min-height: 0;
  font-size: 13px; text-align: right; }
thead button:hover { color: var(--accent); background: none; }
tr.model td, tr.model th { font-weight: 650; }
#metrics th, #scenes thead th { white-space: normal; min-width: 66px; }
#scenes thead th { min-width: 78px; }
.se { color: var(--soft); font-weight: 400; font-size: 12px; }
tr[data-sample] { cursor: pointer; } tr[data-sample]:hover { background: var(--hover); }
tr[aria-current=true] { background: var(--hover); }
tr[data-sample] th button { border: 0; background: none; padding: 0; min-height: 0;
  color: var(--accent); font-size: 13.5px; }
.yes { color: var(--good); font-weight: 600; } .no { color: var(--bad); font-weight: 600; }
.wrap td, .wrap th { white-space: normal; }
svg { width: 100%; height: 300px; display: block; background: var(--card);
  border: 1px solid var(--line); border-radius: 8px; }
svg text { fill: var(--soft); font-size: 12px; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 12px;
  overflow: auto; font-size: 12.5px; max-height: 420px; margin: 6px 0;
  font-family: ui-monospace, "DejaVu Sans Mono", monospace; }
pre.wrapped { white-space: pre-wrap; overflow-wrap: anywhere; }
details { margin: 8px 0; } summary { cursor: pointer; }
.note { border-left: 3px solid var(--bad); margin: 6px 0 10px; padding: 0 0 0 26px; }
.hidden, .skip:not(:focus) { position: absolute; width: 1px; height: 1px; overflow: hidden;
  clip-path: inset(50%); white-space: nowrap; }
.skip:focus { position: fixed; left: 12px; top: 8px; z-index: 9; background: var(--card);
  padding: 6px 12px; border-radius: 6px; }
.frame { position: relative; } .over { position: absolute; inset: 0; width: 100%; height: 100%; }
input[type=search], input[type=number] { font: inherit; font-size: 14px; color: var(--ink);
  background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: 4px 8px;
  min-height: 32px; }
input[type=number] { width: 76px; } #find { width: 190px; }
.legend i { display: inline-block; width: 90px; height: 10px; border-radius: 3px; margin: 0 6px;
  background: linear-gradient(90deg, #2c7bb6, #abd9e9, #ffffbf, #fdae61, #d7191c); }
.plots { display: grid; gap: 8px 24px; grid-template-columns: minmax(0, 3fr) minmax(0, 2fr); }
.plots h3, .heat h3 { font-size: 14px; font-weight: 600; margin: 6px 0; }
#depth, #error { height: 220px; }
.map { position: relative; border: 1px solid var(--line); border-radius: 8px; overflow: hidden;
  height: 180px; } .map canvas { width: 100%; height: 100%; display: block;
  image-rendering: pixelated; cursor: crosshair; }
#heat-now { position: absolute; top: 0; bottom: 0; width: 0; border-left: 2px solid var(--ink);
  pointer-events: none; }
@media (max-width: 800px) {
  main { padding: 0 12px 40px; }
  .two, .plots { grid-template-columns: minmax(0, 1fr); gap: 0; }
  .views { gap: 4px; } .stage canvas { height: 320px; } h1 { font-size: 19px; }
  #sample { max-width: 230px; } #checks td, #checks th { white-space: normal; }
  #checks th, #checks td { padding: 6px 7px; } #metrics tbody th { white-space: normal; }
}
@media (prefers-reduced-motion: reduce) { * { scroll-behavior: auto !important;
  transition: none !important; animation: none !important; } }
@media (forced-colors: active) { .dot, .legend i, .over { forced-color-adjust: none; } }
"""

BODY = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>SyncMV4D samples</title>
<link rel="icon" href="data:,">
<style>%%STYLE%%</style>
</head>
<body>
<a class="skip" href="#scenes-section">To the table of samples</a>
<main>
<h1>Synchronized views and 4D motion</h1>
<p class="soft" id="headline"></p>
<div class="bar" role="toolbar" aria-label="Playback">
  <button class="main" id="play" aria-keyshortcuts="Space">Play</button>
  <div class="seek">
    <input type="range" id="seek" min="0" max="0" value="0" step="1" aria-label="Frame">
    <output id="frame" for="seek" aria-live="off">0 / 0</output>
  </div>
</div>
<div class="pick" role="group" aria-label="Sample">
  <div class="group">
    <button id="before" aria-label="Previous sample">←</button>
    <select id="sample" aria-label="Sample"></select>
    <button id="after" aria-label="Next sample">→</button>
  </div>
  <label class="group">Sort by <select id="sort"></select></label>
  <label class="group">Speed
    <select id="speed"><option value="0.25">¼</option><option value="0.5">½</option>
      <option value="1" selected>1</option><option value="2">2</option></select></label>
</div>
<p id="prompt" aria-live="polite"></p>
<ul class="note" id="notes" aria-label="Failure notes" hidden></ul>
<section class="clips" id="clips" aria-label="Videos"></section>
<section id="overlay-section" aria-label="Overlays">
  <div class="options">
    <label>Overlay <select id="overlay"><option value="none">none</option>
      <option value="tracks">tracks in all views</option><option value="errors">errors</option>
      <option value="lines">epipolar lines</option></select></label>
    <label>Point <input type="number" id="point" min="0" value="0" step="1"></label>
    <span class="legend" id="legend" hidden>0 <i></i><span id="legend-most"></span></span>
    <output id="point-text" for="overlay point" class="soft"></output>
  </div>
</section>
<div class="two">
<section id="tracks-section" aria-labelledby="tracks-title">
  <h2 id="tracks-title">Tracks in 3D</h2>
  <div class="stage"><canvas id="tracks" tabindex="0" role="img" aria-label="Point tracks and
    cameras in 3D. Arrow keys turn, plus and minus zoom, 0 resets."></canvas></div>
  <div class="options">
    <label><input type="checkbox" id="show-generated" checked>
      <span class="dot" style="background:var(--made)"></span>generated</label>
    <label><input type="checkbox" id="show-true" checked>
      <span class="dot" style="background:var(--true)"></span>true</label>
    <label><input type="checkbox" id="show-trails" checked>trails</label>
    <label><input type="checkbox" id="show-errors">error lines</label>
    <label><input type="checkbox" id="show-heat">errors as colours</label>
    <label><input type="checkbox" id="show-cameras" checked>cameras</label>
    <button id="reset">Reset view</button>
  </div>
  <p class="soft">Drag to turn, wheel to zoom; with the keyboard: arrows, +, −, 0.</p>
</section>
<section id="values-section" aria-labelledby="values-title">
  <h2 id="values-title">This sample</h2>
  <div class="scroll tall" tabindex="0" role="region" aria-label="Metrics of this sample">
    <table id="values"></table></div>
</section>
</div>
<section id="plots-section" aria-labelledby="plots-title">
  <h2 id="plots-title">Depth, scale and errors over time</h2>
  <div class="plots">
    <div id="depth-part"><h3>Depth [m]: median and 5 to 95% of the points; scale dashed</h3>
      <svg id="depth" role="img" aria-label="Depth of the points in each view over time, generated
        and true, with the scale"></svg></div>
    <div id="error-part"><h3>Error over time</h3><svg id="error" role="img"></svg></div>
  </div>
  <div class="heat" id="heat-part"><h3>Error of each point (rows, worst on top) and frame</h3>
    <div class="map"><canvas id="heat" role="img" aria-label="Error of each point and frame">
      </canvas><div id="heat-now"></div></div>
    <p class="soft legend">0 <i></i><span id="heat-most"></span>. A click goes to the frame and
      chooses the point.</p></div>
</section>
<section id="scenes-section" aria-labelledby="scenes-title">
  <h2 id="scenes-title">Samples</h2>
  <div class="options" role="group" aria-label="Filter">
    <label>Find <input type="search" id="find" placeholder="name, prompt, note"></label>
    <label>Show <select id="only"><option value="">all</option>
      <option value="notes">with failure notes</option><option value="clean">without</option>
      <option value="first">the first ten of this order</option></select></label>
    <label>Value from <input type="number" id="from" step="any"></label>
    <label>to <input type="number" id="to" step="any"></label>
    <output id="count" class="soft" aria-live="polite"></output>
  </div>
  <p class="soft">A heading sorts, worst first; once more, best first. A row shows its sample.</p>
  <div class="scroll tall" tabindex="0" role="region" aria-label="Table of samples">
    <table id="scenes"></table></div>
  <p id="nothing" hidden>No sample matches.</p>
</section>
<section id="metrics-section" aria-labelledby="metrics-title">
  <h2 id="metrics-title">Metrics</h2>
  <p class="soft">Mean over scenes, standard error below. The rows under the model are trivial
    baselines; the oracle knows where the true points start and holds them still.</p>
  <div id="metrics"></div>
</section>
<section id="checks-section" aria-labelledby="checks-title">
  <h2 id="checks-title">Checks</h2>
  <div class="scroll"><table id="checks"></table></div>
</section>
<section id="curves-section" aria-labelledby="curves-title">
  <h2 id="curves-title">Loss</h2>
  <div class="options" id="curve-options"></div>
  <svg id="curves" role="img" aria-label="Loss over training steps"></svg>
</section>
<section aria-labelledby="made-title">
  <h2 id="made-title">How this was made</h2>
  <pre class="wrapped">%%COMMAND%%</pre>
  <details><summary>Configuration</summary><pre>%%CONFIG%%</pre></details>
  <details><summary>Definitions of the metrics</summary>
    <div class="scroll wrap"><table id="definitions"></table></div></details>
</section>
</main>
%%DATA%%
<script>%%SCRIPT%%</script>
</body>
</html>
"""
