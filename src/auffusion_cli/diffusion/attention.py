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
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from auffusion_cli.errors import AuffusionError, UsageError
from auffusion_cli.requests.word_edits import WordEdit, find_words

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel
    from diffusers.models.attention_processor import Attention

    from auffusion_cli.diffusion.denoiser import Denoise
    from auffusion_cli.diffusion.text import TextConditioner, Token

MAX_SELF_POSITIONS = 32**2
"""Self-attention is only taken from the source on grids up to this size, as the paper's authors do:
on finer ones it would fix details rather than the course of things."""


@dataclass(frozen=True)
class Layer:
    """One attention layer of a UNet."""

    name: str
    """Of its transformer block: "up_blocks.1.attentions.0.transformer_blocks.0"."""
    is_cross: bool
    """To the words, or else of the positions to each other."""


Attend = Callable[[Layer, Tensor, Tensor, Tensor], Tensor]
"""(layer, queries (R, heads, N, d), keys and values (R, heads, M, d)) -> output (R, heads, N, d).

M is T in cross-attention and N in self-attention.
"""


@contextmanager
def attending(unet: UNet2DConditionModel, attend: Attend) -> Iterator[None]:
    """Within it, every attention of `unet`'s transformer blocks is what `attend` makes of it.

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
                " read or changed."
            )
        processors[name] = _Processor(Layer(block, is_cross=kind == "attn2"), attend)
    try:
        unet.set_attn_processor(processors)
        yield
    finally:
        # diffusers empties the dict that it is given.
        unet.set_attn_processor(dict(before))


class _Processor:
    """What diffusers calls for one layer: everything but the attention itself is as there."""

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
        """(R, N, C) positions, and (R, T, D) tokens for cross-attention -> (R, N, C)"""
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
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
        output = self.attend(self.layer, queries, keys, values)
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


# --- words and tokens


def rows_of_words(text: TextConditioner, prompt: str) -> list[list[int]]:
    """For every word of `prompt` the tokens that stand for it, of all encoders.

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
    """For each token the number of its word; None for punctuation and what the tokenizer adds."""
    words = find_words(prompt)

    def word_at(token: Token) -> int | None:
        touched = (
            i for i, word in enumerate(words) if token.start < word.end and word.start < token.end
        )
        return next(touched, None)

    return [word_at(token) for token in tokens]


@dataclass(frozen=True)
class TokenEdit:
    """A `WordEdit` in terms of tokens."""

    moved: Tensor
    """(T, T): the attention that each token of the source (rows) gives to those of the edit."""
    own: Tensor
    """(T,): 1 for tokens that stand for nothing in the source and keep their own attention."""
    weights: Tensor
    """(T,): what the attention to each token of the edit is multiplied with."""

    def to(self, device: torch.device, dtype: torch.dtype) -> TokenEdit:
        return TokenEdit(*(x.to(device, dtype) for x in (self.moved, self.own, self.weights)))


def align_tokens(text: TextConditioner, edit: WordEdit) -> TokenEdit:
    """Which token of the source prompt each of the edited one takes its attention from.

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
                f"The model does not read {words[i].text!r}: the prompt is too long for it."
            )
    parts = [_align(encoder.tokens, encoder.max_length, edit) for encoder in text.encoders]
    moved, own, weights = zip(*parts, strict=True)
    return TokenEdit(torch.block_diag(*moved), torch.cat(own), torch.cat(weights))


def _align(
    tokenize: Callable[[str], list[Token]], n_rows: int, edit: WordEdit
) -> tuple[Tensor, Tensor, Tensor]:
    """(moved, own, weights) for one encoder of `n_rows`."""
    source, target = tokenize(edit.source), tokenize(edit.prompt)
    source_words = _word_of_token(source, edit.source)
    target_words = _word_of_token(target, edit.prompt)
    moved = torch.zeros(n_rows, n_rows)

    for match in edit.matches:
        old = [row for row, word in enumerate(source_words) if word in match.sources]
        new = [row for row, word in enumerate(target_words) if word in match.targets]
        if len(old) == len(new):
            moved[old, new] = 1.0
        elif old and new:
            moved[torch.tensor(old)[:, None], torch.tensor(new)] = 1 / len(new)

    old = [row for row, word in enumerate(source_words) if word is None]
    new = [row for row, word in enumerate(target_words) if word is None]
    ids = ([source[row].id for row in old], [target[row].id for row in new])
    for block in SequenceMatcher(None, *ids, autojunk=False).get_matching_blocks():
        for i in range(block.size):
            moved[old[block.a + i], new[block.b + i]] = 1.0

    own = torch.zeros(n_rows)
    own[: len(target)] = (moved[:, : len(target)].sum(dim=0) == 0).float()

    # Padding has no order of its own: what the source has more of is shared out.
    padding = range(max(len(source), len(target)), n_rows)
    moved[padding, padding] = 1.0
    if len(source) < len(target) < n_rows:
        moved[len(source) : len(target), len(target) :] = 1 / (n_rows - len(target))

    weights = torch.ones(n_rows)
    for row, word in enumerate(target_words):
        if word is not None:
            weights[row] = edit.weights[word]
    return moved, own, weights


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

    The attention maps are never computed: with maps M = softmax(Q K'), replacing, refining and
    reweighting are linear, (M A) V = M (A V), so that the source's queries and keys are given other
    values. The same sums are made in the same order: an edit that changes nothing changes no bit.
    """
    control = _PromptToPrompt(edit.to(unet.device, unet.dtype))

    def denoise(latents: Tensor, timestep: Tensor) -> Tensor:
        source, edited = latents.chunk(2)
        control.n_sounds = len(source)
        control.takes_cross = timestep >= cross_until
        control.takes_self = timestep >= self_until
        control.kept.clear()
        control.is_source = True
        source_output = denoise_source(source, timestep)
        control.is_source = False
        return torch.cat([source_output, denoise_edited(edited, timestep)])

    with attending(unet, control):
        yield denoise


class _PromptToPrompt:
    """Keeps the queries and keys of the source, and puts them in place of the edit's."""

    def __init__(self, edit: TokenEdit) -> None:
        self.weights = edit.weights[:, None]
        self.moved = edit.moved * edit.weights
        self.own = (edit.own * edit.weights)[:, None]
        self.has_own = bool(edit.own.any())
        self.kept: dict[Layer, tuple[Tensor, Tensor]] = {}

    def __call__(self, layer: Layer, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
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
    """Where each word was heard: shares of the attention, 0..1, on the latents' grid.

    At every place the shares of all words, and of what is no word (padding, punctuation, the
    tokenizer's own tokens), add up to 1. A word that the model does not read has none. Row 0 is the
    lowest frequency.
    """

    words: tuple[str, ...]
    by_step: Tensor
    """(S, W, h, w): averaged over layers and heads."""
    by_layer: Tensor
    """(L, W, h, w): averaged over steps and heads."""
    steps: tuple[int, ...]
    """Which denoising steps, counted from 0."""
    layers: tuple[str, ...]
    """Which layers."""

    @property
    def mean(self) -> Tensor:
        """(W, h, w): averaged over steps, layers and heads."""
        return self.by_step.mean(dim=0)


class AttentionRecorder:
    """For `attending`: adds up the cross-attention of one sound's words, and changes nothing.

    Args:
        word_rows: the tokens of each word, as `rows_of_words` gives them.
        n_tokens: T.
        grid: (h, w) of the latents.
        steps: which denoising steps to record, counted from 0.
        layers: which layers, of `cross_layers`.
        heads: which heads of each layer; None is all.
    """

    def __init__(
        self,
        word_rows: Sequence[Sequence[int]],
        n_tokens: int,
        grid: tuple[int, int],
        steps: Sequence[int],
        layers: Sequence[str],
        heads: Sequence[int] | None = None,
    ) -> None:
        self.token_to_word = torch.zeros(n_tokens, len(word_rows))
        for word, rows in enumerate(word_rows):
            self.token_to_word[list(rows), word] = 1.0
        self.grid = grid
        self.steps = tuple(steps)
        self.layers = tuple(layers)
        self.heads = None if heads is None else list(heads)
        self._n_calls = dict.fromkeys(self.layers, 0)
        shape = (len(word_rows), *grid)
        self._by_step = {step: torch.zeros(shape) for step in self.steps}
        self._by_layer = {layer: torch.zeros(shape) for layer in self.layers}

    def __call__(self, layer: Layer, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        if layer.is_cross and layer.name in self._n_calls:
            step = self._n_calls[layer.name]
            self._n_calls[layer.name] += 1
            if step in self._by_step:
                maps = self._word_maps(queries[-1], keys[-1]).cpu()
                self._by_step[step] += maps / len(self.layers)
                self._by_layer[layer.name] += maps / len(self.steps)
        return F.scaled_dot_product_attention(queries, keys, values)

    def _word_maps(self, queries: Tensor, keys: Tensor) -> Tensor:
        """(heads, N, d), (heads, T, d) -> (W, h, w)"""
        if self.heads is not None:
            queries, keys = queries[self.heads], keys[self.heads]
        scores = queries.float() @ keys.float().mT / math.sqrt(queries.shape[-1])
        shares = scores.softmax(dim=-1).mean(dim=0)
        self.token_to_word = self.token_to_word.to(shares.device)
        maps = (shares @ self.token_to_word).T.unflatten(-1, grid_of(shares.shape[0], self.grid))
        if maps.shape[1:] == self.grid:
            return maps
        return F.interpolate(maps[None], self.grid, mode="bilinear", align_corners=False)[0]

    def word_maps(self, words: Collection[str]) -> WordMaps:
        """What was recorded, for the words that `word_rows` was of; lowest frequency first."""
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
            f"A layer has {n_positions} positions, which is not a part of {latent_grid}."
        )
    return h, w
