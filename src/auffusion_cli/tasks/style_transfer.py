"""Style transfer: a recording turned into the sound of a prompt that keeps the recording's timing.

`sdedit`: its latents are noised part of the way, and denoised again with the prompt (SDEdit, Meng
et al. 2022, arXiv 2108.01073, section 3). `inversion`: they are led to noise by DDIM's steps taken
backwards, without a prompt (Song et al. 2021, arXiv 2010.02502, section 4.3), which keeps more of
the timing.

Clips longer than the model's window are denoised in overlapping windows: see `windows`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from auffusion_cli.codec.codec import decoding_noise
from auffusion_cli.diffusion.denoiser import Denoise
from auffusion_cli.diffusion.holes import mirror_fill
from auffusion_cli.diffusion.samplers import initial_noise, sample
from auffusion_cli.diffusion.schedulers import make_inverse
from auffusion_cli.errors import UsageError
from auffusion_cli.requests.request import GenerateSettings, StyleTransferRequest
from auffusion_cli.signal.audio import resample
from auffusion_cli.signal.recording import Recording
from auffusion_cli.signal.spectrogram import normalize_peak
from auffusion_cli.tasks.edits import EditResult, OnProgress, edit_result
from auffusion_cli.tasks.upper_band import extended

if TYPE_CHECKING:
    from auffusion_cli.model import Model

PANNING_S = 0.1
"""Time over which the recording's panning is averaged."""
SILENCE_POWER = 1e-8
"""-80 dB of full scale: below that a recording has no panning."""


def check_method(request: StyleTransferRequest, settings: GenerateSettings) -> None:
    """Raise a UsageError where no step would be taken, or the scheduler cannot be inverted."""
    request.first_step(settings.steps)
    if request.method == "inversion" and settings.scheduler != "ddim":
        raise UsageError(
            f"--method inversion does not work with --scheduler {settings.scheduler}",
            hint="Add --scheduler ddim.",
        )


def style_transfer(
    model: Model,
    source: Recording,
    request: StyleTransferRequest,
    settings: GenerateSettings,
    *,
    on_progress: OnProgress | None = None,
) -> EditResult:
    """`source` changed as `request` says; its rate, channels, sample format and length stay.

    A model that makes one channel makes it of the mean of the source's channels. It is panned as
    the source is: each channel gets the share that it has of the source's power at that moment. One
    that makes as many as the source has hears each of them. The result has the source's level (root
    mean square, at the model's rate), or the highest without clipping.

    Raises:
        UsageError: settings that do not fit each other.
        AuffusionError: the result is not finite.
    """
    check_method(request, settings)
    config = model.codec.spectrogram_config
    channels = resample(source.waveform(), source.sample_rate_hz, config.sample_rate_hz)
    made = _transfer(model, model.codec.hear(channels), request, settings, on_progress)
    if len(made) == len(channels) > 1:
        panned = made
    else:
        width = round(PANNING_S * config.sample_rate_hz)
        panned = made.mean(axis=0) * _panning(channels, width)
    level = _root_mean_square(channels) / max(_root_mean_square(panned), 1e-9)
    to_own_rate = partial(extended, seed=request.seed) if request.extend_band else resample
    remade = to_own_rate(panned * level, config.sample_rate_hz, source.sample_rate_hz)
    remade = remade[:, : len(source.samples)]
    gain = 1 / max(float(np.abs(remade).max()), 1.0)
    samples = source.quantize((remade * gain).T.astype(np.float64))
    return edit_result(model, source, samples, request, settings, gain)


def _transfer(
    model: Model,
    heard: np.ndarray,
    request: StyleTransferRequest,
    settings: GenerateSettings,
    on_progress: OnProgress | None,
) -> np.ndarray:
    """(c, n) samples at the model's rate -> as many, at no particular level."""
    tell = on_progress or (lambda n_done, n: None)
    loud = normalize_peak(heard.reshape(-1), model.codec.spectrogram_config.peak)
    view = model.codec.view(loud.reshape(heard.shape))
    n = view.shape[-1]
    # Most models always fill the window they were trained on. A shorter clip is mirrored at its
    # end: of an edge to silence denoising makes a burst.
    f = model.codec.view_multiple
    heard_s = heard.shape[-1] / model.codec.spectrogram_config.sample_rate_hz
    n_whole = model.latent_shape(heard_s, settings.windows_at_once)[2] * f
    view = np.pad(view, ((0, 0), (0, 0), (0, n_whole - n)))
    clean = model.encode(mirror_fill(view, np.arange(n_whole) < n))

    scheduler = model.scheduler(settings)

    def denoiser(prompt: str, settings: GenerateSettings) -> Denoise:
        denoise = model.denoiser([prompt], [request.negative_prompt], settings, scheduler)
        return model.windowed(denoise, settings)

    first_step = request.first_step(settings.steps)
    n_inverted = settings.steps - first_step if request.method == "inversion" else 0
    if n_inverted:
        noise = invert(
            denoiser("", replace(settings, guidance_scale=1.0)),
            clean,
            settings.steps,
            n_inverted,
            model.scheduler_config,
            on_step=lambda n_done: tell(n_done, 2 * n_inverted),
        )
    else:
        noise = initial_noise([request.seed], clean.shape[1:])
    steps = sample(
        denoiser(request.prompt, settings),
        scheduler,
        noise,
        settings.steps,
        clean=None if n_inverted else clean,
        first_step=first_step,
    )
    for step in steps:
        tell(n_inverted + step.index + 1, n_inverted + step.n_steps)
    views = model.decode(step.latents)[..., :n]
    sound, _ = model.sound(views, (0.0,), decoding_noise(request.seed))
    return np.atleast_2d(sound)[:, : heard.shape[1]]


def invert(
    denoise: Denoise,
    clean: np.ndarray,
    n_steps: int,
    n_inverted: int,
    scheduler_config: Mapping[str, Any],
    *,
    on_step: Callable[[int], None],
) -> np.ndarray:
    """Clean latents -> the noisy ones from which DDIM's last `n_inverted` of `n_steps` lead back.

    The same loop, with a scheduler that goes up the noise levels.
    """
    up = make_inverse(scheduler_config)
    for step in islice(sample(denoise, up, clean, n_steps), n_inverted):
        on_step(step.index + 1)
    return step.latents


def _root_mean_square(samples: np.ndarray) -> float:
    return float(np.sqrt(np.square(samples).mean()))


def _panning(channels: np.ndarray, width: int) -> np.ndarray:
    """(C, n) gains: the share of each channel in the power of all, over `width` samples; 1 is even.

    In silence all are 1. The mean over the channels of the squared gains is 1 everywhere.
    """
    # A triangular window: the mean over `width`, twice.
    power = np.square(channels.astype(np.float64))
    for _ in range(2):
        power = _mean_over(power, width)
    power = power + SILENCE_POWER
    return np.sqrt(len(channels) * power / power.sum(axis=0)).astype(np.float32)


def _mean_over(values: np.ndarray, width: int) -> np.ndarray:
    """(C, n) -> (C, n): the mean of `width` values around each; the ends go on."""
    padded = np.pad(values, ((0, 0), (width // 2, (width - 1) // 2)), mode="edge")
    total = np.cumsum(np.pad(padded, ((0, 0), (1, 0))), axis=1)
    return (total[:, width:] - total[:, :-width]) / width
