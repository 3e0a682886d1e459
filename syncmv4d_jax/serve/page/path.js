// The depth of the image, and the path of a camera that sees it again: a name with an amount, or
// drawn by leading the camera round the scene.
//
// The image's camera stands in the origin, level, looking along +y (data/depth.py); a path that is
// drawn stays as far from the middle of the scene as the image's camera, and looks at it.

import {takes} from "./drop.js";
import {$, make} from "./elements.js";
import {ask} from "./jobs.js";
import {frames as framesOf, look} from "./looks.js";
import * as rig from "./rig.js";
import {Space} from "./space.js";

const FARTHEST = 50; // degrees round the scene; the server refuses what is beyond 60
const DRAWN = "drawn";
let wants = null;
let image = () => null;
let files = [];
let scene = null;
let points = [];
let space = null;
let drawn = [[0, 0]]; // [azimuth, elevation], degrees from the image's camera
let loaded = "";
let eyes = [];

export function start(told, chosen) {
  wants = told;
  image = chosen;
  $("depth-section").hidden = false;
  $("path-section").hidden = !wants.paths.length;
  takes("depth", "depth-drop", found => {
    files = found.slice(0, 1);
    refresh();
  });
  $("field_of_view").onchange = () => refresh();
  if (!wants.paths.length) return;
  space = new Space($("scene"));
  space.home = {turn: 0.35, tilt: 0.35, zoom: 1};
  space.view = {...space.home};
  for (const row of wants.paths)
    $("path").append(make("option", row.name.replaceAll("_", " "), {value: row.name}));
  $("path").append(make("option", "as drawn", {value: DRAWN}));
  $("path").onchange = () => named();
  $("amount").onchange = () => follow();
  $("draw").onclick = () => drawing(!space.lead);
  $("undraw").onclick = () => {
    drawn = [[0, 0]];
    loaded = "";
    follow();
  };
  $("path-load").onchange = load;
  $("path-save").onclick = save;
  named();
}

export function fill(form) {
  for (const file of files) form.append("depth", file, file.name);
  form.set("field_of_view", $("field_of_view").value);
  form.set("camera_path", text());
}

// The image or its depth is another.
export async function refresh() {
  const picture = image();
  if (!files.length || !picture) return;
  const form = new FormData();
  form.append("images", picture, picture.name);
  for (const file of files) form.append("depth", file, file.name);
  form.set("field_of_view", $("field_of_view").value);
  scene = await look(form, "depth");
  if (!scene) return;
  points = framesOf(scene)[0];
  const wide = (2 * Math.atan((0.5 * scene.size[1]) / scene.K[0]) * 180) / Math.PI;
  $("depth-text").textContent =
    `${files[0].name}: the middle of the scene is ${scene.centre[1].toFixed(2)} m away; ` +
    `the video is ${wide.toFixed(0)}° wide.`;
  if (space) follow();
}

function named() {
  const row = wants.paths.find(one => one.name === $("path").value);
  $("amount-part").hidden = !row || !row.most || row.name === "static";
  $("amount-text").textContent = $("amount-part").hidden ? "" : row.unit.replace("pivot", "scene");
  $("draw-part").hidden = $("path").value !== DRAWN;
  if (row) {
    $("amount").value = row.amount;
    $("amount").min = -row.most;
    $("amount").max = row.most;
  }
  drawing(false);
  follow();
}

function drawing(on) {
  space.lead = on ? lead : null;
  $("draw").setAttribute("aria-pressed", String(on));
  $("draw").textContent = on ? "Done" : "Draw";
  if (on) $("scene").focus();
}

function lead(dx, dy) {
  const [a, e] = drawn.at(-1);
  const degrees = 180 / Math.PI / 3;
  const next = [a + dx * degrees, e - dy * degrees];
  const far = Math.hypot(...next) / FARTHEST;
  drawn.push(far > 1 ? next.map(x => x / far) : next);
  loaded = "";
  follow();
}

// A camera that stands so many degrees round the scene; turned to its middle.
function camera([azimuth, elevation]) {
  const distance = scene.centre[1];
  const [height, width] = scene.size;
  const placed = {azimuth: azimuth - 90, elevation, distance, size: [width, height]};
  return {...placed, target: [0, distance, 0], wide: 50};
}

// The path in as many frames as the video has, each as long as the others.
function even() {
  const lengths = [0];
  for (let i = 1; i < drawn.length; i++)
    lengths.push(
      lengths[i - 1] + Math.hypot(drawn[i][0] - drawn[i - 1][0], drawn[i][1] - drawn[i - 1][1]),
    );
  const whole = lengths.at(-1);
  return Array.from({length: wants.frames}, (_, n) => {
    const at = (whole * n) / Math.max(wants.frames - 1, 1);
    if (drawn.length < 2 || !whole) return drawn[0];
    const found = lengths.findIndex(x => x >= at);
    const i = found < 0 ? lengths.length - 1 : Math.max(found, 1);
    const step = lengths[i] - lengths[i - 1];
    const share = step ? (at - lengths[i - 1]) / step : 0;
    return [0, 1].map(k => drawn[i - 1][k] + share * (drawn[i][k] - drawn[i - 1][k]));
  });
}

function json() {
  if (loaded) return loaded;
  if (!scene || drawn.length < 2) return "";
  const frames = even().map(place => {
    const {R, T} = rig.matrices(camera(place));
    return {K: scene.K, R, T};
  });
  return JSON.stringify({size: scene.size, fps: wants.fps, frames});
}

function text() {
  const name = $("path").value;
  if (name === DRAWN) return json();
  return name && !$("amount-part").hidden ? `${name}:${$("amount").value}` : name;
}

async function follow() {
  if (!scene) return;
  $("wrong-path").textContent = "";
  const told = text();
  if ($("path").value === DRAWN) {
    eyes = loaded
      ? JSON.parse(loaded).frames.map(({R, T}) => centre(R, T))
      : drawn.map(place => rig.eyeOf(camera(place)));
    $("path-text").textContent = told
      ? `${wants.frames} frames, ${(wants.frames / wants.fps).toFixed(1)} s`
      : "Press Draw, then drag in the view, or use the arrow keys, to lead the camera.";
  } else if (told) {
    const pivot = scene.centre.map(x => x.toFixed(4)).join(",");
    const where = `/v1/path?camera_path=${encodeURIComponent(told)}&pivot=${pivot}`;
    try {
      ({eyes} = await ask(where));
      $("path-text").textContent = "The line is where the camera goes.";
    } catch (error) {
      $("wrong-path").textContent = error.message;
    }
  } else {
    eyes = [];
    $("path-text").textContent = "";
  }
  draw();
}

const centre = (R, T) => {
  const [r, t] = [R.flat(), T.flat()];
  return [0, 1, 2].map(i => -(r[i] * t[0] + r[3 + i] * t[1] + r[6 + i] * t[2]));
};

function draw() {
  const distance = scene.centre[1];
  const own = {
    ...camera([0, 0]),
    given: {
      K: scene.K,
      R: [1, 0, 0, 0, 0, -1, 0, 1, 0],
      T: [0, 0, 0],
      imgSize: [scene.size[1], scene.size[0]],
    },
  };
  const frusta = [rig.frustum(own, 0.2 * distance)];
  if ($("path").value === DRAWN && !loaded && drawn.length > 1)
    frusta.push(rig.frustum(camera(drawn.at(-1)), 0.2 * distance));
  space.show({
    frusta,
    names: ["the image", "the last frame"],
    chosen: 0,
    centre: scene.centre,
    radius: Math.max(scene.radius, 0.9 * distance),
    floor: Math.min(...points.map(p => p[2])),
    points,
    colours: scene.colours,
    trail: eyes,
  });
}

async function load() {
  const [file] = $("path-load").files;
  $("path-load").value = "";
  if (!file) return;
  try {
    const content = JSON.parse(await file.text());
    loaded = JSON.stringify(content);
    for (const frame of content.frames) centre(frame.R, frame.T);
    follow();
  } catch (error) {
    loaded = "";
    $("wrong-path").textContent = `${file.name}: no camera_path.json (${error.message})`;
  }
}

function save() {
  const told = json();
  if (!told) return;
  const url = URL.createObjectURL(new Blob([told], {type: "application/json"}));
  make("a", null, {href: url, download: "camera_path.json"}).click();
  URL.revokeObjectURL(url);
}
