"""Spans of time and bands of frequency, as users write them. No torch.

`2-4s`, `2.5-4`, `500-900ms`, `0:58-1:03.5`, `-1s` (from the start), `8s-` (to the end); `4k-8k`,
`0-500`, `4k-`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from auffusion_cli.errors import UsageError

NUMBER = r"(?:[0-9]{1,9}(?:\.[0-9]{0,9})?|\.[0-9]{1,9})"
CLOCK = r"(?:[0-9]{1,3}:)?[0-9]{1,3}:[0-5][0-9](?:\.[0-9]{0,9})?"
"""Minutes and seconds, 1:03.5, or hours before them."""
RANGE = re.compile(rf"({CLOCK}|{NUMBER})?([a-z]*)\s*-\s*({CLOCK}|{NUMBER})?([a-z]*)")
DURATION = re.compile(rf"({CLOCK}|{NUMBER})\s*([a-z]*)")

SECONDS = {"": 1.0, "s": 1.0, "ms": 1e-3}
HERTZ = {"": 1.0, "hz": 1.0, "k": 1e3, "khz": 1e3}
TOLERANCE_S = 0.01
"""Lengths are shown and typed rounded: an end this little behind the clip's end is its end."""


@dataclass(frozen=True)
class Span:
    """An interval, in seconds or in Hz."""

    start: float
    end: float


def parse_times(
    texts: Sequence[str], duration_s: float, option: str = "--mask", whole: str = "the clip"
) -> list[Span]:
    """Spans of a clip that lasts `duration_s`, in order; each text may hold several, with commas.

    `whole` names the clip in messages.

    Raises:
        UsageError: a text is no span, or spans are empty, reversed, outside of the clip, or
            overlap; where the clip's length matters, the message states it.
    """
    whole = f"{whole}, which lasts {duration_s:.3f} s"
    spans = []
    for text in _split(texts, option):
        start, end = _parse_range(text, option, SECONDS, inherit=True, examples=TIME_EXAMPLES)
        if start is not None and start >= duration_s:
            raise UsageError(f"{option} {text} lies outside of {whole}")
        if end is not None and end > duration_s + TOLERANCE_S:
            raise UsageError(f"{option} {text} reaches beyond {whole}")
        span = Span(start or 0.0, duration_s if end is None else min(end, duration_s))
        _check_order(option, text, span)
        spans.append((span, text))
    return _in_order(spans, option, whole)


def parse_bands(texts: Sequence[str], top_hz: float, option: str = "--band") -> list[Span]:
    """Bands of the frequencies from 0 to `top_hz`, like `parse_times`.

    A lower edge without a unit takes the upper one's where that gives a band: 4-8k is 4 to 8 kHz,
    and 500-2k is 500 Hz to 2 kHz.
    """
    whole = f"what the model makes, which is 0 to {top_hz:g} Hz"
    bands = []
    for text in _split(texts, option):
        start, end = _parse_range(text, option, HERTZ, inherit=True, examples=BAND_EXAMPLES)
        if start is not None and end is not None and start >= end:
            start, end = _parse_range(text, option, HERTZ, inherit=False, examples=BAND_EXAMPLES)
        if max(start or 0.0, end or 0.0) > top_hz or start == top_hz:
            raise UsageError(f"{option} {text} reaches beyond {whole}")
        band = Span(start or 0.0, top_hz if end is None else end)
        _check_order(option, text, band)
        bands.append((band, text))
    return _in_order(bands, option, whole)


def parse_duration(text: str, option: str) -> float:
    """`20ms`, `0.5s`, `0.5` or `1:30` -> seconds."""
    match = DURATION.fullmatch(text.strip().lower())
    if not match or match[2] not in SECONDS or (":" in match[1] and match[2]):
        raise UsageError(
            f"{option} {text!r} is not a duration", hint="Valid: 2s, 0.5, 800ms or 1:30."
        )
    return _value(match[1], match[2], SECONDS)


TIME_EXAMPLES = "2-4s, 2.5-4, 500-900ms, 0:58-1:03.5, -1s (from the start), 8s- (to the end)"
BAND_EXAMPLES = "4k-8k, 0-500, 500-2k, 4k- (to the top)"


def _split(texts: Sequence[str], option: str) -> list[str]:
    parts = [part.strip() for text in texts for part in text.split(",")]
    if not all(parts):
        raise UsageError(f"{option} is empty")
    return parts


def _parse_range(
    text: str, option: str, units: dict[str, float], *, inherit: bool, examples: str
) -> tuple[float | None, float | None]:
    """(start, end) of `text`, None where it is open; with `inherit` both share the end's unit."""
    match = RANGE.fullmatch(text.lower().replace("–", "-"))  # an en dash, as editors make it
    valid = match and (match[1] or match[3])
    if valid:
        start, start_unit, end, end_unit = match.groups()
        # A unit without a number before it is nothing.
        valid = (start or not start_unit) and (end or not end_unit)
        valid = valid and start_unit in units and end_unit in units
        for number, unit in ((start or "", start_unit), (end or "", end_unit)):
            valid = valid and (":" not in number or (units is SECONDS and not unit))
    if not valid:
        raise UsageError(f"{option} {text!r} cannot be read", hint=f"Valid: {examples}.")
    if inherit and start is not None and end is not None and ":" not in start:
        start_unit = start_unit or end_unit
    return (
        None if start is None else _value(start, start_unit, units),
        None if end is None else _value(end, end_unit, units),
    )


def _value(number: str, unit: str, units: dict[str, float]) -> float:
    value = 0.0
    for part in number.split(":"):  # hours and minutes count sixty of what follows
        value = 60 * value + float(part)
    return value * units[unit]


def _check_order(option: str, text: str, span: Span) -> None:
    if span.start == span.end:
        raise UsageError(f"{option} {text} is empty: it ends where it starts")
    if span.start > span.end:
        raise UsageError(f"{option} {text} ends before it starts")


def _in_order(spans: Sequence[tuple[Span, str]], option: str, whole: str) -> list[Span]:
    spans = sorted(spans, key=lambda pair: pair[0].start)
    for (left, left_text), (right, right_text) in pairwise(spans):
        if right.start < left.end:
            raise UsageError(f"{option} {left_text} and {right_text} overlap, in {whole}")
    return [span for span, _ in spans]
