// The room where a sound is changed; every change is a version beside the last one.

import * as api from "./api.js";
import { commandLine, download, remarks } from "./cards.js";
import { Comparison } from "./compare.js";
import { button, element, find, guarded, notify, report, seconds } from "./dom.js";
import { addSampling, fieldsOf, SAMPLING_NUMBERS, seedOf } from "./sampling.js";
import { Selection } from "./selection.js";
import { Wave } from "./wave.js";
import { Words } from "./words.js";

const EDGES = ["start", "end", "low", "high"];
const VERBS = { inpaint: "filled", extend: "extended", "style-transfer": "turned into", edit: "other words", finish: "finished" };
const FINISH_NUMBERS = ["low_cut_hz", "rate_hz", "channels", "loudness_lufs", "peak_db", "fade_in_s", "fade_out_s"];
const PULL_STEP_S = 0.5;

export class EditRoom {
  constructor(info) {
    this.info = info;
    this.sound = null;
    this.wave = null;
    this.comparison = null;
    this.running = new Set(); // ids of jobs that were started here
    this.fill = find("#fill-form");
    this.extend = find("#extend-form");
    this.turn = find("#turn-form");
    this.finish = find("#finish-form");
    this.words = new Words(find("#words-form"));
    this.settings = find("#edit-settings");
    addSampling(find("[data-sampling]", this.settings), info.defaults);
    this.#listenToFiles();
    this.#listenToForms();
    this.#listenToTransport();
    this.#listenToPull();
    addEventListener("keydown", (event) => this.#onKey(event));
  }

  // Show the sound with this id, and its versions.
  async take(id) {
    if (this.sound?.id === id) return;
    const [sound, family] = await Promise.all([api.sound(id), api.versions(id)]);
    this.#leave();
    this.sound = sound;
    this.family = family.sounds;
    find("#editor").hidden = false;
    const play = find("#edit-play");
    this.wave = new Wave(sound, {
      height: 64,
      onChange: (plays) => {
        play.textContent = plays ? "Stop" : "Play";
        play.setAttribute("aria-pressed", String(plays));
      },
    });
    find("#picture").replaceChildren(this.wave.root);
    this.selection = new Selection(this.wave.canvas, sound.duration_s, this.info.row_frequencies_hz, {
      shape: () => this.fill.elements.shape.value,
      onSelect: (part) => this.#select(part),
      onClick: (time) => this.wave.play(time).catch(report),
    });
    this.#select({ start: null, end: null, low: null, high: null });
    this.words.show(sound);
    this.#showFacts();
    this.#showVersions();
    await this.wave.show();
    this.#loop();
  }

  // `jobs` as the server tells of them.
  update(jobs) {
    for (const job of jobs) {
      if (!this.running.has(job.id) || ["waiting", "running"].includes(job.status)) continue;
      this.running.delete(job.id);
      if (job.error) notify(job.error);
      if (job.sounds.length) location.hash = `edit/${job.sounds.at(-1)}`;
    }
  }

  #leave() {
    this.comparison?.stop();
    this.comparison = null;
    this.wave?.destroy();
  }

  #showFacts() {
    const { sound } = this;
    find("#edit-name").textContent = sound.title;
    find("#edit-facts").textContent =
      `${seconds(sound.duration_s)}, ${sound.sample_rate_hz / 1000} kHz, ${sound.n_channels === 1 ? "mono" : `${sound.n_channels} channels`}`;
    find("#edit-files").replaceChildren(download(sound, "wav"), " ", download(sound, "flac"));
    find("#edit-remarks").replaceChildren(remarks(sound) ?? "");
    find("#edit-command").replaceChildren(commandLine(sound) ?? "");
    this.fill.elements.end.max = sound.duration_s;
    this.fill.elements.start.max = sound.duration_s;
  }

  #showVersions() {
    const before = this.#parent();
    const after = this.#children().at(-1);
    find("#undo").disabled = !before;
    find("#redo").disabled = !after;
    find("#compare").disabled = !before;
    if (before) {
      this.comparison = new Comparison(this.wave, before, {
        onChange: (heard) => {
          find("#compare").setAttribute("aria-pressed", String(heard));
          find("#compare").textContent = heard ? "Hear this version" : "Hear the version before";
        },
      });
    }
    find("#versions").replaceChildren(...this.family.map((one) => {
      const made = one.parent ? `${VERBS[one.task] ?? one.task}: ${one.title}` : one.title;
      return element("li", {}, button(made, () => this.#go(one), {
        "aria-current": one.id === this.sound.id ? "true" : null,
      }));
    }));
  }

  #parent() {
    return this.family.find((one) => one.id === this.sound.parent);
  }

  #children() {
    return this.family.filter((one) => one.parent === this.sound.id);
  }

  #go(version) {
    if (version) location.hash = `edit/${version.id}`;
  }

  // --- what is asked for

  #select(part) {
    for (const edge of EDGES) this.fill.elements[edge].value = part[edge] ?? "";
    this.selection.show(part);
  }

  #part() {
    const number = (text) => (text === "" ? null : Number(text));
    return Object.fromEntries(EDGES.map((edge) => [edge, number(this.fill.elements[edge].value)]));
  }

  #listenToForms() {
    const listen = (form, task, request) =>
      form.addEventListener("submit", (event) => {
        event.preventDefault();
        guarded(() => this.#ask(task, request()))();
      });
    this.fill.addEventListener("input", () => this.selection?.show(this.#part()));
    listen(this.fill, "inpaint", () => {
      const { start, end, low, high } = this.#part();
      const range = (a, b) => (a === null && b === null ? [] : [`${a ?? ""}-${b ?? ""}`]);
      return { prompt: this.fill.elements.prompt.value, masks: range(start, end), bands: range(low, high) };
    });
    listen(this.extend, "extend", () => fieldsOf(this.extend, ["by_s"]));
    listen(this.turn, "style-transfer", () => fieldsOf(this.turn, ["strength"]));
    listen(this.words.form, "edit", () => this.words.request());
    listen(this.finish, "finish", () => {
      const extend_band = this.finish.elements.extend_band.checked;
      return { ...fieldsOf(this.finish, FINISH_NUMBERS), extend_band };
    });
    this.turn.elements.strength.addEventListener("input", (event) => {
      find("#strength-shown").textContent = event.target.value;
    });
  }

  async #ask(task, request) {
    const shared = ["finish", "edit"].includes(task) ? {} : fieldsOf(this.settings, SAMPLING_NUMBERS);
    if (shared.seed !== undefined) shared.seed = seedOf(shared.seed);
    const job = await api.make(task, { ...shared, ...request, source: this.sound.id });
    this.running.add(job.id);
    this.update((await api.state()).jobs); // it may have ended while the answer was on its way
  }

  // --- files, keys, the handle

  #listenToFiles() {
    const bring = guarded(async (file) => {
      if (!file) return;
      notify(`reading ${file.name}`);
      const sound = await api.bringIn(file);
      notify(`${file.name} is in the history`);
      this.#go(sound);
    });
    find("#file").addEventListener("change", (event) => bring(event.target.files[0]));
    const room = find("#edit");
    room.addEventListener("dragover", (event) => {
      event.preventDefault();
      find("#drop").classList.add("over");
    });
    room.addEventListener("dragleave", () => find("#drop").classList.remove("over"));
    room.addEventListener("drop", (event) => {
      event.preventDefault();
      find("#drop").classList.remove("over");
      bring(event.dataTransfer.files[0]);
    });
  }

  #listenToTransport() {
    find("#edit-play").addEventListener("click", () => this.#toggle());
    find("#edit-loop").addEventListener("change", () => this.#loop());
    find("#compare").addEventListener("click", guarded(() => this.comparison?.toggle()));
    find("#undo").addEventListener("click", () => this.#go(this.#parent()));
    find("#redo").addEventListener("click", () => this.#go(this.#children().at(-1)));
  }

  #toggle() {
    this.comparison?.stop();
    this.wave.toggle()?.catch(report);
  }

  #loop() {
    if (this.wave?.player) this.wave.player.getMediaElement().loop = find("#edit-loop").checked;
  }

  #onKey(event) {
    const isFree = event.target === document.body || event.target.id === "picture" || event.target.id === "work";
    if (!this.sound || find("#edit").hidden || !isFree || event.ctrlKey || event.metaKey || event.altKey) return;
    const actions = {
      " ": "#edit-play", b: "#compare", z: "#undo", y: "#redo",
    };
    if (!actions[event.key]) return;
    event.preventDefault();
    find(actions[event.key]).click();
  }

  // Pulling the handle at the right edge says how much longer it is to become.
  #listenToPull() {
    const handle = find("#pull");
    const set = (by_s) => {
      const value = Math.round(Math.min(Math.max(by_s, 0), 60) * 10) / 10;
      this.extend.elements.where.value = "after";
      this.extend.elements.by_s.value = value || 0.1;
      handle.setAttribute("aria-valuenow", value);
      find("span", handle).textContent = `+ ${value} s`;
    };
    handle.addEventListener("pointerdown", (down) => {
      handle.setPointerCapture(down.pointerId);
      const perPixel_s = this.sound.duration_s / this.wave.canvas.clientWidth;
      const move = (event) => set((event.clientX - down.clientX) * perPixel_s);
      handle.addEventListener("pointermove", move);
      handle.addEventListener("lostpointercapture", () => handle.removeEventListener("pointermove", move), { once: true });
    });
    handle.addEventListener("keydown", (event) => {
      const steps = { ArrowRight: PULL_STEP_S, ArrowUp: PULL_STEP_S, ArrowLeft: -PULL_STEP_S, ArrowDown: -PULL_STEP_S };
      if (event.key === "Enter") this.extend.requestSubmit();
      if (!(event.key in steps)) return;
      event.preventDefault();
      set(Number(handle.getAttribute("aria-valuenow")) + steps[event.key]);
    });
  }
}
