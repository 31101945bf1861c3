"""Prompts -> conditioning, for systems whose text encoders work on a prompt together.

Which rows a prompt becomes is the networks' matter; here prompts are tokenised, and their rows
filled up with zeros, which stand for no text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import numpy as np

from auffusion_cli.diffusion.text import Conditioning, TextEncoder, TextReader

Condition = Callable[[Sequence[np.ndarray], Sequence[np.ndarray]], np.ndarray]
"""(tokens (n_i,), attention masks (n_i,)) of one prompt, one of each a text encoder -> (T, D)."""


class TimedCondition(Protocol):
    """A `Condition` that is told how long the sound is to last."""

    def __call__(
        self,
        token_ids: Sequence[np.ndarray],
        attention_masks: Sequence[np.ndarray],
        *,
        n_rows: int,
        duration_s: float,
    ) -> np.ndarray:
        """`n_rows` of text, whatever the prompt's length, and what tells the duration: (T, D)."""
        ...


class WholePrompts(TextReader):
    """Text encoders of which `condition` makes all rows of a prompt at once."""

    def __init__(self, encoders: Sequence[TextEncoder], condition: Condition) -> None:
        super().__init__(encoders)
        self.condition = condition

    def encode(
        self, prompts: Sequence[str], negative_prompts: Sequence[str] | None = None
    ) -> Conditioning:
        """Embeddings of `prompts` (B) and of as many negative prompts; "" is no negative prompt.

        T is the longest prompt's. An embedding does not depend on its batch.
        """
        negative_prompts = [""] * len(prompts) if negative_prompts is None else negative_prompts
        pairs = list(zip(prompts, negative_prompts, strict=True))
        embedded = {pair: self._embed_pair(*pair) for pair in dict.fromkeys(pairs)}
        n_rows = max(len(rows) for pair in embedded.values() for rows in pair)
        cond, uncond = (
            np.stack([_fill_up(embedded[pair][i], n_rows) for pair in pairs]) for i in (0, 1)
        )
        return Conditioning(cond=cond, uncond=uncond)

    def _embed_pair(self, prompt: str, negative_prompt: str) -> tuple[np.ndarray, np.ndarray]:
        """(T, D) of each. A shorter negative prompt is filled up with padding tokens, as training
        did: a language model counts them."""
        ids = [np.asarray(encoder.ids(prompt), np.int64) for encoder in self.encoders]
        negative_ids, masks = [], []
        for encoder, of_prompt in zip(self.encoders, ids, strict=True):
            tokens = encoder.ids(negative_prompt)
            n_padding = max(len(of_prompt) - len(tokens), 0)
            padding = [encoder.tokenizer.pad_id] * n_padding
            negative_ids.append(np.asarray([*tokens, *padding], np.int64))
            masks.append(np.asarray([1] * len(tokens) + [0] * n_padding, np.int64))
        return (
            self.condition(ids, [np.ones_like(tokens) for tokens in ids]),
            self.condition(negative_ids, masks),
        )


class TimedPrompts(TextReader):
    """Text encoders of a system that is told how long a sound is to last; see `told`."""

    def __init__(self, encoders: Sequence[TextEncoder], condition: TimedCondition) -> None:
        super().__init__(encoders)
        self.condition = condition

    def told(self, duration_s: float) -> WholePrompts:
        condition = partial(self.condition, n_rows=self.n_rows, duration_s=duration_s)
        return WholePrompts(self.encoders, condition)


def _fill_up(rows: np.ndarray, n_rows: int) -> np.ndarray:
    return np.pad(rows, ((0, n_rows - len(rows)), (0, 0)))
