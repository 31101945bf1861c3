"""The measurement of timelines, on sounds that say what they are."""

import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from auffusion_cli.config import GenerationDefaults, SpectrogramConfig

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes" / "embedded"))

import measure_timeline


class Reader:
    """Reads the score of each kind from the first samples of a sound."""

    kinds = tuple("abcdefgh")

    def __call__(self, windows):
        return windows[:, : len(self.kinds)]


@dataclass(frozen=True)
class Known:
    """As much of a model as is asked."""

    defaults: GenerationDefaults
    codec: SimpleNamespace
    vocabulary: str | None = "words"


def says(kind):
    """A sound of which the kind is the first guess, and its neighbours come next."""
    index = Reader.kinds.index(kind)
    scores = 10.0 - (torch.arange(8.0) - index).abs()
    return torch.nn.functional.pad(scores, (0, 40_000))


def test_guesses_and_places_are_counted(monkeypatch):
    monkeypatch.setattr(measure_timeline, "TaggerFeatures", lambda: lambda windows: windows)
    scenes = [("a", "d", "h"), ("b", "c", "e")]
    # Right, right, another kind of the scene, a neighbour's kind, far away, right.
    sounds = [says(kind) for kind in "adabhe"]
    sounds[3] = says("a")
    assert measure_timeline.judge(Reader(), sounds, scenes) == [3, 4, 4]


def test_each_scene_is_made_three_ways_with_one_seed(monkeypatch):
    asked, vocabularies = [], []

    def generate(model, requests, settings):
        vocabularies.append(model.vocabulary)
        for request in requests:
            asked.append((request, settings.duration_s))
            yield SimpleNamespace(
                waveform=np.zeros(round(settings.duration_s * 16_000), np.float32)
            )

    monkeypatch.setattr(measure_timeline, "generate", generate)
    model = Known(GenerationDefaults(), SimpleNamespace(spectrogram_config=SpectrogramConfig()))
    made = measure_timeline.make(model, [("dog_barking", "rain", "wind")], None, seed=5)
    assert {name: len(sounds) for name, sounds in made.items()} == dict.fromkeys(made, 3)
    (timeline, long_s), (combined, _), *alone = asked
    assert timeline.timeline == "0-3.2s dog barking; 3.2-6.4s rain; 6.4-9.6s wind"
    assert combined.prompt == "dog barking, then rain, then wind"
    assert [request.prompt for request, _ in alone] == ["dog barking", "rain", "wind"]
    assert long_s == pytest.approx(9.6) and {request.seed for request, _ in asked} == {5}
    assert vocabularies == ["words", None, "words"]
