from dataclasses import replace

import numpy as np
import pytest

from auffusion_cli.diffusion.text import TextReader
from auffusion_cli.diffusion.tokens import align_tokens, rows_of_words
from auffusion_cli.errors import UsageError
from auffusion_cli.requests.word_edits import edit_words, find_words

PROMPT = "dog barking in rain, dog"
T = 77


@pytest.fixture(scope="module")
def text(wordy_model):
    return wordy_model.text


def token_texts(encoder, prompt, rows):
    tokens = encoder.tokens(prompt)
    return [prompt[tokens[row].start : tokens[row].end] for row in rows]


def test_words_have_all_of_their_tokens(text):
    [encoder] = text.encoders
    rows = rows_of_words(text, PROMPT)
    spelt = ["".join(token_texts(encoder, PROMPT, word)).strip() for word in rows]
    assert spelt == [word.text for word in find_words(PROMPT)]
    assert max(len(word) for word in rows) > 1  # the tiny tokenizer cuts words to pieces


def test_a_second_encoders_tokens_come_behind_the_firsts(text):
    [encoder] = text.encoders
    both = TextReader([encoder, replace(encoder, max_length=20)])
    one = rows_of_words(text, "dog rain")
    assert rows_of_words(both, "dog rain") == [rows + [T + row for row in rows] for rows in one]
    edit = align_tokens(both, edit_words("dog rain", ["dog=cat"]))
    alone = align_tokens(text, edit_words("dog rain", ["dog=cat"]))
    assert np.array_equal(edit.moved[:T, :T], alone.moved)
    assert not edit.moved[:T, T:].any() and not edit.moved[T:, :T].any()


def test_stable_diffusions_padding_stands_for_no_word(text):
    [encoder] = text.encoders
    padded = replace(encoder, max_length=T, pads_tokens=True)
    assert padded.tokens(PROMPT) == encoder.tokens(PROMPT)


def test_nothing_is_moved_without_an_edit(text):
    edit = align_tokens(text, edit_words(PROMPT))
    assert np.array_equal(edit.moved, np.eye(T))
    assert not edit.own.any() and (edit.weights == 1).all()


@pytest.mark.parametrize("swap", ["dog=cat", "rain=thunderstorm", "barking=mew", "dog barking=a"])
def test_a_swap_loses_no_attention(text, swap):
    edit = align_tokens(text, edit_words(PROMPT, [swap]))
    np.testing.assert_allclose(edit.moved.sum(axis=1), 1, rtol=1e-5)
    assert not edit.own.any()
    after = edit_words(PROMPT, [swap]).prompt
    old, new = rows_of_words(text, PROMPT)[-1], rows_of_words(text, after)[-1]
    moved = edit.moved[old][:, new]
    assert moved.sum() == pytest.approx(len(old))


def test_new_words_keep_their_own_attention(text):
    words = edit_words("dog in rain", refine="a loud …, far", reweights=["loud=2"])
    edit = align_tokens(text, words)
    rows = rows_of_words(text, words.prompt)
    new = {row for word in (0, 1, 5) for row in rows[word]}
    own = set(np.flatnonzero(edit.own).tolist())
    # The comma is new as well.
    assert new <= own and len(own) == len(new) + 1
    assert set(np.flatnonzero(edit.weights == 2).tolist()) == set(rows[1])


def test_a_word_that_is_not_read_cannot_be_edited(text):
    long = "dog " * 80 + "rain"
    with pytest.raises(UsageError, match="'rain'"):
        align_tokens(text, edit_words(long, reweights=["rain=2"]))
    align_tokens(text, edit_words(long, ["dog#1=cat"]))
