// Cameras: where presets put them, and cameras.json in and out.
//
// World axes: z up, metres. A camera looks from `eye` at `target`, upright; x right, y down, z
// forward as OpenCV has it. A camera that was loaded keeps its own numbers until it is moved.

const sub = (a, b) => a.map((x, i) => x - b[i]);
const dot = (a, b) => a.reduce((sum, x, i) => sum + x * b[i], 0);
const cross = (a, b) => [
  a[1] * b[2] - a[2] * b[1],
  a[2] * b[0] - a[0] * b[2],
  a[0] * b[1] - a[1] * b[0],
];
const unit = a => a.map(x => x / Math.max(Math.hypot(...a), 1e-9));
const RADIANS = Math.PI / 180;
const CENTRE = [0, 0, 0.1]; // what placed cameras look at, where nothing else is known
const TACO = [
  [70.6, 13.5, 1.89, 38.2],
  [98.3, 15.0, 1.78, 39.8],
  [106.6, 26.4, 2.03, 33.3],
];

export function preset(kind, names, sizes, target = CENTRE) {
  const count = names.length;
  const placed = (name, azimuth, elevation, distance, wide, size) => ({
    name,
    azimuth,
    elevation,
    distance,
    wide,
    size,
    target,
  });
  return names.map((name, v) => {
    if (kind === "taco" && count === TACO.length) return placed(name, ...TACO[v], sizes[v]);
    const middle = v - (count - 1) / 2;
    if (kind === "ring") return placed(name, 90 + (360 * v) / count, 25, 1.2, 45, sizes[v]);
    return placed(name, 90 + 6 * middle, 20, 1.2, 45, sizes[v]);
  });
}

export function eyeOf(camera) {
  const a = camera.azimuth * RADIANS;
  const e = camera.elevation * RADIANS;
  const way = [Math.cos(e) * Math.cos(a), Math.cos(e) * Math.sin(a), Math.sin(e)];
  return way.map((x, i) => camera.target[i] + camera.distance * x);
}

export function matrices(camera) {
  if (camera.given) return camera.given;
  const eye = eyeOf(camera);
  const forward = unit(sub(camera.target, eye));
  const right = unit(cross(forward, [0, 0, 1]));
  const rows = [right, cross(forward, right), forward];
  const [width, height] = camera.size;
  const focal = (0.5 * width) / Math.tan(0.5 * camera.wide * RADIANS);
  return {
    K: [focal, 0, (width - 1) / 2, 0, focal, (height - 1) / 2, 0, 0, 1],
    R: rows.flat(),
    T: rows.map(r => -dot(r, eye)),
    imgSize: [width, height],
  };
}

export function text(cameras) {
  return JSON.stringify(Object.fromEntries(cameras.map(c => [c.name, matrices(c)])), null, 1);
}

function still(value) {
  const first = x => (Array.isArray(x[0]) ? x[0] : x);
  const K = value.K.flat();
  const R = value.R.flat(2).slice(0, 9);
  const T = first(value.T);
  if (K.length !== 9 || R.length !== 9 || T.length !== 3) throw new Error("K, R or T");
  if (![...K, ...R, ...T, ...value.imgSize].every(Number.isFinite)) throw new Error("no numbers");
  return {K, R, T, imgSize: value.imgSize};
}

function solve(m, v) {
  const det = a => dot(a[0], cross(a[1], a[2]));
  const whole = det(m);
  const column = i => m.map((row, r) => row.map((x, c) => (c === i ? v[r] : x)));
  return [0, 1, 2].map(i => det(column(i)) / whole);
}

function meeting(eyes, axes) {
  const sum = [0, 1, 2].map(i =>
    [0, 1, 2].map(j => axes.reduce((s, a) => s + (i === j ? 1 : 0) - a[i] * a[j], 0)),
  );
  const right = [0, 1, 2].map(i =>
    eyes.reduce((s, eye, v) => s + eye[i] - axes[v][i] * dot(axes[v], eye), 0),
  );
  const found = solve(sum, right);
  const far = found.every(Number.isFinite) && Math.hypot(...sub(found, eyes[0])) < 20;
  return far ? found : eyes[0].map((x, i) => x + axes[0][i]);
}

export function read(json, count) {
  const entries = Object.entries(JSON.parse(json)).slice(0, count);
  const views = entries.map(([name, value]) => ({name, value, own: still(value)}));
  const eyes = views.map(({own: {R, T}}) =>
    [0, 1, 2].map(i => -(R[i] * T[0] + R[3 + i] * T[1] + R[6 + i] * T[2])),
  );
  const target = meeting(
    eyes,
    views.map(({own}) => own.R.slice(6, 9)),
  );
  return views.map(({name, value, own}, v) => {
    const way = sub(eyes[v], target);
    const distance = Math.hypot(...way);
    const wide = (2 * Math.atan((0.5 * own.imgSize[0]) / own.K[0])) / RADIANS;
    return {
      name,
      azimuth: Math.atan2(way[1], way[0]) / RADIANS,
      elevation: Math.asin(way[2] / distance) / RADIANS,
      distance,
      wide,
      size: own.imgSize,
      target,
      given: value,
    };
  });
}

const numbers = camera => (camera.given ? still(camera.given) : matrices(camera));

// World point, metres -> [x, y] pixels of the camera's image; null behind it.
export function projector(camera) {
  const {K, R, T} = numbers(camera);
  return p => {
    const [x, y, z] = [0, 3, 6].map((row, i) => dot(R.slice(row, row + 3), p) + T[i]);
    return z > 0 ? [(K[0] * x + K[1] * y) / z + K[2], (K[4] * y) / z + K[5]] : null;
  };
}

export function frustum(camera, depth) {
  const {K, R, T, imgSize} = numbers(camera);
  const back = p => [0, 1, 2].map(i => dot([R[i], R[3 + i], R[6 + i]], sub(p, T)));
  const corner = (x, y) => back([((x - K[2]) / K[0]) * depth, ((y - K[5]) / K[4]) * depth, depth]);
  const [w, h] = imgSize;
  return [back([0, 0, 0]), corner(0, 0), corner(w, 0), corner(w, h), corner(0, h)];
}
