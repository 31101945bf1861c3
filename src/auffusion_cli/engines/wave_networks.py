"""Networks of systems that denoise latents of waveforms: Stable Audio Open and 3. By torch.

Outside, latents are (B, c, 1, w), as those of pictures are (B, c, h, w); inside there is no h.

Conditioning is (B, T, D), as `mel_networks` has it: rows of text, and rows that tell how long the
sound is to last.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from auffusion_cli.engines.networks import NetworkSizes
from auffusion_cli.engines.torch_networks import TorchNetworks, like, text_states

if TYPE_CHECKING:
    from diffusers import StableAudio3DurationEmbedder
    from diffusers.pipelines.stable_audio import StableAudioProjectionModel


class WaveNetworks(TorchNetworks):
    """A transformer, in the place of a UNet, and an autoencoder of waveforms.

    Of `networks.Networks` it has `predict`; `condition`, which is a `whole_prompts.TimedCondition`,
    `encode_waveform` and `decode_waveform` stand for the rest.
    """

    sees_known = False
    """See `networks.NetworkSizes`."""
    column_multiple = 1
    """Columns of latents are multiples of this."""

    @cached_property
    def sizes(self) -> NetworkSizes:
        return NetworkSizes(
            text_widths=(),
            cross_attention_dim=self.text_width,
            has_adapters=False,
            latent_channels=self.latent_channels,
            downsample=self.hop_samples,
            has_texture=False,
            has_vocoder=False,
            sees_known=self.sees_known,
        )

    @property
    def n_channels(self) -> int:
        """C, of waveforms"""
        return self.autoencoder.config.audio_channels

    @property
    @abstractmethod
    def text_width(self) -> int:
        """D"""

    @property
    @abstractmethod
    def latent_channels(self) -> int:
        """c"""

    @property
    @abstractmethod
    def hop_samples(self) -> int:
        """Samples of a column of latents."""

    @abstractmethod
    def denoise(
        self, latents: Tensor, timestep: Tensor, text: Tensor, known: Tensor | None = None
    ) -> Tensor:
        """The transformer: (B, c, w) at (1,) with (B, T, D) -> its raw output (B, c, w).

        `known` is (1, 1 + c, w), where the system takes it.
        """

    @abstractmethod
    def encode(self, waveform: Tensor) -> Tensor:
        """(B, C, w * hop) samples -> (B, c, w), without noise of the autoencoder's own."""

    def predict(
        self,
        latents: np.ndarray,
        timestep: float,
        text: np.ndarray,
        known: np.ndarray | None = None,
    ) -> np.ndarray:
        weight = next(self.unet.parameters())

        def run() -> Tensor:
            time = torch.tensor([timestep], dtype=torch.float32, device=weight.device)
            told = None if known is None else like(known[:, :, 0], weight)
            return self.denoise(like(latents[:, :, 0], weight), time, like(text, weight), told)

        return self._computed(run)[:, :, None]

    def encode_waveform(self, waveform: np.ndarray) -> np.ndarray:
        """(B, C, w * hop) samples -> (B, c, 1, w) latents."""
        return self._computed(lambda: self.encode(self._image(waveform)))[:, :, None]

    def decode_waveform(self, latents: np.ndarray) -> np.ndarray:
        """(B, c, 1, w) latents -> (B, C, w * hop) samples."""
        return self._computed(lambda: self.autoencoder.decode(self._image(latents[:, :, 0])).sample)


class StableAudioNetworks(WaveNetworks):
    """Stable Audio Open's (arXiv 2407.14358): T5 and the bounds of the sound in seconds.

    Rows of conditioning are those of the text, start and end for the cross-attention, and start
    and end again for what is added to the time step. Without a prompt all but the last are zero.
    """

    def __init__(self, *, projection: StableAudioProjectionModel, **parts: Any) -> None:
        super().__init__(**parts)
        self.projection = projection

    @property
    def modules(self) -> list[torch.nn.Module]:
        return [*super().modules, self.projection]

    @property
    def text_width(self) -> int:
        return self.projection.config.conditioning_dim

    @property
    def latent_channels(self) -> int:
        return self.unet.config.in_channels

    @property
    def hop_samples(self) -> int:
        return self.autoencoder.hop_length

    def encode(self, waveform: Tensor) -> Tensor:
        return self.autoencoder.encode(waveform).latent_dist.mode()

    def condition(
        self,
        token_ids: Sequence[np.ndarray],
        attention_masks: Sequence[np.ndarray],
        *,
        n_rows: int,
        duration_s: float,
    ) -> np.ndarray:
        (t5,) = self.text_encoders
        mask = attention_masks[0]
        weight = next(self.projection.parameters())

        def run() -> Tensor:
            seconds = torch.tensor([0.0, duration_s], device=weight.device)
            told = self.projection(start_seconds=seconds[:1], end_seconds=seconds[1:])
            bounds = torch.cat(
                [told.seconds_start_hidden_states[0], told.seconds_end_hidden_states[0]]
            )
            shown = bounds.new_zeros(n_rows + len(bounds), self.text_width)
            if mask.sum() > 1:  # the token that ends a text alone is no text
                states = text_states(t5, token_ids[0], mask).to(weight.dtype)
                text = self.projection(text_hidden_states=states).text_hidden_states[0]
                shown[: len(text)] = text * torch.from_numpy(mask).to(text)[:, None]
                shown[n_rows:] = bounds
            return torch.cat([shown, bounds])

        return self._computed(run)

    def denoise(
        self, latents: Tensor, timestep: Tensor, text: Tensor, known: Tensor | None = None
    ) -> Tensor:
        from diffusers.models.embeddings import get_1d_rotary_pos_embed

        shown, bounds = text[:, :-2], text[:, -2:].flatten(1)[:, None]
        # Half of a head's channels turn; the row of `bounds` goes before those of the latents.
        turns = get_1d_rotary_pos_embed(
            self.unet.config.attention_head_dim // 2,
            latents.shape[-1] + bounds.shape[1],
            use_real=True,
            repeat_interleave_real=False,
        )
        return self.unet(
            latents,
            timestep,
            encoder_hidden_states=shown,
            global_hidden_states=bounds,
            rotary_embedding=turns,
        ).sample


class StableAudio3Networks(WaveNetworks):
    """Stable Audio 3's (arXiv 2605.17991): T5Gemma and the duration in seconds.

    Rows of conditioning are those of the text, filled up with one that was learned for padding, and
    that of the duration, which is added to the time step, too.
    """

    sees_known = True

    def __init__(self, *, duration: StableAudio3DurationEmbedder, **parts: Any) -> None:
        super().__init__(**parts)
        self.duration = duration

    @property
    def modules(self) -> list[torch.nn.Module]:
        return [*super().modules, self.duration]

    @property
    def column_multiple(self) -> int:
        return self.autoencoder.column_multiple

    @property
    def text_width(self) -> int:
        return self.unet.config.cond_token_dim

    @property
    def latent_channels(self) -> int:
        return self.unet.config.io_channels

    @property
    def hop_samples(self) -> int:
        return self.autoencoder.hop_samples

    def encode(self, waveform: Tensor) -> Tensor:
        return self.autoencoder.encode(waveform).latents

    def condition(
        self,
        token_ids: Sequence[np.ndarray],
        attention_masks: Sequence[np.ndarray],
        *,
        n_rows: int,
        duration_s: float,
    ) -> np.ndarray:
        (t5gemma,) = self.text_encoders
        ids = token_ids[0][attention_masks[0] > 0]
        padding = self.unet.prompt_padding_embedding

        def run() -> Tensor:
            rows = padding.float().repeat(n_rows, 1)
            if len(ids):
                rows[: len(ids)] = text_states(t5gemma, ids, np.ones_like(ids))[0].float()
            seconds = torch.tensor([duration_s], device=padding.device)
            return torch.cat([rows, self.duration(seconds)])

        return self._computed(run)

    def denoise(
        self, latents: Tensor, timestep: Tensor, text: Tensor, known: Tensor | None = None
    ) -> Tensor:
        # Nothing known is an input of its own, not the lack of one: its layers have offsets.
        if known is None:
            known = latents.new_zeros(1, 1 + self.latent_channels, latents.shape[-1])
        return self.unet(
            latents,
            timestep.expand(len(latents)),
            encoder_hidden_states=text,
            global_hidden_states=text[:, -1],
            local_add_cond=known.expand(len(latents), -1, -1),
        ).sample
