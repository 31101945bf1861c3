"""Text to sound: Auffusion (arXiv 2401.01044), section 3.

prompt -> conditioning -> latents denoised from seeded noise -> log-mel -> waveform, cut to length.
What is longer than the model's window is made in windows that overlap and are denoised together; on
a timeline the words change over time. Of sounds that a model's vocabulary knows, two at once are
two layers, and those that follow each other a timeline.
"""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from auffusion_cli.codec.codec import decoding_noise
from auffusion_cli.config import SpectrogramConfig, default_batch_size
from auffusion_cli.diffusion.denoiser import Denoise
from auffusion_cli.diffusion.layers import Sounds
from auffusion_cli.diffusion.samplers import Step, initial_noise, sample, turned_noise
from auffusion_cli.errors import AuffusionError, AuffusionWarning, DeviceMemoryError
from auffusion_cli.requests.request import (
    EditRequest,
    GenerateRequest,
    GenerateSettings,
    TimelineRequest,
)
from auffusion_cli.requests.seeds import seed_after
from auffusion_cli.signal.audio import to_pcm16
from auffusion_cli.signal.loop import close_loop, join_s
from auffusion_cli.signal.trim import Part, find_event, find_part, trim
from auffusion_cli.tasks.sound import SoundResult
from auffusion_cli.tasks.timeline import (
    in_order,
    layer_seeds,
    layers_of_sounds,
    silent_latent,
    timeline_denoiser,
)

if TYPE_CHECKING:
    from auffusion_cli.model import Model

OnStep = Callable[[Sequence[GenerateRequest], Step], None]
"""Called after every step of the loop with the batch that it belongs to."""


@dataclass(frozen=True)
class GenerateResult(SoundResult):
    """One sound, with everything needed to make it again."""

    log_mel: np.ndarray
    """(n_mels, T) float32: of the whole sound, cut like the waveform; a vocoder's input."""
    spectrogram_config: SpectrogramConfig
    """Of `log_mel`."""
    part: Part
    """The part of all that the model made which the sound is, in samples."""
    request: GenerateRequest | EditRequest
    settings: GenerateSettings


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

    @lru_cache  # asked for the batch, and again for what is made of it
    def sounds_of(request: GenerateRequest) -> Sounds:
        return model.sounds(request, settings.duration_s)

    def key(request: GenerateRequest) -> tuple:
        """What requests have in common that can be denoised together."""
        timeline = request.timeline if isinstance(request, TimelineRequest) else None
        has_bed = timeline is not None and bool(request.prompt)
        sounds = sounds_of(request)
        return request.loop, timeline, has_bed, sounds.names if sounds.in_order else ()

    requests = iter(requests)
    pending: deque[GenerateRequest] = deque()  # of batches that failed, before the next requests
    n_alone = 0  # how many of them to try one by one
    while batch := _take(1 if n_alone else batch_size, pending, requests, key):
        n_alone = max(n_alone - 1, 0)
        try:
            sounds = [sounds_of(request) for request in batch]
            results = _generate_batch(model, batch, sounds, settings, on_step)
        except DeviceMemoryError:
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
        # Outside of the handler, where the traceback would still hold the batch's arrays.
        if batch_size == 0:
            raise AuffusionError(
                f"The memory of {model.device} does not suffice for one sound",
                hint="Try --dtype fp16, or --device cpu.",
            )
        warnings.warn(
            f"The memory of {model.device} does not suffice for {len(batch)} sounds at once:"
            f" going on with batches of {batch_size}",
            AuffusionWarning,
            stacklevel=2,
        )
        pending.extendleft(reversed(batch))


def _take(
    n: int,
    pending: deque[GenerateRequest],
    requests: Iterator[GenerateRequest],
    key: Callable[[GenerateRequest], tuple],
) -> list[GenerateRequest]:
    """Up to `n` requests of one key; the pending ones first."""
    pending.extend(islice(requests, max(n - len(pending), 0)))
    if not pending:
        return []
    batch = [pending.popleft()]
    shared = key(batch[0])
    while pending and len(batch) < n and key(pending[0]) == shared:
        batch.append(pending.popleft())
    return batch


@dataclass(frozen=True)
class _Denoised:
    """One sound before it is decoded."""

    latents: np.ndarray
    """(L, C, h, w): of its layers."""
    gains_db: tuple[float, ...] = (0.0,)
    """One for each layer, or one for all."""
    part: Part | None = None
    """What is kept of it, where that is known."""


def _generate_batch(
    model: Model,
    requests: Sequence[GenerateRequest],
    sounds: Sequence[Sounds],
    settings: GenerateSettings,
    on_step: OnStep | None,
) -> list[GenerateResult]:
    on_batch = on_step and (lambda _, step: on_step(requests, step))
    if sounds[0].in_order:
        timed = [in_order(request, sounds[0].layers) for request in requests]
        rate_hz = model.codec.spectrogram_config.sample_rate_hz
        whole = Part(0, round(settings.duration_s * rate_hz))
        denoised = [
            replace(each, part=whole)
            for each in _denoise_timelines(model, timed, settings, on_batch)
        ]
    elif isinstance(requests[0], TimelineRequest):
        denoised = _denoise_timelines(model, requests, settings, on_batch)
    else:
        denoised = _denoise_layers(model, requests, sounds, settings, on_batch)
    # One by one, so that the peak of memory does not grow with the batch.
    results = []
    for each, request, some in zip(denoised, requests, sounds, strict=True):
        result = decode(model, each.latents, request, settings, each.part, each.gains_db)
        provenance = replace(result.provenance, layers=some.names)
        results.append(replace(result, provenance=provenance))
    return results


def _denoise_timelines(
    model: Model,
    requests: Sequence[TimelineRequest],
    settings: GenerateSettings,
    on_step: OnStep | None,
) -> list[_Denoised]:
    seeds = layer_seeds(requests)
    shape = model.latent_shape(settings.duration_s, settings.windows_at_once)
    noise = _noise_of(seeds, [*requests, *requests][: len(seeds)], shape)
    latents = sample_latents(model, requests, settings, noise, on_step)
    return [_Denoised(each) for each in layers_of_sounds(latents, len(requests))]


def _denoise_layers(
    model: Model,
    requests: Sequence[GenerateRequest],
    sounds: Sequence[Sounds],
    settings: GenerateSettings,
    on_step: OnStep | None,
) -> list[_Denoised]:
    layers = [some.layers for some in sounds]
    each = [
        replace(request, prompt=layer.prompt, seed=seed_after(request.seed, i))
        for request, some in zip(requests, layers, strict=True)
        for i, layer in enumerate(some)
    ]
    owners = [request for request, some in zip(requests, layers, strict=True) for _ in some]
    shape = model.latent_shape(_made_s(requests[0], settings), settings.windows_at_once)
    noise = _noise_of([request.seed for request in each], owners, shape)
    latents = sample_latents(model, each, settings, noise, on_step)
    enters_s = [layer.enters_s for some in layers for layer in some]
    latents = np.stack(
        [_enter(model, row, at_s) for row, at_s in zip(latents, enters_s, strict=True)]
    )
    of_sounds = np.split(latents, np.cumsum([len(some) for some in layers])[:-1])
    return [
        _Denoised(latents, tuple(layer.gain_db for layer in some))
        for latents, some in zip(of_sounds, layers, strict=True)
    ]


def _enter(model: Model, latent: np.ndarray, enters_s: float) -> np.ndarray:
    """(C, h, w) that begins `enters_s` later, after silence, and ends so much earlier."""
    n_columns = round(enters_s / model.latent_column_s)
    if n_columns == 0:
        return latent
    silence = np.repeat(silent_latent(model)[0], n_columns, axis=-1)
    return np.concatenate([silence, latent], axis=-1)[..., : latent.shape[-1]]


def _made_s(request: GenerateRequest | EditRequest, settings: GenerateSettings) -> float:
    """What is made of a sound, which is more of a loop than it lasts."""
    is_loop = isinstance(request, GenerateRequest) and request.loop
    return settings.duration_s + (join_s(settings.duration_s) if is_loop else 0.0)


def _noise_of(
    seeds: Sequence[int], owners: Sequence[GenerateRequest], shape: tuple[int, ...]
) -> np.ndarray:
    """The noise (L, C, h, w) of layers with these seeds, each turned as its request asks."""
    noise = initial_noise(seeds, shape)
    for row, (seed, owner) in enumerate(zip(seeds, owners, strict=True)):
        if owner.near_seed is not None:  # the same layer of the sound that it is to be like
            near_seed = seed_after(owner.near_seed, seed - owner.seed)
            near = initial_noise([near_seed], shape)[0]
            noise[row] = turned_noise(noise[row], near, owner.nearness)
    return noise


def sample_latents(
    model: Model,
    requests: Sequence[GenerateRequest],
    settings: GenerateSettings,
    noise: np.ndarray,
    on_step: OnStep | None = None,
) -> np.ndarray:
    """Latents (B, C, h, w) of B requests, denoised from `noise` of the same shape.

    All of them have the same timeline, if any; with beds latents and noise are (2 B, C, h, w), as
    `timeline` says.
    """
    scheduler = model.scheduler(settings)
    negative_prompts = [request.negative_prompt for request in requests]
    made = replace(settings, duration_s=_made_s(requests[0], settings))

    def denoiser(prompts: Sequence[str]) -> Denoise:
        return model.denoiser(prompts, negative_prompts, made, scheduler)

    after_step = None
    if isinstance(requests[0], TimelineRequest):
        denoise, after_step = timeline_denoiser(
            model, requests, settings, noise, scheduler, denoiser
        )
    else:
        denoise = model.windowed(denoiser([request.prompt for request in requests]), settings)
    for step in sample(denoise, scheduler, noise, settings.steps, after_step=after_step):
        if on_step:
            on_step(requests, step)
    return step.latents


def decode(
    model: Model,
    latents: np.ndarray,
    request: GenerateRequest | EditRequest,
    settings: GenerateSettings,
    part: Part | None = None,
    gains_db: Sequence[float] = (0.0,),
) -> GenerateResult:
    """The sound of `latents` (L, C, h, w), L layers that sound at once, cut to the duration.

    `gains_db` is one for each layer, or one for all.

    A request to trim cuts `part` out of it, by default the one that `find_part` finds, or for one
    event `find_event`.
    """
    config = model.codec.spectrogram_config
    noise = decoding_noise(request.seed)
    waveform, log_mel = model.sound(model.decode(latents), gains_db, noise)
    n_samples = round(settings.duration_s * config.sample_rate_hz)
    span_s = model.span_s(settings.duration_s, settings.windows_at_once)
    if request.one_shot or (request.trim and settings.duration_s < span_s):
        mono = waveform if waveform.ndim == 1 else waveform.mean(axis=0)
        find = find_event if request.one_shot else find_part
        part = part or find(mono, n_samples, config.sample_rate_hz)
        waveform = trim(waveform, part, config.sample_rate_hz)
    else:
        n_made = round(_made_s(request, settings) * config.sample_rate_hz)
        part = Part(0, n_samples)
        waveform = close_loop(Part(0, n_made).of(waveform), n_samples)
        # Griffin-Lim knows no full scale, and a file would clip what is beyond. HiFi-GAN's tanh
        # stays within it.
        waveform = waveform / np.abs(waveform).max(initial=1)
    log_mel = part.of(log_mel, config.hop_length_samples, math.log(config.mel_floor))
    return GenerateResult(
        waveform=waveform,
        sample_rate_hz=config.sample_rate_hz,
        log_mel=log_mel,
        spectrogram_config=config,
        part=part,
        request=request,
        settings=settings,
        provenance=model.provenance(request, settings, to_pcm16(waveform).T),
    )
