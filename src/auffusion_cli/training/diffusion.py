"""The diffusion stage: UNet and condition adapters learn to denoise latents (paper, section 3.3).

The codec and the text encoders are frozen; their outputs come from `latents.LatentCache`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.training_utils import compute_snr
from torch import Tensor, nn

from auffusion_cli.autoencoder import load_autoencoder
from auffusion_cli.checkpoints import load_model, load_text_encoder, load_tokenizer, save_model
from auffusion_cli.codec import Codec
from auffusion_cli.errors import UsageError
from auffusion_cli.model import Model
from auffusion_cli.text import ConditionAdapter, TextConditioner, TextEncoder
from auffusion_cli.training.config import DiffusionConfig
from auffusion_cli.training.latents import LatentCache
from auffusion_cli.training.loop import Losses, Sample
from auffusion_cli.vocoder import GriffinLim, load_vocoder


def build_model(config: DiffusionConfig, device: torch.device, duration_s: float) -> Model:
    """The model to train: a checkpoint's (`init_from`), or a fresh UNet on trained parts.

    Raises:
        UsageError: from scratch, but parts are not named.
        CheckpointError: a part cannot be loaded.
    """
    if config.init_from is not None:
        model = load_model(config.init_from, device=str(device), dtype="float32")
        return model
    if config.autoencoder is None or not config.text_encoders:
        raise UsageError(
            "diffusion: training from scratch needs diffusion.autoencoder and "
            "diffusion.text_encoders",
            hint="or name a checkpoint to start from: diffusion.init_from",
        )
    autoencoder = load_autoencoder(Path(config.autoencoder), torch.float32)
    vocoder = load_vocoder(Path(config.vocoder)) if config.vocoder else GriffinLim()
    codec = Codec(autoencoder, vocoder)
    n_channels, height, width = codec.latent_shape(duration_s)
    cross_attention_dim = config.unet.get("cross_attention_dim", 768)
    encoders = [
        TextEncoder(
            load_tokenizer(Path(entry.path)),
            load_text_encoder(Path(entry.path), torch.float32),
            entry.max_length,
            source=entry.name,
        )
        for entry in config.text_encoders
    ]
    adapters = [
        ConditionAdapter(encoder.encoder.config.hidden_size, cross_attention_dim)
        for encoder in encoders
    ]
    text = TextConditioner(encoders, adapters)
    try:
        unet = UNet2DConditionModel(
            **{
                "sample_size": (height, width),
                **config.unet,
                "in_channels": n_channels,
                "out_channels": n_channels,
                "cross_attention_dim": cross_attention_dim,
            }
        )
    except (TypeError, ValueError) as error:
        raise UsageError(f"diffusion.unet: {error}") from error
    return Model(
        name=config.name,
        revision=None,
        licence=config.licence,
        codec=codec.to(device),
        text=text.to(device),
        unet=unet.to(device),
        scheduler_config=config.scheduler,
        defaults=config.generation,
        device=device,
        dtype=torch.float32,
    )


class DiffusionStage:
    """Noise prediction (or velocity) on cached latents; see `loop.Stage`."""

    def __init__(self, model: Model, cache: LatentCache, config: DiffusionConfig) -> None:
        self.model = model
        self.config = config
        self.cache = cache
        self.n_items = len(cache)
        self.scheduler = DDPMScheduler.from_config({**model.scheduler_config, "clip_sample": False})
        if config.gradient_checkpointing:
            model.unet.enable_gradient_checkpointing()
        model.unet.train()
        self.networks: dict[str, nn.Module] = {"denoiser": _Denoiser(model)}

    def trains(self, name: str, step: int) -> bool:
        return True

    def losses(self, batch: Sequence[Sample], step: int) -> Losses:
        n_timesteps = self.scheduler.config.num_train_timesteps
        clean = torch.stack([self.cache.latent(sample.index) for sample in batch])
        generators = [sample.generator() for sample in batch]
        noise = torch.stack([torch.randn(clean.shape[1:], generator=g) for g in generators])
        timesteps = torch.cat([torch.randint(n_timesteps, (1,), generator=g) for g in generators])
        kept = (
            torch.cat([torch.rand(1, generator=g) for g in generators]) >= self.config.text_dropout
        )
        hidden_states = [
            torch.stack(states)
            for states in zip(*(self.cache.hidden_states(s.index) for s in batch), strict=True)
        ]

        device = self.model.device
        clean, noise, timesteps, kept = (x.to(device) for x in (clean, noise, timesteps, kept))
        hidden_states = [states.to(device) for states in hidden_states]
        noisy = self.scheduler.add_noise(clean, noise, timesteps)
        velocity = self.scheduler.config.prediction_type == "v_prediction"
        target = self.scheduler.get_velocity(clean, noise, timesteps) if velocity else noise

        output = self.networks["denoiser"](noisy, timesteps, hidden_states, kept)
        error = (output.float() - target).square().mean(dim=(1, 2, 3))
        loss = (self._weights(timesteps, velocity) * error).mean()
        yield loss, {"loss": loss.item(), "mse": error.mean().item()}

    def _weights(self, timesteps: Tensor, velocity: bool) -> Tensor | float:
        """Min-SNR weights (Hang et al. 2023, arXiv 2303.09556, section 3.4)."""
        if self.config.min_snr_gamma is None:
            return 1.0
        snr = compute_snr(self.scheduler, timesteps)
        return snr.clamp(max=self.config.min_snr_gamma) / (snr + 1 if velocity else snr)

    def export(self, folder: Path) -> None:
        self.model.unet.eval()
        save_model(self.model, folder)
        self.model.unet.train()

    def preview(self, folder: Path, step: int) -> None:
        from auffusion_cli.audio import write_audio
        from auffusion_cli.tasks.generate import GenerateRequest, generate

        self.model.unet.eval()
        requests = [GenerateRequest(p, seed=0) for p in self.config.preview_prompts]
        for index, result in enumerate(generate(self.model, requests)):
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"step-{step:08d}-{index}.wav"
            write_audio(path, result.waveform, result.sample_rate_hz)
        self.model.unet.train()


class _Denoiser(nn.Module):
    """UNet and adapters as one network: one optimiser, one EMA, one wrapper."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.unet = model.unet
        self.adapters = model.text.adapters
        # Not a submodule: the frozen encoders are neither trained nor saved in checkpoints.
        self._adapt = model.text.adapt

    def forward(
        self, noisy: Tensor, timesteps: Tensor, hidden_states: list[Tensor], kept: Tensor
    ) -> Tensor:
        """The dropped rows get what an unconditional prompt gets: zeros after the adapter."""
        conditioning = self._adapt(hidden_states) * kept[:, None, None]
        return self.unet(noisy, timesteps, encoder_hidden_states=conditioning).sample
