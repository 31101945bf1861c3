// The room where sounds are made from words: candidates appear one by one.

import * as api from "./api.js";
import { card } from "./cards.js";
import { button, element, find, guarded, notify } from "./dom.js";
import { addSampling, fieldsOf, SAMPLING_NUMBERS, seedOf } from "./sampling.js";
import { Timeline } from "./timeline.js";

const N_FROM_BEFORE = 24;

export class MakeRoom {
  constructor(info, open) {
    this.open = open;
    this.form = find("#make-form");
    this.batches = find("#batches");
    this.running = new Map(); // id of a job -> its batch
    this.near = null; // the sound that new ones are to be like
    addSampling(find("[data-sampling]", this.form), info.defaults);
    const { prompt, duration_s } = this.form.elements;
    duration_s.value = info.defaults.duration_s;
    this.timeline = new Timeline(find("#timeline"), {
      duration_s: () => Number(duration_s.value) || info.defaults.duration_s,
      onChange: () => { prompt.required = this.timeline.regions.length === 0; },
    });
    duration_s.addEventListener("input", () => this.timeline.draw());
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      guarded(() => this.make())();
    });
    find("#nearness").addEventListener("input", (event) => {
      find("#nearness-shown").textContent = event.target.value;
    });
    find("#forget").addEventListener("click", () => this.#likeNone());
    this.form.elements.seed.addEventListener("input", () => {
      this.form.elements.lock.checked = this.form.elements.seed.value !== "";
    });
  }

  async start() {
    const { sounds } = await api.sounds({ state: "new", limit: N_FROM_BEFORE });
    if (sounds.length) this.#batch("From before").append(...sounds.map((one) => this.#card(one)));
  }

  async make() {
    const { elements } = this.form;
    const request = fieldsOf(this.form, ["duration_s", "n", "nearness", ...SAMPLING_NUMBERS]);
    delete request.lock;
    for (const name of ["one_shot", "loop"]) request[name] = elements[name].checked;
    request.timeline = this.timeline.text;
    if (this.near) request.near_seed = this.near.record.seed;
    else delete request.nearness;
    if (!elements.lock.checked) delete request.seed;
    if (request.seed !== undefined) request.seed = seedOf(request.seed);
    const job = await api.make("generate", request);
    elements.seed.value = job.ask.seed;
    const list = this.#batch(job.title);
    const waiting = Array.from({ length: request.n }, () =>
      element("div", { class: "pending" }, element("span", {}, "waiting")));
    list.append(...waiting);
    const sort = button("Best first", () => bestFirst(list), { hidden: true });
    list.before(sort);
    this.running.set(job.id, { waiting, shown: 0, sort });
    this.update((await api.state()).jobs); // it may have ended while the answer was on its way
  }

  // Take the words and settings of a sound into the form, for more that are like it.
  fill(sound) {
    const { elements } = this.form;
    for (const name of ["prompt", "negative_prompt", "duration_s", ...SAMPLING_NUMBERS, "scheduler"]) {
      elements[name].value = sound.record[name];
    }
    for (const name of ["one_shot", "loop"]) elements[name].checked = Boolean(sound.record[name]);
    elements.lock.checked = false;
    this.near = sound;
    find("#near").hidden = false;
    find("#near-name").textContent = `${sound.title}, seed ${sound.record.seed}`;
    find("#nearness").focus();
  }

  #likeNone() {
    this.near = null;
    find("#near").hidden = true;
    this.form.elements.prompt.focus();
  }

  // `jobs` as the server tells of them.
  update(jobs) {
    for (const job of jobs) {
      const batch = this.running.get(job.id);
      if (!batch) continue;
      const made = job.sounds.slice(batch.shown);
      batch.shown += made.length;
      for (const id of made) {
        const place = batch.waiting.shift();
        api.sound(id).then((sound) => place.replaceWith(this.#card(sound)), () => place.remove());
      }
      if (job.status === "running" && batch.waiting[0]) {
        batch.waiting[0].firstChild.textContent = "being made";
        batch.waiting[0].classList.add("current");
      }
      if (["done", "failed", "cancelled"].includes(job.status)) {
        for (const place of batch.waiting) place.remove();
        batch.sort.hidden = false;
        this.running.delete(job.id);
        if (job.error) notify(job.error);
      }
    }
  }

  #card(sound) {
    return card(sound, { open: this.open });
  }

  #batch(title) {
    find("#make-empty").hidden = true;
    const list = element("div", { class: "cards" });
    this.batches.prepend(element("section", { class: "batch" },
      element("h3", {}, element("bdi", {}, title)), list));
    return list;
  }
}

// The judge's ranking; where it has nothing to say of the words, the order stays.
function bestFirst(list) {
  const score = (made) => made.wave.sound.score ?? -Infinity;
  list.append(...[...list.querySelectorAll(".card")].sort((a, b) => score(b) - score(a)));
  find(".card", list)?.focus();
}
