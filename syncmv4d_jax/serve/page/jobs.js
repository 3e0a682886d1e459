// The list of jobs, and the one that is looked at: progress, previews, results, two side by side.

import {$, make} from "./elements.js";
import {Space, unpack} from "./space.js";

const known = new Map();
let chosen = "";
let source = null;
let space = null;
let timer = 0;
let shown = "";
let retry = () => {};
const ENDED = ["done", "failed", "cancelled"];

export async function ask(path, options) {
  const answer = await fetch(path, options);
  if (answer.status === 204) return null;
  const found = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(found.error.message), found.error);
  return found;
}

export function start(again) {
  retry = again;
  space = new Space($("tracks"));
  $("compare").onchange = () => look(known.get(chosen));
  $("again").onclick = play;
  refresh();
  setInterval(refresh, 3000);
  addEventListener("hashchange", () => open(location.hash.slice(1)));
  if (location.hash) open(location.hash.slice(1));
}

export async function refresh() {
  const {data} = await ask("/v1/videos").catch(() => ({data: []}));
  for (const job of data) known.set(job.id, {...known.get(job.id), ...job});
  const there = new Set(data.map(job => job.id));
  for (const id of known.keys()) if (!there.has(id)) known.delete(id);
  list();
}

export function open(id) {
  if (!id) return;
  chosen = id;
  shown = "";
  source?.close();
  source = new EventSource(`/v1/videos/${id}/events`);
  source.onmessage = event => {
    const job = JSON.parse(event.data);
    known.set(job.id, job);
    list();
    tell(job);
    if (ENDED.includes(job.state)) source.close();
  };
  source.addEventListener("gone", () => close());
  if (location.hash.slice(1) !== id) history.replaceState(null, "", `#${id}`);
  list();
}

function close() {
  source?.close();
  chosen = "";
  $("job").hidden = true;
  history.replaceState(null, "", location.pathname);
  refresh();
}

function words(job) {
  const {phase, done, steps, eta_seconds: eta, compile_seconds: compiles} = job.progress;
  if (job.state === "queued")
    return job.position > 1 ? `waits, ${job.position - 1} before it` : "is next";
  if (job.state === "failed") return "failed";
  if (job.state !== "running") return job.state;
  if (phase === "sampling" && done === steps)
    return job.request.camera_path ? "decoding, then seen along the path" : "decoding";
  if (phase === "sampling" && done) {
    const left = eta === null || eta === undefined ? "" : `, about ${time(eta)} left`;
    return `step ${done} of ${steps}${left}`;
  }
  const last = compiles ? `about ${time(compiles)}` : "not timed before";
  const texts = {
    preparing: "reading",
    compiling: `compiling (${last})`,
    sampling: "first steps",
    writing: "writing",
    stopping: "stopping",
  };
  return texts[phase] ?? "starting";
}

function time(seconds) {
  return seconds < 90 ? `${Math.ceil(seconds)} s` : `${Math.round(seconds / 60)} min`;
}

function list() {
  const rows = [...known.values()].sort((a, b) => b.created - a.created);
  $("none").hidden = rows.length > 0;
  const focused = document.activeElement?.dataset?.job;
  $("jobs").replaceChildren(
    ...rows.map(job => {
      const item = make("li");
      if (job.id === chosen) item.dataset.chosen = "";
      const button = make("button", `${job.request.prompt} · seed ${job.request.seed}`, {
        type: "button",
        "data-job": job.id,
        "aria-current": String(job.id === chosen),
      });
      button.onclick = () => open(job.id);
      item.append(button, make("span", words(job), {class: "state"}));
      return item;
    }),
  );
  if (focused) document.querySelector(`[data-job="${focused}"]`)?.focus();
}

function tell(job) {
  if (job.id !== chosen) return;
  $("job").hidden = false;
  $("job-title").textContent = job.request.prompt;
  const failed = job.state === "failed" ? `: ${job.error.message}` : "";
  const seconds = job.state === "done" ? ` in ${time(job.ended - job.started)}` : "";
  $("job-text").textContent = words(job) + failed + seconds;
  $("job-text").className = job.state === "failed" ? "wrong" : "";
  const bar = $("job-steps");
  bar.hidden = ENDED.includes(job.state);
  bar.max = job.progress.steps || 1;
  if (job.progress.done) bar.value = job.progress.done;
  else bar.removeAttribute("value"); // how far it is nobody knows: no bare 0 %
  actions(job);
  look(job);
}

function actions(job) {
  const does = (text, run) => {
    const button = make("button", text, {type: "button"});
    button.onclick = () =>
      run().catch(error => {
        $("job-text").textContent = error.message;
      });
    return button;
  };
  const parts = [];
  const where = `/v1/videos/${job.id}`;
  if (ENDED.includes(job.state)) {
    parts.push(does("Again with another seed", () => retry(job)));
    parts.push(
      does("Delete", async () => {
        await ask(where, {method: "DELETE"});
        close();
      }),
    );
  } else parts.push(does("Cancel", () => ask(`${where}/cancel`, {method: "POST"})));
  if ($("job-does").children.length !== parts.length) $("job-does").replaceChildren(...parts);
  else if ($("job-does").dataset.job !== `${job.id} ${parts.length}`)
    $("job-does").replaceChildren(...parts);
  $("job-does").dataset.job = `${job.id} ${parts.length}`;
}

// {kind: [[url, name of the view]]} of the videos of a job: its own, or else its last preview's.
function clips(job) {
  const found = {};
  for (const [name, file] of Object.entries(job.files ?? {})) {
    const match = name.match(/^(preview_(\d+)_)?(path_view|view|motion)_(\d+)\.mp4$/);
    if (!match || Boolean(match[1]) === (job.state === "done")) continue;
    const kind = match[3];
    found[kind] ??= [];
    found[kind][Number(match[4])] = [file.url, job.cameras[match[4]] ?? `view ${match[4]}`];
  }
  return found;
}

function look(job) {
  if (!job?.files || job.id !== chosen) return;
  const done = job.state === "done";
  others(done);
  const other = done ? known.get($("compare").value) : undefined;
  const key = JSON.stringify([clips(job), other?.id]);
  if (key !== shown) {
    shown = key;
    $("looks").replaceChildren(column(job));
    $("looks").classList.toggle("two", Boolean(other));
    if (other) beside(job, other);
    else $("compare-text").textContent = "";
    points(job);
    downloads(job);
    setTimeout(play, 60);
  }
  $("report-part").hidden = !job.files["report.html"];
  const page = job.files["report.html"]?.url;
  if (page && $("report").getAttribute("src") !== page) $("report").setAttribute("src", page);
}

async function beside(job, other) {
  const whole = other.files ? other : await ask(`/v1/videos/${other.id}`);
  known.set(whole.id, whole);
  $("looks").append(column(whole));
  const differ = Object.keys(job.request).filter(
    name => JSON.stringify(job.request[name]) !== JSON.stringify(whole.request[name]),
  );
  const short = value => JSON.stringify(value ?? null).slice(0, 60);
  const rows = differ.map(
    name => `${name} ${short(job.request[name])} and ${short(whole.request[name])}`,
  );
  $("compare-text").textContent = rows.length
    ? `They differ in ${rows.join(", ")}.`
    : "Equal settings.";
  setTimeout(play, 60);
}

function column(job) {
  const part = make("div");
  const found = clips(job);
  const titles = {
    view: "Videos",
    motion: "Motion as pictures",
    path_view: "Seen along the path",
  };
  for (const kind of Object.keys(titles)) {
    if (!found[kind]) continue;
    const so = job.state === "done" ? `, seed ${job.request.seed}` : ", as known so far";
    part.append(make("h3", titles[kind] + so));
    const grid = make("div", null, {class: "views"});
    for (const [url, name] of found[kind]) {
      const figure = make("figure");
      const clip = make("video", null, {src: url, "aria-label": `${titles[kind]}, ${name}`});
      clip.muted = clip.loop = clip.playsInline = true;
      figure.append(clip, make("figcaption", name));
      grid.append(figure);
    }
    part.append(grid);
  }
  return part;
}

function play() {
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  for (const clip of $("looks").querySelectorAll("video")) {
    clip.currentTime = 0;
    if (!still) clip.play().catch(() => {});
  }
}

function others(done) {
  const rows = [...known.values()].filter(job => job.state === "done" && job.id !== chosen);
  $("compare-part").hidden = !done;
  const before = $("compare").value;
  const options = rows.map(job => {
    const text = `${job.request.prompt.slice(0, 50)} · seed ${job.request.seed}`;
    return make("option", text, {value: job.id});
  });
  $("compare").replaceChildren(make("option", "nothing", {value: ""}), ...options);
  $("compare").value = rows.some(job => job.id === before) ? before : "";
}

async function points(job) {
  clearInterval(timer);
  const name = Object.keys(job.files).find(file => /^preview_\d+_tracks\.json$/.test(file));
  $("tracks-part").hidden = !name || job.state === "done";
  if ($("tracks-part").hidden) return;
  const scene = await ask(job.files[name].url).catch(() => null);
  if (!scene) return;
  const frames = unpack(scene);
  const floor = Math.min(...frames[0].map(p => p[2]));
  let n = 0;
  const draw = () =>
    space.show({
      frusta: [],
      centre: [0, 0, 0],
      radius: 1.2 * scene.radius,
      floor,
      points: frames[n++ % frames.length],
    });
  draw();
  if (!matchMedia("(prefers-reduced-motion: reduce)").matches) timer = setInterval(draw, 125);
}

function downloads(job) {
  const rows = Object.entries(job.files).filter(([name]) => !name.startsWith("preview_"));
  $("files").replaceChildren(
    ...rows.map(([name, file]) => {
      const item = make("li");
      item.append(make("a", name, {href: file.url, download: name}));
      item.append(
        ` ${file.bytes > 1e6 ? `${(file.bytes / 1e6).toFixed(1)} MB` : `${Math.ceil(file.bytes / 1e3)} kB`}`,
      );
      return item;
    }),
  );
}
