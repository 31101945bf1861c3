"""`--shard 3/16`: parts that are disjoint and together the whole."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auffusion_cli.errors import UsageError
from auffusion_cli.requests.shards import Shard, parse_shard


@given(st.integers(0, 60), st.integers(1, 20))
def test_the_parts_are_the_whole_and_differ_by_one_item_at_most(n_items, count):
    items = list(range(n_items))
    parts = [Shard(index, count).of(items) for index in range(1, count + 1)]
    assert sorted(item for part in parts for item in part) == items
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(st.integers(0, 60), st.integers(1, 5), st.integers(1, 5))
def test_a_part_of_a_part_is_a_part_of_the_whole(n_items, count, within):
    items = list(range(n_items))
    for index in range(1, count + 1):
        for inner in range(1, within + 1):
            whole, part = Shard(index, count), Shard(inner, within)
            assert whole.part(part).of(items) == part.of(whole.of(items))


def test_a_part_is_read():
    assert parse_shard("3/16") == Shard(3, 16) and str(Shard(3, 16)) == "3/16"
    assert parse_shard(" 16 / 16 ") == Shard(16, 16)


@pytest.mark.parametrize("text", ["", "/16", "3/", " /16", "3", "a/b", "1.5/2", "-1/4", "٣/٤"])
def test_what_is_no_part_is_refused(text):
    with pytest.raises(UsageError) as refused:
        parse_shard(text)
    is_unset = not text.strip() or text.strip().startswith("/") or text.endswith("/")
    assert ("SLURM_ARRAY_TASK_ID" in refused.value.hint) == is_unset


@pytest.mark.parametrize("text", ["0/16", "17/16", "1/0", "0/0", "1/100001"])
def test_a_part_that_is_not_there_is_refused(text):
    with pytest.raises(UsageError, match="no such part"):
        parse_shard(text)
