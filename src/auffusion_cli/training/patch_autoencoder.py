"""The autoencoder stage for `kind: patch`: fit the linear transform, then train its refinement."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from auffusion_cli.checkpoints.load_torch import check_autoencoder
from auffusion_cli.codec.log_mel import LogMelModule, normalize_peak
from auffusion_cli.codec.patch_autoencoder import PatchAutoencoder
from auffusion_cli.codec.tensor_image import log_mel_to_image, pad_image
from auffusion_cli.files import atomic_file, atomic_folder
from auffusion_cli.training.clip_store import ClipStore
from auffusion_cli.training.config import AutoencoderConfig, TrainingConfig
from auffusion_cli.training.losses import gradient_loss
from auffusion_cli.training.parts import build_network, started_autoencoder
from auffusion_cli.training.samples import Sample, scene_seed
from auffusion_cli.training.scenes import compose
from auffusion_cli.training.stage import Losses, OnPrepare

FIT_BATCH = 16
N_PREVIEWS = 4


def build_patch_autoencoder(config: AutoencoderConfig) -> PatchAutoencoder:
    """The autoencoder to train: a checkpoint's (`init_from`), or a fresh one, still to be fitted.

    Raises:
        UsageError: `config.model` holds an unknown or impossible value.
        CheckpointError: the checkpoint cannot be loaded, or is of another kind.
    """
    if config.init_from is not None:
        return started_autoencoder(config, PatchAutoencoder)
    key = "autoencoder.model"
    return build_network(
        lambda: PatchAutoencoder(**config.model),
        key,
        lambda network: check_autoencoder(network, config.model, key),
    )


class PatchAutoencoderStage:
    """L1 and gradient loss of the refined image; the latents are fixed by the fit.

    see `stage.Stage`.
    """

    shards = None

    def __init__(
        self,
        config: TrainingConfig,
        store: ClipStore,
        device: torch.device,
        on_prepare: OnPrepare | None = None,
    ) -> None:
        self.store, self.scenes, self.config = store, config.scenes, config.autoencoder
        self.device = device
        self.log_mel = LogMelModule().to(device)
        self.n_items = config.scenes.n_cached or len(store)
        self.model = build_patch_autoencoder(self.config).to(device).train()
        if self.config.init_from is None:
            self._fit(config.seed, on_prepare)
        mel, f = self.log_mel.config, self.model.downsample
        n_columns = round(config.scenes.duration_s * mel.sample_rate_hz) // mel.hop_length_samples
        self.latent_shape = (self.model.latent_channels, mel.n_mels // f, -(-n_columns // f))
        self.networks: dict[str, nn.Module] = {"refinement": self.model.refinement}

    def _fit(self, seed: int, on_prepare: OnPrepare | None) -> None:
        """Fit the transform to scenes that depend on the seed alone, so that resumed runs agree."""
        n_images = self.config.n_fit_images
        images = []
        for start in range(0, n_images, FIT_BATCH):
            indices = range(start, min(start + FIT_BATCH, n_images))
            waveforms = self._waveforms([scene_seed(seed, index) for index in indices])
            images.append(self._images(waveforms).half())
            if on_prepare is not None:
                on_prepare("fitting patches", indices.stop, n_images)
        self.model.fit(torch.cat(images))

    def trains(self, name: str, step: int) -> bool:
        return True

    def load(self, batch: Sequence[Sample]) -> tuple[Tensor, Tensor | None]:
        """Waveforms (B, N), and the noise on their latents (B, C, h, w); None: no noise."""
        waveforms = self._waveforms([sample.seed for sample in batch])
        noise = torch.stack([self._noise(s) for s in batch]) if self.config.latent_noise else None
        return waveforms, noise

    def losses(self, loaded: tuple[Tensor, Tensor | None], step: int) -> Losses:
        waveforms, noise = loaded
        images = self._images(waveforms)
        with torch.no_grad():
            latents = self.model.encode(images)
            if noise is not None:
                latents = latents + noise.to(latents)
            linear = self.model.decode_linear(latents)
        refined = self.networks["refinement"](linear).float()
        l1 = (refined - images).abs().mean()
        gradient = gradient_loss(images, refined)
        loss = self.config.l1_weight * l1 + self.config.gradient_weight * gradient
        yield (
            loss,
            {
                "loss": loss.item(),
                "l1": l1.item(),
                "linear_l1": (linear - images).abs().mean().item(),
            },
        )

    def export(self, folder: Path) -> None:
        """Write `folder/vae/`."""
        with atomic_folder(folder / "vae") as beside:
            self.model.save_pretrained(beside)

    @torch.no_grad()
    def preview(self, folder: Path, step: int) -> None:
        """Write a picture: a row of images, and their reconstructions below."""
        images = self._images(self._waveforms(range(N_PREVIEWS)))
        rebuilt = self.model.decode(self.model.encode(images))[:, :1]
        rows = [torch.cat(list(row[:, 0]), dim=1) for row in (images, rebuilt)]
        pixels = (torch.cat(rows) * 255).round().byte().cpu().numpy()
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(folder / f"step-{step:08d}.png", durable=False) as beside:
            Image.fromarray(pixels).save(beside, format="png")

    def _noise(self, sample: Sample) -> Tensor:
        """(C, h, w) noise of a random standard deviation of up to `latent_noise`."""
        generator = sample.generator()
        level = self.config.latent_noise * torch.rand(1, generator=generator)
        return level * torch.randn(self.latent_shape, generator=generator)

    def _waveforms(self, seeds: Sequence[int]) -> Tensor:
        return torch.stack([compose(self.store, self.scenes, seed).waveform for seed in seeds])

    @torch.no_grad()
    def _images(self, waveforms: Tensor) -> Tensor:
        """(B, 1, 256, W) in 0..1; W is padded to a multiple of `downsample`."""
        waveform = normalize_peak(waveforms.to(self.device))
        image = log_mel_to_image(self.log_mel(waveform))[:, :1]
        return pad_image(image, image.shape[-1] + -image.shape[-1] % self.model.downsample)
