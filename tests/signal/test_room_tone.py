"""Room tone goes on under what is new, and only where it is missing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auffusion_cli.signal.room_tone import RoomTone

RATE_HZ = 16_000
EVERYWHERE = np.ones(3 * RATE_HZ, bool)


def noise(seed: int, n_channels: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(3 * RATE_HZ, n_channels))


def level_db(samples: np.ndarray) -> np.ndarray:
    return 10 * np.log10((samples**2).mean(axis=0) + 1e-12)


def dull(samples: np.ndarray) -> np.ndarray:
    """Nothing above 2 kHz."""
    spectrum = np.fft.rfft(samples, axis=0)
    spectrum[round(2000 / RATE_HZ * len(samples)) :] = 0
    return np.fft.irfft(spectrum, axis=0)


def test_silence_becomes_noise_of_the_recordings_level_and_colour():
    recording = dull(noise(0, 2)) * [0.1, 0.02]
    made = RoomTone.of(recording, EVERYWHERE, RATE_HZ).under(np.zeros((RATE_HZ, 2)), seed=1)
    # Nothing is below it for long, so that it lies a little under the mean.
    assert (np.abs(level_db(made) - level_db(recording) + 2) < 1.5).all()
    for part in (made[:800], made[-800:]):
        assert (np.abs(level_db(part) - level_db(made)) < 2.5).all()
    power = np.abs(np.fft.rfft(made, axis=0)) ** 2
    assert power[2200:].sum() < 0.01 * power.sum()
    assert np.corrcoef(made.T)[0, 1] > 0.99


def test_what_is_loud_enough_stays_bit_for_bit():
    tone = RoomTone.of(0.01 * noise(0), EVERYWHERE, RATE_HZ)
    made = noise(1)
    np.testing.assert_array_equal(tone.under(made, seed=2), made)


def test_what_is_too_soft_is_turned_up_before_noise_is_taken():
    def tones(level: float) -> np.ndarray:
        return level * np.sin(2 * np.pi * 440 * np.arange(3 * RATE_HZ) / RATE_HZ)[:, None]

    made = RoomTone.of(tones(0.3), EVERYWHERE, RATE_HZ).under(tones(0.12), seed=2)
    inside = slice(RATE_HZ, 2 * RATE_HZ)
    np.testing.assert_allclose(made[inside], tones(0.3)[inside], atol=0.03)


def test_a_recording_with_pauses_has_none():
    recording = noise(0)
    for start in range(0, len(recording), RATE_HZ):
        recording[start : start + RATE_HZ // 2] = 0
    tone = RoomTone.of(recording, EVERYWHERE, RATE_HZ)
    assert level_db(tone.under(np.zeros((RATE_HZ, 1)), seed=1)) < level_db(recording) - 60


@pytest.mark.parametrize("known_s", [(0, 1), (1, 3), (0.5, 1), (2, 2.1), (0, 0)])
def test_only_what_is_known_counts(known_s):
    start, stop = (round(second * RATE_HZ) for second in known_s)
    known = np.zeros(3 * RATE_HZ, bool)
    known[start:stop] = True
    recording = np.where(known[:, None], 0.01, 1.0) * noise(0)
    found = level_db(RoomTone.of(recording, known, RATE_HZ).under(np.zeros((8000, 1)), seed=1))
    if stop - start > RATE_HZ / 4:
        assert abs(found + 42) < 2
    else:
        assert found < -110  # too little is known to tell


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 9000), st.integers(1, 3), st.integers(0, 2**63 - 1), st.floats(0, 1))
def test_any_length_and_again_the_same(n, n_channels, seed, level):
    tone = RoomTone.of(0.1 * noise(0, n_channels), EVERYWHERE, RATE_HZ)
    new = level * noise(1, n_channels)[:n]
    made = tone.under(new, seed)
    assert made.shape == new.shape and np.isfinite(made).all()
    np.testing.assert_array_equal(made, tone.under(new, seed))
