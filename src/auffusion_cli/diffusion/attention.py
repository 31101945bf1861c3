"""Attention read and changed from outside: maps of words, and prompt-to-prompt edits.

`attending` puts a callable in the place where a UNet's transformer blocks turn queries, keys and
values into their output, and takes it out again whatever happens. Without it nothing is changed and
nothing costs anything. Two callables are here: `AttentionRecorder` watches; `prompt_to_prompt`
makes a sound and its edit side by side (Hertz et al. 2022, arXiv 2208.01626).

Shapes: R rows of a batch, with guidance the unconditional ones first; N positions of a layer, row
by row of its grid; T tokens, those of a second text encoder behind those of the first; W words.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from auffusion_cli.errors import AuffusionError

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel
    from diffusers.models.attention_processor import Attention

    from auffusion_cli.diffusion.denoiser import Denoise
    from auffusion_cli.diffusion.tokens import TokenEdit

MAX_SELF_POSITIONS = 32**2
"""Self-attention is only taken from the source on grids up to this size, as the paper's authors do:
on finer ones it would fix details rather than the timing."""


@dataclass(frozen=True)
class Layer:
    """One attention layer of a UNet."""

    name: str
    """Of its transformer block: "up_blocks.1.attentions.0.transformer_blocks.0"."""
    is_cross: bool
    """To the words, or else of the positions to each other."""


Attend = Callable[[Layer, Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""(layer, queries (R, heads, N, d), keys and values (R, heads, M, d), bias) -> (R, heads, N, d).

M is T in cross-attention and N in self-attention. The bias (R, heads, 1, M) is added to the scores,
so that padding is hidden; None where nothing is.
"""


@contextmanager
def attending(unet: UNet2DConditionModel, attend: Attend) -> Iterator[None]:
    """Compute every attention of `unet`'s transformer blocks by `attend`, until the block ends.

    Raises:
        AuffusionError: a layer is not of the usual kind.
    """
    from diffusers.models.attention_processor import AttnProcessor2_0

    before = unet.attn_processors
    processors = dict(before)
    for name in before:
        block, kind = _split_name(name)
        if kind not in ("attn1", "attn2"):
            continue
        if type(before[name]) is not AttnProcessor2_0:
            raise AuffusionError(
                f"The attention of {block} is a {type(before[name]).__name__}, which cannot be"
                " read or changed"
            )
        processors[name] = _Processor(Layer(block, is_cross=kind == "attn2"), attend)
    try:
        unet.set_attn_processor(processors)
        yield
    finally:
        # diffusers empties the dict that it is given.
        unet.set_attn_processor(dict(before))


class _Processor:
    """Attention processor of one layer: diffusers' own, but for the attention itself."""

    def __init__(self, layer: Layer, attend: Attend) -> None:
        self.layer = layer
        self.attend = attend

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """(R, N, C) positions, and (R, T, D) tokens for cross-attention -> (R, N, C)

        `attention_mask` (R, 1, T) is added to the scores.
        """
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        bias = None
        if attention_mask is not None:
            n_rows, n_keys, _ = context.shape
            bias = attn.prepare_attention_mask(attention_mask, n_keys, n_rows)
            bias = bias.unflatten(0, (n_rows, attn.heads))
        if encoder_hidden_states is not None and attn.norm_cross:
            context = attn.norm_encoder_hidden_states(context)
        queries, keys, values = (
            states.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for states in (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
        )
        if attn.norm_q is not None:
            queries = attn.norm_q(queries)
        if attn.norm_k is not None:
            keys = attn.norm_k(keys)
        output = self.attend(self.layer, queries, keys, values, bias)
        project, dropout = attn.to_out
        return dropout(project(output.transpose(1, 2).flatten(2)))


def _split_name(processor: str) -> tuple[str, str]:
    """diffusers' "mid_block.….attn2.processor" -> ("mid_block.…", "attn2")"""
    block, _, kind = processor.removesuffix(".processor").rpartition(".")
    return block, kind


def cross_layers(unet: UNet2DConditionModel) -> dict[str, int]:
    """The layers that attend to the words, in order: name -> number of heads."""
    layers = {}
    for processor in unet.attn_processors:
        block, kind = _split_name(processor)
        if kind == "attn2":
            layers[block] = unet.get_submodule(f"{block}.attn2").heads
    return layers


# --- prompt-to-prompt


@contextmanager
def prompt_to_prompt(
    unet: UNet2DConditionModel,
    denoise_source: Denoise,
    denoise_edited: Denoise,
    edit: TokenEdit,
    *,
    cross_until: float = 0.0,
    self_until: float = 0.0,
) -> Iterator[Denoise]:
    """A `denoise` for latents (2 B, C, h, w): B sounds, and behind them the B edits of these.

    At time steps from the noisiest down to `cross_until` an edit attends to its words where the
    source does to those that they stand for; down to `self_until` its positions attend to each
    other as the source's do. `edit.weights` hold at every step. Only what guidance calls the
    conditional branch is changed.

    The sounds are not batched with their edits, so that each comes out as it would by itself.

    No attention map is computed: with maps M = softmax(Q K'), replacing, refining and
    reweighting are linear, (M A) V = M (A V), so that the source's queries and keys are given other
    values. The same sums are made in the same order: an edit that changes nothing changes no bit.
    """
    control = _PromptToPrompt(edit, unet.device, unet.dtype)

    def denoise(latents: np.ndarray, timestep: float) -> np.ndarray:
        source, edited = np.split(latents, 2)
        control.n_sounds = len(source)
        control.takes_cross = timestep >= cross_until
        control.takes_self = timestep >= self_until
        control.kept.clear()
        control.is_source = True
        source_output = denoise_source(source, timestep)
        control.is_source = False
        return np.concatenate([source_output, denoise_edited(edited, timestep)])

    with attending(unet, control):
        yield denoise


class _PromptToPrompt:
    """An `attend` that keeps the source's queries and keys, and gives them to the edit."""

    def __init__(self, edit: TokenEdit, device: torch.device, dtype: torch.dtype) -> None:
        self.weights, self.moved, self.own = (
            torch.from_numpy(values).to(device, dtype)
            for values in (
                edit.weights[:, None],
                edit.moved * edit.weights,
                (edit.own * edit.weights)[:, None],
            )
        )
        self.has_own = bool(edit.own.any())
        self.kept: dict[Layer, tuple[Tensor, Tensor]] = {}

    def __call__(
        self, layer: Layer, queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None
    ) -> Tensor:
        assert bias is None  # no model whose words are edited hides tokens
        takes = self.takes_cross if layer.is_cross else self.takes_self
        if not layer.is_cross and queries.shape[-2] > MAX_SELF_POSITIONS:
            takes = False
        cond = slice(-self.n_sounds, None)
        if self.is_source:
            if takes:
                self.kept[layer] = queries[cond], keys[cond]
            return F.scaled_dot_product_attention(queries, keys, values)
        if not layer.is_cross:
            if takes:
                queries, keys = self._as_in_source(layer, queries, keys)
            return F.scaled_dot_product_attention(queries, keys, values)
        changed = values.clone()
        if not takes:
            changed[cond] *= self.weights
            return F.scaled_dot_product_attention(queries, keys, changed)
        changed[cond] = self.moved @ values[cond]
        output = F.scaled_dot_product_attention(*self._as_in_source(layer, queries, keys), changed)
        if self.has_own:
            own = self.own * values[cond]
            output[cond] += F.scaled_dot_product_attention(queries[cond], keys[cond], own)
        return output

    def _as_in_source(self, layer: Layer, queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        queries, keys = queries.clone(), keys.clone()
        queries[-self.n_sounds :], keys[-self.n_sounds :] = self.kept[layer]
        return queries, keys


# --- maps


@dataclass(frozen=True)
class WordMaps:
    """Attention to each word of a prompt: shares, 0..1, on the latents' grid.

    At every position the shares of all words, and of tokens that are no word (padding, punctuation,
    the tokenizer's own), add up to 1. A word that the model does not read has none. Row 0 is the
    lowest frequency.
    """

    words: tuple[str, ...]
    by_step: Tensor
    """(S, W, h, w): averaged over layers and heads."""
    by_layer: Tensor
    """(L, W, h, w): averaged over steps and heads."""
    steps: tuple[int, ...]
    """Denoising steps of `by_step`, counted from 0."""
    layers: tuple[str, ...]
    """Names of the layers of `by_layer`."""

    @property
    def mean(self) -> Tensor:
        """(W, h, w): averaged over steps, layers and heads."""
        return self.by_step.mean(dim=0)


class AttentionRecorder:
    """An `attend` that sums the cross-attention of one sound's words, and changes nothing.

    Args:
        word_rows: the tokens of each word, as `rows_of_words` gives them.
        n_tokens: T, or more: what is behind the last word's does not matter.
        grid: (h, w) of the latents.
        steps: the denoising steps to record, counted from 0.
        layers: the layers to record, of `cross_layers`.
        heads: the heads to record of each layer; None is all.
        lies: whether the UNet sees latents on the side, as `engines.mel_networks` has them.
    """

    def __init__(
        self,
        word_rows: Sequence[Sequence[int]],
        n_tokens: int,
        grid: tuple[int, int],
        steps: Sequence[int],
        layers: Sequence[str],
        heads: Sequence[int] | None = None,
        *,
        lies: bool = False,
    ) -> None:
        self.token_to_word = torch.zeros(n_tokens, len(word_rows))
        for word, rows in enumerate(word_rows):
            self.token_to_word[list(rows), word] = 1.0
        self.grid = grid
        self.steps = tuple(steps)
        self.layers = tuple(layers)
        self.heads = None if heads is None else list(heads)
        self.lies = lies
        self._n_calls = dict.fromkeys(self.layers, 0)
        shape = (len(word_rows), *grid)
        self._by_step = {step: torch.zeros(shape) for step in self.steps}
        self._by_layer = {layer: torch.zeros(shape) for layer in self.layers}

    def __call__(
        self, layer: Layer, queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None
    ) -> Tensor:
        if layer.is_cross and layer.name in self._n_calls:
            step = self._n_calls[layer.name]
            self._n_calls[layer.name] += 1
            if step in self._by_step:
                hidden = None if bias is None else bias[-1]
                maps = self._word_maps(queries[-1], keys[-1], hidden).cpu()
                self._by_step[step] += maps / len(self.layers)
                self._by_layer[layer.name] += maps / len(self.steps)
        return F.scaled_dot_product_attention(queries, keys, values, attn_mask=bias)

    def _word_maps(self, queries: Tensor, keys: Tensor, bias: Tensor | None) -> Tensor:
        """(heads, N, d), (heads, T, d), (heads, 1, T) -> (W, h, w)"""
        scores = queries.float() @ keys.float().mT / math.sqrt(queries.shape[-1])
        if bias is not None:
            scores = scores + bias.float()
        if self.heads is not None:
            scores = scores[self.heads]
        n_positions, n_tokens = scores.shape[1:]
        shares = scores.softmax(dim=-1).mean(dim=0)
        self.token_to_word = self.token_to_word.to(shares.device)
        of_words = (shares @ self.token_to_word[:n_tokens]).T
        if self.lies:
            maps = of_words.unflatten(-1, grid_of(n_positions, self.grid[::-1])).mT.flip(-2)
        else:
            maps = of_words.unflatten(-1, grid_of(n_positions, self.grid))
        if maps.shape[1:] == self.grid:
            return maps
        return F.interpolate(maps[None], self.grid, mode="bilinear", align_corners=False)[0]

    def word_maps(self, words: Collection[str]) -> WordMaps:
        """The recorded maps, of the words that `word_rows` was of; lowest frequency first."""
        return WordMaps(
            words=tuple(words),
            by_step=torch.stack([self._by_step[step] for step in self.steps]).flip(-2),
            by_layer=torch.stack([self._by_layer[layer] for layer in self.layers]).flip(-2),
            steps=self.steps,
            layers=self.layers,
        )


def grid_of(n_positions: int, latent_grid: tuple[int, int]) -> tuple[int, int]:
    """(h, w) of a layer with so many positions: the latents' grid, halved so often, rounded up."""
    h, w = latent_grid
    while h * w > n_positions:
        h, w = -(-h // 2), -(-w // 2)
    if h * w != n_positions:
        raise AuffusionError(
            f"A layer has {n_positions} positions, which is not a part of {latent_grid}"
        )
    return h, w
