"""Number of sound events that a prompt names. No torch.

The rule, for English captions as AudioCaps and Clotho have them: a prompt is cut at commas,
semicolons, full stops, at "&" and "+" between spaces, and at the words that join sounds (`JOINTS`);
each part that names something is one event. A part names nothing if all that it holds are adverbs
and other words that only describe how ("loudly", "again and again", "in the background"). "In rain"
is a sound of its own.

It counts the events that a caption separates, not sources: "a man and a woman talk" are two, "a
crowd cheers" is one. Two adjectives with a comma between them ("a large, heavy door") are counted
as two: the price of a rule that fits on a page.
"""

from __future__ import annotations

import re
from typing import Literal

JOINTS = (
    *("and then", "and", "then", "followed by", "before", "after", "while", "whilst", "as", "when"),
    *("with", "amid", "amidst", "alongside", "along with", "accompanied by", "plus"),
)
"""Words between two sounds."""

WEATHER = re.compile(r"\bin (?:a |the )?(rain|wind|storm|thunderstorm)\b")
"""Places that are a sound themselves: "a dog barking in rain"."""

MANNER = frozenset(
    re.findall(
        r"\w+",
        """a an the in at of on by to from it its is are again still once twice times more further
        away background foreground distance nearby far close closer together several many some few
        very soft loud fast slow low high quiet continuous""",
    )
)
"""Words that name no sound, besides those in -ly."""

PAIRS = re.compile(
    r"\b(\w+) (?:and|&) \1\b|\b(?:back and forth|up and down|in and out|on and off|over and out)\b"
)
"""An "and" that joins nothing: "louder and louder", "on and off"."""

JOINT = re.compile(r"[,;.:!?]+|\s[&+]\s|\b(?:" + "|".join(JOINTS) + r")\b")

Complexity = Literal["1 event", "2 events", "3 or more events"]


def count_events(prompt: str) -> int:
    """The number of events in `prompt`, at least 1."""
    text = WEATHER.sub(r", \1", PAIRS.sub(" again ", prompt.lower()))
    parts = [part for part in JOINT.split(text) if names_something(part)]
    return max(1, len(parts))


def complexity(n_events: int) -> Complexity:
    """The group that a prompt with so many events belongs to."""
    return {1: "1 event", 2: "2 events"}.get(n_events, "3 or more events")


def names_something(part: str) -> bool:
    """True if any word of `part` may name a sound, not only its manner or place."""
    words = re.findall(r"[^\W\d_]+", part.lower())
    return any(not (word in MANNER or word.endswith("ly")) for word in words)
