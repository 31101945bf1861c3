import os

import pytest

from auffusion_cli.cores import usable_cores

HERE = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


@pytest.fixture(autouse=True)
def no_wish(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


@pytest.mark.parametrize(
    ("quota", "expected"),
    [("max 100000", HERE), ("50000 100000", 1), ("100001 100000", min(2, HERE)), ("?", HERE)],
)
def test_the_quota_of_a_container_counts(tmp_path, quota, expected):
    (tmp_path / "cpu.max").write_text(quota)
    assert usable_cores(tmp_path) == expected


@pytest.mark.parametrize(("quota", "expected"), [("-1", HERE), ("20000", 1), ("0", HERE)])
def test_so_does_that_of_the_first_control_groups(tmp_path, quota, expected):
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu/cpu.cfs_quota_us").write_text(quota)
    (tmp_path / "cpu/cpu.cfs_period_us").write_text("100000")
    assert usable_cores(tmp_path) == expected


def test_without_a_quota_it_is_the_affinity(tmp_path):
    assert usable_cores(tmp_path) == HERE


@pytest.mark.parametrize(("wish", "expected"), [("3", 3), ("2,1", 2), ("0", HERE), ("x", HERE)])
def test_a_users_wish_comes_first(tmp_path, monkeypatch, wish, expected):
    monkeypatch.setenv("OMP_NUM_THREADS", wish)
    assert usable_cores(tmp_path) == expected
