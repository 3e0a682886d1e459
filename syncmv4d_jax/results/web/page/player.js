// One clock for all videos, and which sample is shown.
//
// All videos are paused; the clock sets their time to the middle of the current frame, so they
// can't drift apart, and the 3D view draws the same frame.

import {$, make} from "./elements.js";
import {overlay} from "./overlays.js";
import {load, samples, state, tell} from "./state.js";

function blob(text) {
  const bytes = Uint8Array.from(atob(text), c => c.charCodeAt(0));
  const url = URL.createObjectURL(new Blob([bytes], {type: "video/mp4"}));
  state.urls.push(url);
  return url;
}

const PANELS = {
  Videos: [
    ["video", "Generated", "made"],
    ["true_video", "Ground truth", "true"],
  ],
  "Motion as colours": [
    ["motion", "Generated", "made"],
    ["true_motion", "Ground truth", "true"],
  ],
};

export function showClips() {
  state.urls.splice(0).forEach(URL.revokeObjectURL);
  state.videos = [];
  state.overlays = [];
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
  const line = make("div", null, {class: `line ${kind}`});
  const views = make("div", null, {class: "views"});
  line.append(make("span", label), views);
  state.sample.clips[key].forEach((clip, v) => {
    const name = state.sample.names[v] ?? `view ${v + 1}`;
    const video = make("video", null, {
      title: name,
      muted: "",
      playsinline: "",
      preload: "auto",
      "aria-label": `${panel}, ${label}, ${name}`,
    });
    video.muted = true;
    video.addEventListener("loadeddata", () => seek(video));
    video.addEventListener("seeked", () => {
      video.busy = false;
      seek(video);
    });
    video.addEventListener("loadedmetadata", () =>
      video.classList.toggle("small", video.videoWidth < 100),
    );
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

export function seekAll() {
  state.videos.forEach(seek);
}

export function setFrame(frame) {
  state.frame = frame;
  $("seek").value = frame;
  $("seek").setAttribute("aria-valuetext", `${frame + 1} of ${state.sample.frames}`);
  $("frame").textContent = `${frame + 1} / ${state.sample.frames}`;
  tell("frame");
}

export function play(on) {
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

export function show(i) {
  state.at = i;
  state.sample = load(i);
  $("sample").value = i;
  $("seek").max = state.sample.frames - 1;
  const {prompt, notes, recipe} = samples[i];
  $("recipe").textContent = recipe;
  $("recipe-part").hidden = !recipe;
  $("prompt").textContent = prompt ? `“${prompt}”` : "";
  $("notes").hidden = !notes.length;
  $("notes").replaceChildren(...notes.map(text => make("li", text)));
  state.frame = Math.min(state.frame, state.sample.frames - 1);
  tell("sample");
  setFrame(state.frame);
}

export function step(by) {
  const n = state.order.length;
  const at = state.order.indexOf(state.at);
  if (n) show(state.order[at < 0 ? 0 : (at + by + n) % n]);
}
