"""What several --data are together."""

from pathlib import Path

import pytest

from auffusion_cli.errors import DataError, UsageError
from auffusion_cli.training.data import Manifest, NoSplitError
from auffusion_cli.training.list_values import Reading
from auffusion_cli.training.sources import LATENTS_NAME, find_all
from small_data import write_lines, write_sound
from tar_files import sound, write_tar


@pytest.fixture
def data(tmp_path):
    """A folder with splits, one without, tar files with and without splits, and latents."""
    for name in ("split/train", "split/val", "whole"):
        write_sound(tmp_path / name / "a.wav")
        row = {"file_name": "a.wav", "text": name}
        write_lines(tmp_path / name / "metadata.jsonl", [row, {**row, "file_name": "gone.wav"}])
    for name in ("tars/train-0.tar", "tars/val-0.tar", "tar/0.tar"):
        write_tar(tmp_path / name, {"a.flac": sound(), "a.txt": b"a"})
    (tmp_path / "latents").mkdir()
    (tmp_path / "latents" / LATENTS_NAME).touch()

    def found(*names, split="train"):
        return find_all([str(tmp_path / name) for name in names], split, Reading())

    return found


def test_clips_of_several_lists_follow_each_other(data):
    found = data("whole", "split")
    assert [clip.captions for clip in found.clips] == [("whole",), ("split/train",)]
    assert [problem.reason for problem in found.problems] == ["missing", "missing"]
    assert data("whole") == Manifest(found.clips[:1], found.problems[:1])


def test_parts_of_several_folders_follow_each_other(data):
    parts = [Path(part).name for part in data("tar", "tars").parts]
    assert parts == ["0.tar", "train-0.tar"]


def test_held_out_are_those_that_have_some(data):
    (clip,) = data("whole", "split", split="val").clips
    assert clip.captions == ("split/val",)
    assert len(data("tar/0.tar", "tars", split="val").parts) == 1
    for names in (["whole"], ["whole", "whole"], ["tar"]):
        with pytest.raises(NoSplitError, match=r"'val'|val\.csv"):
            data(*names, split="val")


def test_what_cannot_be_read_together_is_told(data, tmp_path):
    for names in (["whole", "tar"], ["latents", "whole"], ["latents", "latents"]):
        with pytest.raises(UsageError, match="of several, all have to be"):
            data(*names)
    (tmp_path / "split/val/metadata.jsonl").write_text("{")
    with pytest.raises(DataError, match="line 1"):  # damaged is not the same as absent
        data("whole", "split", split="val")
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoSplitError, match=r"empty has no train\.csv"):
        data("whole", "empty")
