"""Whether a sound repeats a clip: found where it does, also at another speed; not elsewhere."""

import sys
from pathlib import Path

import pytest
import torch
import torchaudio

from auffusion_cli.evaluation.tagger import TaggerFeatures

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes" / "embedded"))

import measure_copies


def event(seed: int) -> torch.Tensor:
    """1.5 s of bursts in bands, of which no two are alike."""
    generator = torch.Generator().manual_seed(seed)
    sound = 0.01 * torch.randn(24_000, generator=generator)
    time_s = torch.arange(2_000) / 16_000
    for start in torch.randint(0, 22_000, (12,), generator=generator):
        hz = 200 + 6_000 * torch.rand(1, generator=generator)
        sound[start : start + 2_000] += torch.sin(2 * torch.pi * hz * time_s)
    return sound


def pictures(waveform: torch.Tensor) -> list[torch.Tensor]:
    silence = torch.zeros(12_800)
    return [TaggerFeatures()(torch.cat([silence, waveform, silence])[None])[0]]


@pytest.mark.parametrize("percent", measure_copies.SPEEDS_PERCENT)
def test_a_copy_is_found_at_every_speed(monkeypatch, percent):
    monkeypatch.setattr(measure_copies, "ClipStore", lambda clips, rate_hz: clips)
    known = measure_copies.clip_pictures([event(0), event(1)])
    assert len(known) == 2 * len(measure_copies.SPEEDS_PERCENT)
    copied = torchaudio.functional.resample(event(1), percent, 100)
    # In the middle of something longer, and at another place than in the clip.
    sound = torch.cat([0.01 * torch.randn(9_000), copied, 0.01 * torch.randn(9_000)])
    assert measure_copies.best_match(measure_copies.loudest_patch(sound), known) > 0.9


def test_another_sound_is_none():
    patch = measure_copies.loudest_patch(event(2))
    assert patch.shape == (64, measure_copies.PATCH_FRAMES)
    other = measure_copies.best_match(patch, pictures(event(3)))
    assert other < measure_copies.best_match(patch, pictures(event(2))) - 0.2


def test_a_picture_of_one_value_matches_nothing():
    flat = [torch.zeros(64, 3 * measure_copies.PATCH_FRAMES)]
    assert abs(measure_copies.best_match(measure_copies.loudest_patch(event(0)), flat)) < 0.1
