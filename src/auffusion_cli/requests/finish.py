"""What is done to a sound after it is made: low cut, fades, channels, rate, level. No torch."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Any

from auffusion_cli.config import MAX_RATE_HZ, MIN_RATE_HZ, Limits
from auffusion_cli.errors import UsageError
from auffusion_cli.requests.checks import check_flag, check_limits

FINISH_OPTIONS = {
    "low_cut_hz": "--low-cut",
    "fade_in_s": "--fade-in",
    "fade_out_s": "--fade-out",
    "loudness_lufs": "--loudness",
    "peak_db": "--peak",
    "rate_hz": "--rate",
    "channels": "--channels",
    "broadcast": "--broadcast",
    "extend_band": "--extend-band",
}
"""Field of `Finish` -> its option."""
FINISH_LIMITS = {
    "low_cut_hz": Limits(10.0, 1_000.0, unit=" Hz"),
    "fade_in_s": Limits(0.0, 3600.0, unit=" s"),
    "fade_out_s": Limits(0.0, 3600.0, unit=" s"),
    # From the absolute gate of BS.1770 to what no recording exceeds.
    "loudness_lufs": Limits(-70.0, -5.0, unit=" LUFS"),
    "peak_db": Limits(-60.0, 0.0, unit=" dB"),
    "rate_hz": Limits(MIN_RATE_HZ, MAX_RATE_HZ, whole=True, unit=" Hz"),
    "channels": Limits(1, 2, whole=True),
}
MIN_EXTENDED_HZ = 22_050
DEFAULT_PEAK_DB = -1.0
"""Highest true peak of a sound whose loudness is set (EBU R 128, 2023)."""
LEVEL = re.compile(r"([-+]?[0-9]{1,3}(?:\.[0-9]{1,6})?)\s*([a-z]*)")
HZ_TEXT = re.compile(r"([0-9]{1,7}(?:\.[0-9]{1,6})?)\s*(hz|k|khz|)")


@dataclass(frozen=True)
class Finish:
    """Low cut, fades, channels, rate and level of a finished sound; None leaves it as it is."""

    low_cut_hz: float | None = None
    """What is below is taken away."""
    fade_in_s: float = 0.0
    fade_out_s: float = 0.0
    loudness_lufs: float | None = None
    """Integrated loudness (ITU-R BS.1770-5), reached as far as the peak allows."""
    peak_db: float | None = None
    """True peak over full scale: the sound's own, or with a loudness the highest it may have, by
    default `DEFAULT_PEAK_DB`."""
    rate_hz: int | None = None
    channels: int | None = None
    """2 makes a stereo image of one channel and folds more than two; 1 is the mean of several."""
    broadcast: bool = False
    """A wav gets the fields of the Broadcast Wave Format (EBU Tech 3285)."""
    extend_band: bool = False
    """What a sound of a lower rate lacks above half of it is made, up to 20 kHz."""

    def __post_init__(self) -> None:
        for name, limits in FINISH_LIMITS.items():
            value = getattr(self, name)
            if value is not None or name in ("fade_in_s", "fade_out_s"):
                check_limits(FINISH_OPTIONS[name], value, limits)
        for name in ("broadcast", "extend_band"):
            check_flag(FINISH_OPTIONS[name], getattr(self, name))
        if self.extend_band and (self.rate_hz or 0) < MIN_EXTENDED_HZ:
            raise UsageError(
                f"--extend-band needs a --rate from {MIN_EXTENDED_HZ} Hz, with room above 8 kHz",
                hint="For example: --rate 48000 --extend-band.",
            )

    @property
    def ceiling_db(self) -> float:
        """The highest true peak that a set loudness may lead to."""
        return DEFAULT_PEAK_DB if self.peak_db is None else self.peak_db

    def to_dict(self) -> dict[str, Any]:
        """What is asked for, without the rest."""
        return {
            field.name: value
            for field in fields(self)
            if (value := getattr(self, field.name)) != field.default
        }


def parse_loudness(text: str) -> float:
    """`-16LUFS`, `-16` -> LUFS. Raises UsageError."""
    return _parse_level(text, "--loudness", ("", "lufs", "lkfs"), "-16LUFS or -23")


def parse_peak(text: str) -> float:
    """`-1dB`, `-1dBTP`, `-1` -> dB. Raises UsageError."""
    return _parse_level(text, "--peak", ("", "db", "dbtp", "dbfs"), "-1dB or -3")


def parse_decibels(text: str, option: str) -> float:
    """`12dB`, `-6` -> dB. Raises UsageError, which names `option`."""
    return _parse_level(text, option, ("", "db"), "12dB or 6")


def parse_rate(text: str) -> int:
    """`48000`, `48k`, `44.1kHz` -> Hz. Raises UsageError."""
    rate_hz = _parse_hz(text, "--rate", "48000, 44.1k or 48kHz")
    if rate_hz < 1000 and text.strip()[-1].isdigit():
        raise UsageError(f"--rate {text} would be in Hz", hint=f"For kHz: --rate {rate_hz:g}k.")
    return round(rate_hz)


def parse_low_cut(text: str) -> float:
    """`30`, `80Hz`, `0.1k` -> Hz. Raises UsageError."""
    return _parse_hz(text, "--low-cut", "30 or 80Hz")


def _parse_hz(text: str, option: str, examples: str) -> float:
    match = HZ_TEXT.fullmatch(text.strip().lower())
    if not match:
        raise UsageError(f"{option} {text!r:.40} is no frequency", hint=f"Valid: {examples}.")
    return float(match[1]) * (1000 if match[2].startswith("k") else 1)


def _parse_level(text: str, option: str, units: tuple[str, ...], examples: str) -> float:
    match = LEVEL.fullmatch(text.strip().lower())
    if not match or match[2] not in units:
        raise UsageError(f"{option} {text!r:.40} is not a level", hint=f"Valid: {examples}.")
    return float(match[1])
