// Files that the server reads before a job is sent, and the points that it gives of them.

import {$} from "./elements.js";
import {ask} from "./jobs.js";
import {unpack} from "./space.js";

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
