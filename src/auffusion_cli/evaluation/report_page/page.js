// Draws the clips of a report: sorted, filtered, and built only when they come near the view.
// Every text from the data goes through textContent, none through markup.
"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const REFERENCE = data.systems.length;
const SEEK_STEP_S = 0.5;

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

// --- colours

const root = document.documentElement;

function setTheme(theme) {
  if (theme) root.dataset.theme = theme;
  else delete root.dataset.theme;
}

function rememberTheme(theme) {
  try {
    localStorage.setItem("theme", theme);
  } catch {
    // Pages opened from a disk may have no storage.
  }
}

function rememberedTheme() {
  try {
    return localStorage.getItem("theme") || "";
  } catch {
    return "";
  }
}

for (const choice of document.querySelectorAll("input[name=theme]")) {
  choice.checked = choice.value === rememberedTheme();
  choice.addEventListener("change", () => {
    setTheme(choice.value);
    rememberTheme(choice.value);
  });
}
setTheme(rememberedTheme());

// --- playing: one sound at a time

const audio = new Audio();
audio.preload = "none";
let playing = null; // the column whose sound is loaded

function play(column, fromS) {
  if (playing !== column) {
    stop();
    playing = column;
    audio.src = column.sound;
  }
  if (fromS !== undefined) column.atS = fromS;
  audio.currentTime = column.atS;
  audio.play().catch((error) => {
    if (error.name !== "AbortError") column.tell("This browser cannot play this file.");
  });
}

function stop() {
  if (!playing) return;
  audio.pause();
  playing.atS = 0;
  playing.show(false);
  playing = null;
}

function toggle(column) {
  if (playing === column && !audio.paused) audio.pause();
  else play(column);
}

function follow() {
  if (!playing) return;
  playing.atS = audio.currentTime;
  playing.show(!audio.paused);
  if (!audio.paused) requestAnimationFrame(follow);
}

audio.addEventListener("play", follow);
audio.addEventListener("pause", follow);
audio.addEventListener("seeked", follow);
audio.addEventListener("ended", stop);

// --- one sound of a clip

const seconds = (value) => value.toFixed(1);

function soundColumn(clip, index, sound, longestS) {
  const isReference = index === REFERENCE;
  const who = isReference ? "reference" : data.systems[index];
  const figure = make("figure", isReference ? "sound reference" : "sound");
  const caption = make("figcaption");
  const name = make("span", "who");
  name.append(make("span", isReference ? "dot" : `dot s${index % 6}`), make("bdi", "", who));
  caption.append(name);
  figure.append(caption);
  if (!sound) {
    figure.append(make("p", "absent", "No sound of this name."));
    return { figure };
  }
  const scores = make("dl", "scores");
  for (const score of data.scores) {
    if (sound.scores?.[score.name] === undefined) continue;
    const pair = make("div");
    const value = sound.scores[score.name].toFixed(score.decimals);
    pair.append(make("dt", "", score.name), make("dd", "", value.replace("-", "−")));
    scores.append(pair);
  }
  caption.append(scores);
  const file = data.files[sound.file];
  for (const flag of sound.flags ?? []) caption.append(make("span", "flag", flag));
  if (!file.sound) {
    figure.append(make("p", "absent", `No sound: ${file.problem}`));
    return { figure };
  }

  const strip = make("div", "strip");
  strip.style.width = `${(100 * file.duration) / longestS}%`;
  const picture = make("img");
  picture.alt = "";
  picture.decoding = "async";
  picture.src = file.picture;
  const head = make("span", "head");
  strip.append(picture, head);
  strip.tabIndex = 0;
  const title = clip.prompt ?? clip.name;
  const attributes = {
    role: "slider",
    "aria-label": `Position in ${who}: ${title}`,
    "aria-valuemin": "0",
    "aria-valuemax": seconds(file.duration),
  };
  for (const [key, value] of Object.entries(attributes)) strip.setAttribute(key, value);

  const button = make("button", "play");
  button.type = "button";
  button.setAttribute("aria-label", `Play ${who}: ${title}`);
  const time = make("span", "time");
  const controls = make("div", "controls");
  controls.append(button, time);
  figure.append(strip, controls);
  if (sound.classes?.length) figure.append(classList(sound.classes));
  if (sound.words?.length) figure.append(wordList(sound.words));

  const column = {
    figure,
    sound: file.sound,
    atS: 0,
    show(isPlaying) {
      figure.classList.toggle("playing", isPlaying);
      button.setAttribute("aria-pressed", String(isPlaying));
      head.style.left = `${(100 * Math.min(this.atS / file.duration, 1)).toFixed(2)}%`;
      head.hidden = this.atS === 0 && !isPlaying;
      time.textContent = `${seconds(this.atS)} / ${seconds(file.duration)} s`;
      strip.setAttribute("aria-valuenow", seconds(this.atS));
      strip.setAttribute("aria-valuetext", `${seconds(this.atS)} of ${seconds(file.duration)} s`);
    },
    tell(message) {
      time.textContent = message;
    },
    seek(toS) {
      this.atS = Math.max(0, Math.min(toS, file.duration - 0.01));
      if (playing === this) audio.currentTime = this.atS;
      this.show(playing === this && !audio.paused);
    },
  };
  button.addEventListener("click", () => toggle(column));
  strip.addEventListener("click", (event) => {
    const box = strip.getBoundingClientRect();
    play(column, (file.duration * (event.clientX - box.left)) / box.width);
  });
  strip.addEventListener("keydown", (event) => {
    const moves = {
      ArrowLeft: () => column.seek(column.atS - SEEK_STEP_S),
      ArrowRight: () => column.seek(column.atS + SEEK_STEP_S),
      Home: () => column.seek(0),
      End: () => column.seek(file.duration),
      Enter: () => toggle(column),
      " ": () => toggle(column),
    };
    if (!moves[event.key]) return;
    event.preventDefault();
    moves[event.key]();
  });
  column.show(false);
  return column;
}

function classList(classes) {
  const list = make("dl", "words");
  list.title = "the most probable classes of the classifier";
  for (const { name, probability } of classes) {
    const pair = make("div");
    pair.append(make("dt", "", name), make("dd", "", probability.toFixed(2)));
    list.append(pair);
  }
  return list;
}

// How spread out the attention to each word is, and how loud the sound is where it is greatest.
function wordList(words) {
  const list = make("dl", "words");
  list.title = "attention-entropy and attention-level of each word";
  for (const { word, entropy, level } of words) {
    const pair = make("div");
    const numbers = `${entropy.toFixed(data.wordDecimals)}, ${level.toFixed(2)}`;
    pair.append(make("dt", "", word), make("dd", "", numbers));
    list.append(pair);
  }
  return list;
}

// --- one clip: its heading at once, its sounds when it comes near the view

const rows = data.clips.map((clip) => {
  const element = make("article", "clip");
  element.tabIndex = -1;
  const heading = make("h3");
  heading.append(make("bdi", "", clip.prompt ?? clip.name));
  const facts = make("p", "facts");
  if (clip.prompt) facts.append(make("bdi", "", clip.name));
  if (clip.events) facts.append(make("span", "", clip.events === 1 ? "1 event" : `${clip.events} events`));
  element.append(heading, facts);
  const flags = clip.sounds.flatMap((sound) => sound?.flags ?? []);
  const paths = [...clip.sounds, clip.reference].map((sound) => sound?.path ?? "");
  const classes = clip.sounds.flatMap((sound) => sound?.classes ?? []).map(({ name }) => name);
  const words = [clip.prompt ?? "", clip.name, ...paths, ...flags, ...classes].join("\n").toLocaleLowerCase();
  return { clip, element, words, columns: null };
});
const rowOf = new Map(rows.map((row) => [row.element, row]));

function build(row) {
  if (row.columns) return;
  const { clip } = row;
  const sounds = data.hasReference ? [...clip.sounds, clip.reference] : clip.sounds;
  const longestS = Math.max(...sounds.map((sound) => (sound ? data.files[sound.file].duration : 0)), 0.01);
  row.columns = sounds.map((sound, index) => soundColumn(clip, index, sound, longestS));
  const side = make("div", "sounds");
  side.style.setProperty("--columns", sounds.length);
  side.append(...row.columns.map((column) => column.figure));
  row.element.append(side);
}

const nearView = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      build(rowOf.get(entry.target));
      nearView.unobserve(entry.target);
    }
  },
  { rootMargin: "800px" },
);
for (const row of rows) nearView.observe(row.element);

// --- sorting and filtering

const filter = byId("filter");
const scoreChoice = byId("score");
const systemChoice = byId("system");
const order = byId("order");
let worstFirst = true;
let visible = [];

function option(value, text) {
  const element = make("option", "", text);
  element.value = value;
  return element;
}

for (const score of data.scores) scoreChoice.append(option(score.name, score.name));
scoreChoice.append(option("", "Name"));
if (data.systems.length > 1) {
  systemChoice.append(option("mean", "all, on average"), option("gap", "the widest gap"));
}
data.systems.forEach((name, index) => systemChoice.append(option(String(index), name)));

function scoreOf(row, name, system) {
  const values = row.clip.sounds.map((sound) => sound?.scores[name]);
  if (system !== "mean" && system !== "gap") return values[Number(system)];
  const known = values.filter((value) => value !== undefined);
  if (!known.length) return undefined;
  if (system === "gap") return Math.max(...known) - Math.min(...known);
  return known.reduce((sum, value) => sum + value, 0) / known.length;
}

function sorted() {
  const score = data.scores.find(({ name }) => name === scoreChoice.value);
  const sign = worstFirst ? 1 : -1;
  if (!score) {
    const names = new Intl.Collator(undefined, { numeric: true });
    return rows.toSorted((a, b) => sign * names.compare(a.clip.name, b.clip.name));
  }
  const system = systemChoice.value;
  const lowFirst = score.better === "higher" && system !== "gap" ? sign : -sign;
  const values = new Map(rows.map((row) => [row, scoreOf(row, score.name, system)]));
  return rows.toSorted((a, b) => {
    const [x, y] = [values.get(a), values.get(b)];
    if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
    return lowFirst * (x - y);
  });
}

function orderName() {
  if (!scoreChoice.value) return worstFirst ? "A to Z" : "Z to A";
  if (systemChoice.value === "gap") return worstFirst ? "Widest first" : "Narrowest first";
  return worstFirst ? "Worst first" : "Best first";
}

function sort() {
  order.textContent = orderName();
  byId("of-system").hidden = data.systems.length < 2 || !scoreChoice.value;
  byId("list").append(...sorted().map((row) => row.element));
  applyFilter();
}

function applyFilter() {
  const wanted = filter.value.toLocaleLowerCase().split(/\s+/).filter(Boolean);
  for (const row of rows) row.element.hidden = !wanted.every((word) => row.words.includes(word));
  visible = [...byId("list").children].filter((element) => !element.hidden);
  const all = rows.length.toLocaleString("en");
  byId("count").textContent =
    visible.length === rows.length ? `${all} clips` : `${visible.length.toLocaleString("en")} of ${all}`;
  byId("none").hidden = visible.length > 0;
}

filter.addEventListener("input", applyFilter);
scoreChoice.addEventListener("change", sort);
systemChoice.addEventListener("change", sort);
order.addEventListener("click", () => {
  worstFirst = !worstFirst;
  sort();
});
document.querySelector(".tools").addEventListener("submit", (event) => event.preventDefault());
sort();

// --- keys

function move(by) {
  const here = visible.indexOf(document.activeElement.closest(".clip"));
  const next = visible[here < 0 ? 0 : Math.max(0, Math.min(here + by, visible.length - 1))];
  if (!next) return;
  build(rowOf.get(next));
  next.focus();
  next.scrollIntoView({ block: "nearest" });
}

function playColumn(index) {
  const element = document.activeElement.closest(".clip") ?? visible[0];
  if (!element) return;
  const row = rowOf.get(element);
  build(row);
  const column = row.columns[index];
  if (column?.sound) toggle(column);
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.key === "Escape") stop();
  if (event.target.closest("input, select, textarea")) return;
  if (event.key === "/") {
    event.preventDefault();
    filter.focus();
  } else if (event.key.toLowerCase() === "j") move(1);
  else if (event.key.toLowerCase() === "k") move(-1);
  else if (/^[1-9]$/.test(event.key)) playColumn(Number(event.key) - 1);
});
