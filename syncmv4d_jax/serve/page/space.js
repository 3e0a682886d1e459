// A small 3D view on a plain canvas: ground, frusta with their images, points; turned by hand.

import {css} from "./elements.js";

const INKS = ["#1f77b4", "#d66014", "#2c8c3c", "#aa3278", "#6e5abe", "#5a5a5a"];

export class Space {
  constructor(canvas) {
    this.canvas = canvas;
    this.home = {turn: 0.5, tilt: 0.5, zoom: 1};
    this.view = {...this.home};
    this.scene = null;
    this.lead = null; // (dx, dy): takes what the pointer and the arrow keys do, in radians
    this.listen();
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  // scene: frusta [[eye, four corners]], images (or null) of them, chosen, centre, radius, floor,
  // points [[x, y, z]] or null, colours of them or null, trail: points of a line or null.
  show(scene) {
    this.scene = scene;
    this.draw();
  }

  place() {
    const {turn, tilt, zoom} = this.view;
    const {centre, radius} = this.scene;
    const [ct, st, cp, sp] = [Math.cos(turn), Math.sin(turn), Math.cos(tilt), Math.sin(tilt)];
    const {clientWidth: width, clientHeight: height} = this.canvas;
    const size = (0.42 * Math.min(0.8 * width, height) * zoom) / radius;
    const far = 6 * radius;
    return p => {
      const [x, y, z] = p.map((value, i) => value - centre[i]);
      const a = ct * x + st * y;
      const b = -st * x + ct * y;
      const near = far / Math.max(far + cp * b - sp * z, 0.2 * far);
      return [width / 2 + a * size * near, height / 2 - (sp * b + cp * z) * size * near];
    };
  }

  draw() {
    const {canvas, scene} = this;
    const {clientWidth: width, clientHeight: height} = canvas;
    if (!scene || !width) return;
    const ratio = window.devicePixelRatio || 1;
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    const ink = canvas.getContext("2d");
    ink.setTransform(ratio, 0, 0, ratio, 0, 0);
    const place = this.place();
    this.ground(ink, place);
    for (const v of scene.frusta.keys()) this.frustum(ink, place, scene.frusta[v], v, ratio);
    ink.fillStyle = css("--made");
    for (const [k, p] of (scene.points ?? []).entries()) {
      const [x, y] = place(p);
      if (scene.colours) ink.fillStyle = scene.colours[k];
      ink.fillRect(x - 1.5, y - 1.5, 3, 3);
    }
    if (scene.trail) {
      ink.strokeStyle = css("--accent");
      ink.lineWidth = 2.5;
      line(ink, scene.trail.map(place));
      ink.lineWidth = 1;
    }
    const [x, y] = place(scene.centre);
    ink.strokeStyle = css("--ink");
    line(ink, [
      [x - 5, y],
      [x + 5, y],
    ]);
    line(ink, [
      [x, y - 5],
      [x, y + 5],
    ]);
  }

  ground(ink, place) {
    const {centre, radius, floor} = this.scene;
    const step = radius > 3 ? 1 : 0.25;
    const count = Math.min(12, Math.ceil(radius / step));
    ink.strokeStyle = css("--line");
    ink.lineWidth = 1;
    for (let i = -count; i <= count; i++) {
      const [a, b] = [centre[0] + i * step, centre[1] + i * step];
      const reach = count * step;
      line(
        ink,
        [
          [a, centre[1] - reach, floor],
          [a, centre[1] + reach, floor],
        ].map(place),
      );
      line(
        ink,
        [
          [centre[0] - reach, b, floor],
          [centre[0] + reach, b, floor],
        ].map(place),
      );
    }
  }

  frustum(ink, place, frustum, v, ratio) {
    const [eye, ...corners] = frustum.map(place);
    const image = this.scene.images?.[v];
    if (image) {
      const [a, b, , d] = corners;
      const {naturalWidth: w, naturalHeight: h} = image;
      ink.save();
      ink.transform(
        (b[0] - a[0]) / w,
        (b[1] - a[1]) / w,
        (d[0] - a[0]) / h,
        (d[1] - a[1]) / h,
        ...a,
      );
      ink.globalAlpha = 0.85;
      ink.drawImage(image, 0, 0);
      ink.restore();
    }
    ink.strokeStyle = ink.fillStyle = INKS[v % INKS.length];
    ink.lineWidth = v === this.scene.chosen ? 2.5 : 1.2;
    line(ink, corners, true);
    for (const corner of corners) line(ink, [eye, corner]);
    ink.font = `${12 * Math.min(1.2, Math.max(1, 1 / ratio))}px system-ui, sans-serif`;
    ink.fillText(this.scene.names?.[v] ?? `view ${v}`, eye[0] + 6, eye[1] - 5);
  }

  turn(dx, dy) {
    if (this.lead) {
      this.lead(dx, dy);
      return;
    }
    this.view.turn -= dx;
    this.view.tilt = Math.max(-1.5, Math.min(1.5, this.view.tilt + dy));
    this.draw();
  }

  zoom(by) {
    this.view.zoom = Math.max(0.2, Math.min(12, this.view.zoom * by));
    this.draw();
  }

  listen() {
    const {canvas} = this;
    let from = null;
    canvas.onpointerdown = event => {
      from = [event.clientX, event.clientY];
      canvas.setPointerCapture(event.pointerId);
    };
    canvas.onpointermove = event => {
      if (!from) return;
      this.turn((event.clientX - from[0]) / 120, (event.clientY - from[1]) / 120);
      from = [event.clientX, event.clientY];
    };
    canvas.onpointerup = canvas.onpointercancel = () => {
      from = null;
    };
    canvas.addEventListener(
      "wheel",
      event => {
        event.preventDefault();
        this.zoom(Math.exp(-event.deltaY / 500));
      },
      {passive: false},
    );
    canvas.onkeydown = event => {
      const turns = {
        ArrowLeft: [-0.12, 0],
        ArrowRight: [0.12, 0],
        ArrowUp: [0, -0.12],
        ArrowDown: [0, 0.12],
      };
      if (turns[event.key]) this.turn(...turns[event.key]);
      else if (event.key === "+" || event.key === "=") this.zoom(1.15);
      else if (event.key === "-") this.zoom(1 / 1.15);
      else if (event.key === "0") Object.assign(this.view, this.home);
      else return;
      event.preventDefault();
      this.draw();
    };
  }
}

function line(ink, points, close) {
  ink.beginPath();
  points.forEach((p, i) => {
    if (i) ink.lineTo(p[0], p[1]);
    else ink.moveTo(p[0], p[1]);
  });
  if (close) ink.closePath();
  ink.stroke();
}

// Points of every frame of a scene as results/web/tracks.py packs it: [frame][point][x, y, z],
// from its centre.
export function unpack(scene) {
  const bytes = Uint8Array.from(atob(scene.generated), c => c.charCodeAt(0));
  const steps = new Int16Array(bytes.buffer);
  const count = steps.length / 3 / scene.frames;
  return Array.from({length: scene.frames}, (_, n) =>
    Array.from({length: count}, (_, k) => 3 * (n * count + k))
      .filter(at => steps[at] !== -32768)
      .map(at => [0, 1, 2].map(i => steps[at + i] * scene.unit)),
  );
}
