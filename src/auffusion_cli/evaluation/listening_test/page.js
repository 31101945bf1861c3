"use strict";
{
  const FORMAT = "auffusion-listening-answers-1";
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("data").textContent);
  const place = `auffusion-listening-${data.test}`;
  const sliders = { ovl: $("ovl"), rel: $("rel") };
  const sound = $("sound");

  const shuffled = (items) => {
    const order = [...items];
    for (let i = order.length - 1; i > 0; i--) {
      const j = crypto.getRandomValues(new Uint32Array(1))[0] % (i + 1);
      [order[i], order[j]] = [order[j], order[i]];
    }
    return order;
  };

  // A listener: an id, an order of their own, what they have answered, and where they are.
  const newListener = () => {
    const groups = shuffled(data.groups).slice(0, data.clipsEach);
    const bytes = crypto.getRandomValues(new Uint8Array(16));
    return {
      listener: [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join(""),
      order: shuffled([...groups.flat(), ...data.always]).map((trial) => trial.id),
      answers: {},
      at: -1,
    };
  };

  const words = new Map([...data.groups.flat(), ...data.always].map((t) => [t.id, t.words]));
  const stored = () => {
    try {
      const kept = JSON.parse(localStorage.getItem(place));
      return kept && kept.order.every((id) => words.has(id)) && kept.answers ? kept : null;
    } catch {
      return null;
    }
  };
  let state = stored() ?? newListener();
  const keep = () => {
    try {
      localStorage.setItem(place, JSON.stringify(state));
    } catch {
      $("unsaved").hidden = false;
    }
  };

  let shownAt = 0; // when the trial was shown, for the seconds spent on it
  const current = () => state.order[state.at];
  const rated = (id) => state.answers[id]?.ovl && state.answers[id]?.rel;

  const show = () => {
    const isTrial = state.at >= 0 && state.at < state.order.length;
    $("welcome").hidden = state.at >= 0;
    $("trial").hidden = !isTrial;
    $("end").hidden = state.at < state.order.length;
    if (!isTrial) {
      sound.pause();
      $(state.at < 0 ? "begin" : "download").focus();
      return;
    }
    const id = current();
    $("count").textContent = `Sound ${state.at + 1} of ${state.order.length}`;
    $("done").max = state.order.length;
    $("done").value = state.at;
    $("words").textContent = words.get(id);
    $("broken").hidden = true;
    $("heard").value = 0;
    sound.src = `sounds/${id}.flac`;
    shownAt = performance.now();
    state.answers[id] ??= { seconds: 0 };
    $("back").disabled = state.at === 0;
    update();
    $("play").focus();
  };

  const update = () => {
    const answer = state.answers[current()];
    if (!answer) return; // a sound that ends after its trial
    for (const [name, slider] of Object.entries(sliders)) {
      slider.disabled = !answer.heard;
      slider.classList.toggle("unset", !answer[name]);
      slider.value = answer[name] ?? 50;
      slider.setAttribute("aria-valuetext", answer[name] ?? "not rated");
      $(`${name}-value`).textContent = answer[name] ?? "–";
    }
    $("hint").hidden = Boolean(answer.heard);
    $("next").disabled = !rated(current());
    $("play").textContent = sound.paused ? (answer.heard ? "Play again" : "Play") : "Pause";
  };

  const go = (step) => {
    if (state.at >= 0) {
      const answer = state.answers[current()];
      answer.seconds += Math.round(performance.now() - shownAt) / 1000;
    }
    state.at += step;
    keep();
    show();
  };

  const rate = (name, value) => {
    if (sliders[name].disabled) return;
    state.answers[current()][name] = value;
    keep();
    update();
  };

  const play = () => (sound.paused ? sound.play().catch(() => {}) : sound.pause());

  sound.addEventListener("play", update);
  sound.addEventListener("pause", update);
  sound.addEventListener("timeupdate", () => {
    $("heard").value = sound.duration ? sound.currentTime / sound.duration : 0;
  });
  sound.addEventListener("ended", () => {
    const isFirst = !state.answers[current()].heard;
    state.answers[current()].heard = true;
    keep();
    update();
    if (isFirst) sliders.ovl.focus();
  });
  sound.addEventListener("error", () => ($("broken").hidden = false));
  for (const [name, slider] of Object.entries(sliders)) {
    // A click where the slider stands already is no input, but an answer.
    for (const kind of ["input", "pointerup"])
      slider.addEventListener(kind, () => rate(name, Number(slider.value)));
  }
  $("play").addEventListener("click", play);
  $("begin").addEventListener("click", () => go(1));
  $("back").addEventListener("click", () => go(-1));
  $("next").addEventListener("click", () => go(1));

  document.addEventListener("keydown", (event) => {
    if ($("trial").hidden || event.ctrlKey || event.metaKey || event.altKey) return;
    const name = Object.keys(sliders).find((each) => sliders[each] === document.activeElement);
    if (event.key === " ") {
      if (!event.repeat) play();
    } else if (event.key === "Enter" && event.target !== $("back") && !event.repeat) {
      if (!$("next").disabled) go(1);
      else if (!state.answers[current()].heard) play();
      else sliders[state.answers[current()].ovl ? "rel" : "ovl"].focus();
    } else if (name && /^[0-9]$/.test(event.key)) {
      rate(name, Number(event.key) * 10 || 100);
    } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      (event.key === "ArrowDown" && name ? sliders.rel : sliders.ovl).focus();
    } else return;
    event.preventDefault();
  });
  // Otherwise some browsers press the focused button, too.
  document.addEventListener("keyup", (event) => {
    if (event.key === " " && !$("trial").hidden) event.preventDefault();
  });

  $("download").addEventListener("click", () => {
    const answers = state.order.filter(rated).map((trial) => {
      const { ovl, rel, seconds } = state.answers[trial];
      return { trial, ovl, rel, seconds: Math.round(seconds * 10) / 10 };
    });
    const file = { format: FORMAT, test: data.test, listener: state.listener, answers };
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([JSON.stringify(file)], { type: "application/json" }));
    link.download = `answers-${state.listener.slice(0, 8)}.json`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
  $("again").addEventListener("click", () => {
    if (!confirm("Have you downloaded the answers? They are deleted here.")) return;
    state = newListener();
    keep();
    show();
  });

  keep();
  show();
}
