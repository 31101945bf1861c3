"""Timelines: prompts for parts of a sound, `0-3s a dog barks; 2-6s rain`. No torch."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from auffusion_cli.errors import UsageError
from auffusion_cli.parsing import read_text
from auffusion_cli.requests.masks import TOLERANCE_S, parse_times

OPTION = "--timeline"
EXAMPLE = '--timeline "0-3s a dog barks; 2-6s rain; 6-10s thunder", or a file with such lines'
NEXT_REGION = re.compile(r"[,|/&]\s*[0-9][0-9.:]*m?s?[-–][0-9][0-9.:]*m?s?:?\s")
"""A time within words, as where a comma was typed for the semicolon."""
MIN_REGION_S = 0.5
"""A column of the embedded model's latent lasts 0.32 s."""
MAX_REGIONS = 100
LONGEST = "the longest possible sound"
"""Name of the sound in messages while its duration is not known."""
MAX_FILE_BYTES = 100_000


@dataclass(frozen=True)
class Region:
    """A part of the sound with a prompt of its own; regions may overlap."""

    start_s: float
    end_s: float
    prompt: str


def parse_timeline(text: str, duration_s: float, whole: str = "the sound") -> list[Region]:
    """The regions of a sound that lasts `duration_s`, sorted by their start.

    Entries are separated by semicolons or line breaks. Each is a time as `masks.parse_times` reads
    it, or several with commas and no space between them, a colon or none, and after a space the
    prompt. `whole` names the sound in messages.

    Raises:
        UsageError: an entry cannot be read, or lies outside of the sound; shows what is valid.
    """
    regions = []
    for entry in text.replace("\n", ";").split(";"):
        if not entry.strip():
            continue
        times, *words = entry.split(maxsplit=1)
        if not words:
            raise UsageError(
                f"{OPTION} {times!r} is neither a time with a prompt nor an existing file",
                hint=f"Valid: {EXAMPLE}.",
            )
        [prompt] = words
        if NEXT_REGION.search(prompt):
            raise UsageError(
                f"{OPTION} {entry.strip()!r:.100}: a semicolon or a new line goes between regions",
                hint=f"Valid: {EXAMPLE}.",
            )
        for span in parse_times([times.removesuffix(":")], duration_s, OPTION, whole):
            if span.end - span.start < MIN_REGION_S - 1e-9:
                raise UsageError(
                    f"{OPTION} {entry.strip()!r} is too short: {span.end - span.start:g} s",
                    hint=f"At least {MIN_REGION_S:g} s is needed.",
                )
            regions.append(Region(span.start, span.end, prompt.strip()))
    if not regions:
        raise UsageError(f"{OPTION} is empty", hint=f"Valid: {EXAMPLE}.")
    if len(regions) > MAX_REGIONS:
        raise UsageError(f"{OPTION} has {len(regions)} regions; at most {MAX_REGIONS} are made")
    return sorted(regions, key=lambda region: region.start_s)


def timeline_duration(text: str, longest_s: float) -> float | None:
    """The end of the last region; None where one is open (`6s-`), so that the text has no end.

    Raises:
        UsageError: an entry cannot be read, or ends after `longest_s`.
    """
    end_s = max(region.end_s for region in parse_timeline(text, longest_s, LONGEST))
    return None if end_s >= longest_s - TOLERANCE_S else end_s


def read_timeline(value: str) -> str:
    """The value of the option, entries or the name of a file with entries -> entries in one line.

    Raises:
        UsageError: the file cannot be read, is too large, or is no text.
    """
    text = value
    if _exists(value):
        where = f"{OPTION} {value}"
        text = read_text(Path(value), max_bytes=MAX_FILE_BYTES, raising=UsageError, where=where)
    return "; ".join(" ".join(line.split()) for line in text.splitlines() if line.strip())


def _exists(value: str) -> bool:
    try:
        return os.path.lexists(value)
    except (OSError, ValueError):  # too long, or with a NUL: entries, not a name
        return False
