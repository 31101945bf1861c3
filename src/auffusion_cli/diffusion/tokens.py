"""Words of a prompt <-> tokens of its encoders, and an edit of words in terms of tokens.

T tokens: those of a second text encoder behind those of the first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

import numpy as np

from auffusion_cli.errors import UsageError
from auffusion_cli.requests.word_edits import WordEdit, find_words

if TYPE_CHECKING:
    from auffusion_cli.diffusion.text import TextReader, Token


def rows_of_words(text: TextReader, prompt: str) -> list[list[int]]:
    """The tokens that stand for each word of `prompt`, of all encoders.

    A word that the model does not read, because the prompt is too long, has none.
    """
    rows: list[list[int]] = [[] for _ in find_words(prompt)]
    first = 0
    for encoder in text.encoders:
        for row, word in enumerate(_word_of_token(encoder.tokens(prompt), prompt)):
            if word is not None:
                rows[word].append(first + row)
        first += encoder.max_length
    return rows


def _word_of_token(tokens: Sequence[Token], prompt: str) -> list[int | None]:
    """The number of each token's word; None for punctuation and what the tokenizer adds."""
    words = find_words(prompt)

    def word_at(token: Token) -> int | None:
        touched = (
            i for i, word in enumerate(words) if token.start < word.end and word.start < token.end
        )
        return next(touched, None)

    return [word_at(token) for token in tokens]


@dataclass(frozen=True)
class TokenEdit:
    """A `WordEdit` in terms of tokens; float32."""

    moved: np.ndarray
    """(T, T): the attention that each token of the source (rows) gives to those of the edit."""
    own: np.ndarray
    """(T,): 1 for tokens that stand for nothing in the source and keep their own attention."""
    weights: np.ndarray
    """(T,): factors of the attention to each token of the edit."""


def align_tokens(text: TextReader, edit: WordEdit) -> TokenEdit:
    """The tokens of the source prompt that each token of the edit takes its attention from.

    Words that become words of as many tokens give theirs one to one. Otherwise the attention to all
    tokens of the old is shared out evenly among those of the new, so that none is lost (Hertz et
    al. 2022, section 3.2). What the tokenizer adds, punctuation and padding keep their places.

    Raises:
        UsageError: an edited word is not read by the model.
    """
    edited_rows, words = rows_of_words(text, edit.prompt), find_words(edit.prompt)
    for i in edit.edited_words:
        if not edited_rows[i]:
            raise UsageError(
                f"The model does not read {words[i].text!r}: the prompt is too long for it"
            )
    parts = [_align(encoder.tokens, encoder.max_length, edit) for encoder in text.encoders]
    moved, own, weights = zip(*parts, strict=True)
    return TokenEdit(_block_diagonal(moved), np.concatenate(own), np.concatenate(weights))


def _block_diagonal(blocks: Sequence[np.ndarray]) -> np.ndarray:
    """(N, N): square blocks one after the other along the diagonal, and 0 elsewhere."""
    whole = np.zeros(2 * (sum(len(block) for block in blocks),), np.float32)
    start = 0
    for block in blocks:
        whole[start : start + len(block), start : start + len(block)] = block
        start += len(block)
    return whole


def _align(
    tokenize: Callable[[str], list[Token]], n_rows: int, edit: WordEdit
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(moved, own, weights) for one encoder of `n_rows`."""
    source, target = tokenize(edit.source), tokenize(edit.prompt)
    source_words = _word_of_token(source, edit.source)
    target_words = _word_of_token(target, edit.prompt)
    moved = np.zeros((n_rows, n_rows), np.float32)

    for match in edit.matches:
        old = [row for row, word in enumerate(source_words) if word in match.sources]
        new = [row for row, word in enumerate(target_words) if word in match.targets]
        if len(old) == len(new):
            moved[old, new] = 1.0
        elif old and new:
            moved[np.ix_(old, new)] = 1 / len(new)

    old = [row for row, word in enumerate(source_words) if word is None]
    new = [row for row, word in enumerate(target_words) if word is None]
    ids = ([source[row].id for row in old], [target[row].id for row in new])
    for block in SequenceMatcher(None, *ids, autojunk=False).get_matching_blocks():
        for i in range(block.size):
            moved[old[block.a + i], new[block.b + i]] = 1.0

    own = np.zeros(n_rows, np.float32)
    own[: len(target)] = moved[:, : len(target)].sum(axis=0) == 0

    # Padding has no order of its own: what the source has more of is shared out.
    padding = range(max(len(source), len(target)), n_rows)
    moved[padding, padding] = 1.0
    if len(source) < len(target) < n_rows:
        moved[len(source) : len(target), len(target) :] = 1 / (n_rows - len(target))

    weights = np.ones(n_rows, np.float32)
    for row, word in enumerate(target_words):
        if word is not None:
            weights[row] = edit.weights[word]
    return moved, own, weights
