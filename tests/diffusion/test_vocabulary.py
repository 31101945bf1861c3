import numpy as np
import pytest

from auffusion_cli.diffusion.vocabulary import (
    Unknown,
    Vocabulary,
    dequantised,
    quantised,
    sentences_of,
)

AXES = ("dog", "rain", "far", "strange", "stranger")


class Text:
    """Rows of a prompt: one a word, along an axis of its own."""

    def hidden_states(self, encoder, texts):
        assert encoder == 0
        rows = np.zeros((len(texts), 6, len(AXES)), np.float32)
        for text, states in zip(texts, rows, strict=True):
            for word, state in zip(text.split(), states, strict=False):
                state[AXES.index(word)] = 1.0
        return rows


@pytest.fixture
def vocabulary():
    return Vocabulary(
        kinds=("dog barking", "rain falling"),
        sentences=np.eye(len(AXES), dtype=np.float32)[[1, 0, 2]],
        kind_of=np.array([1, 0, -1]),
        min_similarity=0.6,
    )


def test_a_sentence_is_the_mean_of_its_tokens_without_the_padding():
    (sentence,) = sentences_of(Text(), ["dog rain"])
    np.testing.assert_allclose(sentence[:3], [0.5**0.5, 0.5**0.5, 0.0], rtol=1e-6)


@pytest.mark.parametrize("prompt", ["dog", "dog and rain", "dog, far", "", "!?", "dog far."])
def test_what_was_taught_is_known(vocabulary, prompt):
    assert vocabulary.unknown(Text(), prompt) == []


def test_unknown_words_are_told_apart_from_known_ones_with_the_nearest_kinds(vocabulary):
    found = vocabulary.unknown(Text(), "rain, then strange strange dog and strange")
    assert found == [
        Unknown("strange strange dog", ("dog barking", "rain falling")),
        Unknown("strange", ("rain falling", "dog barking")),
    ]


def test_a_part_is_told_once(vocabulary):
    assert len(vocabulary.unknown(Text(), "strange and strange")) == 1


def test_words_of_no_kind_are_never_the_nearest(vocabulary):
    (unknown,) = vocabulary.unknown(Text(), "strange stranger far")
    assert set(unknown.nearest) == set(vocabulary.kinds)


def test_words_of_no_kind_do_not_hide_unknown_ones(vocabulary):
    (unknown,) = vocabulary.unknown(Text(), "dog and strange far far")
    assert unknown.words == "strange far far"


def test_sentences_survive_their_file():
    sentences = np.random.default_rng(0).standard_normal((50, 384))
    sentences /= np.linalg.norm(sentences, axis=1, keepdims=True)
    restored = dequantised(quantised(sentences))
    assert (sentences * restored).sum(axis=1).min() > 0.999
    np.testing.assert_allclose(np.linalg.norm(restored, axis=1), 1, rtol=1e-5)
