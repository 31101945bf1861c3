"""Text to sound: Auffusion (arXiv 2401.01044), section 3.

prompt -> conditioning -> latents denoised from seeded noise -> log-mel -> waveform, cut to length.
What is longer than the model's window is made in windows that overlap and are denoised together; a
timeline lets the words change: see `windows` and `regions`.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from auffusion_cli.device import dtype_name
from auffusion_cli.diffusion.denoiser import Denoise, guided_denoiser
from auffusion_cli.diffusion.regions import region_weights, regional_denoiser
from auffusion_cli.diffusion.samplers import (
    AfterStep,
    Step,
    initial_noise,
    keep_known,
    make_scheduler,
    sample,
)
from auffusion_cli.diffusion.windows import in_windows, windowed_denoiser
from auffusion_cli.errors import AuffusionError, AuffusionWarning
from auffusion_cli.requests.provenance import Provenance
from auffusion_cli.requests.request import (
    MAX_SEED,
    GenerateRequest,
    GenerateSettings,
    TimelineRequest,
)
from auffusion_cli.requests.timeline import parse_timeline
from auffusion_cli.signal.audio import to_pcm16, write_audio

if TYPE_CHECKING:
    from auffusion_cli.model import Model

OnStep = Callable[[Sequence[GenerateRequest], Step], None]
"""Called after every step of the loop with the batch that it belongs to."""

CUDA_BATCH_SIZE = 8
FOCUS_SHARE = 0.3
"""For this share of the steps a region's words only see their own region, in silence."""


@dataclass(frozen=True)
class GenerateResult:
    """One sound, with everything needed to make it again."""

    waveform: Tensor
    """(N,) float32 in -1..1, on the CPU."""
    sample_rate_hz: int
    log_mel: Tensor
    """(256, T) float32, on the CPU; what the vocoder heard, cut like the waveform."""
    request: GenerateRequest
    settings: GenerateSettings
    provenance: Provenance

    def save(self, path: str | Path, *, subtype: str = "pcm16", overwrite: bool = True) -> None:
        """Write a .wav, .flac, .ogg or .mp3 that carries `provenance`; see `write_audio`."""
        write_audio(
            path,
            self.waveform,
            self.sample_rate_hz,
            subtype=subtype,
            provenance=self.provenance.to_dict(),
            overwrite=overwrite,
        )


@dataclass(frozen=True)
class GenerateFailure:
    """One request that could not be met; the others were."""

    request: GenerateRequest
    error: Exception


def generate(
    model: Model,
    requests: Iterable[GenerateRequest],
    settings: GenerateSettings | None = None,
    *,
    batch_size: int | None = None,
    on_step: OnStep | None = None,
) -> Iterator[GenerateResult]:
    """`generate_each`, but the first request that fails raises."""
    for result in generate_each(model, requests, settings, batch_size=batch_size, on_step=on_step):
        if isinstance(result, GenerateFailure):
            raise result.error
        yield result


def generate_each(
    model: Model,
    requests: Iterable[GenerateRequest],
    settings: GenerateSettings | None = None,
    *,
    batch_size: int | None = None,
    on_step: OnStep | None = None,
) -> Iterator[GenerateResult | GenerateFailure]:
    """A result or a failure for each of `requests`, in order, holding one batch at a time.

    A batch that fails is tried again one by one, so that one request never loses the others. Where
    a GPU runs out of memory the batch is halved from there on, with an AuffusionWarning.
    `batch_size` is by default that of `default_batch_size`.

    Raises:
        AuffusionError: memory does not suffice for a single sound.
    """
    if settings is None:
        settings = GenerateSettings.from_defaults(model.defaults)
    batch_size = batch_size or default_batch_size(model.device)

    requests = iter(requests)
    pending: deque[GenerateRequest] = deque()  # of batches that failed, before the next requests
    n_alone = 0  # how many of them to try one by one
    while batch := _take(1 if n_alone else batch_size, pending, requests):
        n_alone = max(n_alone - 1, 0)
        try:
            results = _generate_batch(model, batch, settings, on_step)
        except torch.OutOfMemoryError:
            batch_size = len(batch) // 2
        except Exception as error:
            if len(batch) == 1:
                yield GenerateFailure(batch[0], error)
            else:
                pending.extendleft(reversed(batch))
                n_alone = len(batch)
            continue
        else:
            yield from results
            continue
        # Outside of the handler, where the traceback would still hold the batch's tensors.
        if batch_size == 0:
            raise AuffusionError(
                f"The memory of {model.device} does not suffice for one sound.",
                hint="Try --dtype fp16, or --device cpu.",
            )
        warnings.warn(
            f"The memory of {model.device} does not suffice for {len(batch)} sounds at once:"
            f" going on with batches of {batch_size}.",
            AuffusionWarning,
            stacklevel=2,
        )
        pending.extendleft(reversed(batch))
        if model.device.type == "cuda":
            torch.cuda.empty_cache()


def _take(
    n: int, pending: deque[GenerateRequest], requests: Iterator[GenerateRequest]
) -> list[GenerateRequest]:
    """Up to `n` requests that can be denoised together; the pending ones first."""
    pending.extend(islice(requests, max(n - len(pending), 0)))
    batch: list[GenerateRequest] = []
    while pending and len(batch) < n:
        if batch and _course(pending[0]) != _course(batch[0]):
            break
        batch.append(pending.popleft())
    return batch


def _course(request: GenerateRequest) -> tuple[str, bool] | None:
    """The timeline and whether there is a bed below it; None for words that do not change."""
    if not isinstance(request, TimelineRequest):
        return None
    return request.timeline, bool(request.prompt)


def default_batch_size(device: torch.device) -> int:
    """A CPU is busy with one sound; a GPU is not."""
    return CUDA_BATCH_SIZE if device.type == "cuda" else 1


def _generate_batch(
    model: Model,
    requests: Sequence[GenerateRequest],
    settings: GenerateSettings,
    on_step: OnStep | None,
) -> list[GenerateResult]:
    # The model always fills the window it was trained on; a shorter sound is cut from its start.
    shape = model.codec.latent_shape(max(settings.duration_s, model.defaults.max_duration_s))
    seeds = [request.seed for request in requests]
    if _course(requests[0]) and requests[0].prompt:
        seeds += [(seed + 1) % (MAX_SEED + 1) for seed in seeds]  # the beds'
    noise = initial_noise(seeds, shape, model.device)
    latents = sample_latents(model, requests, settings, noise, on_step)
    # One by one, so that the peak of memory does not grow with the batch.
    return [
        decode(model, latents[i :: len(requests)], request, settings)
        for i, request in enumerate(requests)
    ]


def sample_latents(
    model: Model,
    requests: Sequence[GenerateRequest],
    settings: GenerateSettings,
    noise: Tensor,
    on_step: OnStep | None = None,
) -> Tensor:
    """Latents (B, C, h, w) for B requests, denoised from `noise` of the same shape.

    All of them have the same timeline, if any. Where there are beds below it, latents and noise are
    (2B, C, h, w): the regions of all, then the beds.
    """
    scheduler = make_scheduler(settings.scheduler, model.scheduler_config)

    def denoiser(prompts: Sequence[str]) -> Denoise:
        negative_prompts = [request.negative_prompt for request in requests]
        return guided_denoiser(
            model.unet,
            model.text.encode(prompts, negative_prompts),
            settings.guidance_scale,
            settings.guidance_rescale,
        )

    after_step = None
    if _course(requests[0]) is None:
        denoise = denoiser([request.prompt for request in requests])
        denoise = windowed_denoiser(denoise, model.window, model.overlap)
    else:
        denoise, after_step = _follow_timeline(
            model, requests, settings, noise, scheduler, denoiser
        )
    for step in sample(denoise, scheduler, noise, settings.steps, after_step=after_step):
        if on_step:
            on_step(requests, step)
    return step.latents


def _follow_timeline(
    model: Model,
    requests: Sequence[GenerateRequest],
    settings: GenerateSettings,
    noise: Tensor,
    scheduler: Any,
    denoiser: Callable[[Sequence[str]], Denoise],
) -> tuple[Denoise, AfterStep | None]:
    """The denoiser of all regions, with silence between them, and of the beds.

    A bed is a layer of its own: blended with a region, one of the two sounds would win.
    """
    n_regions = len(requests)
    noise = noise[:n_regions]
    regions = parse_timeline(requests[0].timeline, settings.duration_s)
    config = model.codec.spectrogram_config
    column_s = config.frames_to_seconds(model.codec.width_multiple)
    weights = region_weights(regions, settings.duration_s, noise.shape[-1], column_s)
    weights = weights.to(noise.device)
    parts = [
        (denoiser([region.prompt] * len(requests)), weight)
        for region, weight in zip(regions, weights, strict=True)
    ]
    covered = weights.sum(dim=0).clamp(max=1)
    silence = _silence(model).to(noise)

    def noised_silence(timestep: Tensor) -> Tensor | None:
        """What is around a region in the first steps, as the model sees it."""
        focus_ends = scheduler.timesteps[int(len(scheduler.timesteps) * FOCUS_SHARE)]
        if timestep <= focus_ends:
            return None
        noised = scheduler.add_noise(silence.expand_as(noise), noise, timestep[None])
        return scheduler.scale_model_input(noised, timestep)

    denoise_regions = regional_denoiser(parts, model.window, model.overlap, noised_silence)
    mask = covered[None, None, None]
    keep_silence = keep_known(silence.expand_as(noise), noise, mask, scheduler)
    beds = [request.prompt for request in requests]
    if not beds[0]:
        return denoise_regions, keep_silence
    denoise_beds = windowed_denoiser(denoiser(beds), model.window, model.overlap)

    def denoise(latents: Tensor, timestep: Tensor) -> Tensor:
        regions, below = latents[:n_regions], latents[n_regions:]
        return torch.cat([denoise_regions(regions, timestep), denoise_beds(below, timestep)])

    def after_step(latents: Tensor, timestep: Tensor, following: Tensor | None) -> Tensor:
        regions = keep_silence(latents[:n_regions], timestep, following)
        return torch.cat([regions, latents[n_regions:]])

    return denoise, after_step


@torch.no_grad()
def _silence(model: Model) -> Tensor:
    """(1, C, h, 1): the latent of silence, far from the ends of a window."""
    codec = model.codec
    shape = (1, codec.spectrogram_config.n_mels, model.window * codec.width_multiple)
    silent = torch.full(shape, codec.image_config.log_mel_min, device=model.device)
    middle = model.window // 2
    return codec.encode_log_mel(silent)[..., middle : middle + 1].float()


@torch.no_grad()
def decode(
    model: Model, latents: Tensor, request: GenerateRequest, settings: GenerateSettings
) -> GenerateResult:
    """The sound of `latents` (L, C, h, w), L layers that sound at once, cut to the duration."""
    config = model.codec.spectrogram_config
    log_mel = in_windows(model.codec.decode_log_mel, latents, model.window, model.overlap)
    if len(log_mel) > 1:  # powers add up
        log_mel = (2 * log_mel).logsumexp(dim=0, keepdim=True) / 2
    n_samples = round(settings.duration_s * config.sample_rate_hz)
    waveform = model.codec.vocode(log_mel)[0, :n_samples].float().cpu()
    # Griffin-Lim knows no full scale, and a file would clip what is beyond. HiFi-GAN's tanh stays
    # within it.
    waveform = waveform / waveform.abs().max().clamp(min=1)
    if not waveform.isfinite().all():
        raise AuffusionError(
            f"The sound of {request.prompt!r} is not finite in {dtype_name(model.dtype)}.",
            hint="Try --dtype fp32 or bf16.",
        )
    n_frames = config.seconds_to_frames(settings.duration_s)
    return GenerateResult(
        waveform=waveform,
        sample_rate_hz=config.sample_rate_hz,
        log_mel=log_mel[0, :, :n_frames].float().cpu(),
        request=request,
        settings=settings,
        provenance=model.provenance(request, settings, to_pcm16(waveform).numpy()),
    )
