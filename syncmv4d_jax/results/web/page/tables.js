// Tables: the samples found, filtered and sorted; values, rows, checks.

import {$, make, number, row} from "./elements.js";
import {show} from "./player.js";
import {
  badness,
  definitions,
  evaluation,
  ids,
  names,
  samples,
  scoreOf,
  state,
  title,
} from "./state.js";

export function sortBy(metric, best) {
  state.sort = metric;
  state.best = Boolean(best);
  $("sort").value = metric;
  for (const id of ["from", "to"]) {
    $(id).value = "";
    $(id).disabled = !metric;
  }
  arrange();
}

function matches(i) {
  const {id, prompt, notes} = samples[i];
  const only = $("only").value;
  const text = [id, prompt, ...notes].join(" ").toLowerCase();
  if (
    !$("find")
      .value.toLowerCase()
      .split(/\s+/)
      .every(word => text.includes(word))
  )
    return false;
  if ((only === "notes" && !notes.length) || (only === "clean" && notes.length)) return false;
  const low = $("from").value;
  const high = $("to").value;
  if (!state.sort || (low === "" && high === "")) return true;
  const x = scoreOf(state.sort, names[i]);
  return x !== null && (low === "" || x >= +low) && (high === "" || x <= +high);
}

export function arrange() {
  const metric = state.sort;
  const bad = i => {
    const x = scoreOf(metric, names[i]);
    return x === null ? -Infinity : state.best ? -badness(metric, x) : badness(metric, x);
  };
  state.order = ids.filter(matches);
  if (metric) state.order.sort((a, b) => bad(b) - bad(a) || a - b);
  if ($("only").value === "first") state.order = state.order.slice(0, 10);
  $("sample").replaceChildren(
    ...state.order.map(i => {
      const x = metric ? scoreOf(metric, names[i]) : null;
      return make("option", names[i] + (metric ? `  (${number(x)})` : ""), {value: i});
    }),
  );
  $("sample").value = state.at;
  $("count").textContent = `${state.order.length} of ${ids.length}`;
  $("nothing").hidden = state.order.length > 0;
  showScenes();
}

export function showValues() {
  const table = $("values");
  const name = names[state.at];
  table.replaceChildren();
  $("values-section").hidden = !evaluation;
  if (!evaluation) return;
  const head = make("thead");
  const body = make("tbody");
  row(head, [
    make("th", "metric", {scope: "col"}),
    make("th", "this", {scope: "col"}),
    make("th", "mean", {scope: "col"}),
  ]);
  for (const m of Object.keys(evaluation.rows.model)) {
    row(body, [
      make("th", title(m), {scope: "row", title: definitions[m].text}),
      make("td", number(scoreOf(m, name))),
      make("td", number(evaluation.rows.model[m].value), {class: "soft"}),
    ]);
  }
  table.append(head, body);
}

export function showMetrics() {
  const sets = ["tracks", "video", "control", "network"].flatMap(kind => {
    const all = Object.keys(definitions).filter(
      m =>
        definitions[m].kind === kind &&
        Object.values(evaluation.rows).some(r => r[m] && r[m].value !== null),
    );
    return all.length > 9
      ? [
          [kind, all.slice(0, 8)],
          [kind, all.slice(8)],
        ]
      : [[kind, all]];
  });
  for (const [kind, known] of sets) {
    if (!known.length) continue;
    const box = make("div", null, {
      class: "scroll",
      style: "margin-bottom:12px",
      tabindex: 0,
      role: "region",
      "aria-label": `Metrics of ${kind}, from ${definitions[known[0]].title}`,
    });
    const table = make("table");
    const head = make("thead");
    const body = make("tbody");
    row(head, [
      make("th", kind, {scope: "col"}),
      ...known.map(m => make("th", title(m), {scope: "col", title: definitions[m].text})),
    ]);
    for (const [name, cells] of Object.entries(evaluation.rows)) {
      if (!known.some(m => cells[m] && cells[m].value !== null)) continue;
      const found = known.map(m => {
        const td = make("td", number(cells[m] ? cells[m].value : null));
        if (cells[m] && cells[m].se != null)
          td.append(make("br"), make("span", `± ${number(cells[m].se)}`, {class: "se"}));
        return td;
      });
      row(body, [make("th", name.replaceAll("_", " "), {scope: "row"}), ...found]).className = name;
    }
    table.append(head, body);
    box.append(table);
    $("metrics").append(box);
  }
}

export function showChecks() {
  const head = make("thead");
  const body = make("tbody");
  row(
    head,
    ["check", "wanted", "value", "triplets", "passed"].map(x => make("th", x, {scope: "col"})),
  );
  for (const c of evaluation.checks) {
    const value = number(c.value) + (c.se === null ? "" : ` ± ${number(c.se)}`);
    row(body, [
      make("th", c.name.replaceAll("_", " "), {scope: "row"}),
      make("td", c.wanted),
      make("td", value),
      make("td", c.clusters),
      make("td", c.passed ? "✓ yes" : `✗ no: ${c.why_not}`, {class: c.passed ? "yes" : "no"}),
    ]);
  }
  $("checks").append(head, body);
}

const SHOWN = [
  "error_mm",
  "error_moving_mm",
  "inliers_2cm",
  "inliers_5cm",
  "mv_rpe",
  "mv_rpe_cross",
  "chamfer_mm",
  "object_correlation",
  "psnr_moving",
  "ssim",
  "temporal_correlation",
  "temporal_std_ratio",
  "gradient_energy",
  "action_named",
];
function direction(m) {
  if (state.sort !== m) return "none";
  const better = definitions[m].better;
  if (better !== "lower" && better !== "higher") return "other";
  return (better === "lower") === state.best ? "ascending" : "descending";
}

function heading(m) {
  const order = direction(m);
  const on = order !== "none";
  const th = make("th", null, {scope: "col", "aria-sort": order});
  const mark = !on ? "" : order === "ascending" ? " ▴" : order === "descending" ? " ▾" : " •";
  const button = make("button", title(m) + mark, {
    "data-metric": m,
    title: (on && !state.best ? "Sort, best first: " : "Sort, worst first: ") + definitions[m].text,
  });
  button.onclick = () => {
    sortBy(m, on && !state.best);
    $("scenes").querySelector(`[data-metric=${m}]`).focus();
  };
  th.append(button);
  return th;
}

function showScenes() {
  const known = evaluation ? Object.keys(evaluation.rows.model) : [];
  const wanted = SHOWN.filter(m => known.includes(m));
  if (state.sort && !wanted.includes(state.sort)) wanted.unshift(state.sort);
  const head = make("thead");
  const body = make("tbody");
  const caption = make("caption", "Samples and their metrics; a heading sorts", {class: "hidden"});
  row(head, [
    make("th", "sample", {scope: "col"}),
    make("th", "notes", {scope: "col"}),
    ...wanted.map(heading),
  ]);
  for (const i of state.order) {
    const first = make("th", null, {scope: "row"});
    const button = make("button", names[i]);
    first.append(button);
    const {notes} = samples[i];
    const line = row(body, [
      first,
      make("td", notes.length || "", {class: "no", title: notes.join("\n")}),
      ...wanted.map(m => make("td", number(scoreOf(m, names[i])))),
    ]);
    line.dataset.sample = i;
    line.onclick = () => {
      show(i);
    };
  }
  $("scenes").replaceChildren(caption, head, body);
  markScene();
}

export function markScene() {
  for (const line of $("scenes").querySelectorAll("tr[data-sample]"))
    line.setAttribute("aria-current", String(+line.dataset.sample === state.at));
}

export function showDefinitions() {
  const head = make("thead");
  const body = make("tbody");
  row(
    head,
    ["metric", "definition", "aligned by"].map(x => make("th", x, {scope: "col"})),
  );
  for (const [m, d] of Object.entries(definitions))
    row(body, [make("th", title(m), {scope: "row"}), make("td", d.text), make("td", d.alignment)]);
  $("definitions").append(head, body);
}
