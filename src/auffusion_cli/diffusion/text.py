"""Prompts -> tokens -> conditioning, the input of the UNet's cross-attention.

Two ways, by the layout of the checkpoint:

- Adapter layout (Auffusion, arXiv 2401.01044, section 3.3): a prompt is tokenised as it is, each
  encoder's output is zero-padded or cut to `max_length` rows, and a trained adapter projects it.
  Several encoders are concatenated along the tokens. Without a negative prompt the unconditional
  branch is zero *after* the adapters.
- Stable Diffusion layout: the tokens are padded to 77, nothing is projected, and the unconditional
  branch is the empty prompt.

Shapes: B prompts; T_i rows and D_i channels of encoder i; T = sum of T_i; D = the UNet's
cross-attention width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import tokenizers

    from auffusion_cli.engines.networks import Networks

ENCODE_BATCH = 64
"""Prompts of `TextConditioner.hidden_states` that go through an encoder at once."""


@dataclass(frozen=True)
class Conditioning:
    """Text embeddings of B samples for classifier-free guidance."""

    cond: np.ndarray
    """(B, T, D)"""
    uncond: np.ndarray
    """(B, T, D): nothing, or the negative prompts."""


@dataclass(frozen=True)
class Token:
    """One token of a prompt: the row of an encoder's output that stands for it is its number."""

    id: int
    start: int
    end: int
    """Its place in the prompt, in characters; start == end for what the tokenizer adds."""


@dataclass(frozen=True)
class Tokenizer:
    """The rules of tokenizer.json, and what tokenizer_config.json says of them."""

    rules: tokenizers.Tokenizer
    """Neither truncates nor pads."""
    max_length: int
    """The most tokens that the encoder it was made for can take."""
    pad_id: int
    unknown_id: int | None
    """Of what there is no token for."""
    config: dict[str, Any] = field(default_factory=dict)
    """tokenizer_config.json, for saving."""


@dataclass(frozen=True)
class TextEncoder:
    """How prompts become the input of one text encoder, and its output rows of conditioning.

    `pads_tokens` distinguishes the two layouts: Stable Diffusion pads the tokens before the
    encoder, Auffusion pads the encoder's output.
    """

    tokenizer: Tokenizer
    max_length: int
    """T_i, the number of rows of its output."""
    n_positions: int | None
    """The most tokens the encoder can see; None where its positions are relative (T5)."""
    pads_tokens: bool = False
    hides_padding: bool = False
    """Whether padded tokens are hidden from the others, as a few of Stable Diffusion's want."""
    source: str = ""
    """Origin of the language model, such as "openai/clip-vit-large-patch14"."""

    @property
    def max_tokens(self) -> int | None:
        """The most tokens of a prompt that are seen; None for any number."""
        return self.max_length if self.pads_tokens else self.n_positions

    @property
    def n_read(self) -> int:
        """The most tokens of a prompt that are seen and have a row."""
        return self.max_length if self.max_tokens is None else min(self.max_tokens, self.max_length)

    def ids(self, prompt: str) -> list[int]:
        """The tokens that the network sees, without padding."""
        return self._encoding(prompt).ids

    def tokens(self, prompt: str) -> list[Token]:
        """Tokens of the first rows of the output; all other rows are padding."""
        encoding = self._encoding(prompt)
        places = zip(encoding.ids, encoding.offsets, strict=True)
        return [Token(id, *span) for id, span in places][: self.max_length]

    def overflow(self, prompt: str) -> str | None:
        """The end of `prompt` that no row stands for; None where all of it fits."""
        if len(self.tokenizer.rules.encode(prompt).ids) <= self.n_read:
            return None
        end = max(token.end for token in self.tokens(prompt))
        return prompt[end:].strip() or None

    def unknown(self, prompt: str) -> list[str]:
        """The parts of `prompt` that the tokenizer has no token for, in order."""
        return [
            prompt[token.start : token.end]
            for token in self.tokens(prompt)
            # CLIP's end has that id, too.
            if token.id == self.tokenizer.unknown_id and token.end > token.start
        ]

    def _encoding(self, prompt: str) -> tokenizers.Encoding:
        """Of the whole prompt, or of as much as the network can see."""
        encoding = self.tokenizer.rules.encode(prompt)
        if self.max_tokens is None or len(encoding.ids) <= self.max_tokens:
            return encoding
        self.tokenizer.rules.enable_truncation(self.max_tokens)
        try:
            return self.tokenizer.rules.encode(prompt)
        finally:
            self.tokenizer.rules.no_truncation()


class TextReader:
    """One or more text encoders as far as no network is needed: what of a prompt they read."""

    def __init__(self, encoders: Sequence[TextEncoder]) -> None:
        self.encoders = list(encoders)

    def told(self, duration_s: float) -> TextReader:
        """The same for sounds that last `duration_s`, where a system is told of it."""
        return self

    @property
    def n_rows(self) -> int:
        """T"""
        return sum(encoder.max_length for encoder in self.encoders)

    def overflow(self, prompt: str) -> str | None:
        """The tail of `prompt` that will be cut, the longest over the encoders; None if it fits."""
        tails = [encoder.overflow(prompt) for encoder in self.encoders]
        return max((tail for tail in tails if tail), key=len, default=None)

    def unknown(self, prompt: str) -> list[str]:
        """The different parts of `prompt` that no encoder has a token for, in order."""
        first, *others = [encoder.unknown(prompt) for encoder in self.encoders]
        return [part for part in dict.fromkeys(first) if all(part in parts for parts in others)]


class TextConditioner(TextReader):
    """The text encoders with their networks, which make conditioning of what they read."""

    def __init__(self, encoders: Sequence[TextEncoder], networks: Networks) -> None:
        super().__init__(encoders)
        self.networks = networks

    def encode(
        self, prompts: Sequence[str], negative_prompts: Sequence[str] | None = None
    ) -> Conditioning:
        """Embeddings of `prompts` (B) and of as many negative prompts; "" is no negative prompt.

        Every prompt is encoded by itself, so that its embedding does not depend on its batch.
        """
        negative_prompts = [""] * len(prompts) if negative_prompts is None else negative_prompts
        return Conditioning(
            cond=_embed_each(prompts, self._embed),
            uncond=_embed_each(
                negative_prompts,
                lambda prompt: self._embed(prompt) if prompt else self.unconditional(),
            ),
        )

    def unconditional(self) -> np.ndarray:
        """(T, D): the embedding of no prompt, in guidance and for dropped captions in training."""
        if not self.networks.sizes.has_adapters:
            return self._embed("")
        return np.zeros((self.n_rows, self.networks.sizes.cross_attention_dim), np.float32)

    def hidden_states(self, encoder: int, prompts: Sequence[str]) -> np.ndarray:
        """B prompts, at least one -> (B, T_i, D_i): the last hidden states of one encoder, padded.

        Like one by one up to rounding, but many times faster: prompts with equally many tokens
        share a batch. Padding would change the others' attention.
        """
        reader = self.encoders[encoder]
        tokens = [reader.ids(prompt) for prompt in prompts]
        states: np.ndarray | None = None
        by_length: dict[int, list[int]] = {}
        for i, ids in enumerate(tokens):
            length = reader.max_length if reader.pads_tokens else len(ids)
            by_length.setdefault(length, []).append(i)
        for length, indices in by_length.items():
            for start in range(0, len(indices), ENCODE_BATCH):
                some = indices[start : start + ENCODE_BATCH]
                padded = np.full((len(some), length), reader.tokenizer.pad_id, np.int64)
                mask = np.zeros_like(padded)
                for row, i in enumerate(some):
                    padded[row, : len(tokens[i])] = tokens[i]
                    mask[row, : len(tokens[i])] = 1
                hides = reader.pads_tokens and reader.hides_padding
                found = self.networks.hidden_states(encoder, padded, mask if hides else None)
                found = found[:, : reader.max_length]
                if states is None:
                    shape = (len(prompts), reader.max_length, found.shape[-1])
                    states = np.zeros(shape, np.float32)
                states[some, : found.shape[1]] = found
        return states

    def _embed(self, prompt: str) -> np.ndarray:
        """(T, D)"""
        rows = []
        for i in range(len(self.encoders)):
            states = self.hidden_states(i, [prompt])
            if self.networks.sizes.has_adapters:
                states = self.networks.adapt(i, states)
            rows.append(states[0])
        return np.concatenate(rows)


def _embed_each(prompts: Sequence[str], embed: Callable[[str], np.ndarray]) -> np.ndarray:
    """(B, T, D), with `embed` called once for each different prompt."""
    embedded = {prompt: embed(prompt) for prompt in dict.fromkeys(prompts)}
    return np.stack([embedded[prompt] for prompt in prompts])
