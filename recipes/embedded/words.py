"""Prompts as people type them, and the captions that the UNet knows for the same sound.

`wordings.yaml` has more wordings of each kind than the clips' captions in `kinds.yaml`. Here they
are put into frames ("the sound of …") and into pairs ("… with … in the background"), each beside
its meaning: captions of the same kinds that the UNet was trained with.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent
HELD_OUT_OF = 5
"""One wording of so many is never taught."""

FRAMES = (
    "the sound of {}",
    "sound of {}",
    "{} sound",
    "{} sound effect",
    "{} sfx",
    "{} noise",
    "a recording of {}",
    "field recording of {}",
    "I hear {}",
    "we can hear {}",
    "there is {}",
    "{} can be heard",
    "somewhere {}",
    "{} in the distance",
    "distant {}",
    "{} nearby",
    "{} close up",
    "loud {}",
    "{}, loud",
    "quiet {}",
    "soft {}",
    "{} outside",
    "{} at night",
    "{} in the morning",
    "{} in a room",
    "{} again and again",
    "suddenly {}",
    "just {}",
    "only {}",
    "{} please",
    "audio of {}",
    "noise of {}",
    "realistic {}",
    "{}, high quality",
    "short {}",
    "long {}",
    "{} ambience",
    "{} in slow motion",
    "{} over and over",
    "{} without any music",
)
BACKGROUNDS = (
    "{event} with {back} in the background",
    "{event} and {back} in the background",
    "{event} in {back}",
    "{event} during {back}",
    "{event} while {back}",
    "{event} over {back}",
    "{event} against {back}",
    "{event} and {back}",
    "{event}, {back}",
    "{event} + {back}",
    "{back} and {event}",
    "{back} with {event}",
    "{back}, {event}",
    "{event} amid {back}",
    "{event} in front of {back}",
    "{event} near {back}",
    "{back} and a bit of {event}",
    "{back}, and in the distance {event}",
    "{event} with {back} far away",
    "{event} as {back} goes on",
    "there is {back}, then {event}",
    "{event} and behind it {back}",
)
TOGETHER = (
    "{a} and {b}",
    "{a} with {b}",
    "{a}, {b}",
    "{a} + {b}",
    "{a} while {b}",
    "{a} and also {b}",
    "{a} plus {b}",
    "both {a} and {b}",
    "{a} together with {b}",
    "{a} next to {b}",
    "{a} and {b} at the same time",
)
SEQUENCES = (
    "{a} then {b}",
    "{a}, then {b}",
    "{a} and then {b}",
    "{a} followed by {b}",
    "first {a}, then {b}",
    "{a} before {b}",
    "{a} and afterwards {b}",
    "{b} after {a}",
)


@dataclass(frozen=True)
class Example:
    """A prompt and what it means: a caption that the UNet was trained with."""

    prompt: str
    caption: str
    kinds: tuple[str, ...]
    """What is to be heard; one, or those of a composition."""


@dataclass(frozen=True)
class Words:
    """Everything that is known of how the kinds are called."""

    kinds: dict[str, dict[str, Any]]
    """`kinds.yaml`"""
    wordings: dict[str, list[str]]
    """`wordings.yaml`: of a kind, or of one of its captions."""

    def captions(self, key: str) -> tuple[str, ...]:
        """The captions of a kind that fit all of its clips; a single caption stands for itself."""
        entry = self.kinds.get(key)
        return (key,) if entry is None else (*entry["phrases"], *entry["captions"])

    def meaning(self, key: str) -> str:
        """The caption that all wordings of a key are to stand for: the kind's first sentence."""
        return self.kinds[key]["captions"][0] if key in self.kinds else key

    def kind_of(self, key: str) -> str:
        """The kind that a key of `wordings.yaml` belongs to."""
        if key in self.kinds:
            return key
        return next(
            kind for kind, e in self.kinds.items() if key in (e.get("words") or {}).values()
        )

    def phrase(self, key: str) -> str:
        """The wording by which the composed scenes call it most."""
        return self.kinds[key]["phrases"][0] if key in self.kinds else key

    def is_background(self, key: str) -> bool:
        return self.kinds[self.kind_of(key)].get("role") == "background"

    def taught(self, key: str) -> list[str]:
        return [wording for wording in self.wordings[key] if not is_held_out(wording)]

    def held_out(self, key: str) -> list[str]:
        return [wording for wording in self.wordings[key] if is_held_out(wording)]


def load_words(folder: Path = FOLDER) -> Words:
    return Words(
        yaml.safe_load((folder / "kinds.yaml").read_text("utf-8")),
        yaml.safe_load((folder / "wordings.yaml").read_text("utf-8")),
    )


def is_held_out(wording: str) -> bool:
    """The same answer everywhere and always; the first letter's case does not count."""
    return hashlib.sha256(wording.lower().encode()).digest()[0] % HELD_OUT_OF == 0


def single_examples(words: Words, frames_each: int, rng: random.Random) -> Iterator[Example]:
    """Every taught wording alone, and in `frames_each` frames."""
    for key in words.wordings:
        caption, kinds = words.meaning(key), (words.kind_of(key),)
        for wording in words.taught(key):
            yield Example(wording, caption, kinds)
            for frame in rng.sample(FRAMES, frames_each):
                yield Example(_varied(frame.format(wording), rng), caption, kinds)


def known_examples(words: Words) -> Iterator[Example]:
    """The captions of `kinds.yaml`, which keep their meaning."""
    for kind, entry in words.kinds.items():
        for caption in (*words.captions(kind), *(entry.get("words") or {}).values()):
            yield Example(caption, caption, (kind,))


def held_out_examples(words: Words, rng: random.Random) -> dict[str, list[Example]]:
    """Prompts of held-out wordings alone: by themselves, in frames, and as a sound in a place."""
    wanted = [(key, wording) for key in words.wordings for wording in words.held_out(key)]
    single = [Example(w, words.meaning(key), (words.kind_of(key),)) for key, w in wanted]
    framed = [replace(e, prompt=rng.choice(FRAMES).format(e.prompt)) for e in single[::2]]
    events = [pair for pair in wanted if not words.is_background(pair[0])]
    backgrounds = [pair for pair in wanted if words.is_background(pair[0])]
    pairs = []
    for _ in range(300):
        (event, called), (back, called_back) = rng.choice(events), rng.choice(backgrounds)
        prompt = _composed(rng.choice(BACKGROUNDS), [called, called_back])
        known = f"{words.phrase(event)} with {words.phrase(back)} in the background"
        kinds = (words.kind_of(event), words.kind_of(back))
        pairs.append(Example(prompt, known, kinds))
    return {"single": single, "framed": framed, "pairs": pairs}


def composed_examples(words: Words, n: int, rng: random.Random) -> Iterator[Example]:
    """Two or three sounds in one prompt, called by taught wordings and by known phrases."""
    backgrounds = _wanted(words, [key for key in words.wordings if words.is_background(key)])
    events = _wanted(words, [key for key in words.wordings if not words.is_background(key)])
    for _ in range(n):
        first, second = rng.choice(events), rng.choice(events)
        draw = rng.random()
        if draw < 0.6:
            keys = (first, rng.choice(backgrounds))
            template, known = rng.choice(BACKGROUNDS), "{event} with {back} in the background"
        elif draw < 0.75:
            keys, template, known = (first, second), rng.choice(TOGETHER), "{a} and {b}"
        elif draw < 0.9:
            keys, template, known = (first, second), rng.choice(SEQUENCES), "{a} followed by {b}"
        else:
            keys = (first, second, rng.choice(backgrounds))
            template = f"{rng.choice(TOGETHER[:4])} with {{back}}"
            known = "{a} and {b} with {back} in the background"
        if len({words.kind_of(key) for key in keys}) < len(keys):
            continue
        prompt = _composed(template, [_called(words, key, rng) for key in keys])
        caption = _composed(known, [words.phrase(key) for key in keys])
        yield Example(_varied(prompt, rng), caption, tuple(words.kind_of(key) for key in keys))


def _wanted(words: Words, keys: Sequence[str]) -> list[str]:
    """Each as often as it has wordings: the kinds that are asked for most have most."""
    return [key for key in keys for _ in words.wordings[key]]


def _called(words: Words, key: str, rng: random.Random) -> str:
    """One of all the ways to say it: a taught wording, or a caption the UNet knows."""
    if rng.random() < 0.3:
        return rng.choice(words.captions(key)).rstrip(".").lower()
    return rng.choice(words.taught(key) or words.captions(key))


def _composed(template: str, parts: Sequence[str]) -> str:
    names = dict(zip("ab", parts, strict=False), event=parts[0], back=parts[-1])
    return template.format(**names)


def _varied(prompt: str, rng: random.Random) -> str:
    """Now and then a sentence with its capital and its period."""
    draw = rng.random()
    if draw < 0.2:
        return prompt[:1].upper() + prompt[1:] + "."
    return prompt[:1].upper() + prompt[1:] if draw < 0.3 else prompt
