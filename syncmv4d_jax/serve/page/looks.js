// Files that the server reads before a job is sent, and the points that it gives of them.

import {$} from "./elements.js";
import {ask} from "./jobs.js";
import {unpack} from "./space.js";

// Gives the files of an input, and of its place to drop, to `take`.
export function takes(name, take) {
  const input = $(name);
  const drop = $(`${name}-drop`);
  input.onchange = () => {
    const files = [...input.files];
    input.value = "";
    if (files.length) take(files);
  };
  drop.ondragover = event => {
    event.preventDefault();
    drop.classList.add("over");
  };
  drop.ondragleave = () => drop.classList.remove("over");
  drop.ondrop = event => {
    event.preventDefault();
    drop.classList.remove("over");
    if (event.dataTransfer.files.length) take([...event.dataTransfer.files]);
  };
}

// What the server sees in a form; null, with the sentence beside the field, where it refuses.
export async function look(form, kind) {
  const place = $(`wrong-${kind}`);
  place.textContent = "";
  $(`${kind}-text`).textContent = "reading";
  try {
    return (await ask("/v1/looks", {method: "POST", body: form}))[kind];
  } catch (error) {
    place.textContent = error.message;
    return null;
  } finally {
    $(`${kind}-text`).textContent = "";
  }
}

// Points of every frame in the world, metres: [frame][point][x, y, z].
export function frames(scene) {
  const whole = p => p.map((x, i) => x + scene.centre[i]);
  return unpack(scene).map(frame => frame.map(whole));
}
