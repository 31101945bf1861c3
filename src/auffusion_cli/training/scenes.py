"""Training samples composed of clips, with a caption for the whole.

A small data set has each sound alone. Two or three of them mixed or in sequence, with a matching
caption, provide examples of "dog barking in rain" that nobody recorded (after Make-An-Audio, arXiv
2301.12661, section 3.2, and Tango, 2304.13731, section 3.3).

`compose` is a pure function of (clips, config, seed), so that a scene never has to be stored: a run
that resumes, or another process, makes the same one again.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torchaudio
from torch import Tensor

from auffusion_cli.errors import DataError
from auffusion_cli.training.captions import (
    COUNTS,
    Wordings,
    caption_background,
    caption_sequence,
    caption_together,
)
from auffusion_cli.training.clip_store import ClipStore
from auffusion_cli.training.config import SceneConfig

PEAK = 0.95
FADE_S = 0.005
"""Fade at every cut, against clicks."""
LOOP_FADE_S = 0.25
"""Crossfade of a looped background into its own beginning."""
LEAD_S = 1.0
"""Latest start of a lone event, if it fits into the window then."""
REPEAT_GAIN_DB = (-4.0, 0.0)
EVENT_GAIN_DB = (-4.0, 0.0)
N_CROPS = 3
"""Random crops of a long event, of which the loudest is used."""

BACKGROUND_PROBABILITY = 0.6
"""Probability that an event is mixed with a background rather than another event."""
SEQUENCE_PROBABILITY = 0.35
"""Probability that two events are in sequence."""
THREE_PROBABILITY = 0.1
"""Probability that two events are mixed with a background."""
MIXED_PHRASE_PROBABILITY = 0.8
"""Probability that the caption of a mix is made of phrases, if all its clips have them."""


@dataclass(frozen=True)
class Scene:
    """A training sample."""

    waveform: Tensor
    """(N,) float32 with peak 0.95."""
    caption: str
    """One of `wordings`, drawn."""
    wordings: Wordings
    """All captions of a lone clip; the drawn one where clips are mixed."""
    kinds: tuple[str, ...]


def compose(clips: ClipStore, config: SceneConfig, seed: int, clip: int | None = None) -> Scene:
    """One scene of `config.duration_s`; the same arguments give the same scene.

    `clip` is the index of the clip to build on; by default one is drawn. With `mix_probability` 0
    nothing is composed: the scene is a random crop of the clip, or the clip and silence, with one
    of its captions, as the published models were trained.
    """
    rng = random.Random(seed)
    n_samples = round(config.duration_s * clips.sample_rate_hz)
    first = clips.pick(rng, config) if clip is None else clip
    if first is None:
        raise DataError("there are no clips to compose scenes from")
    if config.mix_probability == 0:
        wordings = clips.clips[first].wordings
        text = wordings.draw(rng, config.phrase_probability)
        waveform = _crop_or_pad(clips[first], n_samples, rng)
        return _scene(clips, (first,), waveform, text, wordings)

    window = _Window(clips, config, rng, n_samples)
    if rng.random() < config.mix_probability:
        mix = _choose_mix(clips, config, rng, first)
        if mix is not None:
            return _mixed_scene(window, *mix)
    return _lone_scene(window, first)


def crop(waveform: Tensor, n_samples: int, rng: random.Random) -> Tensor:
    """A scene (n_samples,) of one sound (N,) as it is: a random crop, or the sound and silence."""
    cut = _crop_or_pad(waveform, n_samples, rng)
    return cut * (PEAK / cut.abs().max().clamp(min=1e-8))


def lay_alone(clips: ClipStore, config: SceneConfig, seed: int, clip: int) -> Scene:
    """A scene of one clip alone, placed in the window by its role.

    The same as `compose` makes of a clip that it does not mix, whatever `mix_probability` is.
    """
    n_samples = round(config.duration_s * clips.sample_rate_hz)
    return _lone_scene(_Window(clips, config, random.Random(seed), n_samples), clip)


def _lone_scene(window: _Window, index: int) -> Scene:
    clip = window.clips.clips[index]
    text = clip.wordings.draw(window.rng, window.config.phrase_probability)
    wordings = clip.wordings
    if clip.role == "event" and not COUNTS.search(text):  # it may be repeated
        wordings = wordings.without_counts()
    return _scene(window.clips, (index,), window.place(index, text), text, wordings)


def _choose_mix(
    clips: ClipStore, config: SceneConfig, rng: random.Random, first: int
) -> tuple[list[int], int | None] | None:
    """(events, background) to mix; None: no other clip fits. Clips without role are events."""

    def another(role: str | None, *without: int) -> int | None:
        return clips.pick(rng, config, role, without)

    role = clips.clips[first].role
    if role is None:
        second = another("any", first)
        if second is None:
            return None
        return (
            ([first], second) if rng.random() < BACKGROUND_PROBABILITY else ([first, second], None)
        )
    if role == "background":
        event = another("event", first)
        return None if event is None else ([event], first)
    second, background = another("event", first), another("background", first)
    draw = rng.random()
    if second is not None and background is not None and draw < THREE_PROBABILITY:
        return [first, second], background
    if background is not None and (second is None or rng.random() < BACKGROUND_PROBABILITY):
        return [first], background
    return None if second is None else ([first, second], None)


def _mixed_scene(window: _Window, events: list[int], background: int | None) -> Scene:
    clips, rng, config = window.clips, window.rng, window.config
    indices = [*events, background] if background is not None else events
    in_phrases = (
        all(clips.clips[index].phrases for index in indices)
        and rng.random() < MIXED_PHRASE_PROBABILITY
    )
    texts = [clips.clips[index].wordings.draw(rng, float(in_phrases)) for index in indices]
    in_sequence = (
        len(events) == 2
        and background is None
        and all(clips.clips[index].role == "event" for index in events)
        and rng.random() < SEQUENCE_PROBABILITY
    )
    if in_sequence:
        waveform = window.place_in_sequence(*events)
        caption = caption_sequence(*texts, in_phrases, rng)
    else:
        layers = [
            window.place(index, text) * _gain(rng, EVENT_GAIN_DB)
            for index, text in zip(events, texts, strict=False)
        ]
        if background is not None:
            layers.append(
                window.place(background, texts[-1]) * _gain(rng, config.background_gain_db)
            )
            caption = caption_background(texts[:-1], texts[-1], in_phrases, rng)
        else:
            caption = caption_together(*texts, in_phrases, rng)
        waveform = torch.stack(layers).sum(dim=0)
    return _scene(clips, indices, waveform, caption, Wordings((caption,)))


def _scene(
    clips: ClipStore, indices: Sequence[int], waveform: Tensor, caption: str, wordings: Wordings
) -> Scene:
    kinds = (clips.clips[index].kind for index in indices)
    peak = waveform.abs().max().clamp(min=1e-8)
    return Scene(waveform * (PEAK / peak), caption, wordings, tuple(kind for kind in kinds if kind))


# Placing a clip in the window --------------------------------------------------------------------


@dataclass(frozen=True)
class _Window:
    """The window of `n_samples` in which clips are placed."""

    clips: ClipStore
    config: SceneConfig
    rng: random.Random
    n_samples: int

    def place(self, index: int, text: str) -> Tensor:
        """(n_samples,): the clip, placed by its role, and once only if `text` counts."""
        role = self.clips.clips[index].role
        if role is None:
            return _crop_or_pad(self._played(index, self.n_samples), self.n_samples, self.rng)
        if role == "background":
            return self._loop(self._played(index, self.n_samples))
        waveform = self._played(index, self.n_samples)
        return self._repeat(waveform, 1 if COUNTS.search(text) else self.config.max_repeats)

    def place_in_sequence(self, first: int, second: int) -> Tensor:
        """(n_samples,): two events, each once, the second after the end of the first."""
        one = self._played(first, self.n_samples // 2)
        two = self._played(second, self.n_samples - one.numel())
        room = self.n_samples - one.numel() - two.numel()
        start = self.rng.randint(0, min(room, self._samples(LEAD_S)))
        gap = min(self._samples(self.rng.uniform(*self.config.gap_s)), room - start)
        return self._sum([(start, one), (start + one.numel() + gap, two)])

    def _played(self, index: int, max_samples: int) -> Tensor:
        """The clip, or the loudest of a few crops of it, at a random speed, faded at both ends."""
        rng, waveform = self.rng, self.clips[index]
        # Speeds in steps of 1 % (a sixth of a semitone) keep the resampling filter small.
        steps = round(100 * self.config.pitch_range)
        percent = 100 + rng.randint(-steps, steps)
        n_needed = math.ceil(max_samples * percent / 100)
        if waveform.numel() > n_needed:
            starts = [rng.randint(0, waveform.numel() - n_needed) for _ in range(N_CROPS)]
            crops = [waveform[start : start + n_needed] for start in starts]
            waveform = max(crops, key=lambda crop: float(crop.square().mean()))
        if percent != 100:
            waveform = _playback_speed(percent)(waveform)
        return _faded(waveform[:max_samples], self._samples(FADE_S))

    def _repeat(self, waveform: Tensor, max_repeats: int) -> Tensor:
        """An event once or several times, at random gaps."""
        rng, length = self.rng, waveform.numel()
        shortest_gap, longest_gap = map(self._samples, self.config.gap_s)
        n_fitting = (self.n_samples + shortest_gap) // (length + shortest_gap)
        n = rng.randint(1, max(1, min(max_repeats, n_fitting)))
        room = self.n_samples - n * length - (n - 1) * shortest_gap
        start = rng.randint(0, min(room, self._samples(LEAD_S)))
        if n > 1:
            longest_gap = min(longest_gap, shortest_gap + (room - start) // (n - 1))
        placed = [(start, waveform)]
        for _ in range(n - 1):
            start += length + rng.randint(shortest_gap, longest_gap)
            placed.append((start, waveform * _gain(rng, REPEAT_GAIN_DB)))
        return self._sum(placed)

    def _loop(self, waveform: Tensor) -> Tensor:
        """(n_samples,): a background, looped with crossfades where it is short."""
        length = waveform.numel()
        if length >= self.n_samples:
            return waveform
        n_fade = min(self._samples(LOOP_FADE_S), length // 4)
        rise = torch.linspace(0, math.pi / 2, n_fade).sin()
        lap = waveform.clone()
        lap[:n_fade] *= rise  # constant power: the two ends are different noise
        lap[length - n_fade :] *= rise.flip(0)
        hop = length - n_fade
        # Begin anywhere in a lap, so that scenes do not all begin like the recording.
        start = -n_fade - self.rng.randrange(max(1, hop - n_fade))
        laps = [(at, lap) for at in range(start, self.n_samples, hop)]
        return _faded(self._sum(laps), self._samples(FADE_S))

    def _sum(self, parts: Sequence[tuple[int, Tensor]]) -> Tensor:
        """(n_samples,): the sum of parts (n,), each from its start on, cut at the window's ends."""
        window = torch.zeros(self.n_samples)
        for start, part in parts:
            begin, end = max(start, 0), min(start + part.numel(), self.n_samples)
            window[begin:end] += part[begin - start : end - start]
        return window

    def _samples(self, duration_s: float) -> int:
        return round(duration_s * self.clips.sample_rate_hz)


@lru_cache(maxsize=101)  # `pitch_range` is at most 0.5
def _playback_speed(percent: int) -> torchaudio.transforms.Resample:
    return torchaudio.transforms.Resample(percent, 100)


def _crop_or_pad(waveform: Tensor, n_samples: int, rng: random.Random) -> Tensor:
    """A random crop of a long waveform; a short one is padded with silence."""
    free = waveform.numel() - n_samples
    if free >= 0:
        start = rng.randint(0, free)
        return waveform[start : start + n_samples]
    return torch.nn.functional.pad(waveform, (0, -free))


def _faded(waveform: Tensor, n_fade: int) -> Tensor:
    """A copy of the waveform (N,) with linear fades of `n_fade` samples."""
    waveform = waveform.clone()
    n_fade = min(n_fade, waveform.numel() // 2)
    rise = torch.linspace(0, 1, n_fade)
    waveform[:n_fade] *= rise
    waveform[waveform.numel() - n_fade :] *= rise.flip(0)
    return waveform


def _gain(rng: random.Random, range_db: tuple[float, float]) -> float:
    return 10 ** (rng.uniform(*range_db) / 20)
