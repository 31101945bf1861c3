import numpy as np
import pytest

from auffusion_cli.signal.loop import close_loop, join_s


def test_the_start_follows_the_end_and_the_level_stays():
    waveform = np.random.default_rng(0).normal(size=9_000).astype(np.float32)
    smooth = np.convolve(waveform, np.ones(50) / 50, "same").astype(np.float32)
    loop = close_loop(smooth, 8_000)
    assert loop.shape == (8_000,) and loop.dtype == np.float32
    assert loop[0] == smooth[8_000]  # which follows the last sample of the loop, smooth[7999]
    assert np.array_equal(loop[1_000:], smooth[1_000:8_000])
    seam = abs(loop[0] - loop[-1])
    assert seam <= np.abs(np.diff(smooth)).max()
    power = (close_loop(waveform, 8_000)[:1_000] ** 2).mean()
    assert power == pytest.approx(1, rel=0.15)


def test_a_short_loop_has_a_short_join():
    assert join_s(8.0) == 1.0 and join_s(2.0) == 0.5
    assert np.array_equal(close_loop(np.arange(4.0), 4), np.arange(4.0))
