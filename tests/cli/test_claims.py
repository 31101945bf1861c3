"""Claims: of runs that share a list one makes a sound; dead ones hold nobody up."""

import fcntl
import os
import signal
import time

import pytest

from auffusion_cli.cli import claims as module
from auffusion_cli.cli.claims import STALE_S, Claims


@pytest.fixture
def other_machine(monkeypatch):
    """Claims of a process on another machine."""
    with monkeypatch.context() as patch:
        patch.setattr(module, "_machine", lambda: "another-machine")
        return Claims()


def claim_of(folder):
    (path,) = folder.glob(".*.claim")
    return path


def test_one_has_it_until_it_ends(tmp_path):
    path = tmp_path / "new" / "a.wav"
    with Claims() as second, Claims() as first:
        assert first.take(path) and not second.take(path)
        assert second.take(tmp_path / "new" / "b.wav")
        first.release(path)
        assert second.take(path) and not first.take(path)
        second.release(path)
        second.release(path.with_name("b.wav"))
    assert list(tmp_path.iterdir()) == []  # neither claims nor the folder they made


def test_a_killed_process_holds_nobody_up(tmp_path):
    path = tmp_path / "a.wav"
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        Claims().take(path)
        os.write(tell, b"1")
        time.sleep(60)
        os._exit(1)
    os.read(ready, 1)
    with Claims() as mine:
        assert not mine.take(path)
        mine.clear_dead(tmp_path)
        assert claim_of(tmp_path).exists()  # its process lives
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert mine.take(path)
        mine.release(path)
        assert list(tmp_path.iterdir()) == []


def test_what_killed_processes_left_is_cleared(tmp_path):
    (tmp_path / ".0123456789abcdef.claim").write_text("")
    (tmp_path / ".mine.claim").write_text("")
    with Claims() as mine:
        mine.clear_dead(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".mine.claim"]


@pytest.mark.parametrize("locks", ["locks of one machine", "no locks"])
def test_a_claim_that_no_lock_decides_about_counts_while_it_shows_life(
    tmp_path, other_machine, monkeypatch, locks
):
    def flock(handle, how):
        if locks == "no locks":
            raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(module, "SIGN_OF_LIFE_S", 0.0)
    path = tmp_path / "a.wav"
    mine = Claims()
    assert other_machine.take(path) and not mine.take(path)
    long_ago = time.time() - STALE_S - 1
    os.utime(claim_of(tmp_path), (long_ago, long_ago))
    other_machine.show_life()
    assert not mine.take(path)
    os.utime(claim_of(tmp_path), (long_ago, long_ago))
    assert mine.take(path) and not other_machine.take(path)
    mine.release(path)
    assert list(tmp_path.iterdir()) == []
