import numpy as np
import pytest

from auffusion_cli.diffusion.layers import (
    EVENT_ENTERS_S,
    SECOND_ENTERS_S,
    SOFTER_DB,
    Layer,
    layers_of,
    sequence_of,
)
from auffusion_cli.diffusion.vocabulary import Vocabulary

WORDS = ("dog", "cat", "rain", "wind", "night", "strange")


class Text:
    """The rows of a prompt: one for each of WORDS in it, along an axis of its own, and one more."""

    def hidden_states(self, encoder, texts):
        rows = np.zeros((len(texts), 12, 1 + len(WORDS)), np.float32)
        rows[:, -1, -1] = 0.1
        for text, states in zip(texts, rows, strict=True):
            for word, state in zip(text.lower().split(), states, strict=False):
                if word.strip(",.") in WORDS:
                    state[WORDS.index(word.strip(",."))] = 1.0
        return rows


def sentences(*texts):
    rows = Text().hidden_states(0, texts).sum(axis=1)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def vocabulary():
    """Dogs, cats, rain and wind, of which the last two are backgrounds; "night" is of no kind."""
    return Vocabulary(
        kinds=("dog barking", "cat meowing", "rain falling", "wind"),
        sentences=sentences("dog", "cat", "rain", "wind", "night", "cat wind"),
        kind_of=np.array([0, 1, 2, 3, -1, 1]),
        min_similarity=0.55,
        backgrounds=frozenset({"rain falling", "wind"}),
    )


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("dog in rain", [("dog barking", 0.0), ("rain falling", SOFTER_DB)]),
        ("Rain, dog.", [("rain falling", SOFTER_DB), ("dog barking", 0.0)]),
        ("a dog while there is rain", [("dog barking", 0.0), ("rain falling", SOFTER_DB)]),
        ("dog and cat", [("dog barking", 0.0), ("cat meowing", 0.0)]),
        ("rain + wind", [("rain falling", 0.0), ("wind", 0.0)]),
        ("dog and cat in the distance", [("dog barking", 0.0), ("cat meowing", SOFTER_DB)]),
    ],
)
def test_two_known_sounds_are_two_layers(vocabulary, prompt, expected):
    layers = layers_of(prompt, vocabulary, Text())
    assert [(layer.prompt, layer.gain_db) for layer in layers] == expected


@pytest.mark.parametrize(
    "prompt",
    [
        "dog",
        "dog and dog",
        "dog and strange",  # unknown
        "dog and night",  # no sound
        "rain by dog",  # a place is a background
        "dog, then cat",  # one after the other
        "cat in wind",  # a wording of one kind
        "and",
        "dog and",
        "dog, rain, " * 5,  # more than two
        "",
    ],
)
def test_all_else_is_one(vocabulary, prompt):
    assert layers_of(prompt, vocabulary, Text()) == (Layer(prompt),)


@pytest.mark.parametrize(
    ("prompt", "enters_s"),
    [
        ("dog in rain", (EVENT_ENTERS_S, 0.0)),
        ("rain, dog", (0.0, EVENT_ENTERS_S)),
        ("dog and cat", (0.0, SECOND_ENTERS_S)),
        ("dog and cat in the distance", (0.0, SECOND_ENTERS_S)),
        ("rain + wind", (0.0, 0.0)),
    ],
)
def test_each_sound_is_heard_by_itself_first(vocabulary, prompt, enters_s):
    assert tuple(layer.enters_s for layer in layers_of(prompt, vocabulary, Text())) == enters_s


@pytest.mark.parametrize(
    ("prompt", "sounds"),
    [
        ("dog, then cat", ("dog barking", "cat meowing")),
        ("A dog and then a cat.", ("dog barking", "cat meowing")),
        ("dog followed by cat, then rain", ("dog barking", "cat meowing", "rain falling")),
        ("a dog before the rain", ("dog barking", "rain falling")),
        ("rain until cat", ("rain falling", "cat meowing")),
        ("a dog, afterwards a cat", ("dog barking", "cat meowing")),
        ("Cat after dog", ("dog barking", "cat meowing")),
        ("dog, then cat in the distance", ("dog barking", "cat meowing")),
    ],
)
def test_sounds_that_follow_each_other_are_found_in_their_order(vocabulary, prompt, sounds):
    assert sequence_of(prompt, vocabulary, Text()) == sounds


@pytest.mark.parametrize(
    "prompt",
    [
        "dog",
        "dog and cat",
        "dog, then strange",  # unknown
        "dog before night",  # no sound
        "dog, then cat after rain",  # before what?
        "then dog",
        "dog afterwards",
        "dog then " * 20 + "dog",
        "",
    ],
)
def test_nothing_else_is_a_sequence(vocabulary, prompt):
    assert sequence_of(prompt, vocabulary, Text()) == ()
