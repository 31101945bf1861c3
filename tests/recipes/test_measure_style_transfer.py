"""The measurement of style transfer: onsets and what the tagger says."""

import sys
from pathlib import Path

import numpy as np
import torch

from auffusion_cli.evaluation.tagger import Tagger, TaggerFeatures
from auffusion_cli.signal.spectrogram import LogMel

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes" / "embedded"))

import measure_style_transfer as script


def knocks(times_s, colour_seed):
    """Bursts of noise, each 50 ms."""
    noise = torch.randn(48_000, generator=torch.Generator().manual_seed(colour_seed))
    sound = torch.zeros(48_000)
    for time_s in times_s:
        part = slice(round(time_s * 16_000), round(time_s * 16_000) + 800)
        sound[part] = 0.3 * noise[part]
    return sound


def test_onsets_agree_where_the_timing_does_whatever_the_sound():
    torch.manual_seed(0)
    ears = script.Ears(Tagger(["a", "b"]).eval(), TaggerFeatures(), LogMel())
    clip = knocks([0.3, 0.9, 2.2], 0)
    same = script.measure(ears, clip, knocks([0.3, 0.9, 2.2], 1), "a", "b")
    moved = script.measure(ears, clip, knocks([0.6, 1.4, 2.7], 1), "a", "b")
    assert same[0] > 0.9 and moved[0] < 0.2
    assert np.allclose(same[1] + same[3], 1, atol=1e-5)  # the two kinds' probabilities
    assert same[2] == 1
