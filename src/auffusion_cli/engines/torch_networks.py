"""`Networks` computed by torch: on any of its devices, in any precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from auffusion_cli.device import dtype_name
from auffusion_cli.engines.networks import NetworkSizes
from auffusion_cli.errors import DeviceMemoryError

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel
    from transformers import PreTrainedModel

    from auffusion_cli.codec.autoencoder import KLAutoencoder
    from auffusion_cli.codec.patch_autoencoder import PatchAutoencoder
    from auffusion_cli.codec.vocoder import HiFiGAN
    from auffusion_cli.diffusion.adapter import ConditionAdapter


class TorchNetworks:
    """Modules on one device; see `networks.Networks`. They are public, for training and attention.

    The vocoder is in float32, all others in the precision of their weights. A part may be missing
    where nothing is asked of it, such as the UNet of a codec.
    """

    engine = "torch"

    def __init__(
        self,
        *,
        unet: UNet2DConditionModel | None = None,
        autoencoder: KLAutoencoder | PatchAutoencoder | None = None,
        text_encoders: Sequence[PreTrainedModel] = (),
        adapters: Sequence[ConditionAdapter] | None = None,
        vocoder: HiFiGAN | None = None,
    ) -> None:
        """The modules are used as they are: on their device, in their precision and mode."""
        self.unet = unet
        self.autoencoder = autoencoder
        self.text_encoders = nn.ModuleList(text_encoders)
        self.adapters = None if adapters is None else nn.ModuleList(adapters)
        self.vocoder = vocoder

    @property
    def modules(self) -> list[nn.Module]:
        """All that are there, the largest first."""
        parts = (self.unet, self.autoencoder, self.text_encoders, self.adapters, self.vocoder)
        return [part for part in parts if part is not None]

    def to(self, device: torch.device | str) -> TorchNetworks:
        for module in self.modules:
            module.to(device)
        return self

    @property
    def torch_device(self) -> torch.device:
        return next(self._main.parameters()).device

    @property
    def torch_dtype(self) -> torch.dtype:
        return next(self._main.parameters()).dtype

    @property
    def device(self) -> str:
        return self.torch_device.type

    @property
    def dtype(self) -> str:
        return dtype_name(self.torch_dtype)

    @property
    def _main(self) -> nn.Module:
        return next(part for part in self.modules if any(True for _ in part.parameters()))

    @cached_property
    def sizes(self) -> NetworkSizes:
        widths = tuple(encoder.config.hidden_size for encoder in self.text_encoders)
        if self.adapters is not None:
            cross_attention_dim = self.adapters[0].proj.out_features
        else:
            cross_attention_dim = widths[0] if widths else 0
        autoencoder = self.autoencoder
        return NetworkSizes(
            text_widths=widths,
            cross_attention_dim=cross_attention_dim,
            has_adapters=self.adapters is not None,
            latent_channels=0 if autoencoder is None else autoencoder.latent_channels,
            downsample=1 if autoencoder is None else autoencoder.downsample,
            has_texture=autoencoder is not None and autoencoder.texture is not None,
            has_vocoder=self.vocoder is not None,
        )

    # --- `Networks`

    def hidden_states(
        self, encoder: int, token_ids: np.ndarray, attention_mask: np.ndarray | None
    ) -> np.ndarray:
        network = self.text_encoders[encoder]
        inputs = {"input_ids": token_ids}
        if attention_mask is not None:
            inputs["attention_mask"] = attention_mask

        def run() -> Tensor:
            tensors = {
                name: torch.from_numpy(ids).to(network.device) for name, ids in inputs.items()
            }
            return network(**tensors).last_hidden_state

        return self._computed(run)

    def adapt(self, encoder: int, hidden_states: np.ndarray) -> np.ndarray:
        adapter = self.adapters[encoder]
        return self._computed(lambda: adapter(like(hidden_states, adapter.proj.weight)))

    def predict(self, latents: np.ndarray, timestep: float, text: np.ndarray) -> np.ndarray:
        weight = next(self.unet.parameters())

        def run() -> Tensor:
            time = torch.tensor(timestep, dtype=torch.float32, device=weight.device)
            text_states = like(text, weight)
            return self.unet(like(latents, weight), time, encoder_hidden_states=text_states).sample

        return self._computed(run)

    def encode_image(self, image: np.ndarray) -> np.ndarray:
        return self._computed(
            lambda: self.autoencoder.encode(self._image(image).expand(-1, 3, -1, -1))
        )

    def decode_latents(self, latents: np.ndarray) -> np.ndarray:
        return self._computed(lambda: self.autoencoder.decode(self._image(latents))[:, :1])

    def texture(self, image: np.ndarray, noise: np.ndarray) -> np.ndarray:
        def run() -> Tensor:
            strength = self.autoencoder.texture_strength(self._image(image))
            return strength * self.autoencoder.lost(self._image(noise))

        return self._computed(run)

    def vocode(self, log_mel: np.ndarray) -> np.ndarray:
        weight = next(self.vocoder.parameters())
        return self._computed(lambda: self.vocoder(like(log_mel, weight)))

    def _image(self, values: np.ndarray) -> Tensor:
        return like(values, next(self.autoencoder.parameters()))

    def _computed(self, run: Callable[[], Tensor]) -> np.ndarray:
        """The result of `run` as a float32 array; one transfer."""
        try:
            with torch.no_grad():
                return run().float().cpu().numpy()
        except torch.OutOfMemoryError:
            pass
        # Outside of the handler, where the traceback would still hold the batch's tensors.
        if self.device == "cuda":
            torch.cuda.empty_cache()
        raise DeviceMemoryError(f"The memory of {self.device} does not suffice")


def text_states(
    encoder: PreTrainedModel, token_ids: np.ndarray, attention_mask: np.ndarray
) -> Tensor:
    """(n,) tokens -> (1, n, D): the last hidden states."""
    ids, mask = (torch.from_numpy(x[None]).to(encoder.device) for x in (token_ids, attention_mask))
    return encoder(input_ids=ids, attention_mask=mask).last_hidden_state


def like(values: np.ndarray, weight: Tensor) -> Tensor:
    """An array as a tensor of the device and precision of `weight`."""
    return torch.from_numpy(np.ascontiguousarray(values)).to(weight.device, weight.dtype)
