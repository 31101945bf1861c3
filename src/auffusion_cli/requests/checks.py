"""Checks that requests of several tasks share. No torch."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

from auffusion_cli.config import Limits
from auffusion_cli.errors import UsageError
from auffusion_cli.requests.seeds import MAX_SEED

MAX_PROMPT_CHARACTERS = 10_000


def check_words(prompt: Any, negative_prompt: Any, *, may_be_empty: bool = False) -> None:
    """Raise a UsageError unless both are text, and the prompt is not empty."""
    is_empty = not isinstance(prompt, str) or not prompt.strip()
    if is_empty and not (may_be_empty and prompt == ""):
        raise UsageError("the prompt is empty", hint='Try "dog barking in rain".')
    check_text("the prompt", prompt)
    check_text("--negative", negative_prompt)


def check_seed(seed: Any, option: str = "--seed") -> None:
    """Raise a UsageError unless `seed` is one."""
    if not _is_int(seed) or not 0 <= seed <= MAX_SEED:
        raise UsageError(f"{option} {shown(seed)} is not a whole number from 0 to 2^63 - 1")


def check_source(name: Any, sha256: Any) -> None:
    """Raise a UsageError unless this is the bare name of a file, and a checksum."""
    check_text("the source's name", name)
    if not name or name in (".", "..") or "/" in name or "\\" in name:
        raise UsageError(f"the source {shown(name)} is not a file name")
    if not isinstance(sha256, str) or not re.fullmatch("[0-9a-f]{64}", sha256):
        raise UsageError("the source's SHA-256 is not 64 hexadecimal digits")


def check_text(name: str, text: Any) -> None:
    """Raise a UsageError unless `text` is reasonable text without control characters.

    Prompts come from files too, and are printed: an escape sequence must not reach a terminal.
    """
    if not isinstance(text, str):
        raise UsageError(f"{name} is not text: {shown(text)}")
    if len(text) > MAX_PROMPT_CHARACTERS:
        raise UsageError(
            f"{name} is too long: {len(text):,} characters",
            hint=f"There can be {MAX_PROMPT_CHARACTERS:,}.",
        )
    for character in text:
        if unicodedata.category(character) in ("Cc", "Cs") and character not in "\t\n\r":
            raise UsageError(f"{name} has a character that is not text: U+{ord(character):04X}")


def check_texts(option: str, texts: Any, most: int) -> tuple[str, ...]:
    """The `texts` of an option, which a record in a file has as a list; UsageError as of
    `check_text`, or where they are none, or more than `most`."""
    if not isinstance(texts, list | tuple) or len(texts) > most:
        raise UsageError(f"{option}: not a list of up to {most}")
    for text in texts:
        check_text(option, text)
    return tuple(texts)


def check_limits(option: str, value: Any, limits: Limits) -> None:
    """Raise a UsageError that names `option`, unless `limits` allow the value."""
    if not limits.allow(value):
        raise UsageError(f"{option} {shown(value)} is not possible", hint=f"Valid: {limits}.")


def shown(value: Any) -> str:
    """`value` in a message, which it may not fill: a record can hold anything."""
    try:
        shown = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits
        shown = f"of type {type(value).__name__}"
    return shown if len(shown) <= 80 else f"{shown[:79]}…"


def check_flag(option: str, value: Any) -> None:
    """Raise a UsageError that names `option`, unless the value is true or false."""
    if not isinstance(value, bool):
        raise UsageError(f"{option} {shown(value)} is not possible", hint="Valid: true or false.")


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
