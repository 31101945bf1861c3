"""The upper band of sounds: drawn by their seed, and as loud as that of a recording around them."""

import numpy as np
import pytest

from auffusion_cli.errors import UsageError
from auffusion_cli.signal.audio import resample
from auffusion_cli.tasks.upper_band import extended, matching_upper_band, upper_band

RATE_HZ, HIGH_HZ = 16_000, 48_000


def white(n_channels=1, n=RATE_HZ, seed=0):
    return 0.1 * np.random.default_rng(seed).normal(size=(n_channels, n))


def level_db(samples):
    return 20 * np.log10(np.sqrt(np.mean(np.square(samples))) + 1e-12)


def test_a_seed_draws_it():
    sound = white()
    one, again, other = (upper_band(sound, RATE_HZ, seed)[0] for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert level_db(one - other) > level_db(one) - 10


def test_rates_with_nothing_to_add_are_resampled():
    sound = white(2, 4_800)
    for from_hz, to_hz in ((48_000, 44_100), (16_000, 16_000), (22_050, 16_000)):
        made = extended(sound, from_hz, to_hz, seed=1)
        assert np.array_equal(made, resample(sound, from_hz, to_hz))
    with pytest.raises(UsageError, match="8,000 Hz"):
        extended(sound, 8_000, 48_000, seed=1)


@pytest.mark.parametrize("gain", [0.2, 0.05, 0.0])
def test_it_is_as_loud_as_the_recording_around_it(gain):
    """A recording whose upper band is this much softer than white, and ends at 16 kHz."""
    whole = white(2, HIGH_HZ)
    known = resample(whole, HIGH_HZ, RATE_HZ)
    below = resample(known, RATE_HZ, HIGH_HZ)
    old = below + gain * (whole - below)
    old = resample(resample(old, HIGH_HZ, 32_000), 32_000, HIGH_HZ)
    is_known = np.arange(old.shape[1]) % HIGH_HZ < HIGH_HZ // 2
    rates = HIGH_HZ, RATE_HZ
    made = matching_upper_band(old.T, known.T, known.T, is_known, rates, seed=1)
    assert made.shape == old.T.shape
    if gain == 0:
        assert level_db(made) < -80
    else:
        assert level_db(made) == pytest.approx(level_db(old - below), abs=0.5)
        spectrum = np.abs(np.fft.rfft(made[:, 0]))
        hz = np.fft.rfftfreq(len(made), 1 / HIGH_HZ)
        assert spectrum[hz > 17_000].mean() < 0.02 * spectrum[(hz > 9_000) & (hz < 15_000)].mean()
    # Where nothing is known, it is as loud as it is made.
    unknown = matching_upper_band(old.T, known.T, known.T, is_known & False, rates, seed=1)
    assert level_db(unknown) > -60
