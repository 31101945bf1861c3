"""The wordings that a model has met, and what of a prompt is far from all of them.

Distance is that of sentences: the mean of the text encoder's rows. It means something for encoders
that were trained so, such as all-MiniLM; a checkpoint with another has no vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from auffusion_cli.diffusion.text import TextConditioner
from auffusion_cli.errors import CheckpointError

N_NEAREST = 3
JOINTS = re.compile(
    r"[,;:.!?+&]|\b(?:and|with|while|then|followed by|before|after|during|plus)\b", re.IGNORECASE
)
"""Separators of the sounds in a prompt; each sound is looked up by itself."""
SAME = 0.9
"""The cosine from which two texts say the same."""


@dataclass(frozen=True)
class Unknown:
    """Words of a prompt that are far from all that the model has met."""

    words: str
    nearest: tuple[str, ...]
    """The kinds of sound that come closest, the nearest first."""


@dataclass(frozen=True)
class Meaning:
    """What of a vocabulary a text is most like."""

    similarity: float
    """Cosine with the nearest wording; 0 where words of no kind are nearer."""
    kind: str
    is_background: bool


@dataclass(frozen=True)
class Vocabulary:
    """N wordings that a model has met, of K kinds of sound."""

    kinds: tuple[str, ...]
    """(K,) a name of each, which is a prompt as well."""
    sentences: np.ndarray
    """(N, D) the wordings, of length 1."""
    kind_of: np.ndarray
    """(N,) the number of each wording's kind; -1 for no kind, such as "in the distance"."""
    min_similarity: float
    """Cosine to the nearest wording below which words are unknown."""
    backgrounds: frozenset[str] = frozenset()
    """The kinds that go on below others, such as rain."""

    def unknown(self, text: TextConditioner, prompt: str) -> list[Unknown]:
        """The parts of `prompt` that are far from all wordings, in order."""
        return [
            Unknown(part, self._nearest(similarity))
            for part, similarity in self.similarities(text, prompt).items()
            if similarity.max() < self.min_similarity
        ]

    def meanings(self, text: TextConditioner, sounds: Sequence[str]) -> list[Meaning]:
        """The kind of the nearest wording of each of `sounds`, which are not empty."""
        similarity = self._cosines(text, sounds)
        of_no_kind = self.kind_of < 0
        of_a_kind = np.where(of_no_kind, -1, similarity)
        kinds = [self.kinds[i] for i in self.kind_of[of_a_kind.argmax(axis=1)]]
        nearest = of_a_kind.max(axis=1)
        means_a_kind = nearest > np.where(of_no_kind, similarity, -1).max(axis=1)
        return [
            Meaning(float(cosine), kind, kind in self.backgrounds)
            for cosine, kind in zip(nearest * means_a_kind, kinds, strict=True)
        ]

    def similarities(self, text: TextConditioner, prompt: str) -> dict[str, np.ndarray]:
        """The cosine (N,) of each part of `prompt` with every wording.

        Parts that are nothing but words of no kind are left out.
        """
        parts = [part.strip() for part in JOINTS.split(prompt)]
        parts = list(dict.fromkeys(part for part in parts if re.search(r"\w", part)))
        if not parts:
            return {}
        similarity = self._cosines(text, parts)
        of_no_kind = self.kind_of < 0
        bare = (similarity * of_no_kind).max(axis=1) >= SAME
        return {
            part: np.where(of_no_kind, -1, row)
            for part, row, is_bare in zip(parts, similarity, bare, strict=True)
            if not is_bare
        }

    def _cosines(self, text: TextConditioner, sentences: Sequence[str]) -> np.ndarray:
        """(B, N)"""
        rows = sentences_of(text, sentences)
        if rows.shape[1] != self.sentences.shape[1]:
            raise CheckpointError(
                f"text encoder 0 gives {rows.shape[1]} channels, but the vocabulary's sentences "
                f"have {self.sentences.shape[1]}"
            )
        return rows @ self.sentences.T

    def _nearest(self, similarity: np.ndarray) -> tuple[str, ...]:
        """(N,) -> the names of the kinds whose wordings are most like it."""
        ranked = self.kind_of[np.argsort(-similarity, kind="stable")].tolist()
        kinds = dict.fromkeys(kind for kind in ranked if kind >= 0)
        return tuple(self.kinds[kind] for kind in list(kinds)[:N_NEAREST])


def sentences_of(text: TextConditioner, sentences: Sequence[str]) -> np.ndarray:
    """(N, D) float32 of length 1: the mean of each sentence's rows by the first text encoder."""
    rows = text.hidden_states(0, sentences)
    n_rows = rows.any(axis=-1).sum(axis=1, keepdims=True)
    return _of_length_1(rows.sum(axis=1) / n_rows)


def quantised(sentences: np.ndarray) -> np.ndarray:
    """-> int8, for a file; each row is scaled, so that its largest number is 127."""
    largest = np.abs(sentences).max(axis=1, keepdims=True)
    return (127 * sentences / largest).round().astype(np.int8)


def dequantised(sentences: np.ndarray) -> np.ndarray:
    """int8 from a file -> float32 of length 1."""
    return _of_length_1(sentences.astype(np.float32))


def _of_length_1(rows: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return (rows / np.maximum(lengths, 1e-12)).astype(np.float32)
