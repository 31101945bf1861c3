"""Features on the disk: the same numbers as from memory, and never more than a block of them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auffusion_cli.errors import DataError
from auffusion_cli.evaluation import frechet, measure
from auffusion_cli.evaluation.embedders import ClipFeatures
from auffusion_cli.evaluation.frechet import Moments, ResampledFrechet, frechet_distance
from auffusion_cli.evaluation.measure import FolderFeatures
from auffusion_cli.evaluation.metrics import InceptionScore, KernelDistance, log_softmax
from auffusion_cli.evaluation.rows import BLOCK_ROWS, DiskRows, blocks


def draw(n, dim, seed=0, scale=1.0):
    return (np.random.default_rng(seed).normal(size=(n, dim)) * scale).astype(np.float32)


def on_disk(rows: np.ndarray, kind: type[DiskRows] = DiskRows) -> DiskRows:
    stored = kind(rows.shape[1], dtype=rows.dtype)
    stored.append(rows)
    return stored


class Watched(DiskRows):
    """Remembers the most rows that were in memory at once."""

    most = 0

    def __getitem__(self, which):
        rows = super().__getitem__(which)
        self.most = max(self.most, len(rows))
        return rows


@settings(max_examples=40)
@given(
    sizes=st.lists(st.integers(0, 7), min_size=1, max_size=6),
    start=st.integers(0, 45),
    stop=st.integers(0, 45),
    seed=st.integers(0, 100),
)
def test_rows_are_sliced_and_indexed_like_an_array(sizes, start, stop, seed):
    parts = [draw(n, 3, seed + i) for i, n in enumerate(sizes)]
    array, rows = np.concatenate(parts), DiskRows(3)
    for part in parts:
        rows.append(part)
    assert rows.shape == array.shape and len(rows) == len(array)
    np.testing.assert_array_equal(rows[start:stop], array[start:stop])
    np.testing.assert_array_equal(rows[:], array)
    if len(array):
        chosen = np.random.default_rng(seed).integers(len(array), size=9)
        np.testing.assert_array_equal(rows[chosen], array[chosen])
    assert rows[np.array([], dtype=int)].shape == (0, 3)


def test_rows_can_be_added_after_some_were_read():
    rows = on_disk(draw(5, 2))
    assert rows[0:2].shape == (2, 2)
    rows.append(draw(3, 2, seed=1))
    np.testing.assert_array_equal(rows[:], np.concatenate([draw(5, 2), draw(3, 2, seed=1)]))


def test_a_full_disk_is_told_with_what_to_do():
    class Full:
        def seek(self, place):
            pass

        def write(self, data):
            raise OSError(28, "No space left on device")

    rows = DiskRows(2)
    rows._file.close()
    rows._file = Full()
    with pytest.raises(DataError, match="No space left on device") as caught:
        rows.append(draw(1, 2))
    assert "TMPDIR" in caught.value.hint


@given(st.integers(0, 100), st.integers(1, 30))
def test_blocks_cover_everything_once(n, size):
    covered = [i for block in blocks(n, size) for i in range(n)[block]]
    assert covered == list(range(n))
    assert all(block.stop - block.start <= size for block in blocks(n, size))


# --- the numbers


def whole(first, second):
    return ResampledFrechet(first, second, np.arange(len(first)), np.arange(len(second)))


def counts(n, seed):
    return np.bincount(np.random.default_rng(seed).integers(n, size=n), minlength=n)


@pytest.mark.parametrize(
    ("n", "m", "dim"), [(2500, 3000, 6), (30, 9000, 40), (9000, 30, 40), (50, 50, 60)]
)
def test_the_frechet_distance_reads_a_block_at_a_time(n, m, dim):
    first, second = draw(n, dim), draw(m, dim, seed=1, scale=1.5)
    stored = [on_disk(rows, Watched) for rows in (first, second)]
    from_memory, from_disk = whole(first, second), whole(*stored)
    assert from_memory.by_rows == (min(n, m) < dim)
    for resample in ((None, None), (counts(n, 1), counts(m, 2))):
        weights = [
            np.ones(len(rows)) if c is None else c for rows, c in zip(stored, resample, strict=True)
        ]
        expected = frechet_distance(Moments.of(first, weights[0]), Moments.of(second, weights[1]))
        assert from_memory.distance(*resample) == pytest.approx(expected, rel=1e-9)
        assert from_disk.distance(*resample) == pytest.approx(expected, rel=1e-9)
    assert all(0 < rows.most <= BLOCK_ROWS for rows in stored)


def test_products_are_read_and_decomposed_a_block_at_a_time(monkeypatch):
    monkeypatch.setattr(frechet, "DiskRows", Watched)
    decomposed = []
    svd, qr = np.linalg.svd, np.linalg.qr
    monkeypatch.setattr(
        np.linalg, "svd", lambda x, **how: decomposed.append(len(x)) or svd(x, **how)
    )
    monkeypatch.setattr(np.linalg, "qr", lambda x, **how: decomposed.append(len(x)) or qr(x, **how))
    distances = whole(draw(20, 30), draw(3 * frechet.PRODUCTS_AT_ONCE, 30, seed=1))
    assert distances.distance() > 0
    assert distances._products.most == frechet.PRODUCTS_AT_ONCE
    assert max(decomposed) <= frechet.PRODUCTS_AT_ONCE + 20


def test_equal_sets_have_no_distance_over_several_blocks():
    rows = draw(2500, 40, scale=3.0)
    assert whole(on_disk(rows), on_disk(rows)).distance() == 0.0


def test_the_inception_score_is_that_of_its_definition_over_several_blocks():
    logits = on_disk(draw(2300, 12, scale=3.0), Watched)
    resample = counts(2300, 3)
    order = np.random.RandomState(2020).permutation(2300)
    expected = []
    for drawn in (np.arange(2300), np.repeat(np.arange(2300), resample)):
        log_p = log_softmax(logits[:])[drawn[order]]
        scores = []
        for part in np.split(log_p, 10):
            p = np.exp(part)
            scores.append(np.exp((p * (part - np.log(p.mean(axis=0)))).sum(axis=1).mean()))
        expected.append((np.mean(scores), np.std(scores)))
    logits.most = 0
    score = InceptionScore(logits)
    assert score.of() == pytest.approx(expected[0], rel=1e-9)
    assert score.of(resample) == pytest.approx(expected[1], rel=1e-9)
    ones = np.ones(2300, dtype=int)
    each = list(score.of_each([ones, resample] * 8))  # more than a pass takes
    np.testing.assert_allclose(each, expected * 8, rtol=1e-9)
    assert logits.most == BLOCK_ROWS


def test_the_kernel_distance_of_resamples_is_that_of_repeated_clips():
    generated, reference = draw(1100, 5), draw(1200, 5, seed=1, scale=1.2)
    distance = KernelDistance(generated, reference)
    pairs = np.linalg.norm(reference[:, None].astype(float) - reference[None], axis=2)
    assert distance.bandwidth == pytest.approx(
        np.median(pairs[np.triu_indices(1200, k=1)]), rel=1e-9
    )
    resamples = [np.array([counts(n, seed) for seed in (5, 6)]) for n in (1100, 1200)]

    def kernel(a, b):
        squared = ((a[:, None].astype(float) - b[None]) ** 2).sum(axis=2)
        return np.exp(-squared / (2 * distance.bandwidth**2))

    def others(rows, c):
        among = c @ kernel(rows, rows) @ c - (c**2).sum()
        return among / (c.sum() ** 2 - (c**2).sum())

    across = kernel(generated, reference)
    expected = [
        100 * (others(generated, a) + others(reference, b) - 2 * (a @ across @ b) / 1100 / 1200)
        for a, b in zip(*resamples, strict=True)
    ]
    np.testing.assert_allclose(distance.of_each(*resamples), expected, rtol=1e-8)


def test_what_is_heard_is_on_the_disk_and_all_metrics_read_it_in_blocks(monkeypatch):
    monkeypatch.setattr(measure, "DiskRows", Watched)
    monkeypatch.setattr(measure, "n_resamples", lambda cost: 3)

    def heard(n_clips, seed):
        rows, logits = draw(n_clips, 7, seed), draw(n_clips, 5, seed + 1)
        features = (
            ClipFeatures(row[None], scores) for row, scores in zip(rows, logits, strict=True)
        )
        return FolderFeatures.collect(features), rows, logits

    (made, rows, logits), (real, *_) = heard(5000, 0), heard(4500, 10)
    np.testing.assert_array_equal(made.rows[:], rows)
    np.testing.assert_array_equal(made.logits[:], logits)
    for each in (made, real):
        each.rows.most = each.logits.most = 0
    measure.frechet("FD", "FD-inf", "x", made, real)
    measure.inception("IS", "x", made)
    found = measure.divergences(made, real, [(i, 4499 - i) for i in range(4500)], "softmax")
    assert len(found) == 4500 and (found > 0).all()
    stored = [made.rows, real.rows, made.logits, real.logits]
    assert [each.most for each in stored] == [BLOCK_ROWS] * 4
    assert "4,000 clips of a folder" in measure.kernel("KAD", "x", made, real).note
    assert made.rows.most == real.rows.most == measure.MAX_KERNEL_CLIPS
