"""Two sounds at once in a prompt -> a prompt for each, to be denoised as layers.

A small UNet that is asked for a dog in rain makes mostly rain. Where a vocabulary knows both, each
is denoised by itself, by the name of its kind, which all its wordings were taught to mean, and the
log-mels are mixed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from auffusion_cli.diffusion.text import TextConditioner
from auffusion_cli.diffusion.vocabulary import Meaning, Vocabulary

AT_ONCE = re.compile(r"[,;+&]|\b(?:and|with|while|as|during|plus|over)\b", re.IGNORECASE)
"""Between two sounds that are heard at the same time."""
IN_PLACE = re.compile(r"\b(?:in|on|by|near|beside|against|amid|under|behind)\b", re.IGNORECASE)
"""Between a sound and where it is: only the sound of a background makes a layer of that."""
IN_ORDER = re.compile(r"\b(?:then|followed by|before|after|afterwards|until)\b", re.IGNORECASE)
"""Between sounds that are not heard at the same time."""
FAR = re.compile(
    r"\b(?:in the background|in the distance|far away|goes on)\b|\bdistant\b", re.IGNORECASE
)
"""Of a sound that is softer than the other."""
MIN_SIMILARITY = 0.7
"""Cosine of either sound with the nearest wording; not to be warned of, a lower one will do."""
MAX_JOINTS = 8
"""A prompt of more is not one of two sounds; both sides of each would have to be encoded."""
SOFTER_DB = -6.0
"""Gain of the softer one of two sounds, within what the scenes of the training had."""


@dataclass(frozen=True)
class Layer:
    """One of the sounds that a prompt asks for; by the name of its kind, where there are two."""

    prompt: str
    gain_db: float = 0.0


def layers_of(prompt: str, vocabulary: Vocabulary, text: TextConditioner) -> tuple[Layer, ...]:
    """Two layers, or the prompt as it is where it does not join two known sounds."""
    joints = [] if IN_ORDER.search(prompt) else list(_joints(prompt))
    if not 0 < len(joints) <= MAX_JOINTS:
        return (Layer(prompt),)
    texts = list(dict.fromkeys([prompt, *(FAR.sub("", t) for joint in joints for t in joint[:2])]))
    known = dict(zip(texts, vocabulary.meanings(text, texts), strict=True))

    def meanings(joint: tuple[str, str, bool]) -> tuple[Meaning, Meaning]:
        first, second, _ = joint
        return known[FAR.sub("", first)], known[FAR.sub("", second)]

    def fit(joint: tuple[str, str, bool]) -> float:
        """How well both sides are known; 0 where they are no two layers."""
        one, two = meanings(joint)
        if one.kind == two.kind or (joint[2] and not two.is_background):
            return 0.0
        return min(one.similarity, two.similarity)

    best = max(joints, key=fit)
    # A wording of a single kind may have a joint as well: "seagulls by the sea".
    if fit(best) < MIN_SIMILARITY or fit(best) <= known[prompt].similarity:
        return (Layer(prompt),)
    softer = [
        bool(FAR.search(side)) or meaning.is_background
        for side, meaning in zip(best[:2], meanings(best), strict=True)
    ]
    return tuple(
        Layer(meaning.kind, SOFTER_DB if soft and not all(softer) else 0.0)
        for meaning, soft in zip(meanings(best), softer, strict=True)
    )


def _joints(prompt: str) -> Iterator[tuple[str, str, bool]]:
    """What is before and after each word that may join two sounds; whether it names a place."""
    for pattern in (AT_ONCE, IN_PLACE):
        for match in pattern.finditer(prompt):
            before, after = (
                side.strip(" ,.;!?") for side in (prompt[: match.start()], prompt[match.end() :])
            )
            if all(re.search(r"\w", FAR.sub("", side)) for side in (before, after)):
                yield before, after, pattern is IN_PLACE
