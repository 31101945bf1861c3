import numpy as np
import pytest

from auffusion_cli.signal.extrapolation import extrapolate

RATE_HZ = 16000


def level_db(x):
    return 10 * np.log10((x**2).mean())


def test_tones_extrapolate_in_phase():
    t = np.arange(8000 + 800) / RATE_HZ
    tones = np.stack([0.3 * np.sin(2 * np.pi * 220 * t) + 0.1 * np.cos(2 * np.pi * 3000 * t)], 1)
    more = extrapolate(tones[:8000], 800, RATE_HZ, seed=0)
    assert np.abs(more - tones[8000:]).max() < 0.01


def test_noise_keeps_its_level_and_colour():
    rng = np.random.default_rng(1)
    noise = np.convolve(rng.normal(size=20000), [1, 0.9], "same")[:, None] * 0.1
    more = extrapolate(noise, 8000, RATE_HZ, seed=0)
    assert level_db(more) == pytest.approx(level_db(noise), abs=1.5)

    def low_share(x):
        power = np.abs(np.fft.rfft(x[:, 0])) ** 2
        return power[: len(power) // 2].sum() / power.sum()

    assert low_share(more) == pytest.approx(low_share(noise), abs=0.05)


def test_channels_are_as_alike_as_they_were():
    rng = np.random.default_rng(1)
    left, right = rng.normal(size=(2, 8000)) * 0.1
    alike = np.stack([left, left + 0.1 * right], axis=1)
    more = extrapolate(alike, 4000, RATE_HZ, seed=0)
    assert np.corrcoef(more.T)[0, 1] > 0.95
    apart = extrapolate(np.stack([left, right], axis=1), 4000, RATE_HZ, seed=0)
    assert abs(np.corrcoef(apart.T)[0, 1]) < 0.2


@pytest.mark.parametrize("n", [1, 2, 5, 100])
def test_short_silent_and_constant_clips_are_no_error(n):
    assert not extrapolate(np.zeros((n, 2)), 50, RATE_HZ, seed=0).any()
    more = extrapolate(np.full((n, 1), 0.5), 50, RATE_HZ, seed=0)
    assert more.shape == (50, 1) and np.abs(more).max() <= 2


def test_it_never_blows_up():
    rng = np.random.default_rng(2)
    swelling = rng.normal(size=(4000, 1)) * np.geomspace(1e-4, 0.3, 4000)[:, None]
    assert np.abs(extrapolate(swelling, 16000, RATE_HZ, seed=0)).max() < 3
