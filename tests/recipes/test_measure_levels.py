"""How loud what is new is, against what was there."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from auffusion_cli.config import GenerationDefaults
from auffusion_cli.signal.recording import read_recording

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes" / "embedded"))

import measure_levels

MODEL = SimpleNamespace(defaults=GenerationDefaults())


def test_a_hole_is_told_with_its_depth_and_length(tmp_path, monkeypatch):
    noise = 0.1 * np.random.default_rng(0).normal(size=(7 * 16_000, 1))
    path = tmp_path / "clip.wav"
    soundfile.write(path, noise[: 5 * 16_000], 16_000)
    source = read_recording(path)

    def extended(model, source, request, settings):
        longer = noise.copy()
        longer[-24_000:-12_000] *= 0.1  # 0.75 s, 20 dB softer
        return SimpleNamespace(recording=SimpleNamespace(samples=longer))

    monkeypatch.setattr(measure_levels, "extend", extended)
    softest_db, median_db, too_soft_s = measure_levels.against(source, "extend", MODEL, seed=1)
    assert softest_db == pytest.approx(-20, abs=1)
    assert median_db == pytest.approx(0, abs=1)
    assert too_soft_s == pytest.approx(0.75, abs=0.15)


def test_every_clip_can_be_read(tmp_path):
    names = [name for name, path in measure_levels.clips(tmp_path) if read_recording(path)]
    assert names == ["river", "frogs", "pink noise", "three tones"]
