"""Results on the disk: files that are whole or not there, folders that hold something."""

import errno
import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auffusion_cli.errors import OutputExistsError, UsageError
from auffusion_cli.files import (
    atomic_file,
    atomic_folder,
    clear_unfinished,
    delete_folder,
    exclusive_use,
    folder_of,
    hash_file,
    is_unfinished,
    naming,
    open_regular,
    read_bytes,
    replace_folder,
    slug,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Dog barking, in rain!", "dog-barking-in-rain"),
        ("../../etc/passwd", "etc-passwd"),
        ("..", "sound"),
        ("", "sound"),
        ("a/b\\c:d", "a-b-c-d"),
        ("犬が吠える", "犬が吠える"),
        ("version 1.5", "version-1.5"),
        ("-rf", "rf"),
    ],
)
def test_slugs_read_like_the_prompt(text, expected):
    assert slug(text) == expected


@given(st.text(max_size=300))
def test_no_text_leaves_its_folder_or_names_a_hidden_file(text):
    name = slug(text)
    assert Path("folder", name).resolve().parent == Path("folder").resolve()
    assert name and not name.startswith((".", "-")) and len(name.encode()) <= 120
    assert not set("/\\\0{}") & set(name)


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
            with atomic_file(path, overwrite=False) as beside:
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
    with atomic_file(tmp_path / "a.wav") as beside:
        assert is_unfinished(beside) and not is_unfinished(tmp_path / "a.wav")
        beside.touch()


def test_only_folders_are_taken_for_what_was_about_to_be_replaced(tmp_path):
    (tmp_path / "notes").write_text("mine")
    (tmp_path / ".notes.0123456789abcdef.old").write_text("mine, too")
    clear_unfinished(tmp_path)
    assert (tmp_path / "notes").read_text() == "mine"
    assert (tmp_path / ".notes.0123456789abcdef.old").read_text() == "mine, too"


def test_a_name_that_was_taken_in_vain_is_free_again(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "link", refuse)
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError), atomic_file(tmp_path / "a.wav", overwrite=False) as beside:
        beside.write_bytes(b"1")
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_replaced_where_that_is_wanted(tmp_path):
    path = tmp_path / "a.wav"
    for content in (b"1", b"2"):
        with atomic_file(path) as beside:
            beside.write_bytes(content)
    assert path.read_bytes() == b"2"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_full_disk_is_told_with_the_file_that_did_not_fit(tmp_path, overwrite):
    with (
        pytest.raises(OSError) as caught,
        atomic_file(tmp_path / "a.png", overwrite=overwrite) as beside,
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


# --- atomic folders


def test_a_folder_is_whole_or_as_it_was(tmp_path):
    path = tmp_path / "model"
    with atomic_folder(path) as beside:
        (beside / "a").write_text("1")
        assert not path.exists()
    with pytest.raises(RuntimeError), atomic_folder(path) as beside:
        (beside / "a").write_text("2")
        raise RuntimeError
    assert (path / "a").read_text() == "1"
    with atomic_folder(path) as beside:
        (beside / "b").write_text("3")
    assert [p.name for p in path.iterdir()] == ["b"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_not_replaced_where_that_is_not_wanted(tmp_path):
    path = tmp_path / "model"
    path.mkdir()
    with pytest.raises(OutputExistsError), atomic_folder(path, overwrite=False) as beside:
        (beside / "a").write_text("1")
    assert list(tmp_path.iterdir()) == [path] and list(path.iterdir()) == []


def test_a_folder_that_cannot_be_replaced_stays(tmp_path, monkeypatch):
    path = tmp_path / "model"
    with atomic_folder(path) as beside:
        (beside / "a").write_text("1")
    rename = os.rename

    def refuse(source, target, **_):
        if str(source).endswith(".part"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(OSError), atomic_folder(path) as beside:
        (beside / "a").write_text("2")
    assert (path / "a").read_text() == "1"
    assert list(tmp_path.iterdir()) == [path]


# --- leftovers


def test_others_may_read_what_a_library_wrote_for_the_user_alone(tmp_path):
    """As far as the user's umask lets them; a file that is only linked to stays as it is."""

    def write(path):
        path.unlink(missing_ok=True)
        path.touch(0o600)

    write(tmp_path / "private")
    before = os.umask(0o027)
    try:
        with atomic_file(tmp_path / "file") as beside:
            write(beside)
        with atomic_folder(tmp_path / "folder") as beside:
            write(beside / "file")
            (beside / "link").symlink_to(tmp_path / "private")
    finally:
        os.umask(before)
    names = ("file", "folder/file", "private")
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in names] == [0o640, 0o640, 0o600]


def test_a_finished_folder_replaces_another_and_a_deleted_one_is_gone(tmp_path):
    for name in ("new", "final"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(name)
    replace_folder(tmp_path / "new", tmp_path / "final")
    assert [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")] == ["final", "final/new"]
    delete_folder(tmp_path / "final")
    delete_folder(tmp_path / "absent")
    assert not list(tmp_path.iterdir())


def test_leftovers_of_a_killed_run_are_deleted_and_files_being_written_stay(tmp_path):
    script = (
        "import sys, time; from pathlib import Path;"
        "from auffusion_cli.files import atomic_file, atomic_folder\n"
        "with atomic_file(Path(sys.argv[1]) / 'a') as f, atomic_folder(Path(sys.argv[1]) / 'b'):\n"
        "    f.write_text('x'); print('ready', flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        clear_unfinished(tmp_path)
        assert len(list(tmp_path.iterdir())) == 2
        process.kill()
    (tmp_path / "mine.part").touch()
    with atomic_file(tmp_path / "c") as beside:
        clear_unfinished(tmp_path)
        assert sorted(p.name for p in tmp_path.iterdir()) == sorted([beside.name, "mine.part"])


def test_a_folder_clears_the_leftovers_of_killed_ones(tmp_path):
    leftover = tmp_path / f".{'0' * 16}.part"
    leftover.mkdir()
    (leftover / "a").write_text("half")
    with atomic_folder(tmp_path / "model"), atomic_folder(tmp_path / "other"):
        assert len(list(tmp_path.iterdir())) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "other"]


def test_a_folder_whose_replacement_was_killed_gets_its_name_back(tmp_path):
    old = tmp_path / f".model.{'0' * 16}.old"
    old.mkdir()
    (old / "a").write_text("1")
    clear_unfinished(tmp_path)
    assert (tmp_path / "model" / "a").read_text() == "1"
    old.mkdir()
    (old / "a").write_text("0")
    clear_unfinished(tmp_path)
    assert (tmp_path / "model" / "a").read_text() == "1"
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_two_runs_cannot_use_one_folder(tmp_path):
    with (
        exclusive_use(tmp_path),
        pytest.raises(UsageError, match="another run"),
        exclusive_use(tmp_path),
    ):
        pass
    with exclusive_use(tmp_path):
        pass


# --- reading


@pytest.mark.parametrize("read", [open_regular, hash_file])
def test_only_regular_files_are_opened(tmp_path, read):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="is a named pipe, not a regular file"):
        read(tmp_path / "pipe")
    with pytest.raises(OSError, match="is a device or socket"):
        read("/dev/zero")
    with pytest.raises(IsADirectoryError):
        read(tmp_path)


def test_reading_is_bounded(tmp_path):
    (tmp_path / "a").write_bytes(b"123")
    assert read_bytes(tmp_path / "a", 3) == b"123"
    with pytest.raises(OSError, match="is larger than 2 bytes"):
        read_bytes(tmp_path / "a", 2)


def test_hash_of_a_file(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 10**6)
    assert hash_file(tmp_path / "a") == hashlib.sha256(b"abc" * 10**6).hexdigest()
    git = hash_file(tmp_path / "a", hashlib.sha1(b"blob 3000000\0"))
    assert git == hashlib.sha1(b"blob 3000000\0" + b"abc" * 10**6).hexdigest()
