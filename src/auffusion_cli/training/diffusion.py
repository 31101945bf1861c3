"""The diffusion stage: UNet and condition adapters learn to denoise latents (paper, section 3.3).

The codec and the text encoders are frozen; their outputs come from `latents`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from auffusion_cli.checkpoints.lora import save_lora
from auffusion_cli.errors import UsageError
from auffusion_cli.model import Model
from auffusion_cli.requests.loras import LORA_NAME
from auffusion_cli.training.diffusion_config import DiffusionConfig
from auffusion_cli.training.latents import ExampleSource
from auffusion_cli.training.lora import add_lora, lora_changes, without_lora
from auffusion_cli.training.outputs import Previews, export_model
from auffusion_cli.training.parts import public_name
from auffusion_cli.training.prior import Prior
from auffusion_cli.training.samples import Sample, scene_seed
from auffusion_cli.training.stage import Losses

PREDICTION_TYPES = ("epsilon", "v_prediction")
VALIDATION_BATCH = 8
VALIDATION_TIMES = (0.125, 0.375, 0.625, 0.875)
"""Fractions of the noise schedule at which every held-out sample is denoised."""


class DiffusionStage:
    """Noise prediction (or velocity) on latents; see `stage.Stage`."""

    def __init__(
        self,
        model: Model,
        source: ExampleSource,
        config: DiffusionConfig,
        prior: Prior | None = None,
        held_out: ExampleSource | None = None,
    ) -> None:
        """Set up the stage; impossible previews or prediction types are UsageErrors."""
        self.model = model
        self.prior = prior
        self.held_out = held_out
        self.config = config
        self.source = source
        self.n_items, self.shards = len(source), source.shards
        self.previews = Previews(model, config)
        self.scheduler = DDPMScheduler.from_config({**model.scheduler_config, "clip_sample": False})
        if self.scheduler.config.prediction_type not in PREDICTION_TYPES:
            raise UsageError(
                f"diffusion.scheduler.prediction_type: {self.scheduler.config.prediction_type!r} "
                f"is not one of {', '.join(PREDICTION_TYPES)}"
            )
        self._velocity = self.scheduler.config.prediction_type == "v_prediction"
        self.device = model.networks.torch_device
        self.unet = model.networks.unet
        if config.lora.rank is not None:
            add_lora(self.unet, config.lora.rank)
        if model.networks.adapters is not None:
            trained = config.train_adapters and config.lora.rank is None
            model.networks.adapters.requires_grad_(trained)
        elif not config.train_adapters:
            raise UsageError("diffusion.train_adapters: false: the start has no adapters")
        if config.gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()
        self.unet.train()
        self.denoiser = _Denoiser(model)
        self.networks: dict[str, nn.Module] = {"denoiser": self.denoiser}

    def trains(self, name: str, step: int) -> bool:
        return True

    def load(self, batch: Sequence[Sample]) -> tuple[Any, Tensor, Tensor, Tensor]:
        """One batch: (part of the source, noise (B, C, h, w), time steps (B,), mask (B,) of kept
        captions). With a prior as many samples of it follow.

        With a LoRA only captions of the prior are dropped: an unconditional prediction that drifts
        to the new sounds is multiplied by guidance, for every prompt.
        """
        generators = [sample.generator() for sample in batch]
        noise, timesteps = self._draw(generators)
        draws = torch.cat([torch.rand(1, generator=g) for g in generators])
        kept = draws >= self.config.text_dropout
        part = self.source.load(batch)
        if self.config.lora.rank is None:
            return part, noise, timesteps, kept
        all_kept = torch.ones_like(kept)
        if self.prior is None:
            return part, noise, timesteps, all_kept
        latents, prompts = zip(*(self.prior.draw(g) for g in generators), strict=True)
        noise_of_prior, timesteps_of_prior = self._draw(generators)
        return (
            (part, (torch.cat(latents), torch.cat(prompts))),
            torch.cat([noise, noise_of_prior]),
            torch.cat([timesteps, timesteps_of_prior]),
            torch.cat([all_kept, kept]),
        )

    def _draw(self, generators: Sequence[torch.Generator]) -> tuple[Tensor, Tensor]:
        """Noise (B, C, h, w) and time steps (B,)."""
        n_timesteps = self.scheduler.config.num_train_timesteps
        shape = self.source.latent_shape
        noise = torch.stack([torch.randn(shape, generator=g) for g in generators])
        return noise, torch.cat([torch.randint(n_timesteps, (1,), generator=g) for g in generators])

    def _examples(self, part: Any) -> tuple[Tensor, list[Tensor]]:
        """Latents and hidden states of the source, and after them those of the prior."""
        if self.prior is None:
            return self.source.examples(part)
        part, numbers = part
        own = self.source.examples(part)
        kept = self.prior.take(*numbers)
        latents = torch.cat([own[0], kept[0].to(own[0].device)])
        pairs = zip(own[1], kept[1], strict=True)
        return latents, [torch.cat([mine, of_prior.to(mine.device)]) for mine, of_prior in pairs]

    def losses(self, loaded: tuple[Any, Tensor, Tensor, Tensor], step: int) -> Losses:
        device = self.device
        clean, hidden_states = self._examples(loaded[0])
        clean, noise, timesteps, kept = (
            x.to(device, non_blocking=True) for x in (clean, *loaded[1:])
        )
        hidden_states = [states.to(device, non_blocking=True) for states in hidden_states]
        noisy, target = self._noisy_and_target(clean, noise, timesteps)

        n_own = len(noisy) if self.prior is None else len(noisy) // 2
        if self.prior is not None:
            of_prior = slice(n_own, None)
            states = [each[of_prior] for each in hidden_states]
            with torch.no_grad(), without_lora(self.unet):
                target[of_prior] = self.denoiser(
                    noisy[of_prior], timesteps[of_prior], states, kept[of_prior]
                )
        output = self.networks["denoiser"](noisy, timesteps, hidden_states, kept)
        error = (output.float() - target).square().mean(dim=(1, 2, 3))
        weighted = (self._weights(timesteps, self._velocity) * error)[:n_own]
        loss, numbers = weighted.mean(), {"mse": error[:n_own].mean().item()}
        if self.prior is not None:
            # Of the same weight at all time steps: at the first ones, which count least in
            # Min-SNR, it is decided what a sound becomes.
            of_prior = error[n_own:].mean()
            loss = loss + self.config.lora.prior_weight * of_prior
            numbers["prior"] = of_prior.item()
        yield loss, {"loss": loss.item()} | numbers

    def _noisy_and_target(
        self, clean: Tensor, noise: Tensor, timesteps: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Noisy latents, and the noise or velocity in them."""
        noisy = self.scheduler.add_noise(clean, noise, timesteps)
        if self._velocity:
            return noisy, self.scheduler.get_velocity(clean, noise, timesteps)
        return noisy, noise

    @torch.no_grad()
    def validation_loss(self) -> float:
        """The mean squared error on the held-out data; noise, time steps and captions are fixed."""
        device, network = self.device, self.networks["denoiser"]
        if not isinstance(network, FSDPModule):
            network = self.denoiser  # as it is, in one process
        samples = [Sample(index, scene_seed(0, index)) for index in range(len(self.held_out))]
        errors = []
        network.unet.eval()
        for first in range(0, len(samples), VALIDATION_BATCH):
            batch = samples[first : first + VALIDATION_BATCH]
            clean, states = self.held_out.examples(self.held_out.load(batch))
            clean, states = clean.to(device), [each.to(device) for each in states]
            noise, _ = self._draw([sample.generator() for sample in batch])
            kept = torch.ones(len(batch), dtype=torch.bool, device=device)
            for time in VALIDATION_TIMES:
                timestep = int(time * self.scheduler.config.num_train_timesteps)
                timesteps = torch.full((len(batch),), timestep, device=device)
                noisy, target = self._noisy_and_target(clean, noise.to(device), timesteps)
                output = network(noisy, timesteps, states, kept)
                errors.append((output.float() - target).square().mean(dim=(1, 2, 3)))
        network.unet.train()
        return torch.cat(errors).mean().item()

    def _weights(self, timesteps: Tensor, velocity: bool) -> Tensor | float:
        """Min-SNR weights (Hang et al. 2023, arXiv 2303.09556, section 3.4).

        min(SNR, gamma) / SNR for the noise, min(SNR, gamma) / (SNR + 1) for the velocity.
        """
        gamma = self.config.min_snr_gamma
        if gamma is None:
            return 1.0
        snr = compute_snr(self.scheduler, timesteps)
        # The noise's is 1, not 0 / 0, where the SNR is 0.
        return snr.clamp(max=gamma) / (snr + 1) if velocity else (gamma / snr).clamp(max=1)

    def export(self, folder: Path) -> None:
        """Write the checkpoint's parts, or the LoRA, into `folder`, beside its other contents."""
        if self.config.lora.rank is not None:
            trigger, base = self.config.lora.trigger, public_name(self.config.init_from)
            save_lora(lora_changes(self.unet), folder / LORA_NAME, trigger=trigger, base=base)
            return
        export_model(self.model, folder)

    def preview(self, folder: Path, step: int) -> None:
        """Write the preview prompts' sounds and spectrograms, always from the same noise."""
        self.previews.write(folder, step)


class _Denoiser(nn.Module):
    """UNet and adapters as one network: one optimiser, one EMA, one wrapper."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.unet = model.networks.unet
        self.adapters = model.networks.adapters
        unconditional = torch.from_numpy(model.text.unconditional())
        self._unconditional = unconditional.to(model.networks.torch_device)

    @property
    def _no_split_modules(self) -> list[str]:
        """The classes of modules that FSDP keeps together, as accelerate asks for them."""
        there = {type(module).__name__ for module in self.unet.modules()}
        return [name for name in self.unet._no_split_modules if name in there]

    def forward(
        self, noisy: Tensor, timesteps: Tensor, hidden_states: list[Tensor], kept: Tensor
    ) -> Tensor:
        """Prediction of the noise or velocity of noisy latents.

        Rows that are not `kept` (B,) are unconditional: zeros after the adapters, or the empty
        prompt in the Stable Diffusion layout.
        """
        if self.adapters is not None:
            adapters = zip(self.adapters, hidden_states, strict=True)
            hidden_states = [adapter(states) for adapter, states in adapters]
        conditioning = torch.cat(hidden_states, dim=1)
        conditioning = torch.where(kept[:, None, None], conditioning, self._unconditional)
        return self.unet(noisy, timesteps, encoder_hidden_states=conditioning).sample
