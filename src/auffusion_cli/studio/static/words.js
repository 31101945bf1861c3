// The words of a prompt as buttons: each can be swapped for others, or weighed.

import { button, find } from "./dom.js";

const WORD = /[\p{L}\p{N}]+(?:['’-][\p{L}\p{N}]+)*/gu; // as `requests/word_edits.py` has them

export class Words {
  constructor(form) {
    this.form = form;
    this.words = [];
    form.elements.swap.addEventListener("input", (event) => this.#change({ swap: event.target.value }));
    form.elements.weight.addEventListener("input", (event) => this.#change({ weight: Number(event.target.value) }));
  }

  // Show the words of `sound`, if they can be changed.
  show(sound) {
    const { task, loop, near_seed, loras, prompt } = sound.record ?? {};
    this.form.hidden = task !== "generate" || loop || near_seed != null || Boolean(loras);
    if (this.form.hidden) return;
    let end = 0;
    const parts = [];
    this.words = [...prompt.matchAll(WORD)].map((match, index) => {
      const word = { text: match[0], swap: "", weight: 1, button: button("", () => this.#choose(index)) };
      parts.push(prompt.slice(end, match.index), word.button);
      end = match.index + match[0].length;
      return word;
    });
    find("#prompt-words").replaceChildren(...parts, prompt.slice(end));
    this.words.forEach((word) => draw(word));
    this.#choose(0);
  }

  // As the API has it.
  request() {
    const swaps = this.words.flatMap((word, index) =>
      word.swap.trim() ? [`${named(this.words, index)}=${word.swap.trim()}`] : []);
    const edited = this.words.flatMap((word) =>
      (word.swap.trim() ? [...word.swap.matchAll(WORD)].map(([text]) => text) : [word.text])
        .map((text) => ({ text, weight: word.weight })));
    const reweights = edited.flatMap(({ weight }, index) =>
      weight === 1 ? [] : [`${named(edited, index)}=${weight}`]);
    return { swaps, reweights };
  }

  #choose(index) {
    this.chosen = this.words[index];
    this.words.forEach((word) => word.button.setAttribute("aria-pressed", String(word === this.chosen)));
    find("#chosen-word").textContent = this.chosen?.text ?? "";
    this.form.elements.swap.value = this.chosen?.swap ?? "";
    this.form.elements.weight.value = this.chosen?.weight ?? 1;
    find("#weight-shown").textContent = this.form.elements.weight.value;
  }

  #change(values) {
    if (!this.chosen) return;
    Object.assign(this.chosen, values);
    find("#weight-shown").textContent = this.chosen.weight;
    draw(this.chosen);
  }
}

function draw(word) {
  const swap = word.swap.trim() ? ` → ${word.swap.trim()}` : "";
  word.button.textContent = `${word.text}${swap}${word.weight === 1 ? "" : ` ×${word.weight}`}`;
}

// A word as edits name it: its number is told where it occurs more than once.
function named(words, index) {
  const same = words.map(({ text }) => text.toLowerCase() === words[index].text.toLowerCase());
  if (same.filter(Boolean).length === 1) return words[index].text;
  return `${words[index].text}#${same.slice(0, index + 1).filter(Boolean).length}`;
}
