// Sounds at their times: blocks that are dragged on a lane, and fields that say the same.

import { button, element } from "./dom.js";

const MIN_S = 0.5; // of a region
const STEP_S = 0.1;
const EDGE_PX = 12;

const tenths = (time) => Math.round(time * 10) / 10;

export class Timeline {
  // `duration_s()`: the length of the lane.
  constructor(root, { duration_s, onChange }) {
    Object.assign(this, { duration_s, onChange, regions: [] });
    this.lane = element("div", { class: "lane" });
    this.list = element("ol", {});
    root.append(this.lane, this.list, button("Add a sound", () => this.add()));
  }

  // Regions as the command line has them; empty where there are none.
  get text() {
    return this.regions
      .map(({ start, end, words }) => [start, end, words.value.replace(/[;\s]+/g, " ").trim()])
      .filter(([, , words]) => words)
      .map(([start, end, words]) => `${start}-${end}s ${words}`).join("; ");
  }

  add() {
    const whole = this.duration_s();
    const start = Math.max(Math.min(this.regions.at(-1)?.end ?? 0, tenths(whole - MIN_S)), 0);
    const region = { start, end: Math.max(tenths(Math.min(start + whole / 3, whole)), start + MIN_S) };
    const time = (name, label) => element("input", {
      type: "number", min: 0, step: "any", "aria-label": label,
      oninput: (event) => this.#set(region, { [name]: Number(event.target.value) }, event.target),
    });
    region.words = element("input", {
      "aria-label": "Words of the sound", placeholder: "a dog barks", maxlength: 1000, autocomplete: "off",
      oninput: () => this.#draw(region),
    });
    region.fields = { start: time("start", "From, s"), end: time("end", "To, s") };
    region.block = element("div", {
      class: "block", tabindex: 0, role: "group",
      onpointerdown: (event) => this.#drag(region, event), onkeydown: (event) => this.#onKey(region, event),
    });
    region.row = element("li", {}, region.words, region.fields.start, region.fields.end,
      button("Remove", () => this.#remove(region)));
    this.regions.push(region);
    this.lane.append(region.block);
    this.list.append(region.row);
    this.draw();
    region.words.focus();
  }

  draw() {
    this.lane.style.height = `${2.3 * this.regions.length}rem`;
    this.regions.forEach((region) => this.#draw(region));
    this.onChange();
  }

  #draw(region, typed = null) {
    const whole = this.duration_s();
    const { block, fields, start, end, words } = region;
    Object.assign(block.style, {
      left: `${(100 * start) / whole}%`, width: `${(100 * (end - start)) / whole}%`,
      top: `${2.3 * this.regions.indexOf(region)}rem`,
    });
    block.textContent = words.value || "a sound";
    block.setAttribute("aria-label",
      `${words.value || "a sound"}, ${start} to ${end} s: arrows move it, with shift they move its end`);
    for (const edge of ["start", "end"]) if (fields[edge] !== typed) fields[edge].value = region[edge];
  }

  #set(region, times, typed = null) {
    Object.assign(region, times);
    this.#draw(region, typed);
  }

  #remove(region) {
    this.regions.splice(this.regions.indexOf(region), 1);
    region.block.remove();
    region.row.remove();
    this.draw();
  }

  // Move the start, the end, or both by `by_s` from where they were.
  #move(region, { start, end }, what, by_s) {
    const whole = this.duration_s();
    const within = (time, low, high) => tenths(Math.min(Math.max(time, low), high));
    if (what === "start") this.#set(region, { start: within(start + by_s, 0, end - MIN_S) });
    else if (what === "end") this.#set(region, { end: within(end + by_s, start + MIN_S, whole) });
    else {
      const moved = within(start + by_s, 0, Math.max(whole - (end - start), 0));
      this.#set(region, { start: moved, end: tenths(moved + end - start) });
    }
  }

  #drag(region, down) {
    const box = region.block.getBoundingClientRect();
    const what = down.clientX - box.left < EDGE_PX ? "start" : box.right - down.clientX < EDGE_PX ? "end" : "all";
    const perPixel_s = this.duration_s() / this.lane.clientWidth;
    const from = { start: region.start, end: region.end };
    const move = (event) => this.#move(region, from, what, (event.clientX - down.clientX) * perPixel_s);
    region.block.setPointerCapture(down.pointerId);
    region.block.addEventListener("pointermove", move);
    region.block.addEventListener("lostpointercapture", () =>
      region.block.removeEventListener("pointermove", move), { once: true });
  }

  #onKey(region, event) {
    const steps = { ArrowRight: STEP_S, ArrowLeft: -STEP_S };
    if (event.key === "Delete") this.#remove(region);
    else if (event.key in steps) this.#move(region, region, event.shiftKey ? "end" : "all", steps[event.key]);
    else return;
    event.preventDefault();
  }
}
