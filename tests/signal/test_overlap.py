import numpy as np
import pytest

from auffusion_cli.signal.overlap import in_windows, sound_in_windows


@pytest.mark.parametrize("n", [5, 16, 17, 40, 101])
def test_a_local_function_is_the_same_in_windows(n):
    x = np.random.default_rng(0).standard_normal((2, n))
    seen = []

    def double(part):
        seen.append(part.shape[-1])
        return 2 * part

    assert np.allclose(in_windows(double, x, window=16, overlap=6), 2 * x, atol=1e-6)
    assert seen == [16] * len(seen) or (seen == [n] and n <= 16)


@pytest.mark.parametrize("factor", [4, 0.25])
def test_a_function_may_change_the_length(factor):
    def change(part):
        if factor > 1:
            return part.repeat(4, axis=-1)
        return part[..., ::4]

    x = np.arange(400.0)
    assert np.allclose(in_windows(change, x, window=80, overlap=16), change(x), atol=1e-4)


def test_outputs_are_cross_faded_without_a_jump():
    """Two windows that disagree, by their mean, are joined by a slope."""
    x = np.concatenate([np.zeros(50), np.ones(50)])
    joined = in_windows(lambda part: part * 0 + part.mean(), x, window=60, overlap=20)
    assert joined[:40].std() < 1e-6 and joined[60:].std() < 1e-6
    steps = np.diff(joined)[40:59]
    assert (steps > 0).all() and steps.max() < 0.1


@pytest.mark.parametrize("n", [10, 16, 17, 23, 40])
def test_a_vocoder_that_only_looks_around_gives_the_same_sound_in_windows(n):
    x = np.random.default_rng(0).standard_normal((2, n))
    sound = sound_in_windows(lambda part: part.repeat(8, axis=-1), x, 16, 6)
    assert np.allclose(sound, x.repeat(8, axis=-1), atol=1e-5)


def test_a_vocoder_that_finds_other_phases_in_each_window_is_as_loud_at_the_seams():
    rng = np.random.default_rng(0)

    def vocode(part):
        return rng.standard_normal((1, part.shape[-1] * 100))

    sound = sound_in_windows(vocode, np.zeros((1, 400)), window=40, overlap=10)
    assert sound.shape == (1, 40_000)
    # Windows begin every 30 columns, and are faded in over 10: each seam's middle, and elsewhere.
    seams = np.concatenate(
        [sound[0, start * 100 + 300 : start * 100 + 700] for start in range(30, 360, 30)]
    )
    assert seams.std() == pytest.approx(1, abs=0.05)


def test_windows_of_the_other_sign_do_not_cancel():
    tone = np.sin(np.arange(4000.0) / 5)[None]
    signs = iter([1, -1, -1, 1, 1, -1, 1])
    sound = sound_in_windows(lambda part: next(signs) * part, tone, window=1000, overlap=200)
    assert np.allclose(sound, tone, atol=1e-4)
