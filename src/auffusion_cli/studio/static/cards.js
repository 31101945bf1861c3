// Cards of sounds: seen, heard, kept, discarded, taken along.

import { audioUrl, mark, remove } from "./api.js";
import { button, copy, element, guarded, notify, seconds } from "./dom.js";
import { Wave } from "./wave.js";

const NAMES = {
  generate: "from words", timeline: "timeline", edit: "other words", inpaint: "filled", extend: "extended", "style-transfer": "turned into",
  recording: "recording", finish: "finished",
};

const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    seen.unobserve(entry.target);
    entry.target.wave.show().catch((error) => notify(error.message));
  }
}, { rootMargin: "300px" });

export const download = (sound, format) =>
  element("a", { href: audioUrl(sound.id, format), download: true, class: "button" }, format);

export function commandLine(sound) {
  if (!sound.command) return null;
  return element("details", { class: "command" },
    element("summary", {}, "Command line"),
    element("code", { tabindex: "0" }, sound.command),
    button("Copy", guarded(() => copy(sound.command, "the command line"))));
}

export const remarks = (sound) =>
  sound.remarks.length
    ? element("ul", { class: "remarks" }, ...sound.remarks.map((text) => element("li", {}, text)))
    : null;

// A card of `sound`; `open(name, sound)` leads to another room with it.
export function card(sound, { open }) {
  const play = button("Play", () => wave.toggle(), { class: "play", "aria-pressed": "false" });
  const wave = new Wave(sound, {
    onChange: (plays) => {
      play.textContent = plays ? "Stop" : "Play";
      play.setAttribute("aria-pressed", String(plays));
    },
  });
  const keep = button("Keep", guarded(() => setState(sound.state === "kept" ? "new" : "kept")), { class: "keep" });
  const discard = button("Discard", guarded(() => setState("discarded")), { class: "discard" });
  const seed = sound.record?.seed;
  const made = element("article", {
    class: "card", tabindex: "0", "aria-label": `${sound.title}, ${seconds(sound.duration_s)}`,
  },
  wave.root,
  element("p", { class: "facts" },
    element("bdi", { class: "title" }, sound.title), " ",
    element("span", { class: "soft" },
      `${NAMES[sound.task] ?? sound.task}, ${seconds(sound.duration_s)}${seed === undefined ? "" : `, seed ${seed}`}`)),
  remarks(sound),
  element("div", { class: "actions" }, play, keep, discard,
    button("Edit", () => open("edit", sound)),
    sound.task === "generate" ? button("More like this", () => open("make", sound)) : null,
    download(sound, "wav"), download(sound, "flac")),
  commandLine(sound));

  async function setState(state) {
    const before = sound.state;
    Object.assign(sound, await mark(sound.id, state));
    showState();
    if (state === "discarded") {
      const next = made.nextElementSibling ?? made.previousElementSibling;
      const { parentElement: list, nextSibling: place } = made;
      wave.pause();
      made.remove();
      next?.focus();
      const undo = guarded(async () => {
        Object.assign(sound, await mark(sound.id, before));
        showState();
        list.insertBefore(made, place?.parentElement === list ? place : null);
        made.focus();
      });
      notify(`discarded: ${sound.title}`, { text: "Undo", run: undo });
    }
  }

  function showState() {
    made.dataset.state = sound.state;
    keep.textContent = sound.state === "kept" ? "Kept" : "Keep";
    keep.setAttribute("aria-pressed", String(sound.state === "kept"));
    discard.hidden = sound.state === "discarded";
  }

  if (sound.state === "discarded") {
    discard.after(button("Delete for good", guarded(async () => {
      await remove(sound.id);
      made.remove();
    })));
  }
  wave.canvas.addEventListener("click", (event) => {
    const box = wave.canvas.getBoundingClientRect();
    wave.play((sound.duration_s * (event.clientX - box.left)) / box.width).catch(() => {});
  });
  made.addEventListener("keydown", (event) => onKey(event, made, { wave, keep, discard, sound, open }));
  made.wave = wave;
  showState();
  seen.observe(made);
  return made;
}

function onKey(event, made, { wave, keep, discard, sound, open }) {
  if (event.target !== made || event.ctrlKey || event.metaKey || event.altKey) return;
  const cards = [...document.querySelectorAll(".card")].filter((one) => one.checkVisibility());
  const go = (step) => cards[cards.indexOf(made) + step]?.focus();
  const actions = {
    " ": () => wave.toggle(), Enter: () => keep.click(), Delete: () => discard.click(),
    Backspace: () => discard.click(), e: () => open("edit", sound),
    ArrowRight: () => go(1), ArrowDown: () => go(1), ArrowLeft: () => go(-1), ArrowUp: () => go(-1),
  };
  if (!actions[event.key]) return;
  event.preventDefault();
  actions[event.key]();
}
