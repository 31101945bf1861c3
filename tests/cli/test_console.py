"""What is shown where: results on stdout, the rest on stderr."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from auffusion_cli.cli import console
from auffusion_cli.errors import UsageError


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (3_440_000_000, "3.4 GB"), (2e15, "2000.0 TB")],
)
def test_format_bytes(n_bytes, text):
    assert console.format_bytes(n_bytes) == text


@pytest.mark.parametrize(
    ("duration_s", "text"),
    [(0, "0 s"), (45.2, "45 s"), (59.7, "1 min"), (720, "12 min"), (12_000, "3 h 20 min")],
)
def test_format_duration(duration_s, text):
    assert console.format_duration(duration_s) == text


def test_json_goes_to_stdout_unescaped(capsys):
    console.print_json({"prompt": "Möwen"})
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"prompt": "Möwen"}
    assert "Möwen" in captured.out
    assert captured.err == ""


def test_a_path_is_never_taken_for_an_option(capsys):
    for name in ("-y.wav", "sounds/-y.wav"):
        console.print_path(Path(name))
    assert capsys.readouterr().out == "./-y.wav\nsounds/-y.wav\n"


HOSTILE = "a\x1b[2J\x9b31m\u202eb\u2028c\td\ne\udcff"
ESCAPED = r"a\x1b[2J\x9b31m\u202eb c d e\udcff"


def test_no_text_reaches_the_terminal_as_more_than_text(capsys):
    console.print_table([HOSTILE], [[HOSTILE]])
    console.print_line(HOSTILE)
    console.note(HOSTILE)
    console.warn(HOSTILE)
    console.error(HOSTILE, hint=HOSTILE)
    captured = capsys.readouterr()
    lines = captured.out.splitlines() + captured.err.splitlines()
    assert len(lines) == 7 and all(line.endswith(ESCAPED) for line in lines)


def test_words_of_all_languages_stay():
    text = "犬が吠える، الأمواج e\u0301 👩\u200d🚒 می\u200cشود"
    assert console.printable(text) == text


def test_json_escapes_what_is_not_text_and_loses_nothing(capsys):
    console.print_json({"prompt": HOSTILE})
    out = capsys.readouterr().out
    assert out.rstrip("\n").isprintable()
    assert json.loads(out) == {"prompt": HOSTILE}


@pytest.mark.parametrize(
    "message",
    [
        f"--output {'x' * 5000!r}: is not a folder",
        f"--prompts {'/deep' * 900}: No such file",
        "word " * 1000,
        f"{'a b ' * 99!r} and {'c d ' * 99!r} differ",
    ],
)
def test_a_message_is_short_and_keeps_its_ends(message):
    short = console.short(message)
    assert len(short) <= console.MAX_MESSAGE_CHARACTERS
    assert short[:10] == message[:10] and short[-5:] == message[-5:] and "…" in short
    assert console.short(short) == short


def test_a_message_of_ordinary_length_stays():
    message = f"--output {'x' * 100!r}: is not a folder"
    assert console.short(message) == message


@pytest.mark.parametrize("no_color", ["", "1"])
def test_messages_have_no_colour_where_none_is_wanted(capsys, monkeypatch, no_color):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("NO_COLOR", no_color)
    console.warn("rain")
    assert ("\x1b[" in capsys.readouterr().err) == (not no_color)


def test_a_closed_terminal_stops_no_work(monkeypatch):
    def closed(*args, **kwargs):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(console.typer, "echo", closed)
    console.note("still working")


def test_table_aligns_columns(capsys):
    console.print_table(["name", "size"], [["embedded", 100], ["a", 2]])
    assert capsys.readouterr().out == "name      size\nembedded  100\na         2\n"


def test_table_without_rows_is_its_header(capsys):
    console.print_table(["name", "size"], [])
    assert capsys.readouterr().out == "name  size\n"


def test_confirm_needs_a_terminal_or_yes(monkeypatch):
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    assert console.confirm("Download 3.4 GB?", yes=True)
    with pytest.raises(UsageError, match=r"Download 3\.4 GB\?") as raised:
        console.confirm("Download 3.4 GB?")
    assert "--yes" in raised.value.hint


def test_progress_is_silent_for_short_work_without_a_terminal(capsys):
    with console.Progress("generating", total=3) as progress:
        for _ in range(3):
            progress.advance()
    assert progress.completed == 3
    assert capsys.readouterr() == ("", "")


def test_progress_prints_plain_lines_without_a_terminal(capsys):
    with console.Progress("training", total=4, unit="steps", line_interval_s=0) as progress:
        progress.update(completed=2)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("training: 2 of 4 steps, about ")


def test_progress_counts_what_is_whole_and_tells_no_time_at_the_end(capsys):
    with console.Progress("generating", total=6, unit="sounds", line_interval_s=0) as progress:
        progress.update(completed=4.875)
        progress.update(completed=6)
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith("generating: 4 of 6 sounds, about ")
    assert last == "generating: 6 of 6 sounds"


@pytest.mark.parametrize("terminal", [False, True])
def test_a_next_phase_of_the_same_size_has_its_own_time(capsys, monkeypatch, terminal):
    now_s = 0.0
    monkeypatch.setattr(console.time, "monotonic", lambda: now_s)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with console.Progress("slow", total=10, unit="clips", delay_s=0, line_interval_s=0) as progress:
        now_s = 1000.0
        progress.update(completed=10)
        now_s = 1002.0
        progress.update(completed=1, description="quick")
        if terminal:
            progress._bar.refresh()
    shown = capsys.readouterr().err
    assert "quick" in shown and "about 18 s left" in shown


def test_a_line_takes_the_place_of_the_bar(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    with console.Progress("generating", total=4, unit="steps", delay_s=0) as progress:
        progress.advance()
        console.note("a note")
        before, after = capsys.readouterr().err.split("a note")
        assert before.endswith("\x1b[2K") and after == "\n"
        progress.advance()
        assert "2/4" in capsys.readouterr().err
        console.print_path(Path("rain.wav"))
        captured = capsys.readouterr()
        assert captured.out == "rain.wav\n" and captured.err.endswith("\x1b[2K")


def test_progress_prints_plain_lines_on_a_dumb_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "dumb")
    with console.Progress("training", total=4, unit="steps", line_interval_s=0) as progress:
        progress.update(completed=2)
    assert capsys.readouterr().err.startswith("training: 2 of 4 steps, about ")


def test_progress_draws_a_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    with console.Progress("downloading", total=4e9, unit="bytes", delay_s=0) as progress:
        progress.advance(2e9)
        assert progress._bar is not None
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "downloading" in captured.err
    assert "GB" in captured.err
