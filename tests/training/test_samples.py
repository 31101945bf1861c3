from collections import Counter

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from auffusion_cli.training.samples import SHARDS_TOGETHER, Sample, Shards, samples_at


@settings(max_examples=30)
@given(st.integers(1, 9), st.integers(1, 13), st.integers(0, 2**32))
def test_every_epoch_sees_each_item_once(batch_size, n_items, seed):
    n_steps = 3 * n_items  # so that epochs and batches come out even
    samples = [s for step in range(n_steps) for s in samples_at(step, batch_size, n_items, seed)]
    for start in range(0, len(samples), n_items):
        epoch = samples[start : start + n_items]
        assert Counter(s.index for s in epoch) == Counter(range(n_items))
    assert len({s.seed for s in samples}) == len(samples)
    assert all(0 <= s.seed < 2**63 for s in samples)


@settings(max_examples=30)
@given(st.integers(0, 50), st.integers(0, 50), st.integers(1, 8), st.integers(0, 9))
def test_samples_depend_on_nothing_but_their_place(step, other_step, batch_size, seed):
    expected = samples_at(step, batch_size, 11, seed)
    samples_at(other_step, batch_size, 7, seed + 1)  # whatever was asked before
    assert samples_at(step, batch_size, 11, seed) == expected
    # Positions count samples: two small steps are one big one.
    halves = [
        s for half in (2 * step, 2 * step + 1) for s in samples_at(half, batch_size, 11, seed)
    ]
    assert samples_at(step, 2 * batch_size, 11, seed) == halves


def test_epochs_and_seeds_differ():
    orders = {tuple(s.index for s in samples_at(epoch, 50, 50, 0)) for epoch in range(4)}
    assert len(orders) == 4
    assert samples_at(0, 50, 50, 0) != samples_at(0, 50, 50, 1)


def test_a_sample_draws_the_same_again():
    sample = Sample(0, seed=2**62)
    assert torch.rand(1, generator=sample.generator()) == torch.rand(
        1, generator=sample.generator()
    )


@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=80), seed=st.integers(0, 2**40))
def test_an_epoch_of_shards_sees_each_item_once_and_few_shards_at_a_time(sizes, seed):
    n_items = sum(sizes)
    if not n_items:
        return
    shards = Shards(sizes)
    starts = np.cumsum([0, *sizes])
    for epoch in range(2):
        step = epoch  # a step is an epoch
        items = [s.index for s in samples_at(step, n_items, n_items, seed, shards)]
        assert sorted(items) == list(range(n_items))
        numbers = [shards.place_of(item)[0] for item in items]
        assert all(starts[n] <= i < starts[n + 1] for n, i in zip(numbers, items, strict=True))
        first = {n: numbers.index(n) for n in set(numbers)}
        last = {n: n_items - 1 - numbers[::-1].index(n) for n in set(numbers)}
        for place in range(n_items):
            assert sum(first[n] <= place <= last[n] for n in first) <= SHARDS_TOGETHER


def test_two_processes_see_the_shards_of_one_in_the_same_order():
    """The loop gives process r of n every n-th sample of the same list; resumed, of another n."""
    sizes = [7, 0, 12, 5] * 30
    one, other = Shards(sizes), Shards(sizes)
    whole = [samples_at(step, 6, one.n_items, 3, one) for step in range(400)]
    mixed = []
    for step in range(400):
        batch = samples_at(step, 6, other.n_items, 3, other)
        n = 1 if step < 150 else 2  # resumed by two processes
        parts = [batch[rank::n] for rank in range(n)]
        mixed.append([parts[i % n][i // n] for i in range(6)])
    assert mixed == whole
    assert whole[0] != samples_at(0, 6, one.n_items, 4, one)
