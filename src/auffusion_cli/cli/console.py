"""The terminal: results on stdout, everything else on stderr.

Names, captions, licences and prompts come from files that anyone may have written. All text passes
through `printable` here, so that no escape sequence or change of direction reaches a terminal.

rich is imported only when a progress bar appears, because `--help` should not wait for it.
"""

from __future__ import annotations

import io
import json
import logging
import math
import os
import re
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import typer

from auffusion_cli.errors import AuffusionWarning, UsageError

MAX_MESSAGE_CHARACTERS = 300
MAX_PART_CHARACTERS = 80
"""Of a quoted value or a path within a message that is too long."""
LONG_PART = re.compile(rf"(?<=')[^'\n]{{{MAX_PART_CHARACTERS},}}(?=')|\S{{{MAX_PART_CHARACTERS},}}")
JOINERS = "\u200c\u200d"
"""Parts of words in Persian, and of emoji."""

# --- text that anyone may have written


def printable(text: str) -> str:
    """One line without control characters: white space is a space, the rest is escaped."""
    return "".join(map(_printable_character, text))


def _printable_character(character: str) -> str:
    if character.isprintable() or character in JOINERS:
        return character
    if character.isspace():
        return " "
    return character.encode("unicode_escape", "surrogatepass").decode()


def short(message: str) -> str:
    """A message on one line: long values in it, or else the message, lose their middle."""
    message = printable(message)
    if len(message) > MAX_MESSAGE_CHARACTERS:
        message = LONG_PART.sub(lambda part: _without_middle(part[0], MAX_PART_CHARACTERS), message)
    return _without_middle(message, MAX_MESSAGE_CHARACTERS)


def _without_middle(text: str, n_characters: int) -> str:
    if len(text) <= n_characters:
        return text
    n_end = n_characters // 3
    return f"{text[: n_characters - n_end - 3]} … {text[len(text) - n_end :]}"


# --- messages, on stderr


def note(message: str) -> None:
    """Print something worth knowing that is neither a result nor a warning."""
    _to_stderr(printable(message))


def note_seed(seed: int) -> None:
    """Print a seed that was drawn."""
    note(f"seed {seed} (--seed {seed} gives the same again)")


def warn(message: str) -> None:
    _to_stderr(typer.style("warning: ", fg="yellow", bold=True) + short(message))


def error(message: str, *, hint: str | None = None) -> None:
    _to_stderr(typer.style("error: ", fg="red", bold=True) + short(message))
    if hint:
        _to_stderr(typer.style("hint: ", bold=True) + short(hint))


def _to_stderr(line: str) -> None:
    with suppress(OSError):  # the terminal was closed: nobody reads it, and the work goes on
        _echo(line, err=True)


def _echo(line: str | bytes, *, err: bool = False) -> None:
    """Print a line in place of a bar, which its next update draws below.

    Left to rich, the line would stand beside the bar, as typer writes past rich's stand-in for the
    stream, or be broken at the terminal's width.
    """
    for progress in list(_drawn):
        progress.erase()
    typer.echo(line, err=err, color=False if os.environ.get("NO_COLOR") else None)


@contextmanager
def quiet_unless(is_main: bool) -> Iterator[None]:
    """Leave notes and progress to one of several processes; errors end the block and are shown."""
    with redirect_stderr(io.StringIO()) if not is_main else nullcontext():
        yield


def show_warnings(*, debug: bool) -> None:
    """Show every `AuffusionWarning` as `warning: …`; other warnings only with `--debug`.

    Changes the process's warning filters: call it inside `warnings.catch_warnings()`.
    """

    def show(message, category, filename, lineno, file=None, line=None) -> None:
        if issubclass(category, AuffusionWarning):
            warn(str(message))
        else:
            _to_stderr(warnings.formatwarning(message, category, filename, lineno, line))

    warnings.showwarning = show
    warnings.simplefilter("default" if debug else "ignore")
    warnings.simplefilter("always", AuffusionWarning)


def silence_libraries() -> None:
    """Keep the libraries underneath from logging and drawing bars. Call before importing them.

    Environment variables that the user has set win.
    """
    for name, value in {
        "TRANSFORMERS_VERBOSITY": "error",
        "DIFFUSERS_VERBOSITY": "error",
        "HF_HUB_VERBOSITY": "error",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TQDM_DISABLE": "1",
    }.items():
        os.environ.setdefault(name, value)
    for name in ("accelerate", "diffusers", "huggingface_hub", "torch", "transformers"):
        logging.getLogger(name).setLevel(logging.ERROR)


# --- results, on stdout


def print_json(value: Mapping[str, Any]) -> None:
    """Print one result as a JSON object on a line of its own, at once.

    Every command with `--json` prints such lines, one for each result, and nothing else on stdout.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    _echo(text if text.isprintable() else "".join(map(_json_character, text)))


def _json_character(character: str) -> str:
    if character.isprintable() or character in JOINERS:
        return character
    return json.dumps(character)[1:-1]


def print_path(path: Path) -> None:
    """Print the name of a result so that it can be given to a command again."""
    name = f"./{path}" if str(path).startswith("-") else str(path)
    _echo(printable(name) if sys.stdout.isatty() else os.fsencode(name))


def print_made(path: Path, record: Mapping[str, Any], *, as_json: bool) -> None:
    """Print the name of a sound that was made, or all that its record says."""
    if as_json:
        print_json({"status": "made", "file": str(path), **record})
    else:
        print_path(path)


def print_line(text: str = "", **style: Any) -> None:
    """Print a line of a report; `style` is typer's."""
    _echo(typer.style(printable(text), **style))


def print_table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print aligned columns, never cut, so that they can be piped."""
    cells = [[printable(str(cell)) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(headers, *cells, strict=True)]

    def line(row: Sequence[str]) -> str:
        return "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()

    print_line(line(headers), bold=True)
    for row in cells:
        print_line(line(row))


# --- questions


def confirm(question: str, *, yes: bool = False) -> bool:
    """Ask on stderr; True without asking where `yes` (the option `--yes`) is set.

    Raises:
        UsageError: nobody is there to answer (stdin is not a terminal).
    """
    if yes:
        return True
    if not sys.stdin.isatty():
        raise UsageError(
            f"{question} There is no terminal to ask on", hint="--yes agrees beforehand."
        )
    return typer.confirm(question, err=True)


# --- progress, on stderr


class Progress:
    """A bar with the time left, for work that takes longer than `delay_s`.

    Where stderr is not a terminal it prints a plain line every `line_interval_s` instead.

        with Progress("generating", total=n_steps) as progress:
            for step in ...:
                progress.advance()

    Args:
        description: the work, as a verb: "generating".
        total: number of units; None while not known (see `update`).
        unit: "steps", "clips" …; "bytes" shows sizes and speed.
        initial: units done before, by a run that this one goes on with.

    A count that starts anew is a next phase, whose time left comes from its own speed.
    """

    def __init__(
        self,
        description: str,
        total: float | None = None,
        *,
        unit: str = "",
        initial: float = 0.0,
        delay_s: float = 1.0,
        line_interval_s: float = 30.0,
    ) -> None:
        self.description = description
        self.total = total
        self.initial = self.completed = initial
        self.unit = unit
        self.delay_s = delay_s
        self.line_interval_s = line_interval_s
        self._bar = None

    def __enter__(self) -> Progress:
        self._start_s = self._last_line_s = time.monotonic()
        self._phase_start_s = self._last_update_s = self._start_s
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.erase()

    def erase(self) -> None:
        """Take the bar off the terminal, until the next update."""
        bar, self._bar = self._bar, None
        _drawn.discard(self)
        if bar is not None:
            bar.stop()

    def advance(self, amount: float = 1) -> None:
        """Count `amount` more units as done."""
        self.update(completed=self.completed + amount)

    def report(self, n_done: int, n_total: int) -> None:
        """Set both counts: the `on_progress` of tasks."""
        self.update(completed=n_done, total=n_total)

    def update(
        self,
        *,
        completed: float | None = None,
        total: float | None = None,
        description: str | None = None,
    ) -> None:
        """Set the units done, their number, or the description."""
        if completed is not None and completed < self.completed:
            self._phase_start_s, self.initial = self._last_update_s, 0
        self._last_update_s = time.monotonic()
        self.completed = self.completed if completed is None else completed
        self.total = self.total if total is None else total
        self.description = description or self.description
        # On a dumb terminal, such as an editor's, no cursor goes back.
        if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
            self._print_line()
        elif time.monotonic() - self._start_s >= self.delay_s:
            self._draw_bar()

    def _draw_bar(self) -> None:
        bar = self._bar or self._make_bar()
        bar.update(
            bar.task_ids[0],
            description=self.description,
            completed=self.completed,
            total=self.total,
            time_left=self._time_left(),
        )
        if self._bar is None:
            self._bar = bar
            _drawn.add(self)
            bar.start()

    def _make_bar(self):
        from rich import progress
        from rich.console import Console

        counts = (
            (progress.DownloadColumn(), progress.TransferSpeedColumn())
            if self.unit == "bytes"
            else (progress.MofNCompleteColumn(), progress.TextColumn(self.unit))
        )
        bar = progress.Progress(
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            *counts,
            progress.TextColumn("{task.fields[time_left]}"),
            console=Console(stderr=True),
            transient=True,
            redirect_stdout=False,  # results are printed by `_echo`
        )
        bar.add_task(self.description, time_left="")
        return bar

    def _print_line(self) -> None:
        now_s = time.monotonic()
        if now_s - self._last_line_s < self.line_interval_s:
            return
        self._last_line_s = now_s
        text = f"{self.description}: {self._amount(self.completed)}"
        if self.total is not None:
            completed = text.removesuffix(f" {self.unit}")  # named once
            text = f"{completed} of {self._amount(self.total)}"
        if time_left := self._time_left():
            text += f", {time_left}"
        note(text)

    def _time_left(self) -> str:
        """In words; nothing where it is not known, or at the end."""
        done = self.completed - self.initial
        if self.total is None or done <= 0 or self.completed >= self.total:
            return ""
        passed_s = time.monotonic() - self._phase_start_s
        return f"about {format_duration(passed_s * (self.total - self.completed) / done)} left"

    def _amount(self, amount: float) -> str:
        if self.unit == "bytes":
            return format_bytes(amount)
        return f"{math.floor(amount)} {self.unit}".rstrip()  # a part of a sound is none yet


_drawn: set[Progress] = set()
"""Those whose bar is on the terminal now."""


# --- sizes and times as people read them


def format_bytes(n_bytes: float) -> str:
    """Decimal units, as disks and downloads are labelled: 3.4 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.0f} B" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} TB"


def format_duration(duration_s: float) -> str:
    """45 s, 12 min, 3 h 20 min."""
    if round(duration_s) < 60:
        return f"{duration_s:.0f} s"
    hours, minutes = divmod(round(duration_s / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
