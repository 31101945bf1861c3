"""`Model`: a loaded checkpoint, with all that tasks see of it.

Tasks go through `encode`, `decode` and `sound` between latents and what the autoencoder sees of a
sound, its view; through the codec for views and shapes; and through `denoiser`. They do not touch
what lies below: the networks, whichever engine computes them. Only attention, read or edited, is
installed in the UNet itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from auffusion_cli.codec.codec import Codec
from auffusion_cli.codec.waves import WaveCodec
from auffusion_cli.config import GenerationDefaults
from auffusion_cli.diffusion.denoiser import Denoise, guided_denoiser
from auffusion_cli.diffusion.layers import Sounds, sounds_of
from auffusion_cli.diffusion.schedule import Scheduler
from auffusion_cli.diffusion.schedulers import make_scheduler
from auffusion_cli.diffusion.text import TextConditioner
from auffusion_cli.diffusion.vocabulary import Unknown, Vocabulary
from auffusion_cli.diffusion.whole_prompts import TimedPrompts, WholePrompts
from auffusion_cli.diffusion.windows import OVERLAP_SHARE, windowed_denoiser
from auffusion_cli.engines.networks import Networks
from auffusion_cli.errors import AuffusionError
from auffusion_cli.requests.loras import LoraRecord
from auffusion_cli.requests.provenance import Provenance, current_versions, hash_samples
from auffusion_cli.signal.griffin_lim import GriffinLim
from auffusion_cli.signal.noise import Noise
from auffusion_cli.signal.overlap import in_windows

if TYPE_CHECKING:
    from auffusion_cli.requests.request import GenerateRequest, GenerateSettings, Request


@dataclass
class Model:
    """A loaded checkpoint: its networks and the signal path around them.

    All arrays are float32 on the CPU, whatever the networks compute in.
    """

    name: str
    """A known name, a Hub id, or the folder it came from."""
    revision: str | None
    """The commit on the Hub; None for a folder."""
    licence: str | None
    """Its name, or where it is stated."""
    networks: Networks
    codec: Codec | WaveCodec
    text: TextConditioner | WholePrompts | TimedPrompts
    scheduler_config: dict[str, Any]
    defaults: GenerationDefaults
    credits: str | None = None
    """CREDITS.md: whom a licence asks to name. It is passed on with whatever is made of it."""
    vocabulary: Vocabulary | None = None
    """The wordings it was taught, where the checkpoint states them."""
    loras: tuple[LoraRecord, ...] = ()
    """What was merged into the UNet."""
    fills_window: bool = True
    """Whether a short sound is made as a part of a whole window."""

    @property
    def device(self) -> str:
        """Where the networks are computed: cpu, cuda ..."""
        return self.networks.device

    @property
    def dtype(self) -> str:
        """fp32, fp16 or bf16: what the UNet is computed in."""
        return self.networks.dtype

    def unknown(self, prompt: str) -> list[Unknown]:
        """The parts of `prompt` that are far from all the wordings the model was taught."""
        return [] if self.vocabulary is None else self.vocabulary.unknown(self.text, prompt)

    def sounds(self, request: GenerateRequest, duration_s: float) -> Sounds:
        """What `request` is made of; one sound where no vocabulary tells several apart."""
        if self.vocabulary is None:
            return Sounds.whole(request)
        return sounds_of(request, duration_s, self.vocabulary, self.text)

    @property
    def window(self) -> int:
        """Width of what it was trained on, in columns of the latent."""
        return self.codec.latent_shape(self.defaults.max_duration_s)[2]

    @property
    def overlap(self) -> int:
        """Overlap of neighbouring windows that are denoised together, in columns of the latent."""
        return round(self.window * OVERLAP_SHARE)

    @property
    def latent_column_s(self) -> float:
        """Duration of a column of the latent."""
        return self.codec.spectrogram_config.frames_to_seconds(self.codec.width_multiple)

    def span_s(self, duration_s: float, windows_at_once: int = 1) -> float:
        """What is made of a sound that is to last `duration_s`: a window, if not more.

        What the UNet sees of several windows at once is whole halves of one, as it halves its width
        itself a few times.
        """
        window_s = self.defaults.max_duration_s
        if not self.fills_window:
            return duration_s
        if window_s < duration_s <= windows_at_once * window_s:
            return math.ceil(round(2 * duration_s / window_s, 6)) * window_s / 2
        return max(duration_s, window_s)

    def window_s(self, duration_s: float) -> float:
        """The window in which holes of a clip of `duration_s` are filled."""
        return min(self.defaults.max_duration_s, self.span_s(duration_s))

    def latent_shape(self, duration_s: float, windows_at_once: int = 1) -> tuple[int, int, int]:
        """(C, h, w) of the latents of a sound."""
        return self.codec.latent_shape(self.span_s(duration_s, windows_at_once))

    # --- waveform <-> view <-> latents, of any length

    def encode(self, view: np.ndarray) -> np.ndarray:
        """(B, ..., T) views, such as log-mels (B, n_mels, T) -> (B, C, h, w) latents."""
        f = self.codec.view_multiple
        return in_windows(self.codec.encode_view, view, self.window * f, self.overlap * f)

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """(B, C, h, w) latents -> (B, ..., w * view_multiple) views."""
        return in_windows(self.codec.decode_view, latents, self.window, self.overlap)

    def sound(
        self, views: np.ndarray, gains_db: Sequence[float], noise: Noise
    ) -> tuple[np.ndarray, np.ndarray]:
        """(L, ..., T) views of L layers -> the samples (N,) or (channels, N) of their mix, and its
        log-mel (n_mels, T'); `gains_db` is one for each layer, or one for all.

        Raises:
            AuffusionError: they are not finite.
        """
        waveform, log_mel = self.codec.sound(views, np.asarray(gains_db), noise)
        if not np.isfinite(waveform).all():
            raise AuffusionError(
                f"The sound is not finite in {self.dtype}",
                hint="Try --dtype fp32 or bf16.",
            )
        return waveform, log_mel

    # --- denoising

    def scheduler(self, settings: GenerateSettings) -> Scheduler:
        """A new scheduler as `settings` name it."""
        return make_scheduler(settings.scheduler, self.scheduler_config)

    def denoiser(
        self,
        prompts: Sequence[str],
        negative_prompts: Sequence[str],
        settings: GenerateSettings,
        scheduler: Scheduler,
        *,
        known: np.ndarray | None = None,
    ) -> Denoise:
        """`denoise` for as many latents as there are prompts, each one window wide.

        `scheduler` is that of the run, which says where its guidance ends.

        `known` is for networks that can be told what of the latents is: see `holes.known_part`.
        """
        told = self.text.told(min(settings.duration_s, self.defaults.max_duration_s))
        predict = self.networks.predict
        if known is not None and self.networks.sizes.sees_known:
            predict = partial(predict, known=known)

        def is_guided(timestep: float) -> bool:
            return timestep >= scheduler.last_timestep(settings.guidance_until)

        return guided_denoiser(
            predict,
            told.encode(prompts, negative_prompts),
            settings.guidance_scale,
            settings.guidance_rescale,
            is_guided,
        )

    def windowed(self, denoise: Denoise, settings: GenerateSettings) -> Denoise:
        """`denoise` for latents of any width that `latent_shape` has for `settings`."""
        return windowed_denoiser(denoise, settings.windows_at_once * self.window, self.overlap)

    # --- the record

    def provenance(
        self,
        request: Request,
        settings: GenerateSettings,
        samples: np.ndarray,
        *,
        gain_reduction_db: float | None = None,
    ) -> Provenance:
        """The record of a sound of this model, whose file holds `samples`."""
        versions = current_versions(self.networks.engine)
        if self.codec.griffin_lim is not None:
            versions[GriffinLim.name] = GriffinLim.version
        return Provenance(
            request=request,
            settings=settings,
            model=self.name,
            revision=self.revision,
            vocoder=self.codec.vocoder_name,
            device=self.device,
            dtype=self.dtype,
            engine=self.networks.engine,
            loras=self.loras,
            samples_sha256=hash_samples(samples),
            gain_reduction_db=gain_reduction_db,
            model_rate_hz=self.codec.spectrogram_config.sample_rate_hz,
            versions=versions,
        )
