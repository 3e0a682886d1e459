// The studio: what the task wants becomes a form, a form becomes a job.

import {$, make} from "./elements.js";
import * as jobs from "./jobs.js";
import * as meshes from "./meshes.js";
import * as path from "./path.js";
import * as pictures from "./pictures.js";
import * as rig from "./rig.js";
import {Space} from "./space.js";

const {views} = pictures;
let wants = null;
let cameras = [];
let space = null;
const FIELDS = ["azimuth", "elevation", "distance", "wide"];
const PLACES = {
  images: "wrong-images",
  cameras: "wrong-cameras",
  prompt: "wrong-prompt",
  num_inference_steps: "wrong-settings",
  guidance_scale: "wrong-settings",
  seed: "wrong-settings",
  num_videos: "wrong-settings",
  best_of: "wrong-settings",
  switches: "wrong-settings",
  meshes: "wrong-meshes",
  fps: "wrong-meshes",
  unit: "wrong-meshes",
  up: "wrong-meshes",
  labels: "wrong-meshes",
  depth: "wrong-depth",
  field_of_view: "wrong-depth",
  camera_path: "wrong-path",
};

async function start() {
  const told = await jobs.ask("/v1");
  wants = told.wants;
  const [height, width] = wants.size;
  $("wants").textContent =
    `Takes ${taken()}, makes ${wants.views} × ${wants.frames} frames of ${width} × ${height} pixels. ` +
    "Everything stays on this server.";
  const count = wants.cameras ? wants.views : 1;
  pictures.start(
    Array.from({length: count}, (_, v) => `view_${v}`),
    sized,
  );
  $("cameras-section").hidden = !wants.cameras;
  $("num_inference_steps").value = wants.steps;
  $("num_inference_steps").max = told.limits.steps;
  $("guidance_scale").value = wants.guidance;
  for (const name of ["num_videos", "best_of"]) $(name).max = told.limits[name];
  $("best-part").hidden = !wants.compares;
  $("negative_prompt").value = wants.negative_prompt;
  $("preview").checked = wants.previews;
  $("preview-part").hidden = !wants.previews;
  switches();
  if (wants.cameras) placeCameras();
  if (wants.meshes) meshes.start(wants, projected, aimed);
  if (wants.depth) path.start(wants, () => views.files[0]);
  $("form").onsubmit = event => {
    event.preventDefault();
    send();
  };
  $("dice").onclick = () => {
    $("seed").value = drawn();
  };
  jobs.start(again);
  document.body.dataset.ready = "1";
}

function taken() {
  if (wants.depth) return "an image with its depth";
  if (!wants.cameras) return "an image, or none";
  const each =
    wants.views === 1 ? "an image with its camera" : `${wants.views} images with their cameras`;
  return wants.meshes ? `${each} and meshes that move` : each;
}

function drawn() {
  return crypto.getRandomValues(new Uint32Array(1))[0] >>> 1;
}

function switches() {
  for (const row of wants.switches) {
    const part = make("div", null, {class: "switch"});
    const label = make("label");
    const truth = typeof row.least === "boolean";
    const kind = truth ? {type: "checkbox"} : {type: "number", min: row.least, max: row.most};
    const input = make("input", null, {...kind, "data-switch": row.name});
    if (truth) input.checked = row.value;
    else input.value = row.value;
    const name = row.name.replaceAll("_", " ");
    label.append(...(truth ? [input, name] : [name, input]));
    part.append(label, make("span", row.text, {class: "soft"}));
    $("switches").append(part);
  }
}

// Cameras.

function placeCameras() {
  space = new Space($("rig"));
  if (wants.views !== 3) $("preset").value = "ring";
  $("preset").onchange = preset;
  for (const field of FIELDS) $(field).oninput = moved;
  $("load").onchange = async () => {
    const [file] = $("load").files;
    $("load").value = "";
    if (file) loaded(await file.text());
  };
  $("save").onclick = () => {
    const url = URL.createObjectURL(new Blob([rig.text(cameras)], {type: "application/json"}));
    make("a", null, {href: url, download: "cameras.json"}).click();
    URL.revokeObjectURL(url);
  };
  preset();
}

function sizeOf(v) {
  const image = views.images[v];
  return image ? [image.naturalWidth, image.naturalHeight] : [wants.size[1], wants.size[0]];
}

function preset() {
  const sizes = views.names.map((_, v) => sizeOf(v));
  const target = wants.meshes ? meshes.cloud().centre : undefined;
  cameras = rig.preset($("preset").value, views.names, sizes, target);
  $("wrong-cameras").textContent = "";
  drawRig();
}

function loaded(text) {
  try {
    const found = rig.read(text, wants.views);
    if (found.length < wants.views)
      throw new Error(`wanted ${wants.views} cameras, got ${found.length}`);
    cameras = found;
  } catch (error) {
    $("wrong-cameras").textContent = `cameras.json: ${error.message}`;
    return;
  }
  $("wrong-cameras").textContent = "";
  $("preset").value = "loaded";
  pictures.setNames(cameras.map(camera => camera.name));
  drawRig();
}

// An image was put to a view: a camera that is placed takes its size.
function sized() {
  if (wants.depth) path.refresh();
  if (!wants.cameras) return;
  cameras = cameras.map((camera, v) => (camera.given ? camera : {...camera, size: sizeOf(v)}));
  drawRig();
}

// Meshes were chosen: cameras that are placed look at them.
function aimed() {
  const {centre} = meshes.cloud();
  if (centre)
    cameras = cameras.map(camera => (camera.given ? camera : {...camera, target: centre}));
  drawRig();
}

function projected() {
  const v = views.chosen;
  const camera = cameras[v];
  const own = {name: camera.name, image: views.images[v], size: sizeOf(v)};
  return {...own, project: rig.projector(camera)};
}

function moved() {
  const camera = {...cameras[views.chosen], given: undefined, size: sizeOf(views.chosen)};
  for (const field of FIELDS) {
    const value = $(field).valueAsNumber;
    if (!Number.isFinite(value)) return;
    camera[field] = value;
  }
  cameras[views.chosen] = camera;
  drawRig(false);
}

function drawRig(fill = true) {
  const camera = cameras[views.chosen];
  $("chosen").textContent = camera.name;
  if (fill) for (const field of FIELDS) $(field).value = +camera[field].toFixed(2);
  const far = Math.max(...cameras.map(one => one.distance));
  const frusta = cameras.map(one => rig.frustum(one, 0.25 * one.distance));
  const told = wants.meshes ? meshes.cloud() : {};
  const {points, colours, centre = camera.target} = told;
  space.show({
    frusta,
    points,
    colours,
    images: views.images,
    names: views.names,
    chosen: views.chosen,
    centre,
    radius: 0.75 * far,
    floor: centre[2] - 0.1,
  });
  if (wants.meshes) meshes.draw();
}

// Jobs.

function clear() {
  for (const id of [...Object.values(PLACES), "wrong"]) $(id).textContent = "";
}

function say(error) {
  const place = PLACES[error.where] ?? "wrong";
  $(place).textContent = error.message;
  $(place).scrollIntoView({block: "nearest"});
}

function settings(form, seed) {
  const names = ["prompt", "negative_prompt", "num_inference_steps", "guidance_scale"];
  for (const name of [...names, "num_videos", "best_of"]) form.set(name, $(name).value);
  form.set("seed", seed);
  form.set("preview", String($("preview").checked));
  const values = [...document.querySelectorAll("[data-switch]")].map(input => [
    input.dataset.switch,
    input.type === "checkbox" ? input.checked : input.valueAsNumber,
  ]);
  form.set("switches", JSON.stringify(Object.fromEntries(values)));
  return form;
}

async function post(form) {
  clear();
  $("send").disabled = true;
  try {
    const job = await jobs.ask("/v1/videos", {method: "POST", body: form});
    const more = job.others.length ? ` ${job.others.length} more of the next seeds follow.` : "";
    $("sent").textContent = `Sent: its place and progress stand under Jobs.${more}`;
    await jobs.refresh();
    jobs.open(job.id);
  } catch (error) {
    say(error);
  } finally {
    $("send").disabled = false;
  }
}

async function send() {
  const form = settings(new FormData(), $("seed").value);
  if (wants.cameras) form.set("cameras", rig.text(cameras));
  if (wants.meshes) meshes.fill(form);
  if (wants.depth) path.fill(form);
  views.files.forEach((file, v) => {
    if (!file) return;
    const suffix = file.name.match(/\.[^.]*$/)?.[0] ?? "";
    form.append("images", file, wants.cameras ? `${views.names[v]}${suffix}` : file.name);
  });
  await post(form);
}

async function again(job) {
  const form = new FormData();
  for (const [name, value] of Object.entries(job.request))
    form.set(name, typeof value === "object" ? JSON.stringify(value) : String(value));
  form.set("seed", drawn());
  form.set("inputs_of", job.id);
  await post(form);
}

start().catch(error => {
  $("wrong").textContent = error.message;
});
