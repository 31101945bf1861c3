// A part of a spectrogram, dragged: a span of time, a band of frequency, or both.

import { element } from "./dom.js";

const CLICK_PX = 4;
const TICKS_HZ = [250, 500, 1000, 2000, 4000];
const TICKS_S = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60];
const MAX_TICKS = 10;

export class Selection {
  // `rows_hz`: the frequency of each row of the picture, the lowest first.
  constructor(canvas, duration_s, rows_hz, { shape, onSelect, onClick }) {
    Object.assign(this, { canvas, duration_s, rows_hz, shape, onSelect, onClick });
    this.box = element("div", { class: "selection", hidden: true });
    canvas.append(...this.#ticks(), this.box);
    canvas.addEventListener("pointerdown", (event) => this.#begin(event));
  }

  // Show a part: { start, end } in seconds, { low, high } in Hz; null is all of it.
  show({ start, end, low, high }) {
    this.box.hidden = [start, end, low, high].every((edge) => edge === null);
    const left = (start ?? 0) / this.duration_s;
    const right = (end ?? this.duration_s) / this.duration_s;
    const [bottom, top] = [low === null ? 0 : this.#height(low), high === null ? 1 : this.#height(high)];
    const percent = (share) => `${100 * Math.min(Math.max(share, 0), 1)}%`;
    Object.assign(this.box.style, {
      left: percent(left), width: percent(right - left), bottom: percent(bottom), height: percent(top - bottom),
    });
  }

  // Frequencies at the left edge, and seconds at the bottom.
  #ticks() {
    const spacing_s = TICKS_S.find((one) => this.duration_s / one <= MAX_TICKS) ?? 120;
    const ticks = TICKS_HZ.map((hz) => {
      const tick = element("span", { class: "tick hz" }, hz < 1000 ? `${hz} Hz` : `${hz / 1000} kHz`);
      tick.style.bottom = `${100 * this.#height(hz)}%`;
      return tick;
    });
    for (let time = spacing_s; time < 0.97 * this.duration_s; time += spacing_s) {
      const tick = element("span", { class: "tick s" }, `${Number(time.toFixed(2))} s`);
      tick.style.left = `${(100 * time) / this.duration_s}%`;
      ticks.push(tick);
    }
    return ticks;
  }

  #begin(down) {
    if (down.button !== 0) return;
    this.canvas.setPointerCapture(down.pointerId);
    const from = this.#point(down);
    const move = (event) => {
      if (this.#isClick(down, event)) return;
      this.onSelect(this.#part(from, this.#point(event)));
    };
    const end = (event) => {
      this.canvas.removeEventListener("pointermove", move);
      if (event.type === "pointerup" && this.#isClick(down, event)) this.onClick(from.x * this.duration_s);
    };
    this.canvas.addEventListener("pointermove", move);
    this.canvas.addEventListener("pointerup", end, { once: true });
    this.canvas.addEventListener("pointercancel", end, { once: true });
  }

  #isClick(down, event) {
    return Math.hypot(event.clientX - down.clientX, event.clientY - down.clientY) < CLICK_PX;
  }

  // Shares of the width from the left and of the height from the bottom.
  #point(event) {
    const box = this.canvas.getBoundingClientRect();
    const share = (value) => Math.min(Math.max(value, 0), 1);
    return { x: share((event.clientX - box.left) / box.width), y: share(1 - (event.clientY - box.top) / box.height) };
  }

  #part(a, b) {
    const shape = this.shape();
    const part = { start: null, end: null, low: null, high: null };
    if (shape !== "band") {
      [part.start, part.end] = [a.x, b.x].sort((x, y) => x - y).map((x) => Math.round(x * this.duration_s * 100) / 100);
    }
    if (shape !== "time") {
      [part.low, part.high] = [a.y, b.y].sort((x, y) => x - y).map((y) => Math.round(this.#frequency(y) / 10) * 10);
    }
    return part;
  }

  #frequency(height) {
    const row = height * (this.rows_hz.length - 1);
    const [below, above] = [this.rows_hz[Math.floor(row)], this.rows_hz[Math.ceil(row)]];
    return below + (above - below) * (row - Math.floor(row));
  }

  #height(hz) {
    const above = this.rows_hz.findIndex((row) => row >= hz);
    if (above < 0) return 1;
    if (above === 0) return 0;
    const [low, high] = [this.rows_hz[above - 1], this.rows_hz[above]];
    return (above - 1 + (hz - low) / (high - low)) / (this.rows_hz.length - 1);
  }
}
