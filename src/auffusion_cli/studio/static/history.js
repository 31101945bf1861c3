// The room with everything that was made, searched by the server.

import * as api from "./api.js";
import { card } from "./cards.js";
import { find, guarded } from "./dom.js";

const PAGE = 24;
const PAUSE_MS = 200;

export class HistoryRoom {
  constructor(info, open) {
    this.open = open;
    this.form = find("#search");
    this.list = find("#found-sounds");
    this.turn = 0;
    find("#folder").textContent = info.folder;
    let timer;
    this.form.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(guarded(() => this.show()), PAUSE_MS);
    });
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      guarded(() => this.show())();
    });
    find("#more").addEventListener("click", guarded(() => this.#load(this.list.children.length)));
  }

  show() {
    return this.#load(0);
  }

  async #load(offset) {
    const turn = ++this.turn;
    const { q, state } = this.form.elements;
    const found = await api.sounds({ q: q.value, state: state.value, offset, limit: PAGE });
    if (turn !== this.turn) return; // a later search has overtaken this one
    if (offset === 0) {
      for (const one of this.list.children) one.wave.destroy();
      this.list.replaceChildren();
    }
    this.list.append(...found.sounds.map((sound) => card(sound, { open: this.open })));
    find("#found").textContent = found.n === 1 ? "1 sound" : `${found.n} sounds`;
    find("#more").hidden = this.list.children.length >= found.n;
  }
}
