"""Which words hold when: `0-3s a dog barks; 2-6s rain; 6-10s thunder`. No torch."""

from __future__ import annotations

import errno
from dataclasses import dataclass

from auffusion_cli.errors import UsageError
from auffusion_cli.requests.masks import TOLERANCE_S, parse_times

OPTION = "--timeline"
EXAMPLE = '--timeline "0-3s a dog barks; 2-6s rain; 6-10s thunder", or a file with such lines'
MIN_REGION_S = 0.5
"""A column of the embedded model's latent lasts 0.32 s."""
MAX_REGIONS = 100
LONGEST = "the longest possible sound"
"""What messages call the sound while its duration is not known."""
MAX_FILE_BYTES = 100_000


@dataclass(frozen=True)
class Region:
    """A part of the sound with words of its own; regions may overlap."""

    start_s: float
    end_s: float
    prompt: str


def parse_timeline(text: str, duration_s: float, whole: str = "the sound") -> list[Region]:
    """The regions of a sound that lasts `duration_s`, by when they start.

    Entries are apart by a semicolon or a new line. Each is a time as `masks.parse_times` reads it,
    or several with commas and no space between them, and after a space the words. `whole` is what
    messages call the sound.

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
                f"{OPTION} {times!r} is neither a time and words nor a file that is there.",
                hint=f"Valid: {EXAMPLE}.",
            )
        [prompt] = words
        for span in parse_times([times], duration_s, OPTION, whole):
            if span.end - span.start < MIN_REGION_S - 1e-9:
                raise UsageError(
                    f"{OPTION} {entry.strip()!r} is too short: {span.end - span.start:g} s.",
                    hint=f"At least {MIN_REGION_S:g} s is needed.",
                )
            regions.append(Region(span.start, span.end, prompt.strip()))
    if not regions:
        raise UsageError(f"{OPTION} is empty.", hint=f"Valid: {EXAMPLE}.")
    if len(regions) > MAX_REGIONS:
        raise UsageError(f"{OPTION} has {len(regions)} regions; at most {MAX_REGIONS} are made.")
    return sorted(regions, key=lambda region: region.start_s)


def timeline_duration(text: str, longest_s: float) -> float | None:
    """When the last region ends; None where one is open (`6s-`) and the text does not say.

    Raises:
        UsageError: an entry cannot be read, or ends after `longest_s`.
    """
    end_s = max(region.end_s for region in parse_timeline(text, longest_s, LONGEST))
    return None if end_s >= longest_s - TOLERANCE_S else end_s


def read_timeline(value: str) -> str:
    """What is given to the option -> the entries on one line: what the file says, if it is one.

    Raises:
        UsageError: the file cannot be read, or is no text.
    """
    lines = value.splitlines()
    try:
        with open(value, "rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
        if len(content) > MAX_FILE_BYTES:
            raise UsageError(f"{OPTION} {value}: has more than {MAX_FILE_BYTES:,} bytes.")
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise UsageError(f"{OPTION} {value}: is not UTF-8 text.") from None
    except (FileNotFoundError, ValueError):  # a null character is no part of a name
        pass
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise UsageError(f"{OPTION} {value}: {error.strerror}.") from None
    return "; ".join(" ".join(line.split()) for line in lines if line.strip())
