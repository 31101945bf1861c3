"""The bed under a recording: its length, level, ducking and fades."""

import numpy as np
import pytest

from auffusion_cli.signal.meters import loudness_lufs
from auffusion_cli.signal.mix import fit_length, lay_under

RATE_HZ = 16_000


def noise(duration_s, seed=0, channels=1):
    n = round(duration_s * RATE_HZ)
    return 0.1 * np.random.default_rng(seed).normal(size=(channels, n))


def level_db(sound):
    return 10 * np.log10((sound**2).mean())


def speech():
    """Ten seconds with speech from 3 to 5 s, over a soft room."""
    source = 1e-3 * noise(10)
    source[:, 3 * RATE_HZ : 5 * RATE_HZ] = 3 * noise(2, seed=1)
    return source


def test_the_bed_is_softer_under_speech_and_as_loud_as_asked_elsewhere():
    under = lay_under(speech(), noise(10, 2), RATE_HZ, below_db=10.0, duck_db=12.0, fade_s=0.0)
    assert under.shape == (1, 10 * RATE_HZ)
    pause, spoken = under[:, 6 * RATE_HZ :], under[:, 3 * RATE_HZ : 5 * RATE_HZ]
    assert level_db(pause) - level_db(spoken) == pytest.approx(12, abs=0.5)
    difference = loudness_lufs(speech(), RATE_HZ) - loudness_lufs(pause, RATE_HZ)
    assert difference == pytest.approx(10, abs=0.5)
    # It is down before the first word, and comes up over a third of a second.
    before = under[:, round(2.75 * RATE_HZ) : 3 * RATE_HZ]
    assert level_db(before) == pytest.approx(level_db(spoken), abs=1)


def test_the_bed_is_faded_at_both_ends():
    under = lay_under(speech(), noise(10, 2), RATE_HZ, below_db=10.0, duck_db=0.0, fade_s=2.0)
    assert under[0, 0] == under[0, -1] == 0
    assert level_db(under[:, : RATE_HZ // 4]) < level_db(under[:, 5 * RATE_HZ :]) - 15


def test_silence_anywhere_makes_no_level():
    for source, bed in ((np.zeros((2, 1000)), noise(1, channels=2)), (speech(), np.zeros((1, 99)))):
        under = lay_under(source, bed, RATE_HZ, below_db=10.0, duck_db=6.0, fade_s=0.0)
        assert np.isfinite(under).all() and under.shape[-1] == source.shape[-1]


@pytest.mark.parametrize("duration_s", [0.1, 1.0, 2.9, 3.0, 7.3, 30.0])
def test_any_bed_becomes_exactly_as_long_and_keeps_its_level(duration_s):
    fitted = fit_length(noise(3.0), round(duration_s * RATE_HZ), RATE_HZ)
    assert fitted.shape == (1, round(duration_s * RATE_HZ))
    blocks = fitted[0, : fitted.shape[-1] // 1600 * 1600].reshape(-1, 1600)
    levels = 10 * np.log10((blocks**2).mean(axis=1))
    assert np.abs(levels - level_db(noise(3.0))).max() < 1


def test_the_joins_are_smooth():
    tone = np.sin(2 * np.pi * 100 * np.arange(RATE_HZ) / RATE_HZ)[None]  # whole periods
    fitted = fit_length(tone, 5 * RATE_HZ, RATE_HZ)
    assert np.abs(np.diff(fitted)).max() < 1.6 * np.abs(np.diff(tone)).max()


@pytest.mark.parametrize("n_sound", [1, 5, 40])
def test_a_bed_of_a_few_samples_lies_under_an_hour(n_sound):
    n = 3600 * RATE_HZ
    fitted = fit_length(np.ones((1, n_sound)), n, RATE_HZ)
    assert fitted.shape == (1, n) and fitted.min() == 1


def test_a_bed_is_joined_to_itself_alike_each_time():
    sound = noise(0.5)
    fitted = fit_length(sound, 4 * RATE_HZ, 1000)
    n, hop = sound.shape[-1], sound.shape[-1] - 1000
    assert np.array_equal(fitted[:, :hop], sound[:, :hop])
    assert np.array_equal(fitted[:, hop : 2 * hop], fitted[:, 2 * hop : 3 * hop])
    assert np.array_equal(fitted[:, n : 2 * hop], sound[:, 1000:hop])
