"""A small listening test, and listeners who answer it."""

import json
import re

import numpy as np

from auffusion_cli.evaluation.listening import Answer, Answers, Key
from auffusion_cli.signal.audio import write_audio

SYSTEMS = ("ours", "tango", "real")
RATE_HZ = 16000


def make_sounds(folder, n_clips=3, duration_s=0.25):
    """Folders of the systems, each with the same clips, and the list of their words."""
    time_s = np.arange(round(duration_s * RATE_HZ)) / RATE_HZ
    for i, system in enumerate(SYSTEMS):
        (folder / system).mkdir(parents=True)
        for clip in range(n_clips):
            tone = 0.02 * (clip + 1) * np.sin(2 * np.pi * 300 * (i + 1) * time_s)
            write_audio(folder / system / f"street{clip}.wav", tone, RATE_HZ, provenance={"a": 1})
    lines = [f'street{clip},"words {clip} </script><b>"' for clip in range(n_clips)]
    (folder / "captions.csv").write_text("\n".join(["name,caption", *lines]))


def page_data(folder):
    """What the page of a test tells its script."""
    text = (folder / "index.html").read_text("utf-8")
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])


def answers_of(key: Key, listener: int, rate) -> Answers:
    """A listener who answers every trial: `rate(trial)` -> (ovl, rel)."""
    answers = tuple(Answer(trial.id, *rate(trial), seconds=3.0) for trial in key.trials)
    return Answers(key.test, f"{listener:032x}", answers, "auffusion-listening-answers-1")


def attentive(trial, ratings):
    """Both ratings of a listener who passes the catch trials."""
    if trial.kind == "noise":
        return 1, 1
    return (trial.rating, trial.rating) if trial.rating else ratings[trial.system]
