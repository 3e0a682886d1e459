// Files chosen or dropped.

import {$} from "./elements.js";

// Gives `take` the files that are chosen with the input `name`, or dropped on the part `place`.
export function takes(name, place, take) {
  const input = $(name);
  const drop = $(place);
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
