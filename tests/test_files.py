"""Folders of results: there when there is something in them."""

import pytest

from auffusion_cli.files import folder_of


def test_a_folder_with_a_file_stays(tmp_path):
    path = tmp_path / "a" / "b" / "sound.wav"
    with folder_of(path):
        path.write_bytes(b"x")
    assert path.exists()


def test_folders_made_for_nothing_go_and_no_others(tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(KeyboardInterrupt), folder_of(tmp_path / "there" / "a" / "b" / "sound.wav"):
        assert (tmp_path / "there" / "a" / "b").is_dir()
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert list((tmp_path / "there").iterdir()) == []


def test_what_came_in_beside_stays(tmp_path):
    with pytest.raises(OSError), folder_of(tmp_path / "a" / "b" / "sound.wav"):
        (tmp_path / "a" / "other.txt").write_text("x")
        raise OSError
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["other.txt"]
