"""Results on the disk: files that are whole or not there, folders that hold something."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from auffusion_cli.errors import OutputExistsError
from auffusion_cli.files import folder_of, is_unfinished, naming, whole_file


@pytest.fixture(params=["hard links", "no hard links"])
def links(request, monkeypatch):
    """File systems of both kinds."""

    def refuse(*_):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    if request.param == "no hard links":
        monkeypatch.setattr(os, "link", refuse)


def test_of_two_at_once_one_writes_and_the_other_is_told(tmp_path, links):
    path = tmp_path / "a.wav"

    def write(content):
        try:
            with whole_file(path, overwrite=False) as beside:
                beside.write_bytes(content)
        except OutputExistsError as error:
            assert str(path) in error.message
            return None
        return content

    with ThreadPoolExecutor() as pool:
        (written,) = [content for content in pool.map(write, [b"1", b"2", b"3"]) if content]
    assert path.read_bytes() == written
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_program_leaves_can_be_told(tmp_path):
    with whole_file(tmp_path / "a.wav") as beside:
        assert is_unfinished(beside) and not is_unfinished(tmp_path / "a.wav")
        beside.touch()


def test_a_name_that_was_taken_in_vain_is_free_again(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError), whole_file(tmp_path / "a.wav", overwrite=False) as beside:
        beside.write_bytes(b"1")
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_replaced_where_that_is_wanted(tmp_path):
    path = tmp_path / "a.wav"
    for content in (b"1", b"2"):
        with whole_file(path) as beside:
            beside.write_bytes(content)
    assert path.read_bytes() == b"2"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_full_disk_is_told_with_the_file_that_did_not_fit(tmp_path, overwrite):
    with (
        pytest.raises(OSError) as caught,
        whole_file(tmp_path / "a.png", overwrite=overwrite) as beside,
    ):
        beside.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "a.png"))
    assert list(tmp_path.iterdir()) == []


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
