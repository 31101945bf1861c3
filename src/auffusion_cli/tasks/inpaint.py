"""Inpainting: new sound for a part of a recording, in time, in frequency or both; the rest stays.

Blended in latent space at every step (Blended Latent Diffusion, Avrahami et al. 2023, arXiv
2206.02779, section 4.1): after each step all but the mask is replaced by the recording's own
latents, noised to that step's level. With `resample` > 1 every step is taken several times, noised
back in between (RePaint, Lugmayr et al. 2022, arXiv 2201.09865, section 4.2), so that the two parts
agree better. With a prompt a mask starts as noise. Without one only the recording can say what
belongs there: the mask starts as the sound around it, mirrored and noised (SDEdit, Meng et al.
2022).

Of the model's sound only the mask itself is used. It is matched in level to the recording around
it, resampled to the recording's rate, gets the recording's background noise under it, is turned
down where it would be louder than the recording ever is, and is cross-faded inside the mask.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from auffusion_cli.codec.codec import decoding_noise
from auffusion_cli.diffusion.holes import (
    FillPlan,
    band_rows,
    cuts_of,
    free_columns,
    known_part,
    latent_mask,
    mirror_fill,
    plan_fill,
)
from auffusion_cli.diffusion.samplers import initial_noise, keep_known, sample
from auffusion_cli.diffusion.windows import FillWindow
from auffusion_cli.errors import AuffusionAdvice, UsageError
from auffusion_cli.requests.masks import Span, parse_bands, parse_times
from auffusion_cli.requests.request import ExtendRequest, GenerateSettings, InpaintRequest
from auffusion_cli.requests.seeds import seed_after
from auffusion_cli.signal.audio import resample, warn_of_clipping
from auffusion_cli.signal.blend import gains_under, in_bands, matching_gains, mix
from auffusion_cli.signal.loudness import SILENT, Ceiling
from auffusion_cli.signal.noise import Noise
from auffusion_cli.signal.recording import Recording, to_full_scale
from auffusion_cli.signal.room_tone import RoomTone
from auffusion_cli.tasks.edits import EditResult, OnProgress, edit_result, require_log_mels
from auffusion_cli.tasks.upper_band import matching_upper_band

if TYPE_CHECKING:
    from auffusion_cli.config import SpectrogramConfig
    from auffusion_cli.model import Model

UNPROMPTED_STRENGTH = 0.4
"""The share of the steps that a mirrored surrounding is taken through, where there is no prompt.

With more, a steady sound sags, as no prompt says that it is steady. With little more than 0
everything repeats itself."""
N_LOOKED_AT = 20
"""Stretches of `MARGIN_S` outside of a mask, in which an event across its edge may begin."""
EVENT = 8.0
"""An event is louder than what is quiet around it by this factor, 18 dB."""
MARGIN_S = 0.05
"""Around a mask, where the sound that it is to remove should have ended."""


def plan_inpaint(
    request: InpaintRequest, duration_s: float, config: SpectrogramConfig, window_s: float
) -> FillPlan:
    """The masks of a clip of `duration_s`, for a model with a window of `window_s`.

    Raises:
        UsageError: a mask or band does not fit the clip or the model.
    """
    spans, bands = parse_masks(request, duration_s, config.fmax_hz)
    return plan_fill(spans, bands, duration_s, config, window_s)


def parse_masks(
    request: InpaintRequest, duration_s: float, top_hz: float
) -> tuple[list[Span], list[Span]]:
    """(spans in seconds, which do not touch; bands in Hz) of a clip of `duration_s`.

    Raises:
        UsageError: a mask does not fit the clip, or a band lies above `top_hz`.
    """
    spans = [Span(0.0, duration_s)]
    if request.masks:
        spans = _join_touching(parse_times(request.masks, duration_s))
    bands = parse_bands(request.bands, top_hz) if request.bands else []
    return spans, bands


def _join_touching(spans: Sequence[Span]) -> list[Span]:
    joined: list[Span] = []
    for span in spans:
        if joined and joined[-1].end == span.start:
            span = Span(joined.pop().start, span.end)
        joined.append(span)
    return joined


def check_resample(request: InpaintRequest, settings: GenerateSettings) -> None:
    """Raise a UsageError where the scheduler cannot take a step twice."""
    if request.resample > 1 and settings.scheduler != "ddim":
        raise UsageError(
            f"--resample {request.resample} does not work with --scheduler {settings.scheduler},"
            " whose steps build on the ones before",
            hint="Add --scheduler ddim.",
        )


def inpaint(
    model: Model,
    source: Recording,
    request: InpaintRequest,
    settings: GenerateSettings,
    *,
    on_progress: OnProgress | None = None,
) -> EditResult:
    """Fill the masks of `request` in `source`; every sample outside of them comes back unchanged.

    Raises:
        UsageError: masks, bands or settings that do not fit the clip or the model.
        AuffusionError: the result is not finite.
    """
    if request.bands:
        require_log_mels(model, "inpaint of bands")
    check_resample(request, settings)
    config = model.codec.spectrogram_config
    plan = plan_inpaint(request, source.duration_s, config, model.window_s(source.duration_s))
    warn_of_tight_masks(source, plan.spans, request.crossfade_s)
    samples, gain = fill(model, source, plan, request, settings, on_progress=on_progress)
    return edit_result(model, source, samples, request, settings, gain)


def warn_of_tight_masks(source: Recording, spans: Sequence[Span], crossfade_s: float) -> None:
    """Warn where a sound begins or ends within a cross-fade, so that a part of it stays audible."""
    power = (to_full_scale(source.samples) ** 2).mean(axis=1)
    rate_hz = source.sample_rate_hz

    def level(start_s: float, end_s: float) -> float:
        """The loudest 5 ms."""
        part = power[max(round(start_s * rate_hz), 0) : round(end_s * rate_hz)]
        n = max(round(0.005 * rate_hz), 1)
        blocks = part[: len(part) // n * n].reshape(-1, n).mean(axis=1)
        return float(np.sqrt(blocks.max(initial=0.0)))

    for span in spans:
        edges = (
            (span.start, 1, "begins", "start it earlier"),
            (span.end, -1, "ends", "end it later"),
        )
        for edge_s, inwards, verb, advice in edges:
            if not 0 < edge_s < source.duration_s:
                continue
            inside = level(*sorted((edge_s, edge_s + inwards * crossfade_s)))
            outside = level(*sorted((edge_s, edge_s - inwards * MARGIN_S)))
            if inside > max(2 * outside, SILENT):
                warnings.warn(
                    f"a sound {verb} within the cross-fade of the mask at {edge_s:g} s, and a part"
                    f" of it stays: {advice}, by {MARGIN_S:g} s or so",
                    AuffusionAdvice,
                    stacklevel=3,
                )
            elif _is_cut(level, edge_s, inwards, source.duration_s):
                warnings.warn(
                    f"the mask at {edge_s:g} s lies within a sound, of which the part outside"
                    f" stays: {advice}, or where it is quiet",
                    AuffusionAdvice,
                    stacklevel=3,
                )


def _is_cut(
    level: Callable[[float, float], float], edge_s: float, inwards: int, duration_s: float
) -> bool:
    """Whether an event goes on across an edge: loud on both sides, and not so further out."""
    steps = [edge_s - inwards * n * MARGIN_S for n in range(-1, N_LOOKED_AT + 1)]
    steps = [step_s for step_s in steps if 0 <= step_s <= duration_s]
    levels = [level(*sorted(pair)) for pair in pairwise(steps)]
    if len(levels) < 3 or min(levels[:2]) <= SILENT:
        return False
    return min(levels[:2]) > EVENT * float(np.quantile(levels[2:], 0.2))


def fill(
    model: Model,
    source: Recording,
    plan: FillPlan,
    request: InpaintRequest | ExtendRequest,
    settings: GenerateSettings,
    *,
    ceiling: Ceiling | None = None,
    on_progress: OnProgress | None = None,
) -> tuple[np.ndarray, float]:
    """The samples (N, C) of `source`, of their own type, with new ones in the holes of `plan`.

    The new ones are nowhere louder than `ceiling`; None is the loudest moment of `source`, in the
    bands of `plan`. The second value is the lowest gain that this took.
    """
    tell = on_progress or (lambda n_done, n: None)
    config, rate_hz = model.codec.spectrogram_config, source.sample_rate_hz
    hop = config.hop_length_samples * rate_hz / config.sample_rate_hz  # at the recording's rate
    samples = source.samples.copy()
    of_bands = partial(in_bands, bands=plan.bands, rate_hz=rate_hz)
    ceiling = ceiling or Ceiling.of(to_full_scale(samples), rate_hz, of_bands)
    lowest_gain, n_clipped = 1.0, 0

    for index, window in enumerate(plan.windows):

        def on_step(n_done: int, n: int, index: int = index) -> None:
            tell(index * n + n_done, len(plan.windows) * n)

        first = round(window.start * hop)
        old = to_full_scale(samples[first : first + round(plan.window_columns * hop)])
        seeded = replace(request, seed=seed_after(request.seed, index))
        known = _resample(old, rate_hz, config.sample_rate_hz)
        made = _make(model, known, plan, window, seeded, settings, on_step)
        new = _resample(made, config.sample_rate_hz, rate_hz)[: len(old)]
        free = free_columns(plan, window)[(np.arange(len(old)) / hop).astype(int)]
        if request.extend_band:
            new = new + matching_upper_band(
                old, known, made, ~free, (rate_hz, config.sample_rate_hz), seeded.seed
            )
        cuts = cuts_of(plan, window, request.crossfade_s, config, source.duration_s)
        event_gains = gains_under(ceiling, of_bands(new), cuts, first, rate_hz)
        # Before the background is laid, or it would go down around a loud event. The seed is
        # another than those of the two noises of `_denoise`.
        background = RoomTone.of(old, ~free, rate_hz)
        new = background.under(new * event_gains[:, None], seed=seed_after(seeded.seed, 2))
        gains = gains_under(ceiling, of_bands(new), cuts, first, rate_hz)
        lowest_gain = min(lowest_gain, (event_gains * gains).min())
        for start, mixed in mix(old, new * gains[:, None], cuts, plan.bands, first, rate_hz):
            n_clipped += source.count_clipped(mixed)
            samples[start : start + len(mixed)] = source.quantize(mixed)
    warn_of_clipping("the new part", n_clipped)
    return samples, float(lowest_gain)


def _resample(samples: np.ndarray, from_hz: int, to_hz: int) -> np.ndarray:
    """(n, C) samples at another rate."""
    return resample(samples.T.astype(np.float32), from_hz, to_hz).T.astype(np.float64)


def _make(
    model: Model,
    known: np.ndarray,
    plan: FillPlan,
    window: FillWindow,
    request: InpaintRequest | ExtendRequest,
    settings: GenerateSettings,
    on_step: OnProgress,
) -> np.ndarray:
    """(n, C) samples of `window` at the model's rate -> as many of the model's, at their level."""
    config = model.codec.spectrogram_config
    free = free_columns(plan, window)
    free_samples = np.repeat(free, config.hop_length_samples)[: len(known)]
    heard = model.codec.hear(known.T)
    # The sound that goes may be louder than all that stays, and must not decide about the level.
    known_peak = np.abs(heard[:, ~free_samples]).max(initial=0.0)
    peak = known_peak if known_peak > SILENT else np.abs(heard).max()
    scale = peak / config.peak if peak > 0 else 1.0

    waveform = (heard / scale).astype(np.float32)
    missing = len(free) * config.hop_length_samples - len(known)
    view = model.codec.view(np.pad(waveform, ((0, 0), (0, missing))))
    latents = _denoise(model, view, free, plan, window, request, settings, on_step)
    sound, _ = model.sound(model.decode(latents), (0.0,), decoding_noise(request.seed))
    made = np.atleast_2d(sound)[:, : len(known)].astype(np.float64)
    if len(made) != known.shape[1]:
        made = made.mean(axis=0, keepdims=True)
    levels = matching_gains(known, made.T, free_samples, plan.bands, config.sample_rate_hz, scale)
    return made.T * levels


def _denoise(
    model: Model,
    view: np.ndarray,
    free: np.ndarray,
    plan: FillPlan,
    window: FillWindow,
    request: InpaintRequest | ExtendRequest,
    settings: GenerateSettings,
    on_step: OnProgress,
) -> np.ndarray:
    """(1, C, h, w) latents of `view`, new where columns of the spectrogram are `free` (W,)."""
    codec = model.codec
    n_known = plan.n_columns - window.start  # what lies beyond the clip is unknown, not silent
    clean = model.encode(view)
    free = np.pad(free, (0, clean.shape[-1] * codec.width_multiple - len(free)))
    cells = band_rows(plan.bands, codec.spectrogram_config)[:, None] & free
    cells[:, n_known:] = True
    mask = latent_mask(cells, *clean.shape[2:])

    noise = initial_noise([request.seed], clean.shape[1:])
    unprompted = not (request.prompt or request.negative_prompt)
    free[n_known:] = True
    known = np.repeat(~free, codec.view_multiple // codec.width_multiple)[: view.shape[-1]]
    start, first_step = None, 0
    if unprompted:
        settings = replace(settings, guidance_scale=1.0)
    if unprompted and known.any():
        start = model.encode(mirror_fill(view, known))
        first_step = min(round((1 - UNPROMPTED_STRENGTH) * settings.steps), settings.steps - 1)
    scheduler = model.scheduler(settings)
    # Not the seed of `noise` again, which would give the same numbers.
    back_noise = Noise(seed_after(request.seed, 1))
    keep = keep_known(clean, noise, mask, scheduler, back_noise if request.resample > 1 else None)
    steps = sample(
        model.denoiser(
            *([request.prompt], [request.negative_prompt], settings, scheduler),
            known=known_part(clean, mask),
        ),
        scheduler,
        noise,
        settings.steps,
        clean=start,
        first_step=first_step,
        after_step=keep,
        visits=request.resample,
    )
    for step in steps:
        on_step(step.index + 1, step.n_steps)
    return step.latents
