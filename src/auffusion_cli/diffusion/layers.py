"""Several sounds in a prompt -> a prompt for each: two at once, or some that follow each other.

A small UNet that is asked for a dog in rain makes mostly rain, and one that is asked for thunder,
then rain makes them in any order. Where a vocabulary knows all of them, each is denoised by itself,
by the name of its kind, which all its wordings were taught to mean: as layers whose log-mels are
mixed, or as regions of a timeline.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from auffusion_cli.diffusion.text import TextConditioner
from auffusion_cli.diffusion.vocabulary import Meaning, Vocabulary
from auffusion_cli.requests.request import GenerateRequest, TimelineRequest
from auffusion_cli.requests.timeline import MIN_REGION_S

AT_ONCE = re.compile(r"[,;+&]|\b(?:and|with|while|as|during|plus|over)\b", re.IGNORECASE)
"""Between two sounds that are heard at the same time."""
IN_PLACE = re.compile(r"\b(?:in|on|by|near|beside|against|amid|under|behind)\b", re.IGNORECASE)
"""Between a sound and where it is: only the sound of a background makes a layer of that."""
IN_ORDER = re.compile(
    r"\b((?:and )?then|followed by|before|after|afterwards|until)\b", re.IGNORECASE
)
"""Between sounds that are not heard at the same time."""
FAR = re.compile(
    r"\b(?:in the background|in the distance|far away|goes on)\b|\bdistant\b", re.IGNORECASE
)
"""Of a sound that is softer than the other."""
MIN_SIMILARITY = 0.7
"""Cosine of each sound with the nearest wording; not to be warned of, a lower one will do."""
MAX_JOINTS = 8
"""A prompt of more is not one of two sounds; both sides of each would have to be encoded."""
MAX_IN_ORDER = 10
"""Sounds that follow each other in a prompt of words; a longer list is one for a timeline."""
SOFTER_DB = -12.0
"""Gain of the softer one of two sounds."""
EVENT_ENTERS_S = 1.28
"""So long a background is heard alone, before what happens in it."""
SECOND_ENTERS_S = 2.0
"""So long the first of two events is heard alone."""
LATEST_SHARE = 0.4
"""The second of two sounds begins after this share of a short one at the latest."""


@dataclass(frozen=True)
class Layer:
    """One of the sounds that a prompt asks for; by the name of its kind, where there are two."""

    prompt: str
    gain_db: float = 0.0
    enters_s: float = 0.0
    """When it begins."""


@dataclass(frozen=True)
class Sounds:
    """What a request is made of."""

    layers: tuple[Layer, ...]
    in_order: bool = False
    """Whether each ends where the next one enters; else all of them go on to the end."""

    @property
    def names(self) -> tuple[str, ...]:
        """The sounds that the words were found to name, if several."""
        return tuple(layer.prompt for layer in self.layers) if len(self.layers) > 1 else ()

    @classmethod
    def whole(cls, request: GenerateRequest) -> Sounds:
        """A request whose words are not taken apart."""
        return cls((Layer(request.prompt),))


def sounds_of(
    request: GenerateRequest, duration_s: float, vocabulary: Vocabulary, text: TextConditioner
) -> Sounds:
    """The sounds that make up one of `duration_s`.

    Those that follow each other share it evenly, unless each would be too short; a timeline is
    taken as it is written, and a loop has no start that one of its sounds could wait for.
    """
    if isinstance(request, TimelineRequest):
        return Sounds.whole(request)
    names = () if request.loop else sequence_of(request.prompt, vocabulary, text)
    if names and duration_s >= MIN_REGION_S * len(names):
        each_s = duration_s / len(names)
        layers = tuple(Layer(name, enters_s=i * each_s) for i, name in enumerate(names))
        return Sounds(layers, in_order=True)
    latest_s = 0.0 if request.loop else LATEST_SHARE * duration_s
    layers = layers_of(request.prompt, vocabulary, text)
    return Sounds(tuple(replace(each, enters_s=min(each.enters_s, latest_s)) for each in layers))


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
    one, two = meanings(best)
    far_one, far_two = (bool(FAR.search(side)) for side in best[:2])
    gain_one, gain_two = _gains_db(far_one or one.is_background, far_two or two.is_background)
    enters_one, enters_two = _enters_s(one.is_background, two.is_background)
    return Layer(one.kind, gain_one, enters_one), Layer(two.kind, gain_two, enters_two)


def _gains_db(softer_one: bool, softer_two: bool) -> tuple[float, float]:
    if softer_one == softer_two:
        return 0.0, 0.0
    return (SOFTER_DB, 0.0) if softer_one else (0.0, SOFTER_DB)


def _enters_s(is_bed_one: bool, is_bed_two: bool) -> tuple[float, float]:
    """When each begins, so that each can be heard by itself."""
    if is_bed_one != is_bed_two:
        return (0.0, EVENT_ENTERS_S) if is_bed_one else (EVENT_ENTERS_S, 0.0)
    return 0.0, 0.0 if is_bed_one else SECOND_ENTERS_S


def sequence_of(prompt: str, vocabulary: Vocabulary, text: TextConditioner) -> tuple[str, ...]:
    """The names of the sounds that follow each other, the first one first.

    Empty where the prompt does not say so, or not all of them are known.
    """
    sides, joints = IN_ORDER.split(prompt)[::2], IN_ORDER.findall(prompt)
    sounds = [FAR.sub("", side).strip(" ,.;!?") for side in sides]
    if not 1 < len(sounds) <= MAX_IN_ORDER or not all(re.search(r"\w", each) for each in sounds):
        return ()
    if "after" in map(str.lower, joints):
        if len(joints) > 1:  # it says what came first, but not before what
            return ()
        sounds.reverse()
    whole, *each = vocabulary.meanings(text, [prompt, *sounds])
    fit = min(meaning.similarity for meaning in each)
    if fit < MIN_SIMILARITY or fit <= whole.similarity:
        return ()
    return tuple(meaning.kind for meaning in each)


def _joints(prompt: str) -> Iterator[tuple[str, str, bool]]:
    """What is before and after each word that may join two sounds; whether it names a place."""
    for pattern in (AT_ONCE, IN_PLACE):
        for match in pattern.finditer(prompt):
            before, after = (
                side.strip(" ,.;!?") for side in (prompt[: match.start()], prompt[match.end() :])
            )
            if all(re.search(r"\w", FAR.sub("", side)) for side in (before, after)):
                yield before, after, pattern is IN_PLACE
