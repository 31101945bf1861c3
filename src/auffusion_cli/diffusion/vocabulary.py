"""The wordings that a model has met, and what of a prompt is far from all of them.

Distance is that of sentences: the mean of the text encoder's rows. It means something for encoders
that were trained so, such as all-MiniLM; a checkpoint with another has no vocabulary.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from auffusion_cli.diffusion.text import TextEncoder

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
class Vocabulary:
    """N wordings that a model has met, of K kinds of sound."""

    kinds: tuple[str, ...]
    """(K,) a name of each, which is a prompt as well."""
    sentences: Tensor
    """(N, D) the wordings, of length 1."""
    kind_of: Tensor
    """(N,) the number of each wording's kind; -1 for no kind, such as "in the distance"."""
    min_similarity: float
    """Cosine to the nearest wording below which words are unknown."""

    def unknown(self, encoder: TextEncoder, prompt: str) -> list[Unknown]:
        """The parts of `prompt` that are far from all wordings, in order."""
        return [
            Unknown(part, self._nearest(similarity))
            for part, similarity in self.similarities(encoder, prompt).items()
            if similarity.max() < self.min_similarity
        ]

    def similarities(self, encoder: TextEncoder, prompt: str) -> dict[str, Tensor]:
        """The cosine (N,) of each part of `prompt` with every wording.

        Parts that are nothing but words of no kind are left out.
        """
        parts = [part.strip() for part in JOINTS.split(prompt)]
        parts = list(dict.fromkeys(part for part in parts if re.search(r"\w", part)))
        if not parts:
            return {}
        similarity = sentences_of(encoder, parts) @ self.sentences.T
        of_no_kind = self.kind_of < 0
        bare = (similarity * of_no_kind).amax(dim=1) >= SAME
        return {
            part: row.masked_fill(of_no_kind, -1)
            for part, row, is_bare in zip(parts, similarity, bare, strict=True)
            if not is_bare
        }

    def _nearest(self, similarity: Tensor) -> tuple[str, ...]:
        """(N,) -> the names of the kinds whose wordings are most like it."""
        ranked = self.kind_of[similarity.argsort(descending=True)].tolist()
        kinds = dict.fromkeys(kind for kind in ranked if kind >= 0)
        return tuple(self.kinds[kind] for kind in list(kinds)[:N_NEAREST])


def sentences_of(encoder: TextEncoder, texts: Sequence[str]) -> Tensor:
    """(N, D) float32 of length 1: the mean of each text's rows."""
    rows = encoder.encode_many(texts).float().cpu()
    n_rows = rows.any(dim=-1).sum(dim=1, keepdim=True)
    return F.normalize(rows.sum(dim=1) / n_rows, dim=1)


def quantised(sentences: Tensor) -> Tensor:
    """-> int8, for a file; each row is scaled, so that its largest number is 127."""
    largest = sentences.abs().amax(dim=1, keepdim=True)
    return (127 * sentences / largest).round().to(torch.int8)


def dequantised(sentences: Tensor) -> Tensor:
    """int8 from a file -> float32 of length 1."""
    return F.normalize(sentences.float(), dim=1)
