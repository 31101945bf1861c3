"""The diffusion stage: UNet and condition adapters learn to denoise latents (paper, section 3.3).

The codec and the text encoders are frozen; their outputs come from `latents`.
"""

from __future__ import annotations

import inspect
import reprlib
import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.training_utils import compute_snr
from torch import Tensor, nn

from auffusion_cli.checkpoints.layout import check_defaults, check_scheduler_config
from auffusion_cli.checkpoints.load import (
    load_autoencoder,
    load_model,
    load_vocoder,
    try_unet,
)
from auffusion_cli.checkpoints.meta import MAX_SIZE
from auffusion_cli.checkpoints.save import save_model
from auffusion_cli.checkpoints.text_encoders import load_text_encoder, load_tokenizer
from auffusion_cli.codec.codec import Codec
from auffusion_cli.codec.vocoder import GriffinLim
from auffusion_cli.config import SCHEDULERS
from auffusion_cli.diffusion.text import ConditionAdapter, TextConditioner, TextEncoder
from auffusion_cli.errors import AuffusionWarning, UsageError
from auffusion_cli.files import replace_folder
from auffusion_cli.model import Model
from auffusion_cli.pictures.spectrogram import save_spectrogram
from auffusion_cli.requests.request import GenerateRequest, GenerateSettings
from auffusion_cli.signal.audio import write_audio
from auffusion_cli.tasks.generate import generate
from auffusion_cli.training.config import DiffusionConfig, TextEncoderConfig
from auffusion_cli.training.latents import ExampleSource
from auffusion_cli.training.parts import as_setting, build_network, existing_folder, part_folder
from auffusion_cli.training.run_folder import RESULT_NAME
from auffusion_cli.training.samples import Sample
from auffusion_cli.training.stage import Losses

PREDICTION_TYPES = ("epsilon", "v_prediction")
MAX_PREVIEW_STEPS = 25
"""Of previews without `diffusion.preview.steps`."""


def build_model(config: DiffusionConfig, device: torch.device, window_s: float) -> Model:
    """The model to train on windows of `window_s`: a checkpoint, or a fresh UNet on trained parts.

    Raises:
        UsageError: from scratch, but parts are not named, or a setting is impossible.
        CheckpointError: a part cannot be loaded.
    """
    if config.init_from is not None:
        return _load_model(config, device, window_s)
    if config.autoencoder is None or not config.text_encoders:
        raise UsageError(
            "diffusion: training from scratch needs diffusion.autoencoder and "
            "diffusion.text_encoders",
            hint="or name a checkpoint to start from: diffusion.init_from",
        )
    _check_scheduler(config.scheduler)
    _check_generation(config, window_s)
    vocoder = GriffinLim()
    if config.vocoder:
        vocoder = load_vocoder(part_folder(config.vocoder, "diffusion.vocoder", "vocoder"))
    autoencoder = part_folder(config.autoencoder, "diffusion.autoencoder", "vae")
    codec = Codec(load_autoencoder(autoencoder, torch.float32), vocoder)
    cross_attention_dim = config.unet.get("cross_attention_dim", 768)
    if not (isinstance(cross_attention_dim, int) and 1 <= cross_attention_dim <= MAX_SIZE):
        raise UsageError(
            f"diffusion.unet.cross_attention_dim: {reprlib.repr(cross_attention_dim)} is not a "
            f"whole number from 1 to {MAX_SIZE}"
        )
    return Model(
        name=config.name,
        revision=None,
        licence=config.licence,
        codec=codec.to(device),
        text=_load_text(config.text_encoders, cross_attention_dim).to(device),
        unet=_fresh_unet(config.unet, codec.latent_shape(window_s), cross_attention_dim).to(device),
        scheduler_config=config.scheduler,
        defaults=config.generation,
        device=device,
        dtype=torch.float32,
    )


def _load_model(config: DiffusionConfig, device: torch.device, window_s: float) -> Model:
    """The checkpoint `init_from`, with the name, licence and window of the result."""
    model = load_model(config.init_from, device=str(device), dtype="fp32")
    defaults = model.defaults
    if window_s > defaults.max_duration_s:
        raise UsageError(
            f"scenes.duration_s: {window_s:g} s is more than the window of {config.init_from}, "
            f"{defaults.max_duration_s:g} s",
            hint=f"--set scenes.duration_s={defaults.max_duration_s:g}",
        )
    if window_s < defaults.max_duration_s:
        warnings.warn(
            f"the window shrinks from {defaults.max_duration_s:g} s to scenes.duration_s, "
            f"{window_s:g} s: the result generates longer sounds in several windows",
            AuffusionWarning,
            stacklevel=2,
        )
        defaults = replace(
            defaults, max_duration_s=window_s, duration_s=min(defaults.duration_s, window_s)
        )
        with as_setting():
            check_defaults(defaults, "scenes.duration_s")
    licence = config.licence or model.licence
    # The result will know other sounds than those of the checkpoint's vocabulary.
    return replace(model, name=config.name, licence=licence, defaults=defaults, vocabulary=None)


def _load_text(entries: Sequence[TextEncoderConfig], cross_attention_dim: int) -> TextConditioner:
    """Frozen text encoders, each with a fresh adapter to the UNet's width."""
    encoders = []
    for number, entry in enumerate(entries):
        folder = existing_folder(entry.path, f"diffusion.text_encoders[{number}].path")
        encoder = load_text_encoder(folder, torch.float32)
        encoders.append(
            TextEncoder(load_tokenizer(folder), encoder, entry.max_length, source=entry.name)
        )
    adapters = [
        ConditionAdapter(encoder.encoder.config.hidden_size, cross_attention_dim)
        for encoder in encoders
    ]
    return TextConditioner(encoders, adapters)


def _fresh_unet(
    arguments: dict[str, Any], latent_shape: tuple[int, int, int], cross_attention_dim: int
) -> UNet2DConditionModel:
    n_channels, height, width = latent_shape
    sizes = {"in_channels": n_channels, "out_channels": n_channels}
    arguments = {
        "sample_size": (height, width),
        **arguments,
        **sizes,
        "cross_attention_dim": cross_attention_dim,
    }
    key = "diffusion.unet"
    return build_network(
        lambda: UNet2DConditionModel(**arguments), key, lambda unet: try_unet(unet, key)
    )


def _check_scheduler(config: dict[str, Any]) -> None:
    """Raise a UsageError for unknown keys, which diffusers ignores, and impossible values."""
    classes = [DDPMScheduler, *(getattr(diffusers, name) for name in SCHEDULERS.values())]
    known = {name for kind in classes for name in inspect.signature(kind).parameters}
    for key in config:
        if key not in known:
            raise UsageError(
                f"diffusion.scheduler: unknown key {key!r}",
                hint=f"valid: {', '.join(sorted(known))}",
            )
    with as_setting():
        check_scheduler_config(config, "diffusion.scheduler")


def _check_generation(config: DiffusionConfig, window_s: float) -> None:
    """Raise a UsageError where the defaults of `generate` are impossible in the trained window."""
    defaults = config.generation
    if defaults.max_duration_s != window_s:
        raise UsageError(
            f"diffusion.generation.max_duration_s: {defaults.max_duration_s:g} s is not the window "
            f"that is trained, scenes.duration_s: {window_s:g} s"
        )
    with as_setting():
        check_defaults(defaults, "diffusion.generation")


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
            model.unet.enable_gradient_checkpointing()
        model.unet.train()
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
        device = self.model.device
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
        self.model.unet.eval()
        unfinished = folder / RESULT_NAME
        for part in save_model(self.model, unfinished, overwrite=True).iterdir():
            if part.is_dir():
                replace_folder(part, folder / part.name)
            else:
                part.replace(folder / part.name)
        unfinished.rmdir()
        self.model.unet.train()

    def preview(self, folder: Path, step: int) -> None:
        """Write the preview prompts' sounds and spectrograms, always from the same noise."""
        self.model.unet.eval()
        folder.mkdir(parents=True, exist_ok=True)
        results = generate(self.model, self.preview_requests, self.preview_settings)
        for index, result in enumerate(results):
            path = folder / f"step-{step:08d}-{index}.wav"
            write_audio(path, result.waveform, result.sample_rate_hz)
            save_spectrogram(
                result.log_mel, path.with_suffix(".png"), self.model.codec.spectrogram_config
            )
        self.model.unet.train()


class _Denoiser(nn.Module):
    """UNet and adapters as one network: one optimiser, one EMA, one wrapper."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.unet = model.unet
        self.adapters = model.text.adapters
        # Not a submodule: the frozen encoders are neither trained nor saved in checkpoints.
        self._adapt = model.text.adapt
        self._unconditional = model.text.unconditional()

    def forward(
        self, noisy: Tensor, timesteps: Tensor, hidden_states: list[Tensor], kept: Tensor
    ) -> Tensor:
        """Prediction of the noise or velocity of noisy latents.

        Rows that are not `kept` (B,) are unconditional: zeros after the adapters, or the empty
        prompt in the Stable Diffusion layout.
        """
        conditioning = self._adapt(hidden_states)
        conditioning = torch.where(kept[:, None, None], conditioning, self._unconditional)
        return self.unet(noisy, timesteps, encoder_hidden_states=conditioning).sample
