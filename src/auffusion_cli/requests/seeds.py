"""Seeds of sounds: drawn, and derived from a list's. No torch."""

from __future__ import annotations

import hashlib
import secrets

MAX_SEED = 2**63 - 1


def draw_seed() -> int:
    """A fresh seed, short enough to be typed again."""
    return secrets.randbelow(2**32)


def seed_after(seed: int, n: int) -> int:
    """The seed `n` after `seed`, which is itself the 0th; after the highest comes 0."""
    return (seed + n) % (MAX_SEED + 1) if n else seed  # an impossible one stays impossible


def line_seed(seed: int, line: int) -> int:
    """Seed of a line of a list, from the list's seed and the line's number alone.

    With one seed for all lines their sounds would be alike in time: the same noise has its events
    at the same moments, whatever the prompt.
    """
    return text_seed(seed, str(line))


def text_seed(seed: int, text: str) -> int:
    """Seed of a sound that is known by `text`, such as its name."""
    digest = hashlib.sha256(f"{seed}:{text}".encode()).digest()
    return int.from_bytes(digest[:4], "big")
