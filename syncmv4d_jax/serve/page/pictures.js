// Images of the views: chosen, dropped, or a frame of a video; views without one are empty.

import {takes} from "./drop.js";
import {$, make} from "./elements.js";

export const views = {names: [], files: [], images: [], chosen: 0};
let changed = () => {};

export function start(names, redraw) {
  changed = redraw;
  setNames(names);
  takes("images", "drop", files => {
    const clip = files.find(file => file.type.startsWith("video/"));
    if (clip) open(clip);
    else add(files);
  });
  $("video").onchange = () => {
    const [file] = $("video").files;
    if (file) open(file);
    $("video").value = "";
  };
  $("take").onclick = take;
}

export function setNames(names) {
  const before = new Map(views.names.map((name, v) => [name, v]));
  const pick = (list, name, v) => list[before.get(name) ?? v];
  views.files = names.map((name, v) => pick(views.files, name, v));
  views.images = names.map((name, v) => pick(views.images, name, v));
  views.names = names;
  views.chosen = Math.min(views.chosen, names.length - 1);
  list();
}

async function add(files) {
  const stem = file => file.name.replace(/\.[^.]*$/, "");
  const named = files.every(file => views.names.includes(stem(file)));
  const sorted = [...files].sort((a, b) =>
    a.name.localeCompare(b.name, undefined, {numeric: true}),
  );
  let next = files.length === 1 ? views.chosen : 0;
  $("wrong-images").textContent = "";
  for (const file of sorted) {
    const v = named ? views.names.indexOf(stem(file)) : next++;
    if (v < views.names.length) await put(v, file);
  }
  views.chosen = Math.min(next, views.names.length - 1);
  list();
  changed();
}

async function put(v, file) {
  const image = new Image();
  image.src = URL.createObjectURL(file);
  try {
    await image.decode();
  } catch {
    $("wrong-images").textContent +=
      `${file.name}: the browser cannot show it; it is sent as it is. `;
  }
  views.files[v] = file;
  views.images[v] = image.naturalWidth ? image : undefined;
}

function open(file) {
  $("frames").hidden = false;
  $("clip").src = URL.createObjectURL(file);
}

async function take() {
  const clip = $("clip");
  const canvas = make("canvas", null, {width: clip.videoWidth, height: clip.videoHeight});
  canvas.getContext("2d").drawImage(clip, 0, 0);
  const blob = await new Promise(done => canvas.toBlob(done, "image/png"));
  const name = views.names[views.chosen];
  $("wrong-images").textContent = "";
  await put(views.chosen, new File([blob], `${name}.png`, {type: "image/png"}));
  views.chosen = Math.min(views.chosen + 1, views.names.length - 1);
  list();
  changed();
}

export function choose(v) {
  views.chosen = v;
  list();
  changed();
}

function list() {
  $("thumbs").replaceChildren(
    ...views.names.map((name, v) => {
      const item = make("li", null, {class: v === views.chosen ? "chosen" : ""});
      const image = views.images[v];
      if (image) item.append(make("img", null, {src: image.src, alt: `Image of ${name}`}));
      else item.append(make("div", null, {class: "empty"}));
      const size = image ? `, ${image.naturalWidth} × ${image.naturalHeight}` : ", no image";
      const button = make("button", `${name}${views.files[v] ? size : ", no image"}`, {
        type: "button",
        "aria-pressed": String(v === views.chosen),
      });
      button.onclick = () => {
        choose(v);
        $("thumbs").children[v].querySelector("button").focus();
      };
      item.append(button);
      return item;
    }),
  );
}
