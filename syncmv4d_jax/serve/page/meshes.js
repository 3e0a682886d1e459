// Meshes that move: chosen or dropped, read by the server, scrubbed over the chosen image.

import {takes} from "./drop.js";
import {$, make} from "./elements.js";
import {frames as framesOf, look} from "./looks.js";

const INKS = ["#4e9ad6", "#f08a3c", "#5cc46e", "#d868a8"];
const FIELDS = ["fps", "unit", "up"];
let wants = null;
let project = () => null;
let changed = () => {};
let files = [];
let scene = null;
let points = [];

// camera: gives {name, image, size, project: world point -> [x, y] pixels, or null behind it}.
export function start(told, camera, redraw) {
  wants = told;
  project = camera;
  changed = redraw;
  $("meshes-section").hidden = false;
  takes("meshes", "meshes-drop", found => {
    files = found;
    refresh();
  });
  for (const name of FIELDS) $(name).onchange = () => files.length && refresh();
  $("frame").oninput = () => changed();
  new ResizeObserver(draw).observe($("over"));
}

export function fill(form) {
  for (const file of files) form.append("meshes", file, file.name);
  for (const name of FIELDS) form.set(name, $(name).value);
  form.set("labels", JSON.stringify(chosen()));
}

// What the 3D view draws of them: the frame that is looked at, and where their middle is.
export function cloud() {
  if (!scene) return {};
  const colours = scene.mesh.map(m => INKS[m % INKS.length]);
  return {points: points[Number($("frame").value)], colours, centre: scene.centre};
}

async function refresh() {
  const form = new FormData();
  for (const file of files) form.append("meshes", file, file.name);
  for (const name of FIELDS) form.set(name, $(name).value);
  scene = await look(form, "meshes");
  $("over-part").hidden = !scene;
  $("labels").replaceChildren();
  $("meshes-text").textContent = "";
  if (scene) show();
  changed();
}

function show() {
  points = framesOf(scene);
  $("frame").max = scene.frames - 1;
  $("frame").value = 0;
  const seconds = scene.length / scene.fps;
  $("meshes-text").textContent =
    `${scene.names.length === 1 ? "One mesh" : `${scene.names.length} meshes`}, ` +
    `${scene.length} frames, ${seconds.toFixed(1)} s. The video takes the first ` +
    `${Math.min(seconds, wants.frames / wants.fps).toFixed(1)} s.`;
  $("labels").replaceChildren(
    ...scene.names.map((name, m) => {
      const select = make("select", null, {"data-mesh": name});
      const kinds = ["left hand", "right hand", "object", "other object"];
      select.append(...kinds.map(kind => make("option", kind)));
      select.value = scene.labels[m];
      const label = make("label", `${name} is `, {class: "mesh"});
      const mark = make("span", null, {class: `ink ink-${m % INKS.length}`, "aria-hidden": "true"});
      label.prepend(mark);
      label.append(select);
      return label;
    }),
  );
}

function chosen() {
  const rows = [...document.querySelectorAll("[data-mesh]")];
  return Object.fromEntries(rows.map(select => [select.dataset.mesh, select.value]));
}

export function draw() {
  const canvas = $("over");
  const told = project();
  if (!scene || !told || !canvas.clientWidth) return;
  const n = Number($("frame").value);
  const [width, height] = told.size;
  const ratio = window.devicePixelRatio || 1;
  canvas.width = canvas.clientWidth * ratio;
  canvas.height = (canvas.width * height) / width;
  const scale = canvas.width / width;
  const ink = canvas.getContext("2d");
  if (told.image) ink.drawImage(told.image, 0, 0, canvas.width, canvas.height);
  let seen = 0;
  for (const [k, p] of points[n].entries()) {
    const at = told.project(p);
    if (!at) continue;
    seen += at[0] >= 0 && at[1] >= 0 && at[0] < width && at[1] < height;
    ink.fillStyle = INKS[scene.mesh[k] % INKS.length];
    ink.fillRect(at[0] * scale - ratio, at[1] * scale - ratio, 2 * ratio, 2 * ratio);
  }
  const share = Math.round((100 * seen) / points[n].length);
  $("frame-text").textContent =
    `frame ${n} of ${scene.frames}, ${(n / scene.fps).toFixed(2)} s; ` +
    `${share} % of the meshes is in ${told.name}'s image`;
}
