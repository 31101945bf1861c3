"""`Networks` of systems that denoise log-mels of 64 bands: AudioLDM, AudioLDM 2, Tango. By torch.

Inside, their images lie on the side: (time, frequency), low frequencies first, log-mels as they
are. Outside they are what `networks.Networks` says: (frequency, time), low frequencies at the
bottom, and grey in 0..1 over the range of `ImageConfig`. So log-mels beyond it are clamped, which
is silence below and louder than full scale above.

Conditioning is (B, T, D) whatever a system takes: rows one after the other, padded with zeros to
the widest. A row of zeros is no text, and is hidden from the UNet.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from auffusion_cli.config import ImageConfig
from auffusion_cli.engines.networks import NetworkSizes
from auffusion_cli.engines.torch_networks import TorchNetworks, like, text_states

if TYPE_CHECKING:
    from diffusers import AudioLDM2ProjectionModel
    from transformers import GPT2Model


class MelNetworks(TorchNetworks):
    """The UNet, autoencoder and vocoder that these systems share; see `networks.Networks`.

    The vocoder is transformers' SpeechT5HifiGan.
    """

    image_config = ImageConfig()
    sees_tokens = False
    """Whether the UNet attends to a prompt's tokens one by one, and to nothing else."""

    @cached_property
    def sizes(self) -> NetworkSizes:
        return NetworkSizes(
            text_widths=(),
            cross_attention_dim=self.text_width if self.text_encoders else 0,
            has_adapters=False,
            latent_channels=self.autoencoder.latent_channels,
            downsample=self.autoencoder.downsample,
            has_texture=False,
            has_vocoder=self.vocoder is not None,
        )

    @property
    @abstractmethod
    def text_width(self) -> int:
        """D"""

    @abstractmethod
    def condition(
        self, token_ids: Sequence[np.ndarray], attention_masks: Sequence[np.ndarray]
    ) -> np.ndarray:
        """(n_i,) int64 tokens of one prompt for each text encoder -> (T, D).

        A mask (n_i,) int64 is 0 where a token is padding.
        """

    @abstractmethod
    def _text_inputs(self, text: Tensor) -> dict[str, Any]:
        """(B, T, D) -> the inputs of the UNet about text."""

    def predict(self, latents: np.ndarray, timestep: float, text: np.ndarray) -> np.ndarray:
        weight = next(self.unet.parameters())

        def run() -> Tensor:
            time = torch.tensor(timestep, dtype=torch.float32, device=weight.device)
            return _upright(self.denoise(_lying(like(latents, weight)), time, like(text, weight)))

        return self._computed(run)

    def denoise(self, latents: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        """The UNet: (B, C, time, frequency) with (B, T, D) -> its raw output, of the same shape."""
        return self.unet(latents, timestep, **self._text_inputs(text)).sample

    def encode_image(self, image: np.ndarray) -> np.ndarray:
        low, high = self.image_config.log_mel_min, self.image_config.log_mel_max

        def run() -> Tensor:
            log_mel = _lying(self._image(image * (high - low) + low))
            posterior = self.autoencoder.vae.encode(log_mel).latent_dist
            return _upright(posterior.mode() * self.autoencoder.scaling_factor)

        return self._computed(run)

    def decode_latents(self, latents: np.ndarray) -> np.ndarray:
        low, high = self.image_config.log_mel_min, self.image_config.log_mel_max

        def run() -> Tensor:
            unscaled = _lying(self._image(latents)) / self.autoencoder.scaling_factor
            log_mel = self.autoencoder.vae.decode(unscaled).sample.float()
            return _upright((log_mel - low) / (high - low)).clamp(0, 1)

        return self._computed(run)

    def vocode(self, log_mel: np.ndarray) -> np.ndarray:
        weight = next(self.vocoder.parameters())
        n_samples = log_mel.shape[-1] * int(np.prod(self.vocoder.config.upsample_rates))
        # An odd difference of kernel and rate makes a few samples more.
        return self._computed(
            lambda: self.vocoder(like(log_mel, weight).transpose(1, 2))[:, :n_samples]
        )


class AudioLDMNetworks(MelNetworks):
    """AudioLDM's (arXiv 2301.12503): one vector of CLAP's text encoder, added to the time step."""

    @property
    def text_width(self) -> int:
        return self.unet.config.projection_class_embeddings_input_dim

    def condition(
        self, token_ids: Sequence[np.ndarray], attention_masks: Sequence[np.ndarray]
    ) -> np.ndarray:
        (clap,) = self.text_encoders
        return self._computed(lambda: _sentence(clap, token_ids[0], attention_masks[0])[0])

    def _text_inputs(self, text: Tensor) -> dict[str, Any]:
        return {"encoder_hidden_states": None, "class_labels": text[:, 0]}


class AudioLDM2Networks(MelNetworks):
    """AudioLDM 2's (arXiv 2308.05734): CLAP and Flan-T5 go through GPT-2, which goes on with
    `n_generated` rows; the UNet sees these by one cross-attention, and Flan-T5 by another."""

    def __init__(
        self, *, projection: AudioLDM2ProjectionModel, language_model: GPT2Model, **parts: Any
    ) -> None:
        super().__init__(**parts)
        self.projection = projection
        self.language_model = language_model
        self.n_generated: int = getattr(language_model.config, "max_new_tokens", None) or 8

    @property
    def modules(self) -> list[torch.nn.Module]:
        return [*super().modules, self.projection, self.language_model]

    @property
    def text_width(self) -> int:
        return max(self._widths)

    @property
    def _widths(self) -> tuple[int, int]:
        """Of a generated row, and of one of Flan-T5's."""
        return self.language_model.config.n_embd, self.text_encoders[1].config.d_model

    def condition(
        self, token_ids: Sequence[np.ndarray], attention_masks: Sequence[np.ndarray]
    ) -> np.ndarray:
        clap, t5 = self.text_encoders

        def run() -> Tensor:
            sentence = _sentence(clap, token_ids[0], attention_masks[0])
            states = text_states(t5, token_ids[1], attention_masks[1])
            mask = torch.from_numpy(attention_masks[1][None]).to(states.device)
            generated = self._generate(sentence, states, mask)
            shown = states * mask[..., None]
            rows = [F.pad(x[0], (0, self.text_width - x.shape[-1])) for x in (generated, shown)]
            return torch.cat(rows)

        return self._computed(run)

    def _generate(self, sentence: Tensor, states: Tensor, mask: Tensor) -> Tensor:
        """(1, 1, D_0), (1, n, D_1) and its mask -> (1, n_generated, D_2): what GPT-2 goes on with.

        It goes on with hidden states as they are; no word is chosen.
        """
        start = self.projection(sentence, states, mask.new_ones(1, 1), mask)
        inputs, seen = start.hidden_states, start.attention_mask
        for _ in range(self.n_generated):
            found = self.language_model(inputs_embeds=inputs, attention_mask=seen).last_hidden_state
            inputs = torch.cat([inputs, found[:, -1:]], dim=1)
            seen = torch.cat([seen, seen.new_ones(1, 1)], dim=1)
        return inputs[:, -self.n_generated :]

    def _text_inputs(self, text: Tensor) -> dict[str, Any]:
        generated_width, t5_width = self._widths
        states = text[:, self.n_generated :, :t5_width]
        return {
            "encoder_hidden_states": text[:, : self.n_generated, :generated_width],
            "encoder_hidden_states_1": states,
            "encoder_attention_mask_1": states.any(dim=-1),
        }


class TangoNetworks(MelNetworks):
    """Tango's (arXiv 2304.13731): the last hidden states of Flan-T5, by cross-attention."""

    sees_tokens = True

    @property
    def text_width(self) -> int:
        return self.text_encoders[0].config.d_model

    def condition(
        self, token_ids: Sequence[np.ndarray], attention_masks: Sequence[np.ndarray]
    ) -> np.ndarray:
        (t5,) = self.text_encoders
        states = self._computed(lambda: text_states(t5, token_ids[0], attention_masks[0])[0])
        return states * attention_masks[0][:, None].astype(np.float32)

    def _text_inputs(self, text: Tensor) -> dict[str, Any]:
        return {"encoder_hidden_states": text, "encoder_attention_mask": text.any(dim=-1)}


def _sentence(clap: torch.nn.Module, token_ids: np.ndarray, attention_mask: np.ndarray) -> Tensor:
    """(n,) tokens -> (1, 1, D): CLAP's embedding of the whole prompt, of length 1."""
    ids, mask = (torch.from_numpy(x[None]).to(clap.device) for x in (token_ids, attention_mask))
    return F.normalize(clap(input_ids=ids, attention_mask=mask).text_embeds, dim=-1)[:, None]


def _lying(image: Tensor) -> Tensor:
    """(B, C, frequency, time), high ones first -> (B, C, time, frequency), low ones first."""
    return image.flip(2).transpose(2, 3)


def _upright(image: Tensor) -> Tensor:
    """The inverse of `_lying`."""
    return image.transpose(2, 3).flip(2)
