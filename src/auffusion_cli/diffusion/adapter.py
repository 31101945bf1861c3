"""Condition adapter: the width of a text encoder -> that of the UNet's cross-attention.

Source: Auffusion (arXiv 2401.01044), section 3.3, and the published checkpoints.
"""

from __future__ import annotations

from torch import Tensor, nn

from auffusion_cli.config import ADAPTER_HEADS


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
