"""The vocoder stage: HiFi-GAN, from log-mels to waveforms (Kong et al. 2020, arXiv 2010.05646).

The input are true mels, or mels decoded by the autoencoder (`mels: decoded`), so that the vocoder
learns to correct the codec's errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from auffusion_cli.checkpoints.load_torch import load_autoencoder, load_vocoder
from auffusion_cli.checkpoints.save import save_vocoder
from auffusion_cli.codec.autoencoder import KLAutoencoder
from auffusion_cli.codec.log_mel import LogMelModule
from auffusion_cli.codec.patch_autoencoder import PatchAutoencoder
from auffusion_cli.codec.tensor_image import image_to_log_mel, log_mel_to_image
from auffusion_cli.codec.vocoder import HiFiGAN, HiFiGANConfig
from auffusion_cli.config import SpectrogramConfig
from auffusion_cli.errors import CheckpointError, UsageError
from auffusion_cli.signal.audio import write_audio
from auffusion_cli.signal.spectrogram import mel_error_db
from auffusion_cli.training.checkpoints import newest_checkpoint
from auffusion_cli.training.clip_store import ClipStore
from auffusion_cli.training.config import TrainingConfig, VocoderConfig
from auffusion_cli.training.discriminators import WaveformDiscriminator, discriminate, frozen
from auffusion_cli.training.losses import (
    feature_matching_loss,
    lsgan_discriminator_loss,
    lsgan_generator_loss,
    multi_resolution_stft_loss,
)
from auffusion_cli.training.parts import as_setting, part_folder
from auffusion_cli.training.run_folder import CHECKPOINTS_NAME
from auffusion_cli.training.samples import Sample
from auffusion_cli.training.stage import Losses

N_CANDIDATES = 2
"""Random segments of a clip, of which the loudest is used: recordings of short events are mostly
silence."""
TRUE_CONTEXT_FRAMES = 4
"""Frames on both sides of a segment, whose mel depends on the samples beyond its ends: the analysis
window extends 592 samples, less than 4 hops of 160, beyond a frame's own."""
DECODED_CONTEXT_FRAMES = 64
"""The same for decoded mels, as the autoencoder's receptive field is much wider."""
DISCRIMINATOR = "discriminator"
"""Name of the discriminators among the networks, and in checkpoints of a run."""
N_PREVIEWS = 4
PREVIEW_S = 5.0


def build_vocoder(config: VocoderConfig) -> HiFiGAN:
    """The generator to train: a checkpoint's (`init_from`), or a fresh one by `config.model`.

    Raises:
        UsageError: `config.model` is impossible, or its mels differ from the signal path's.
        CheckpointError: the checkpoint cannot be loaded.
    """
    if config.init_from is not None:
        folder = part_folder(config.init_from, "vocoder.init_from", "vocoder")
        vocoder = load_vocoder(folder, weight_norm=True)
    else:
        defaults = asdict(HiFiGANConfig())
        if unknown := config.model.keys() - defaults.keys():
            raise UsageError(
                f"vocoder.model: unknown key {sorted(unknown)[0]!r}",
                hint=f"Valid: {', '.join(defaults)}.",
            )
        with as_setting():
            sizes = HiFiGANConfig.from_dict(defaults | config.model)
        vocoder = HiFiGAN(sizes, weight_norm=True)
    spectrogram = SpectrogramConfig()
    given = (vocoder.config.num_mels, vocoder.config.hop_size, vocoder.config.sampling_rate)
    wanted = (spectrogram.n_mels, spectrogram.hop_length_samples, spectrogram.sample_rate_hz)
    if given != wanted:
        raise UsageError(
            f"vocoder: (num_mels, hop_size, sampling_rate) is {given}; it must be {wanted}"
        )
    return vocoder


def build_discriminator(config: VocoderConfig) -> WaveformDiscriminator:
    """The discriminators: fresh ones, or the newest of the run that `init_from` is.

    Raises:
        CheckpointError: those of the run are damaged, or of another width.
    """
    discriminator = WaveformDiscriminator(config.discriminator_width)
    newest = config.init_from and newest_checkpoint(Path(config.init_from) / CHECKPOINTS_NAME)
    if newest and (path := newest / f"{DISCRIMINATOR}.safetensors").is_file():
        try:
            discriminator.load_state_dict(load_file(path))
        except (OSError, RuntimeError, SafetensorError) as error:
            raise CheckpointError(
                f"{path}: cannot be gone on with: {' '.join(str(error).split())[:120]}",
                hint="vocoder.discriminator_width has to be that run's.",
            ) from error
    return discriminator


def load_frozen_autoencoder(config: VocoderConfig) -> KLAutoencoder | PatchAutoencoder | None:
    """The autoencoder that `mels: decoded` needs; None for true mels.

    Raises:
        UsageError: no autoencoder is named for decoded mels.
        CheckpointError: it cannot be loaded.
    """
    if config.mels == "true":
        return None
    if config.autoencoder is None:
        raise UsageError(
            "vocoder.mels: decoded needs vocoder.autoencoder",
            hint="Name the folder that the autoencoder stage wrote.",
        )
    return load_autoencoder(part_folder(config.autoencoder, "vocoder.autoencoder", "vae"))


class VocoderStage:
    """Mel, adversarial and feature-matching losses on segments of clips; see `stage.Stage`.

    Before `adversarial_start_step` the generator has only the mel loss, and the STFT loss if it has
    a weight: a step costs a fraction of one with the discriminators.
    """

    shards = None

    def __init__(self, training: TrainingConfig, store: ClipStore, device: torch.device) -> None:
        """Raises UsageError and CheckpointError like `build_vocoder`."""
        config = training.vocoder
        self.vocoder = build_vocoder(config).to(device).train()
        self.log_mel = LogMelModule().to(device)
        hop = self.log_mel.config.hop_length_samples
        if config.segment_samples % hop:
            raise UsageError(
                f"vocoder.segment_samples: {config.segment_samples} is not a multiple of the "
                f"hop of {hop} samples"
            )
        self.autoencoder = load_frozen_autoencoder(config)
        self.context_frames = (TRUE_CONTEXT_FRAMES, TRUE_CONTEXT_FRAMES)
        if self.autoencoder is not None:
            self.autoencoder.to(device).eval().requires_grad_(False)
            n_frames = config.segment_samples // hop + 2 * DECODED_CONTEXT_FRAMES
            # The autoencoder takes multiples of its downsampling factor.
            extra = -n_frames % self.autoencoder.downsample
            self.context_frames = (DECODED_CONTEXT_FRAMES, DECODED_CONTEXT_FRAMES + extra)
        self.store, self.config, self.device = store, config, device
        self.n_items = len(store)
        self.networks: dict[str, nn.Module] = {"vocoder": self.vocoder}
        self.discriminator = None
        if config.adversarial_start_step is not None:
            self.discriminator = build_discriminator(config).to(device)
            self.networks[DISCRIMINATOR] = self.discriminator

    def trains(self, name: str, step: int) -> bool:
        start = self.config.adversarial_start_step
        return name != DISCRIMINATOR or (start is not None and step >= start)

    def load(self, batch: Sequence[Sample]) -> Tensor:
        """Segments of clips with their context, (B, before + segment + after)."""
        hop = self.log_mel.config.hop_length_samples
        before, after = (n_frames * hop for n_frames in self.context_frames)
        return torch.stack([self._window(sample, before, after) for sample in batch])

    def losses(self, windows: Tensor, step: int) -> Losses:
        config = self.config
        real, log_mel = self._segments(windows.to(self.device))
        fake = self.networks["vocoder"](log_mel).float()

        adversarial = self.discriminator is not None and self.trains(DISCRIMINATOR, step)
        if adversarial:
            output_of_real, output_of_fake = discriminate(
                self.networks[DISCRIMINATOR], real, fake.detach()
            )
            discriminator_loss = lsgan_discriminator_loss(output_of_real, output_of_fake)
            yield discriminator_loss, {"discriminator": discriminator_loss.item()}

        mel_l1 = F.l1_loss(self.log_mel(fake), self.log_mel(real))
        terms = {"mel": config.mel_weight * mel_l1}
        if config.stft_weight:
            terms["stft"] = config.stft_weight * multi_resolution_stft_loss(real, fake)
        if adversarial:
            with frozen(self.discriminator):
                output_of_fake = self.discriminator(fake)
            terms["adversarial"] = lsgan_generator_loss(output_of_fake)
            terms["feature"] = config.feature_weight * feature_matching_loss(
                output_of_real, output_of_fake
            )
        loss = torch.stack(list(terms.values())).sum()
        logs = {"loss": loss.item(), "mel_l1": mel_l1.item()}
        yield loss, logs | {name: term.item() for name, term in terms.items()}

    def export(self, folder: Path) -> None:
        """Write `folder/vocoder/`: config.json and vocoder.safetensors."""
        save_vocoder(self.vocoder, folder / "vocoder")

    @torch.no_grad()
    def preview(self, folder: Path, step: int) -> None:
        """Write the first clips, resynthesised from their mels; the names state the mel errors."""
        self.vocoder.eval()
        sample_rate_hz = self.log_mel.config.sample_rate_hz
        folder.mkdir(parents=True, exist_ok=True)
        for index in range(min(N_PREVIEWS, self.n_items)):
            waveform = self._clip(index)[: round(PREVIEW_S * sample_rate_hz)]
            log_mel = self.log_mel(waveform[None].to(self.device))
            resynthesised = self.vocoder(log_mel)
            again = self.log_mel(resynthesised)
            error_db = mel_error_db(log_mel.cpu().numpy(), again.cpu().numpy())
            path = folder / f"step-{step:08d}-{index}-{error_db:.2f}dB.wav"
            write_audio(path, resynthesised[0].cpu().numpy(), sample_rate_hz)
        self.vocoder.train()

    def _clip(self, index: int) -> Tensor:
        """(N,): a clip at the signal path's peak."""
        return self.store[index] * self.log_mel.config.peak

    @torch.no_grad()
    def _segments(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        """True waveforms (B, segment_samples) and their input log-mels (B, 256, frames)."""
        hop = self.log_mel.config.hop_length_samples
        before, _ = self.context_frames
        log_mel = self.log_mel(windows)
        if self.autoencoder is not None:
            image = self.autoencoder.decode(self.autoencoder.encode(log_mel_to_image(log_mel)))
            log_mel = image_to_log_mel(image.float())
        n_frames = self.config.segment_samples // hop
        segment = slice(before * hop, before * hop + self.config.segment_samples)
        return windows[:, segment], log_mel[..., before : before + n_frames]

    def _window(self, sample: Sample, before: int, after: int) -> Tensor:
        """A segment of a clip with `before` and `after` samples of context, padded with silence."""
        n_segment = self.config.segment_samples
        clip = self._clip(sample.index)
        n_starts = max(0, clip.numel() - n_segment) + 1
        starts = torch.randint(n_starts, (N_CANDIDATES,), generator=sample.generator()).tolist()
        start = max(starts, key=lambda s: float(clip[s : s + n_segment].square().sum()))
        n_missing = max(0, n_segment - clip.numel())
        padded = F.pad(clip, (before, after + n_missing))
        return padded[start : start + before + n_segment + after]
