"""A new part is turned down to a recording's loudest moment, and never more often than once."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from auffusion_cli.signal.loudness import Ceiling

RATE_HZ = 8000


def loudest_db(samples, window_s):
    """The level of the loudest `window_s` of (N, C), at any sample."""
    n = min(round(window_s * RATE_HZ), len(samples))
    sums = np.concatenate([[0], np.cumsum((samples**2).mean(axis=1))])
    return 10 * np.log10((sums[n:] - sums[:-n]).max() / n + 1e-12)


@st.composite
def sounds(draw):
    """Noise (N, C) whose level goes up and down, up to 0 dB."""
    levels_db = draw(st.lists(st.floats(-70, 0), min_size=1, max_size=12))
    n = draw(st.integers(1, 3 * RATE_HZ))
    db = np.interp(np.arange(n), np.linspace(0, n, len(levels_db)), levels_db)
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    return 10 ** (db / 20)[:, None] * rng.normal(size=(n, draw(st.integers(1, 2))))


@settings(max_examples=60)
@given(sounds(), sounds())
def test_no_moment_is_louder_than_the_loudest_of_the_recording(recording, new):
    ceiling = Ceiling.of(recording, RATE_HZ)
    gains = ceiling.gains(new)
    assert gains.shape == (len(new),) and (gains > 0).all() and (gains <= 1).all()
    if not ceiling.power:
        assert (gains == 1).all()
        return
    turned = gains[:, None] * new
    for window_s in (0.1, 0.4):
        # 1 dB, because moments begin every 10 ms.
        most = max(loudest_db(recording, window_s), -75)
        if len(new) >= window_s * RATE_HZ and len(recording) >= window_s * RATE_HZ:
            assert loudest_db(turned, window_s) <= most + 1
    # Down once and up once.
    steps = np.sign(np.diff(gains))
    assert (np.diff(steps[steps != 0]) >= 0).all()


@settings(max_examples=30)
@given(sounds(), st.floats(0.05, 0.99))
def test_what_is_softer_stays_as_it_is(recording, share):
    assert (Ceiling.of(recording, RATE_HZ).gains(share * recording) == 1).all()


def test_a_loud_moment_is_met_by_a_ramp_and_the_rest_stays():
    rng = np.random.default_rng(0)
    recording = 0.1 * rng.normal(size=(2 * RATE_HZ, 1))
    new = 0.05 * rng.normal(size=(4 * RATE_HZ, 1))
    new[2 * RATE_HZ : 2 * RATE_HZ + 4000] *= 8
    gains = Ceiling.of(recording, RATE_HZ).gains(new)
    assert (gains[: RATE_HZ + 1000] == 1).all() and (gains[-RATE_HZ // 2 :] == 1).all()
    assert 0.2 < gains[2 * RATE_HZ + 2000] < 0.35
    db_per_s = np.abs(np.diff(20 * np.log10(gains))) * RATE_HZ
    assert db_per_s.max() < 60


def test_what_lasts_is_held_to_a_longer_moment_than_a_knock():
    rng = np.random.default_rng(0)
    knocks = 0.001 * rng.normal(size=(2 * RATE_HZ, 1))
    knocks[8000:8800] *= 300
    ceiling = Ceiling.of(knocks, RATE_HZ)
    assert (ceiling.gains(0.98 * knocks) == 1).all()
    lasting = 0.29 * rng.normal(size=(RATE_HZ, 1))
    gain_db = 20 * np.log10(ceiling.gains(lasting).min())
    assert -7 < gain_db < -5  # a knock is a quarter of 0.4 s


def test_silence_is_no_ceiling():
    ceiling = Ceiling.of(np.zeros((RATE_HZ, 2)), RATE_HZ)
    assert (ceiling.gains(np.ones((100, 2))) == 1).all()
