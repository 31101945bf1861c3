"""Prompts -> conditioning, the input of the UNet's cross-attention.

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

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from auffusion_cli.config import ADAPTER_HEADS

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


ENCODE_BATCH = 64
"""Batch size of `TextEncoder.encode_many`."""


@dataclass(frozen=True)
class Conditioning:
    """Text embeddings of B samples for classifier-free guidance."""

    cond: Tensor
    """(B, T, D)"""
    uncond: Tensor
    """(B, T, D): nothing, or the negative prompts."""


class ConditionAdapter(nn.Module):
    """Linear and LayerNorm: an encoder's width -> the UNet's; trained with the UNet.

    With `n_layers`, which the published checkpoints do not have, a transformer over the tokens and
    their mean, the sentence, moves each row before the norm. It can be taught other wordings after
    the UNet was trained; row i still stands for token i, and padding is left as it is.
    """

    def __init__(self, condition_dim: int, cross_attention_dim: int, n_layers: int = 0) -> None:
        super().__init__()
        self.n_layers = n_layers
        self.proj = nn.Linear(condition_dim, cross_attention_dim)
        self.norm = nn.LayerNorm(cross_attention_dim)
        if n_layers:
            self.reword = _Reword(condition_dim, cross_attention_dim, n_layers)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(B, T, D_i) -> (B, T, D)"""
        rows = self.proj(hidden_states)
        if self.n_layers:
            rows = rows + self.reword(hidden_states)
        return self.norm(rows)


class _Reword(nn.Module):
    """Residual transformer of an adapter: its output is zero before it is trained."""

    def __init__(self, condition_dim: int, width: int, n_layers: int) -> None:
        super().__init__()
        self.token = nn.Linear(condition_dim, width)
        self.sentence = nn.Linear(condition_dim, width)
        layer = nn.TransformerEncoderLayer(
            width,
            nhead=ADAPTER_HEADS,
            dim_feedforward=2 * width,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.layers = nn.TransformerEncoder(layer, n_layers, enable_nested_tensor=False)
        self.out = nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(B, T, D_i), zero where it is padded -> (B, T, D), zero there as well."""
        is_token = hidden_states.any(dim=-1, keepdim=True)
        n_tokens = is_token.sum(dim=1, keepdim=True).clamp(min=1)
        sentence = hidden_states.sum(dim=1, keepdim=True) / n_tokens
        rows = self.token(hidden_states) + self.sentence(sentence)
        rows = self.layers(rows, src_key_padding_mask=~is_token[..., 0])
        return self.out(rows) * is_token


@dataclass(frozen=True)
class Token:
    """One token of a prompt: the row of an encoder's output that stands for it is its number."""

    id: int
    start: int
    end: int
    """Its place in the prompt, in characters; start == end for what the tokenizer adds."""


class TextEncoder(nn.Module):
    """A frozen language model with its tokenizer.

    `max_length` is the number of rows of its output. `pads_tokens` distinguishes the two layouts:
    Stable Diffusion pads the tokens before the encoder, Auffusion pads the encoder's output.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        encoder: PreTrainedModel,
        max_length: int,
        *,
        pads_tokens: bool = False,
        source: str = "",
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.encoder = encoder.eval().requires_grad_(False)
        self.max_length = max_length
        self.pads_tokens = pads_tokens
        self.source = source
        """Origin of the language model, such as "openai/clip-vit-large-patch14"."""

    @property
    def max_tokens(self) -> int | None:
        """The most tokens the encoder can see; None where its positions are relative (T5)."""
        if self.pads_tokens:
            return self.max_length
        for name, module in self.encoder.named_modules():
            if name.endswith(("position_embedding", "position_embeddings")) and isinstance(
                module, nn.Embedding
            ):
                # RoBERTa's kind (CLAP) counts positions from behind the padding index.
                unused = 0 if module.padding_idx is None else module.padding_idx + 1
                return module.num_embeddings - unused
        return None

    def forward(self, prompt: str) -> Tensor:
        """One prompt -> (max_length, D_i), the last hidden states."""
        return self._encode([self._tokenize(prompt)])[0]

    def encode_many(self, prompts: Sequence[str]) -> Tensor:
        """B prompts -> (B, max_length, D_i): like one by one up to rounding, but many times faster.

        Prompts with equally many tokens share a batch: padding would change the others' attention.
        """
        tokenized = [self._tokenize(prompt) for prompt in prompts]
        by_length: dict[int, list[int]] = {}
        for i, batch in enumerate(tokenized):
            by_length.setdefault(len(batch["input_ids"]), []).append(i)
        rows: dict[int, Tensor] = {}
        for indices in by_length.values():
            for start in range(0, len(indices), ENCODE_BATCH):
                some = indices[start : start + ENCODE_BATCH]
                rows |= zip(some, self._encode([tokenized[i] for i in some]), strict=True)
        return torch.stack([rows[i] for i in range(len(prompts))])

    @torch.no_grad()
    def _encode(self, tokenized: Sequence[Mapping[str, list[int]]]) -> Tensor:
        """(B, max_length, D_i) of prompts with equally many tokens."""
        names = ["input_ids"]
        if self.pads_tokens and getattr(self.encoder.config, "use_attention_mask", None):
            names.append("attention_mask")
        inputs = {
            name: torch.tensor([batch[name] for batch in tokenized], device=self.encoder.device)
            for name in names
        }
        hidden_states = self.encoder(**inputs).last_hidden_state[:, : self.max_length]
        return F.pad(hidden_states, (0, 0, 0, self.max_length - hidden_states.shape[1]))

    def tokens(self, prompt: str) -> list[Token]:
        """Tokens of the first rows of the output; all other rows are padding."""
        batch = self._tokenize(prompt, return_offsets_mapping=True, return_attention_mask=True)
        places = zip(
            batch["input_ids"], batch["offset_mapping"], batch["attention_mask"], strict=True
        )
        return [Token(id, *span) for id, span, is_seen in places if is_seen][: self.max_length]

    def overflow(self, prompt: str) -> str | None:
        """The end of `prompt` that no row stands for; None where all of it fits."""
        limits = [n for n in (self.max_tokens, self.max_length) if n is not None]
        if len(self._ids(prompt)) <= min(limits):
            return None
        kept = self._tokenize(prompt, return_offsets_mapping=True)["offset_mapping"]
        end = max(stop for _, stop in kept[: self.max_length])
        return prompt[end:].strip() or None

    def unknown(self, prompt: str) -> list[str]:
        """The parts of `prompt` that the tokenizer has no token for, in order."""
        unknown_id = self.tokenizer.unk_token_id
        return [
            prompt[token.start : token.end]
            for token in self.tokens(prompt)
            if token.id == unknown_id and token.end > token.start  # CLIP's end has that id, too
        ]

    def _ids(self, prompt: str) -> list[int]:
        return self.tokenizer(prompt, verbose=False)["input_ids"]

    def _tokenize(self, prompt: str, **options: bool):
        if self.pads_tokens:
            options |= {"padding": "max_length", "max_length": self.max_length, "truncation": True}
        elif self.max_tokens is not None and len(self._ids(prompt)) > self.max_tokens:
            options |= {"max_length": self.max_tokens, "truncation": True}
        return self.tokenizer(prompt, verbose=False, **options)


class TextConditioner(nn.Module):
    """One or more text encoders, each with its adapter.

    `adapters=None` is the Stable Diffusion layout.
    """

    def __init__(
        self,
        encoders: Sequence[TextEncoder],
        adapters: Sequence[ConditionAdapter] | None,
    ) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(encoders)
        self.adapters = None if adapters is None else nn.ModuleList(adapters)

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

    @torch.no_grad()
    def unconditional(self) -> Tensor:
        """(T, D): the embedding of no prompt, in guidance and for dropped captions in training."""
        if self.adapters is None:
            return self._embed("")
        rows = sum(encoder.max_length for encoder in self.encoders)
        weight = self.adapters[0].proj.weight
        return weight.new_zeros(rows, weight.shape[0])

    def hidden_states(self, prompt: str) -> list[Tensor]:
        """One (T_i, D_i) for each encoder, for `adapt`. Frozen, so it can be cached."""
        return [encoder(prompt) for encoder in self.encoders]

    def hidden_states_of_many(self, prompts: Sequence[str]) -> list[Tensor]:
        """One (B, T_i, D_i) for each encoder, as `TextEncoder.encode_many` does it."""
        return [encoder.encode_many(prompts) for encoder in self.encoders]

    def adapt(self, hidden_states: Sequence[Tensor]) -> Tensor:
        """One (B, T_i, D_i) for each encoder -> (B, T, D). Differentiable in the adapters."""
        if self.adapters is None:
            return torch.cat(list(hidden_states), dim=1)
        return torch.cat(
            [
                adapter(states.to(adapter.proj.weight.dtype))
                for adapter, states in zip(self.adapters, hidden_states, strict=True)
            ],
            dim=1,
        )

    def overflow(self, prompt: str) -> str | None:
        """The tail of `prompt` that will be cut, the longest over the encoders; None if it fits."""
        tails = [encoder.overflow(prompt) for encoder in self.encoders]
        return max((tail for tail in tails if tail), key=len, default=None)

    def unknown(self, prompt: str) -> list[str]:
        """The different parts of `prompt` that no encoder has a token for, in order."""
        first, *others = [encoder.unknown(prompt) for encoder in self.encoders]
        return [part for part in dict.fromkeys(first) if all(part in parts for parts in others)]

    @torch.no_grad()
    def _embed(self, prompt: str) -> Tensor:
        return self.adapt([states[None] for states in self.hidden_states(prompt)])[0]


def _embed_each(prompts: Sequence[str], embed: Callable[[str], Tensor]) -> Tensor:
    """(B, T, D), with `embed` called once for each different prompt."""
    embedded = {prompt: embed(prompt) for prompt in dict.fromkeys(prompts)}
    return torch.stack([embedded[prompt] for prompt in prompts])
