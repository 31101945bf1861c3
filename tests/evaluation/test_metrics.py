"""Each metric against an independent computation from its definition."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from auffusion_cli.evaluation.bootstrap import draws, interval, n_resamples
from auffusion_cli.evaluation.metrics import (
    InceptionScore,
    KernelDistance,
    attention_entropy,
    clap_scores,
    kl_divergences,
    level_at_peak,
)


def logits(n, k, seed, scale=3.0):
    return (np.random.default_rng(seed).normal(size=(n, k)) * scale).astype(np.float32)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_kl_is_torchs_of_the_reference_from_the_generated(activation):
    generated, reference = logits(6, 527, 0), logits(6, 527, 1)
    squash = torch.sigmoid if activation == "sigmoid" else lambda x: x.softmax(dim=1)
    p_generated, p_reference = (
        squash(torch.from_numpy(each).double()) for each in (generated, reference)
    )
    expected = torch.nn.functional.kl_div(
        (p_generated + 1e-6).log(), p_reference, reduction="none"
    ).sum(dim=1)
    np.testing.assert_allclose(
        kl_divergences(generated, reference, activation), expected, rtol=1e-9
    )


def test_kl_is_not_the_same_both_ways_and_nothing_for_equal_clips():
    generated, reference = logits(4, 20, 0), logits(4, 20, 1)
    there, back = kl_divergences(generated, reference), kl_divergences(reference, generated)
    assert not np.allclose(there, back)
    # The 1e-6 in the definition keeps it from being quite nothing.
    np.testing.assert_allclose(kl_divergences(reference, reference), 0, atol=20 * 1e-6)


def test_kl_stands_extreme_logits():
    extreme = np.array([[1e4, -1e4, 0.0]], dtype=np.float32)
    for activation in ("softmax", "sigmoid"):
        assert np.isfinite(kl_divergences(extreme, -extreme, activation)).all()


def test_inception_score_is_that_of_its_definition():
    values = logits(57, 20, 0)
    p = torch.from_numpy(values).double().softmax(dim=1).numpy()
    p = p[np.random.RandomState(2020).permutation(57)]
    scores = []
    for split in range(10):
        part = p[split * 57 // 10 : (split + 1) * 57 // 10]
        kl = part * (np.log(part) - np.log(part.mean(axis=0, keepdims=True)))
        scores.append(np.exp(kl.sum(axis=1).mean()))
    mean, deviation = InceptionScore(values).of()
    assert mean == pytest.approx(np.mean(scores), rel=1e-12)
    assert deviation == pytest.approx(np.std(scores), rel=1e-9)


@settings(max_examples=25)
@given(n=st.integers(10, 60), k=st.integers(2, 30), seed=st.integers(0, 1000))
def test_inception_score_lies_between_one_and_the_classes(n, k, seed):
    mean, _ = InceptionScore(logits(n, k, seed, scale=10)).of()
    assert 1 - 1e-9 <= mean <= k + 1e-9


def test_sounds_that_are_all_alike_score_one():
    mean, deviation = InceptionScore(np.repeat(logits(1, 9, 0), 40, axis=0)).of()
    assert mean == pytest.approx(1.0) and deviation == pytest.approx(0.0, abs=1e-9)


def test_clap_score_is_a_cosine():
    sounds, texts = logits(5, 16, 0), logits(5, 16, 1)
    expected = torch.nn.functional.cosine_similarity(
        torch.from_numpy(sounds).double(), torch.from_numpy(texts).double()
    )
    np.testing.assert_allclose(clap_scores(sounds, texts), expected, rtol=1e-9)
    np.testing.assert_allclose(clap_scores(sounds, 7 * sounds), 1)
    assert clap_scores(np.zeros((1, 4)), np.ones((1, 4))) == [0]


def test_kernel_distance_is_the_sum_over_all_pairs():
    generated, reference = logits(7, 3, 0, scale=1), logits(5, 3, 1, scale=2)
    pairs = [np.linalg.norm(a - b) for i, a in enumerate(reference) for b in reference[:i]]
    sigma = np.median(np.array(pairs, dtype=np.float64))

    def kernel(a, b):
        return np.exp(-(((a.astype(np.float64) - b) ** 2).sum()) / (2 * sigma**2))

    def others(rows):
        n = len(rows)
        among = [kernel(rows[i], rows[j]) for i in range(n) for j in range(n) if i != j]
        return sum(among) / (n * (n - 1))

    across = np.mean([kernel(a, b) for a in generated for b in reference])
    expected = 100 * (others(generated) + others(reference) - 2 * across)
    assert KernelDistance(generated, reference).of() == pytest.approx(expected, rel=1e-6)


def test_kernel_distance_is_unbiased_where_the_frechet_distance_is_not():
    values = [
        KernelDistance(logits(12, 8, seed, scale=1), logits(12, 8, seed + 500, scale=1)).of()
        for seed in range(200)
    ]
    assert min(values) < 0 < max(values)
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(len(values))


def test_kernel_distance_refuses_a_reference_of_one_sound():
    with pytest.raises(ValueError, match="one sound"):
        KernelDistance(logits(4, 3, 0), np.ones((4, 3)))


def test_a_bootstrap_interval_of_a_mean_is_that_of_its_standard_error():
    values = np.random.default_rng(0).normal(5, 2, size=400)
    replicates = (counts @ values / 400 for counts in draws(400, 500, seed=0))
    low, high = interval(values.mean(), replicates)
    half = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.1 * half)


def test_resamples_are_as_large_as_the_set_and_the_same_each_time():
    first, again = list(draws(9, 20, seed=3)), list(draws(9, 20, seed=3))
    assert all(counts.sum() == 9 and len(counts) == 9 for counts in first)
    assert np.array_equal(first, again)
    assert len({tuple(counts) for counts in first}) > 10


def test_costly_numbers_get_fewer_resamples_and_never_too_few():
    assert n_resamples(1.0) == 500
    assert 30 < n_resamples(2e9) < 500
    assert n_resamples(1e15) == 30


def test_an_interval_keeps_to_what_is_possible():
    assert interval(0.1, [0.0, 1.0, 2.0], least=0.0)[0] == 0.0
    assert interval(0.1, [float("nan"), 1.0]) is None


def test_attention_entropy_runs_from_one_place_to_everywhere():
    at_one = np.zeros((4, 8))
    at_one[2, 3] = 0.7
    assert attention_entropy(at_one) == 0
    assert attention_entropy(np.full((4, 8), 0.2)) == pytest.approx(1)
    halves = np.zeros((4, 8))
    halves[:2] = 1
    assert attention_entropy(halves) == pytest.approx(np.log(16) / np.log(32))


def test_the_level_at_the_peak_is_a_rank():
    log_mel = np.arange(100.0).reshape(10, 10)
    peak = np.zeros((10, 10))
    peak[-1, -1] = 1
    assert level_at_peak(peak, log_mel) == pytest.approx(0.995)
    assert level_at_peak(peak, -log_mel) == pytest.approx(0.005)
    assert level_at_peak(peak, np.zeros((10, 10))) == 0.5
    random = np.random.default_rng(0)
    ranks = [level_at_peak(random.random((6, 6)), random.random((6, 6))) for _ in range(400)]
    assert np.mean(ranks) == pytest.approx(0.5, abs=0.05)
