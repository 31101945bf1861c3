"""Folders of results, and errors that name them."""

import pytest

from auffusion_cli.files import folder_of, naming


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


def test_an_error_names_the_result_and_not_the_file_beside(tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(OSError) as caught, naming(path):
        (tmp_path / "none" / ".a.part").write_text("")
    assert (caught.value.filename, caught.value.strerror) == (
        str(path),
        "No such file or directory",
    )
