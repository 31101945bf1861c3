"""The recipe of the upper band: which recordings it takes, its network, what it measures."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from auffusion_cli.checkpoints.upper_band import load_upper_band
from auffusion_cli.codec.upper_band import (
    DECIBELS,
    HIGH_EDGES,
    LOW_EDGES,
    SAMPLE_RATE_HZ,
    UpperBand,
    network_input,
)
from auffusion_cli.signal.audio import resample

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes" / "bandwidth"))

import build_recordings
import measure_upper_band as measure
import train_upper_band as train

N_LOW, N_HIGH = len(LOW_EDGES) - 1, len(HIGH_EDGES) - 1


def white(n=SAMPLE_RATE_HZ, seed=0):
    return 0.1 * np.random.default_rng(seed).normal(size=n)


@pytest.mark.parametrize(("rate_hz", "edge_hz"), [(48_000, 20_000), (32_000, 16_000)])
def test_the_edge_of_a_recording_is_found(rate_hz, edge_hz):
    sound = resample(white(rate_hz), rate_hz, SAMPLE_RATE_HZ)
    assert build_recordings.edge_hz(sound) == pytest.approx(edge_hz, abs=1_500)
    soft = np.cumsum(sound)  # 6 dB an octave is no edge
    assert build_recordings.edge_hz(soft - soft.mean()) == build_recordings.edge_hz(sound)


def test_what_was_a_sound_of_a_lower_rate_is_left_out():
    sound = resample(white(22_050), 22_050, SAMPLE_RATE_HZ)
    assert build_recordings.edge_hz(sound) < build_recordings.LOWEST_EDGE_HZ


def test_numpy_computes_the_network_that_torch_trains():
    torch.manual_seed(0)
    network = train.Network(N_LOW + 1, N_HIGH)
    low_db = np.random.default_rng(0).normal(-40, 10, size=(50, N_LOW))
    seen, reference_db = network_input(low_db)
    with torch.no_grad():
        level, _ = network(torch.from_numpy(seen.astype(np.float32)).T[None])
    computed = UpperBand(
        {name: t.astype(np.float32) for name, t in train.tensors_of(network).items()}
    )
    expected = reference_db + DECIBELS * level[0].T.numpy()
    assert np.abs(computed.levels_db(low_db) - expected).max() < 0.1


def test_it_learns_a_slope(tmp_path, monkeypatch):
    """Recordings whose upper bands are 12 dB below the highest known ones."""
    rng = np.random.default_rng(0)
    low_db = rng.normal(-30, 3, size=(1200, N_LOW))
    high_db = low_db[:, -5:].mean(axis=1, keepdims=True) - 12 + rng.normal(size=(1200, N_HIGH))
    np.savez(
        tmp_path / "levels.npz",
        low_db=low_db,
        coded_db=low_db,
        high_db=high_db,
        n_frames=[100] * 12,
        edge_hz=[20_000.0] * 12,
        group=[f"group {i}" for i in range(12)],
    )
    monkeypatch.setattr(train, "BATCH_SIZE", 4)
    monkeypatch.setattr(train, "EMA_DECAY", 0.8)
    arguments = ["--levels", tmp_path / "levels.npz", "-o", tmp_path / "out", "--steps", 60]
    monkeypatch.setattr(sys, "argv", ["train_upper_band.py", *map(str, arguments)])
    train.main()
    told = load_upper_band(tmp_path / "out").levels_db(low_db[:100])
    assert (told - low_db[:100, -5:].mean(axis=1, keepdims=True)).mean() == pytest.approx(
        -12, abs=2
    )


def test_distances_are_zero_for_the_same_and_known_for_a_louder_sound():
    sound = white()
    assert measure.log_spectral_distance(sound, sound, 20_000) == 0
    louder = measure.log_spectral_distance(sound, 10 * sound, 20_000)
    assert louder == pytest.approx(2.0, abs=0.01)  # log10 of 100 times the power
    one, other = (np.random.default_rng(i).normal(size=(500, 3)) for i in range(2))
    assert measure.frechet_distance(one, one) == pytest.approx(0, abs=1e-9)
    assert measure.frechet_distance(one, other + 2) == pytest.approx(12, rel=0.1)


def test_the_judge_knows_kinds_by_what_is_above():
    rng = np.random.default_rng(0)
    kinds = [f"kind {i % 8}" for i in range(80)]
    described = rng.normal(size=(80, 6)) + 6 * np.eye(8, 6)[[i % 8 for i in range(80)]]
    judge = measure.KindsAbove(described, kinds)
    assert judge.accuracy(described, kinds) > 95
    assert judge.accuracy(np.roll(described, 1, axis=0), kinds) < 90
