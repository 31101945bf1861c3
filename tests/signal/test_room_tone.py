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
    assert (np.abs(level_db(made) - level_db(recording)) < 1).all()
    for part in (made[:800], made[-800:]):
        assert (np.abs(level_db(part) - level_db(made)) < 2.5).all()
    power = np.abs(np.fft.rfft(made, axis=0)) ** 2
    assert power[2200:].sum() < 0.01 * power.sum()
    assert abs(np.corrcoef(made.T)[0, 1]) < 0.1


@pytest.mark.parametrize("share", [0, 0.5, 0.7, 1])
def test_channels_of_noise_are_as_alike_as_in_the_recording(share):
    """Also where the generated audio has noise of its own, which is the same in all channels."""
    recording = 0.1 * (share * noise(0) + (1 - share) * noise(1, 2))
    expected = np.corrcoef(recording.T)[0, 1]
    tone = RoomTone.of(recording, EVERYWHERE, RATE_HZ)
    for new in (np.zeros((3 * RATE_HZ, 2)), recording.std() * noise(2) * [1, 1]):
        made = tone.under(new, seed=3)
        assert np.corrcoef(made.T)[0, 1] == pytest.approx(expected, abs=0.1)
        assert (np.abs(level_db(made) - level_db(recording)) < 1).all()


def test_events_above_the_background_stay_where_they_are():
    recording = 0.01 * noise(0, 2)
    event = np.zeros((3 * RATE_HZ, 2))
    event[RATE_HZ : 2 * RATE_HZ] = noise(2)[:RATE_HZ] * [1, 0.5]
    made = RoomTone.of(recording, EVERYWHERE, RATE_HZ).under(event, seed=3)
    inside = slice(RATE_HZ + 3000, 2 * RATE_HZ - 3000)
    np.testing.assert_allclose(made[inside], event[inside], atol=0.02)
    assert (np.abs(level_db(made[: RATE_HZ - 3000]) + 40) < 1).all()


def test_a_hum_goes_on_as_a_hum():
    t = np.arange(3 * RATE_HZ) / RATE_HZ
    hum = 0.1 * np.sin(2 * np.pi * 220 * t)[:, None]
    tone = RoomTone.of(hum + 0.001 * noise(0, 2), EVERYWHERE, RATE_HZ)
    spectrum = np.abs(np.fft.rfft(tone.noise(RATE_HZ, seed=1)[:, 0])) ** 2
    assert spectrum[200:240].sum() > 0.9 * spectrum.sum()
    made = tone.under(0.5 * hum * [1, 1], seed=1)  # of the generated audio it is kept
    np.testing.assert_allclose(made[RATE_HZ:-RATE_HZ], hum[RATE_HZ:-RATE_HZ] * [1, 1], atol=0.03)


def test_noise_of_any_length():
    tone = RoomTone.of(0.1 * noise(0, 2), EVERYWHERE, RATE_HZ)
    for n in (1, 100, 5000):
        assert tone.noise(n, seed=1).shape == (n, 2) and tone.noise(n, seed=1).any()


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
        assert abs(found + 40) < 2
    else:
        assert found < -110  # too little is known to tell


@settings(max_examples=20)
@given(st.integers(0, 9000), st.integers(1, 3), st.integers(0, 2**63 - 1), st.floats(0, 1))
def test_any_length_and_again_the_same(n, n_channels, seed, level):
    tone = RoomTone.of(0.1 * noise(0, n_channels), EVERYWHERE, RATE_HZ)
    new = level * noise(1, n_channels)[:n]
    made = tone.under(new, seed)
    assert made.shape == new.shape and np.isfinite(made).all()
    np.testing.assert_array_equal(made, tone.under(new, seed))
