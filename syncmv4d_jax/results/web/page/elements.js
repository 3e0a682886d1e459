// The page's elements: finding and making them, numbers as text.

export const $ = id => document.getElementById(id);
export const parse = id => JSON.parse($(id).textContent);
export const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
export const make = (tag, text, attributes = {}) => {
  const node = document.createElement(tag);
  if (text !== undefined && text !== null) node.textContent = text;
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
};

export const row = (parent, cells) => {
  const tr = make("tr");
  tr.append(...cells);
  parent.append(tr);
  return tr;
};

export const number = x =>
  x === null || x === undefined
    ? "–"
    : Math.abs(x) >= 1000
      ? x.toFixed(0)
      : x === 0
        ? "0"
        : Math.abs(x) < 1e-3
          ? x.toExponential(1)
          : String(+x.toPrecision(3));
export function svg(tag, attributes, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  return node;
}
