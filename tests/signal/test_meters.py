"""Loudness and true peak, held to the signals of EBU Tech 3341 (2023), table 1."""

import math

import numpy as np
import pytest

from auffusion_cli.signal.meters import loudness_lufs, to_db, true_peak


def tone(parts, rate_hz=48_000, frequency_hz=1_000.0, channels=2):
    """(seconds, peak in dB) of one part of a sine after the other, the same in all channels."""
    level = np.concatenate([np.full(round(s * rate_hz), 10 ** (db / 20)) for s, db in parts])
    sine = np.sin(2 * np.pi * frequency_hz * np.arange(len(level)) / rate_hz)
    return np.tile(level * sine, (channels, 1))


@pytest.mark.parametrize("rate_hz", [2_500, 3_400, 16_000, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("level", [-23.0, -33.0])
def test_a_tone_reads_as_the_standard_says_at_any_rate(level, rate_hz):
    assert loudness_lufs(tone([(2, level)], rate_hz), rate_hz) == pytest.approx(level, abs=0.1)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([(10, -36), (60, -23), (10, -36)], -23.0),
        ([(10, -72), (10, -36), (60, -23), (10, -36), (10, -72)], -23.0),
        ([(20, -26), (20.1, -20), (20, -26)], -23.0),
    ],
)
def test_soft_parts_count_as_the_standard_says(parts, expected):
    assert loudness_lufs(tone(parts, 16_000), 16_000) == pytest.approx(expected, abs=0.1)


def test_the_weighting_is_that_of_the_recommendation_at_48_khz():
    # Gains of the tables of BS.1770-5 at three frequencies, relative to 997 Hz.
    def level(frequency_hz):
        return loudness_lufs(tone([(2, -20)], frequency_hz=frequency_hz), 48_000)

    def table(frequency_hz):
        z1 = np.exp(-2j * np.pi * frequency_hz / 48_000)
        shelf = (1.53512485958697 - 2.69169618940638 * z1 + 1.19839281085285 * z1**2) / (
            1 - 1.69065929318241 * z1 + 0.73248077421585 * z1**2
        )
        low_cut = (1 - 2 * z1 + z1**2) / (1 - 1.99004745483398 * z1 + 0.99007225036621 * z1**2)
        return 20 * math.log10(abs(shelf * low_cut))

    for frequency_hz in (60.0, 250.0, 4_000.0, 12_000.0):
        expected = table(frequency_hz) - table(997.0)
        assert level(frequency_hz) - level(997.0) == pytest.approx(expected, abs=0.05)


def test_a_short_sound_is_one_block_and_silence_has_no_loudness():
    short = loudness_lufs(tone([(0.1, -23)]), 48_000)
    assert short == pytest.approx(-23 + 10 * math.log10(0.1 / 0.4), abs=0.5)
    assert loudness_lufs(np.zeros((2, 48_000)), 48_000) == -math.inf


@pytest.mark.parametrize("phase", [0.0, math.pi / 4])
def test_the_true_peak_lies_between_the_samples(phase):
    # A quarter of the rate: with this phase every sample is 3 dB below the peak.
    n = np.arange(4_800)
    taper = np.minimum(1, np.minimum(n, n[::-1]) / 480)
    sine = 0.5 * taper * np.sin(np.pi / 2 * n + phase)
    assert to_db(true_peak(sine[None])) == pytest.approx(-6.02, abs=0.1)
    assert to_db(0.0) == -math.inf
