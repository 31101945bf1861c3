// The version before, heard from the same moment on and at the same loudness as the present one.

import { audioUrl, outline } from "./api.js";

export class Comparison {
  constructor(wave, before, { onChange }) {
    Object.assign(this, { wave, onChange });
    this.audio = new Audio(audioUrl(before.id));
    this.before = before;
    this.audio.addEventListener("timeupdate", () => {
      if (this.isHeard) wave.place(this.audio.currentTime);
    });
    this.audio.addEventListener("ended", () => onChange(false));
  }

  get isHeard() {
    return !this.audio.paused;
  }

  // From one to the other; both are turned down to the softer of the two.
  async toggle() {
    await this.wave.show();
    const { loudness_lufs } = await outline(this.before.id);
    const softer_lufs = Math.min(loudness_lufs, this.wave.loudness_lufs);
    const gain = (own_lufs) => 10 ** ((softer_lufs - own_lufs) / 20);
    if (this.isHeard) {
      this.audio.pause();
      this.onChange(false);
      await this.wave.play(this.audio.currentTime, gain(this.wave.loudness_lufs));
    } else {
      const time = this.wave.time;
      this.wave.pause();
      this.audio.volume = gain(loudness_lufs);
      this.audio.currentTime = Math.min(time, this.before.duration_s);
      await this.audio.play();
      this.onChange(true);
    }
  }

  stop() {
    this.audio.pause();
    this.onChange(false);
  }
}
