"""The diffusion stage: UNet and condition adapters learn to denoise latents (paper, section 3.3).

The codec and the text encoders are frozen; their outputs come from `latents`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr
from torch import Tensor, nn

from auffusion_cli.checkpoints.save import save_model
from auffusion_cli.errors import UsageError
from auffusion_cli.files import replace_folder
from auffusion_cli.model import Model
from auffusion_cli.pictures.spectrogram import save_spectrogram
from auffusion_cli.requests.request import GenerateRequest, GenerateSettings
from auffusion_cli.signal.audio import write_audio
from auffusion_cli.tasks.generate import generate
from auffusion_cli.training.diffusion_config import DiffusionConfig
from auffusion_cli.training.latents import ExampleSource
from auffusion_cli.training.run_folder import RESULT_NAME
from auffusion_cli.training.samples import Sample
from auffusion_cli.training.stage import Losses

PREDICTION_TYPES = ("epsilon", "v_prediction")
MAX_PREVIEW_STEPS = 25
"""Of previews without `diffusion.preview.steps`."""


class DiffusionStage:
    """Noise prediction (or velocity) on latents; see `stage.Stage`."""

    def __init__(self, model: Model, source: ExampleSource, config: DiffusionConfig) -> None:
        """Set up the stage; impossible previews or prediction types are UsageErrors."""
        self.model = model
        self.config = config
        self.source = source
        self.n_items = len(source)
        self.preview_requests = [GenerateRequest(p, seed=0) for p in config.preview_prompts]
        few_steps = min(model.defaults.steps, MAX_PREVIEW_STEPS)
        asked = {name: value for name, value in asdict(config.preview).items() if value is not None}
        try:
            self.preview_settings = GenerateSettings.from_defaults(
                model.defaults, **{"steps": few_steps} | asked
            )
        except UsageError as error:
            raise UsageError(f"diffusion.preview: {error.message}", hint=error.hint) from error
        self.scheduler = DDPMScheduler.from_config({**model.scheduler_config, "clip_sample": False})
        if self.scheduler.config.prediction_type not in PREDICTION_TYPES:
            raise UsageError(
                f"diffusion.scheduler.prediction_type: {self.scheduler.config.prediction_type!r} "
                f"is not one of {', '.join(PREDICTION_TYPES)}"
            )
        if config.gradient_checkpointing:
            model.networks.unet.enable_gradient_checkpointing()
        model.networks.unet.train()
        self.networks: dict[str, nn.Module] = {"denoiser": _Denoiser(model)}

    def trains(self, name: str, step: int) -> bool:
        return True

    def load(self, batch: Sequence[Sample]) -> tuple[Any, Tensor, Tensor, Tensor]:
        """One batch: (part of the source, noise (B, C, h, w), time steps (B,), mask (B,) of kept
        captions)."""
        n_timesteps = self.scheduler.config.num_train_timesteps
        generators = [sample.generator() for sample in batch]
        noise = torch.stack(
            [torch.randn(self.source.latent_shape, generator=g) for g in generators]
        )
        timesteps = torch.cat([torch.randint(n_timesteps, (1,), generator=g) for g in generators])
        draws = torch.cat([torch.rand(1, generator=g) for g in generators])
        return self.source.load(batch), noise, timesteps, draws >= self.config.text_dropout

    def losses(self, loaded: tuple[Any, Tensor, Tensor, Tensor], step: int) -> Losses:
        device = self.model.networks.torch_device
        clean, hidden_states = self.source.examples(loaded[0])
        clean, noise, timesteps, kept = (
            x.to(device, non_blocking=True) for x in (clean, *loaded[1:])
        )
        hidden_states = [states.to(device, non_blocking=True) for states in hidden_states]
        noisy = self.scheduler.add_noise(clean, noise, timesteps)
        velocity = self.scheduler.config.prediction_type == "v_prediction"
        target = self.scheduler.get_velocity(clean, noise, timesteps) if velocity else noise

        output = self.networks["denoiser"](noisy, timesteps, hidden_states, kept)
        error = (output.float() - target).square().mean(dim=(1, 2, 3))
        loss = (self._weights(timesteps, velocity) * error).mean()
        yield loss, {"loss": loss.item(), "mse": error.mean().item()}

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
        """Write the parts of a checkpoint into `folder`, beside its other contents."""
        self.model.networks.unet.eval()
        unfinished = folder / RESULT_NAME
        for part in save_model(self.model, unfinished, overwrite=True).iterdir():
            if part.is_dir():
                replace_folder(part, folder / part.name)
            else:
                part.replace(folder / part.name)
        unfinished.rmdir()
        self.model.networks.unet.train()

    def preview(self, folder: Path, step: int) -> None:
        """Write the preview prompts' sounds and spectrograms, always from the same noise."""
        self.model.networks.unet.eval()
        folder.mkdir(parents=True, exist_ok=True)
        results = generate(self.model, self.preview_requests, self.preview_settings)
        for index, result in enumerate(results):
            path = folder / f"step-{step:08d}-{index}.wav"
            write_audio(path, result.waveform, result.sample_rate_hz)
            save_spectrogram(
                result.log_mel, path.with_suffix(".png"), self.model.codec.spectrogram_config
            )
        self.model.networks.unet.train()


class _Denoiser(nn.Module):
    """UNet and adapters as one network: one optimiser, one EMA, one wrapper."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.unet = model.networks.unet
        self.adapters = model.networks.adapters
        unconditional = torch.from_numpy(model.text.unconditional())
        self._unconditional = unconditional.to(model.networks.torch_device)

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
