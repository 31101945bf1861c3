import subprocess
import sys

import pytest

from auffusion_cli.errors import UsageError
from auffusion_cli.training.run_folder import check_output, delete_run, only_run


def test_one_training_at_a_time(tmp_path):
    folder = tmp_path / "new/run"
    with only_run(folder):
        again = only_run(folder)
        with pytest.raises(UsageError, match="in use by another run"):
            again.__enter__()
        with only_run(tmp_path / "other"):
            pass
    with only_run(folder):  # free again
        pass
    assert not list(folder.iterdir())


def test_a_killed_training_holds_no_lock(tmp_path):
    code = (
        "import os, sys; from pathlib import Path\n"
        "from auffusion_cli.training.run_folder import only_run\n"
        "with only_run(Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, tmp_path]).returncode == -9
    with only_run(tmp_path):
        pass


def test_leftovers_of_a_killed_training_are_deleted(tmp_path):
    left = "." + 16 * "a" + ".part"
    for name in (left, f"checkpoints/{left}", f"cache/{left}", ".result/unet", "unet"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "previews").mkdir()
    (tmp_path / "previews" / left).write_bytes(b"half")
    with only_run(tmp_path):
        names = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert names == {"checkpoints", "cache", "previews", "unet"}


def test_caches_of_a_run_that_never_began_are_kept(tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "clip-check.json").write_text("{}")
    check_output(tmp_path, resume=False, overwrite=False)


def test_the_last_result_and_the_caches_outlive_the_run(tmp_path):
    for name in ("checkpoints", "logs", "previews", "cache", "unet"):
        (tmp_path / name).mkdir()
    (tmp_path / "training.yaml").write_text("seed: 1")
    delete_run(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "unet"]
