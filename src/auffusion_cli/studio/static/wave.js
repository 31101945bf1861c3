// A sound that is seen and heard: spectrogram, waveform and one player for all of them.

import WaveSurfer from "/static/vendor/wavesurfer.esm.js";
import { audioUrl, outline, pictureUrl } from "./api.js";
import { element, find } from "./dom.js";

const nonce = find("meta[name=style-nonce]").content;
let heard = null; // the wave that plays; only one does

const colours = () => {
  const style = getComputedStyle(document.documentElement);
  const of = (name) => style.getPropertyValue(name).trim();
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  return {
    waveColor: of(dark ? "--wave-dark" : "--wave-light"),
    progressColor: of(dark ? "--accent-dark" : "--accent-light"),
    cursorColor: of(dark ? "--accent-dark" : "--accent-light"),
  };
};

export class Wave {
  // `onChange` is called when it starts or stops.
  constructor(sound, { height = 44, onChange = () => {} } = {}) {
    this.sound = sound;
    this.onChange = onChange;
    this.loudness_lufs = null;
    this.picture = element("img", {
      class: "spectrogram", src: pictureUrl(sound.id), loading: "lazy", draggable: "false",
      alt: `Spectrogram of ${sound.title}`,
    });
    this.head = element("div", { class: "head" });
    this.canvas = element("div", { class: "canvas" }, this.picture, this.head);
    this.wave = element("div", { class: "wave" });
    this.root = element("div", { class: "sound" }, this.canvas, this.wave);
    this.player = null;
    this.height = height;
    this.ready = null;
  }

  // Load the waveform; needs the element to be on the page.
  show() {
    this.ready ??= this.#create();
    return this.ready;
  }

  async #create() {
    const { peaks, loudness_lufs } = await outline(this.sound.id);
    this.loudness_lufs = loudness_lufs;
    this.player = WaveSurfer.create({
      container: this.wave, height: this.height, cspNonce: nonce, barWidth: 2, barGap: 1,
      barRadius: 1, normalize: true, ...colours(),
      url: audioUrl(this.sound.id), peaks: [peaks], duration: this.sound.duration_s,
    });
    this.player.on("timeupdate", (time) => this.place(time));
    this.player.on("play", () => this.onChange(true));
    this.player.on("pause", () => this.onChange(false));
    this.player.on("finish", () => { this.player.setTime(0); this.onChange(false); });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () =>
      this.player?.setOptions(colours()));
  }

  place(time) {
    this.head.style.left = `${(100 * time) / this.sound.duration_s}%`;
  }

  get isPlaying() {
    return Boolean(this.player?.isPlaying());
  }

  get time() {
    return this.player?.getCurrentTime() ?? 0;
  }

  async play(from = null, volume = 1) {
    await this.show();
    if (heard && heard !== this) heard.pause();
    heard = this;
    this.player.setVolume(volume);
    if (from !== null) this.seek(from);
    await this.player.play();
  }

  pause() {
    this.player?.pause();
  }

  toggle() {
    return this.isPlaying ? this.pause() : this.play();
  }

  seek(time) {
    this.player?.setTime(Math.min(Math.max(time, 0), this.sound.duration_s));
    this.place(this.time);
  }

  destroy() {
    if (heard === this) heard = null;
    this.player?.destroy();
    this.player = null;
  }
}
