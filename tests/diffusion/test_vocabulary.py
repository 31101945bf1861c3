import pytest
import torch

from auffusion_cli.diffusion.vocabulary import (
    Unknown,
    Vocabulary,
    dequantised,
    quantised,
    sentences_of,
)

AXES = ("dog", "rain", "far", "strange", "stranger")


class Encoder:
    """Rows of a prompt: one a word, along an axis of its own."""

    def encode_many(self, texts):
        rows = torch.zeros(len(texts), 6, len(AXES))
        for text, states in zip(texts, rows, strict=True):
            for word, state in zip(text.split(), states, strict=False):
                state[AXES.index(word)] = 1.0
        return rows


@pytest.fixture
def vocabulary():
    return Vocabulary(
        kinds=("dog barking", "rain falling"),
        sentences=torch.eye(len(AXES))[[1, 0, 2]],
        kind_of=torch.tensor([1, 0, -1]),
        min_similarity=0.6,
    )


def test_a_sentence_is_the_mean_of_its_tokens_without_the_padding():
    (sentence,) = sentences_of(Encoder(), ["dog rain"])
    torch.testing.assert_close(sentence[:3], torch.tensor([0.5**0.5, 0.5**0.5, 0.0]))


@pytest.mark.parametrize("prompt", ["dog", "dog and rain", "dog, far", "", "!?", "dog far."])
def test_what_was_taught_is_known(vocabulary, prompt):
    assert vocabulary.unknown(Encoder(), prompt) == []


def test_unknown_words_are_told_apart_from_known_ones_with_the_nearest_kinds(vocabulary):
    found = vocabulary.unknown(Encoder(), "rain, then strange strange dog and strange")
    assert found == [
        Unknown("strange strange dog", ("dog barking", "rain falling")),
        Unknown("strange", ("rain falling", "dog barking")),
    ]


def test_a_part_is_told_once(vocabulary):
    assert len(vocabulary.unknown(Encoder(), "strange and strange")) == 1


def test_words_of_no_kind_are_never_the_nearest(vocabulary):
    (unknown,) = vocabulary.unknown(Encoder(), "strange stranger far")
    assert set(unknown.nearest) == set(vocabulary.kinds)


def test_words_of_no_kind_do_not_hide_unknown_ones(vocabulary):
    (unknown,) = vocabulary.unknown(Encoder(), "dog and strange far far")
    assert unknown.words == "strange far far"


def test_sentences_survive_their_file():
    sentences = torch.nn.functional.normalize(torch.randn(50, 384), dim=1)
    restored = dequantised(quantised(sentences))
    assert (sentences * restored).sum(dim=1).min() > 0.999
    torch.testing.assert_close(restored.norm(dim=1), torch.ones(50))
