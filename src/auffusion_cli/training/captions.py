"""Captions of composed scenes, joined from those of their clips.

"dog barking" + "heavy rain"                    ->  "dog barking in heavy rain"
"A car horn honks." + "A bell rings."           ->  "A car horn honks and then a bell rings"
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

COUNTS = re.compile(
    r"\b(once|twice|thrice|one|two|three|four|five|six|single|double|triple|again|repeated(ly)?"
    r"|several|couple|few times)\b",
    re.IGNORECASE,
)
"""Words that count: a clip described with one is not repeated."""

PLACES = re.compile(
    r"^(?!.*\b(of|and|with|in|on|at)\b)(([\w-]+ ){0,3}(rain|wind|snow|traffic|fog)"
    r"|(an?|the) ([\w-]+ ){0,2}(storm|thunderstorm|blizzard|forest|jungle|crowd|street|city|park"
    r"|market|cafe|restaurant|tavern|station|office|factory|harbou?r|playground|classroom))$",
    re.IGNORECASE,
)
"""Backgrounds that suit the preposition "in"."""


@dataclass(frozen=True)
class Wordings:
    """Equally valid descriptions of a sound: captions, and short phrases ("dog barking")."""

    captions: tuple[str, ...]
    phrases: tuple[str, ...] = ()

    def draw(self, rng: random.Random, phrase_probability: float) -> str:
        """A random caption, or with the given probability a phrase, if there is one."""
        in_phrases = bool(self.phrases) and rng.random() < phrase_probability
        return rng.choice(self.phrases if in_phrases or not self.captions else self.captions)

    def without_counts(self) -> Wordings:
        """Those without words that count."""

        def uncounted(texts: tuple[str, ...]) -> tuple[str, ...]:
            return tuple(text for text in texts if not COUNTS.search(text))

        return Wordings(uncounted(self.captions), uncounted(self.phrases))


def caption_background(
    events: Sequence[str], background: str, in_phrases: bool, rng: random.Random
) -> str:
    """Caption of one or two events with a background: "dog barking in rain"."""
    if not in_phrases:
        event = " and ".join([_bare(events[0]), *map(_joined, events[1:])])
        back = _joined(background)
        templates = (
            "{event} and {back}",
            "{event} and {back} in the background",
            "{event}, and {back} in the background",
            "{event} while {back}",
            "{event} as {back}",
        )
        return rng.choice(templates).format(event=event, back=back)
    event, back = " and ".join(events), background
    templates = [
        "{event} with {back} in the background",
        "{event} and {back} in the background",
        "{event} and {back}",
        "{event} with {back}",
        "{event}, {back}",
        "{back} and {event}",
        "{back} with {event}",
    ]
    if len(events) > 1:  # already joined by an "and"
        templates = [template for template in templates if " and " not in template]
    if PLACES.search(back):
        templates += ["{event} in {back}"] * len(templates)
    return rng.choice(templates).format(event=event, back=back)


def caption_together(first: str, second: str, in_phrases: bool, rng: random.Random) -> str:
    """Caption of two simultaneous sounds."""
    if in_phrases:
        template = rng.choice(("{a} and {b}", "{a} and {b}", "{a} with {b}", "{a}, {b}"))
        return template.format(a=first, b=second)
    template = rng.choice(("{a} and {b}", "{a}, and {b}", "{a} and {b}", "{a} while {b}"))
    return template.format(a=_bare(first), b=_joined(second))


def caption_sequence(first: str, second: str, in_phrases: bool, rng: random.Random) -> str:
    """Caption of two sounds in sequence."""
    templates = ["{a} and then {b}", "{a}, then {b}", "{a} then {b}"]
    if in_phrases:
        templates += ["{a} followed by {b}", "{a} followed by {b}", "{b} after {a}"]
        return rng.choice(templates).format(a=first, b=second)
    return rng.choice(templates).format(a=_bare(first), b=_joined(second))


def _bare(sentence: str) -> str:
    return sentence.strip().rstrip(".!;, ")


def _joined(sentence: str) -> str:
    """A sentence as the later part of another: without period, and capitals only in acronyms."""
    sentence = _bare(sentence)
    first_word = sentence.split(" ", 1)[0]
    if first_word == "I" or first_word.startswith("I'") or first_word[1:] != first_word[1:].lower():
        return sentence
    return sentence[:1].lower() + sentence[1:]
