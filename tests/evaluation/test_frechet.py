"""Fréchet distances against the published formula, and what it does not hold to."""

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from auffusion_cli.evaluation.frechet import (
    Moments,
    ResampledFrechet,
    extrapolate,
    frechet_distance,
)


def draw(n, dim, seed, scale=1.0, shift=0.0):
    rows = np.random.default_rng(seed).normal(size=(n, dim)) * scale + shift
    return rows.astype(np.float32)


def published(first, second):
    """As audioldm_eval and its kind have it: `sqrtm` of the product of the covariances."""
    apart = first.mean(axis=0) - second.mean(axis=0)
    covariances = [np.cov(rows, rowvar=False) for rows in (first, second)]
    root = scipy.linalg.sqrtm(covariances[0] @ covariances[1])
    return apart @ apart + sum(map(np.trace, covariances)) - 2 * np.trace(root.real)


def whole(first, second):
    return ResampledFrechet(first, second, np.arange(len(first)), np.arange(len(second)))


@pytest.mark.parametrize(("n", "dim"), [(400, 16), (100, 64)])
def test_it_is_the_published_distance_where_that_is_well_conditioned(n, dim):
    first, second = draw(n, dim, 0), draw(n + 7, dim, 1, scale=1.3, shift=0.2)
    expected = published(first.astype(np.float64), second.astype(np.float64))
    assert frechet_distance(Moments.of(first), Moments.of(second)) == pytest.approx(
        expected, rel=1e-9
    )
    assert whole(first, second).distance() == pytest.approx(expected, rel=1e-9)


def test_two_normal_distributions_have_the_distance_of_the_closed_form():
    first = draw(200_000, 2, 0) * np.float32([1, 3])
    second = draw(200_000, 2, 1) * np.float32([2, 3]) + np.float32([0, 5])
    # (1 - 2)² + (3 - 3)² of the deviations, 5² of the means.
    assert frechet_distance(Moments.of(first), Moments.of(second)) == pytest.approx(26, rel=0.01)


def test_fewer_clips_than_dimensions_agree_with_the_covariances():
    first, second = draw(20, 100, 0), draw(30, 100, 1, scale=2.0)
    distances = whole(first, second)
    assert distances.by_rows
    expected = frechet_distance(Moments.of(first), Moments.of(second))
    assert distances.distance() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("n", "dim"), [(300, 20), (20, 300), (2, 50), (50, 2)])
def test_equal_sets_have_exactly_no_distance(n, dim):
    rows = draw(n, dim, 0, shift=100.0)
    assert whole(rows, rows).distance() == 0.0
    assert whole(rows, rows[::-1].copy()).distance() == 0.0
    assert frechet_distance(Moments.of(rows), Moments.of(rows)) == 0.0


@settings(max_examples=30)
@given(
    n=st.integers(2, 30),
    m=st.integers(2, 30),
    dim=st.integers(1, 30),
    scale=st.floats(1e-3, 1e3),
    seed=st.integers(0, 2**32 - 1),
)
def test_never_negative_and_the_same_both_ways(n, m, dim, scale, seed):
    first, second = draw(n, dim, seed), draw(m, dim, seed + 1, scale=scale)
    there, back = whole(first, second).distance(), whole(second, first).distance()
    assert there >= 0
    assert there == pytest.approx(back, rel=1e-6, abs=1e-9)


@settings(max_examples=30)
@given(cuts=st.lists(st.integers(0, 60), max_size=4), seed=st.integers(0, 1000))
def test_moments_do_not_depend_on_the_blocks(cuts, seed):
    rows = draw(60, 5, seed, shift=1000.0)
    moments = Moments(0.0, np.zeros(5), np.zeros((5, 5)))
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), 60], strict=True):
        moments.add(rows[start:end])
    exact = rows.astype(np.float64)
    assert moments.n == 60
    np.testing.assert_allclose(moments.mean, exact.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(moments.covariance(), np.cov(exact, rowvar=False), rtol=1e-9)


@pytest.mark.parametrize("dim", [10, 200])
def test_a_resample_is_the_set_with_clips_repeated(dim):
    first, second = draw(40, dim, 0), draw(50, dim, 1, scale=1.5)
    counts = [
        np.random.default_rng(seed).multinomial(n, [1 / n] * n) for seed, n in ((2, 40), (3, 50))
    ]
    repeated = [
        np.repeat(rows, count, axis=0) for rows, count in zip((first, second), counts, strict=True)
    ]
    expected = frechet_distance(*map(Moments.of, repeated))
    assert whole(first, second).distance(*counts) == pytest.approx(expected, rel=1e-9)


def test_all_frames_of_a_clip_are_drawn_together():
    frames, clips = draw(30, 4, 0), np.repeat(np.arange(10), 3)
    counts = np.array([2, 0, 1, 1, 1, 1, 1, 1, 1, 1])
    other = draw(30, 4, 1)
    distances = ResampledFrechet(frames, other, clips, np.arange(30))
    expected = frechet_distance(
        Moments.of(np.concatenate([frames[:3], frames[:3], frames[6:]])), Moments.of(other)
    )
    assert distances.distance(counts) == pytest.approx(expected, rel=1e-9)


def test_extrapolation_takes_the_bias_of_few_clips_away():
    reference = draw(4000, 16, 0)
    distances = whole(draw(200, 16, 1), reference)
    plain, at_infinity = distances.distance(), extrapolate(distances, np.ones(200, dtype=int))
    assert plain > 0.3  # of the same distribution, and yet
    assert abs(at_infinity) < plain / 3
