"""The autoencoder stage for `kind: kl`: AutoencoderKL of diffusers on mel images.

L1, gradient and KL losses, and optionally a PatchGAN's, as in the first stage of latent diffusion
(Rombach et al. 2022, arXiv 2112.10752, section 3.1 and appendix G), with the gradient loss in place
of the perceptual one, whose network is trained on photographs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F

from auffusion_cli.checkpoints.load_torch import check_autoencoder
from auffusion_cli.codec.autoencoder import KLAutoencoder
from auffusion_cli.codec.log_mel import LogMelModule, normalize_peak
from auffusion_cli.codec.tensor_image import log_mel_to_image, pad_image
from auffusion_cli.files import atomic_file, atomic_folder
from auffusion_cli.training.clip_store import ClipStore
from auffusion_cli.training.config import AutoencoderConfig, TrainingConfig
from auffusion_cli.training.discriminators import PatchDiscriminator, discriminate, frozen
from auffusion_cli.training.losses import (
    gradient_loss,
    hinge_discriminator_loss,
    hinge_generator_loss,
    kl_loss,
)
from auffusion_cli.training.parts import build_network, started_autoencoder
from auffusion_cli.training.samples import Sample
from auffusion_cli.training.scenes import compose
from auffusion_cli.training.stage import Losses

N_SCALING_SCENES = 64
"""Scenes from which the scaling factor of the latents is computed."""
N_PREVIEWS = 4


def build_kl_autoencoder(config: AutoencoderConfig) -> KLAutoencoder:
    """The autoencoder to train: a checkpoint's (`init_from`), or a fresh one by `config.model`.

    Raises:
        UsageError: `config.model` is no configuration of AutoencoderKL.
        CheckpointError: the checkpoint cannot be loaded, or is of another kind.
    """
    if config.init_from is not None:
        return started_autoencoder(config, KLAutoencoder)
    key = "autoencoder.model"
    vae = build_network(
        lambda: AutoencoderKL(**config.model),
        key,
        lambda network: check_autoencoder(network, config.model, key),
    )
    return KLAutoencoder(vae)


class AutoencoderStage:
    """L1 + gradient + KL (+ hinge) losses on scenes; see `stage.Stage`."""

    shards = None

    def __init__(self, training: TrainingConfig, store: ClipStore, device: torch.device) -> None:
        """Raises UsageError and CheckpointError like `build_kl_autoencoder`."""
        config, scenes = training.autoencoder, training.scenes
        self.autoencoder = build_kl_autoencoder(config).to(device).train()
        self.log_mel = LogMelModule().to(device)
        self.store, self.scenes, self.config, self.device = store, scenes, config, device
        self.n_items = scenes.n_cached or len(store)
        self.networks: dict[str, nn.Module] = {"autoencoder": _Reconstruction(self.autoencoder)}
        self.discriminator = None
        if config.adversarial_weight:
            self.discriminator = PatchDiscriminator(in_channels=1).to(device)
            self.networks["discriminator"] = self.discriminator

    def trains(self, name: str, step: int) -> bool:
        return name != "discriminator" or step >= self.config.adversarial_start_step

    def load(self, batch: Sequence[Sample]) -> tuple[Tensor, list[int]]:
        """Waveforms (B, N), and the seeds of the noise with which latents are sampled."""
        waveforms = [
            compose(
                self.store,
                self.scenes,
                sample.seed,
                clip=None if self.scenes.n_cached else sample.index,
            ).waveform
            for sample in batch
        ]
        return torch.stack(waveforms), [sample.seed for sample in batch]

    def losses(self, loaded: tuple[Tensor, list[int]], step: int) -> Losses:
        config = self.config
        waveforms, seeds = loaded
        real = self._images(waveforms)
        _, _, height, width = real.shape
        f = self.autoencoder.downsample
        noise_shape = (self.autoencoder.latent_channels, height // f, width // f)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        noise = torch.stack([torch.randn(noise_shape, generator=g) for g in generators])
        fake, mean, log_variance = self.networks["autoencoder"](real, noise.to(self.device))
        # All channels of a mel image are equal: one of them is enough.
        real, fake = real[:, :1], fake[:, :1].float()

        adversarial = self.discriminator is not None and self.trains("discriminator", step)
        if adversarial:
            output_of_real, output_of_fake = discriminate(
                self.networks["discriminator"], real, fake.detach()
            )
            discriminator_loss = hinge_discriminator_loss(output_of_real, output_of_fake)
            yield discriminator_loss, {"discriminator": discriminator_loss.item()}

        terms = {
            "l1": config.l1_weight * F.l1_loss(fake, real),
            "gradient": config.gradient_weight * gradient_loss(real, fake),
            "kl": config.kl_weight * kl_loss(mean.float(), log_variance.float()),
        }
        if adversarial:
            with frozen(self.discriminator):
                output_of_fake = self.discriminator(fake)
            terms["adversarial"] = config.adversarial_weight * hinge_generator_loss(output_of_fake)
        loss = torch.stack(list(terms.values())).sum()
        yield loss, {"loss": loss.item()} | {name: term.item() for name, term in terms.items()}

    def export(self, folder: Path) -> None:
        """Write `folder/vae/`. A fresh autoencoder gets the scaling factor of its latents.

        A fine-tuned one keeps its factor, on which diffusion models of its latents depend.
        """
        self.autoencoder.eval()
        if self.config.init_from is None:
            factor = self._measured_scaling_factor()
            self.autoencoder.scaling_factor = factor
            self.autoencoder.vae.register_to_config(scaling_factor=factor)
        with atomic_folder(folder / "vae") as beside:
            self.autoencoder.vae.save_pretrained(beside)
        self.autoencoder.train()

    @torch.no_grad()
    def preview(self, folder: Path, step: int) -> None:
        """Write a picture: a row of images, and their reconstructions below."""
        from PIL import Image

        self.autoencoder.eval()
        images = self._images_of(range(min(N_PREVIEWS, self.n_items)))
        rebuilt = self.autoencoder.decode(self.autoencoder.encode(images))
        grid = torch.cat([torch.cat(list(row[:, 0]), dim=1) for row in (images, rebuilt)])
        folder.mkdir(parents=True, exist_ok=True)
        pixels = (grid.float().clamp(0, 1) * 255).round().byte().cpu().numpy()
        with atomic_file(folder / f"step-{step:08d}.png", durable=False) as beside:
            Image.fromarray(pixels).save(beside, format="png")
        self.autoencoder.train()

    def _images(self, waveforms: Tensor) -> Tensor:
        """(B, 3, 256, W) in 0..1; W is padded to a multiple of `downsample`."""
        image = log_mel_to_image(self.log_mel(normalize_peak(waveforms.to(self.device))))
        return pad_image(image, image.shape[-1] + -image.shape[-1] % self.autoencoder.downsample)

    def _images_of(self, items: Iterable[int]) -> Tensor:
        """Images of the same scene for an item at every call."""
        return self._images(self.load([Sample(i, seed=i) for i in items])[0])

    @torch.no_grad()
    def _measured_scaling_factor(self) -> float:
        """1 / the standard deviation of the latents (Rombach et al. 2022, appendix G)."""
        n = min(N_SCALING_SCENES, self.n_items)
        latents = [self.autoencoder.posterior(self._images_of([i])).mode() for i in range(n)]
        return 1 / torch.cat(latents).float().std().clamp_min(1e-6).item()


class _Reconstruction(nn.Module):
    """Image -> (reconstruction, mean, log variance) in one forward, as DDP requires."""

    def __init__(self, autoencoder: KLAutoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, image: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The latent is sampled from the posterior with `noise` (B, C, h, w) of unit variance."""
        posterior = self.autoencoder.posterior(image)
        latent = posterior.mean + posterior.std * noise
        output = self.autoencoder.vae.decode(latent).sample
        return self.autoencoder.output_to_image(output), posterior.mean, posterior.logvar
