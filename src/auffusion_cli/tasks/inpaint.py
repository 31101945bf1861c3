"""New sound for a part of a recording, in time, in frequency, or both; the rest stays as it is.

Blended in latent space at every step (Blended Latent Diffusion, Avrahami et al. 2023, arXiv
2206.02779, section 4.1): after each step all but the mask is replaced by the recording's own
latents, noised to that step's level. With `resample` > 1 every step is taken several times, noised
back in between (RePaint, Lugmayr et al. 2022, arXiv 2201.09865, section 4.2), which lets the two
parts agree better. With a prompt a mask begins as noise. Without one nothing says what is heard
there but the recording: it begins as the sound around it, mirrored and noised (SDEdit, Meng et al.
2022).

Only the mask itself is taken from what the model made. It is matched in level to the recording
around it, gets the recording's room tone under it, is turned down where it would be louder than the
recording ever is, resampled to the recording's rate, and cross-faded inside the mask.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from auffusion_cli.device import dtype_name
from auffusion_cli.diffusion.denoiser import guided_denoiser
from auffusion_cli.diffusion.samplers import initial_noise, keep_known, make_scheduler, sample
from auffusion_cli.diffusion.windows import FillWindow, plan_fills
from auffusion_cli.errors import AuffusionError, UsageError
from auffusion_cli.requests.masks import Span, parse_bands, parse_times
from auffusion_cli.requests.request import MAX_SEED, ExtendRequest, GenerateSettings, InpaintRequest
from auffusion_cli.signal.audio import resample
from auffusion_cli.signal.loudness import SILENT, Ceiling
from auffusion_cli.signal.recording import Recording, to_full_scale
from auffusion_cli.signal.room_tone import RoomTone
from auffusion_cli.signal.spectrogram import mel_filterbank
from auffusion_cli.tasks.edits import EditResult, OnProgress, edit_result

if TYPE_CHECKING:
    from auffusion_cli.config import SpectrogramConfig
    from auffusion_cli.model import Model

CONTEXT_SHARE = 0.25
"""The part of a window, on either side, that is kept for the recording around a mask."""
OVERLAP_S = 0.16
"""Where a mask is longer than a window, its parts overlap by this and are cross-faded."""
UNPROMPTED_STRENGTH = 0.4
"""The part of the steps that a mirrored surrounding is taken through, where there is no prompt.

With more, a steady sound sags: nothing tells the model that it is steady. With little more than 0
everything repeats itself."""
EDGE_SHARE, MIN_EDGE_HZ = 0.05, 30.0
"""A band's edges fall off over this share of their frequency, and no steeper than that."""


@dataclass(frozen=True)
class InpaintPlan:
    """What of the clip is to change, resolved, and in which windows."""

    spans: list[Span]
    """In seconds; they do not touch."""
    bands: list[Span]
    """In Hz; none is all frequencies."""
    holes: list[tuple[int, int]]
    """The columns of the spectrogram that the spans touch."""
    windows: list[FillWindow]
    """In columns."""
    window_columns: int
    overlap_columns: int
    """What two windows that fill the same hole share."""
    n_columns: int
    """Of the clip."""


def plan_inpaint(
    request: InpaintRequest, duration_s: float, config: SpectrogramConfig, max_duration_s: float
) -> InpaintPlan:
    """Where the masks lie in a clip of `duration_s`, for a model that sees `max_duration_s`.

    Raises:
        UsageError: a mask or band does not fit the clip or the model.
    """
    spans = [Span(0.0, duration_s)]
    if request.masks:
        spans = _join_touching(parse_times(request.masks, duration_s))
    bands = parse_bands(request.bands, config.fmax_hz) if request.bands else []
    return plan_spans(spans, bands, duration_s, config, max_duration_s)


def plan_spans(
    spans: list[Span],
    bands: list[Span],
    duration_s: float,
    config: SpectrogramConfig,
    max_duration_s: float,
) -> InpaintPlan:
    """The windows that fill `spans`, which are in order and do not touch."""
    n_columns = config.seconds_to_frames(duration_s)
    holes: list[tuple[int, int]] = []
    for span in spans:
        start = math.floor(round(span.start * config.frames_per_second, 6))
        end = config.seconds_to_frames(span.end)
        if holes and start <= holes[-1][1]:
            start = holes.pop()[0]
        holes.append((start, end))
    window = config.seconds_to_frames(max_duration_s)
    context = round(window * CONTEXT_SHARE)
    overlap = min(config.seconds_to_frames(OVERLAP_S), context // 2)
    windows = plan_fills(holes, n_columns, window, context, overlap)
    return InpaintPlan(spans, bands, holes, windows, window, overlap, n_columns)


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
            " whose steps build on the ones before.",
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
    check_resample(request, settings)
    config = model.codec.spectrogram_config
    plan = plan_inpaint(request, source.duration_s, config, model.defaults.max_duration_s)
    samples, gain = fill(model, source, plan, request, settings, on_progress=on_progress)
    return edit_result(model, source, samples, request, settings, gain)


def fill(
    model: Model,
    source: Recording,
    plan: InpaintPlan,
    request: InpaintRequest | ExtendRequest,
    settings: GenerateSettings,
    *,
    ceiling: Ceiling | None = None,
    on_progress: OnProgress | None = None,
) -> tuple[np.ndarray, float]:
    """The samples (N, C) of `source`, of their own type, with what is new where `plan` says.

    What is new is nowhere louder than `ceiling`; None is the loudest moment of `source`, in the
    bands of `plan`. The second value is the lowest gain that this took.
    """
    tell = on_progress or (lambda n_done, n: None)
    config = model.codec.spectrogram_config
    rate_hz, hop = config.sample_rate_hz, config.hop_length_samples
    samples = source.samples.copy()
    # What the model hears. It is filled too: the next window may need this one as its context.
    heard = heard_by(model, source)
    in_bands = partial(_in_bands, bands=plan.bands, rate_hz=rate_hz)
    ceiling = ceiling or Ceiling.of(heard, rate_hz, in_bands)
    lowest_gain = 1.0

    for index, window in enumerate(plan.windows):

        def on_step(n_done: int, n: int, index: int = index) -> None:
            tell(index * n + n_done, len(plan.windows) * n)

        first = window.start * hop
        part = heard[first : first + plan.window_columns * hop]
        seeded = replace(request, seed=(request.seed + index) % (MAX_SEED + 1))
        new = _make(model, part, plan, window, seeded, settings, on_step)
        cuts = _cuts(plan, window, request.crossfade_s, config, source.duration_s)
        gains = _gains(in_bands(new), cuts, ceiling, first, rate_hz)
        new *= gains[:, None]
        lowest_gain = min(lowest_gain, gains.min())
        for start, mixed in _mix(part, new, cuts, plan.bands, first, rate_hz):
            heard[start : start + len(mixed)] = mixed

        first = round(first * source.sample_rate_hz / rate_hz)
        new = resample(torch.from_numpy(new.T), rate_hz, source.sample_rate_hz).T.numpy()
        part = to_full_scale(samples[first : first + len(new)])
        for start, mixed in _mix(part, new, cuts, plan.bands, first, source.sample_rate_hz):
            samples[start : start + len(mixed)] = source.quantize(mixed)
    return samples, float(lowest_gain)


def heard_by(model: Model, source: Recording) -> np.ndarray:
    """(n, C) samples of `source` at the model's rate."""
    rate_hz = model.codec.spectrogram_config.sample_rate_hz
    return resample(source.waveform(), source.sample_rate_hz, rate_hz).T.numpy()


@torch.no_grad()
def _make(
    model: Model,
    heard: np.ndarray,
    plan: InpaintPlan,
    window: FillWindow,
    request: InpaintRequest | ExtendRequest,
    settings: GenerateSettings,
    on_step: OnProgress,
) -> np.ndarray:
    """(n, C) samples at the model's rate -> as many, with what the model makes of the window."""
    codec = model.codec
    config, hop = codec.spectrogram_config, codec.spectrogram_config.hop_length_samples
    free = _free_columns(plan, window)
    free_samples = np.repeat(free, hop)[: len(heard)]
    mono = heard.mean(axis=1)
    # What is to go may be louder than all that stays, and must not decide how loud that is.
    known_peak = np.abs(mono[~free_samples]).max(initial=0.0)
    peak = known_peak if known_peak > SILENT else np.abs(mono).max()
    scale = peak / config.peak if peak > 0 else 1.0

    waveform = torch.from_numpy(mono / scale).float()
    waveform = F.pad(waveform, (0, len(free) * hop - len(waveform))).to(model.device)
    log_mel = codec.spectrogram(waveform[None])
    clean = codec.encode_log_mel(log_mel).float()
    n_columns = clean.shape[-1] * codec.width_multiple
    free = np.pad(free, (0, n_columns - len(free)))
    cells = _band_rows(plan.bands, config)[:, None] & free
    # What lies beyond the clip is unknown rather than silent.
    cells[:, plan.n_columns - window.start :] = True
    mask = latent_mask(cells, codec.width_multiple).to(model.device)

    noise = initial_noise([request.seed], tuple(clean.shape[1:]), model.device)
    says_nothing = not (request.prompt or request.negative_prompt)
    known = ~free[: log_mel.shape[-1]]
    known[plan.n_columns - window.start :] = False
    start, first_step = None, 0
    if says_nothing and known.any():
        start = codec.encode_log_mel(continued(log_mel, torch.from_numpy(known))).float()
        first_step = round((1 - UNPROMPTED_STRENGTH) * settings.steps)
    denoise = guided_denoiser(
        model.unet,
        model.text.encode([request.prompt], [request.negative_prompt]),
        1.0 if says_nothing else settings.guidance_scale,
        settings.guidance_rescale,
    )
    scheduler = make_scheduler(settings.scheduler, model.scheduler_config)
    # Not the generator of `noise` again, which would give the same numbers.
    back_noise = torch.Generator().manual_seed((request.seed + 1) % MAX_SEED)
    keep = keep_known(clean, noise, mask, scheduler, back_noise if request.resample > 1 else None)
    steps = sample(
        denoise,
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
    made = codec.decode(step.latents, len(heard))[0].double().cpu().numpy()
    if not np.isfinite(made).all():
        raise AuffusionError(
            f"The new sound is not finite in {dtype_name(model.dtype)}.",
            hint="Try --dtype fp32 or bf16.",
        )
    levels = _levels(heard, made, free_samples, plan.bands, config.sample_rate_hz, scale)
    tone = RoomTone.of(heard, ~free_samples, config.sample_rate_hz)
    # Other numbers than those of the two noises before.
    return tone.under(made[:, None] * levels, seed=(request.seed + 2) % MAX_SEED)


# --- the mask on the grids of columns, rows and latents


def _free_columns(plan: InpaintPlan, window: FillWindow) -> np.ndarray:
    """(W,) whether a column belongs to a hole that is not filled yet."""
    column = window.start + np.arange(plan.window_columns)
    free = np.zeros(len(column), dtype=bool)
    for start, end in plan.holes:
        free |= (column >= max(start, window.fill[0][0])) & (column < end)
    return free


def _band_rows(bands: Sequence[Span], config: SpectrogramConfig) -> np.ndarray:
    """(n_mels,) whether a mel filter hears anything of the bands; lowest first."""
    if not bands:
        return np.ones(config.n_mels, dtype=bool)
    filterbank = mel_filterbank(config).numpy()
    bins_hz = np.arange(len(filterbank)) * config.sample_rate_hz / config.n_fft_samples
    width_hz = bins_hz[1]
    inside = np.zeros(len(bins_hz), dtype=bool)
    for band in bands:
        inside |= (bins_hz > band.start - width_hz) & (bins_hz < band.end + width_hz)
    return (filterbank[inside] > 0).any(axis=0)


def latent_mask(cells: np.ndarray, downsample: int) -> Tensor:
    """Mel cells (n_mels, W), lowest first -> (1, 1, h, w): 1 where a latent covers any of them."""
    image = torch.from_numpy(cells[::-1].copy()).float()
    return F.max_pool2d(image[None, None], downsample)


def continued(log_mel: Tensor, known: Tensor) -> Tensor:
    """(..., W) with the columns that are not `known` (W,) filled from those that are.

    What is known on either side is mirrored into the hole, again and again where it is short, and
    the one mirror image fades into the other.
    """
    columns = torch.arange(len(known))
    ends = torch.nonzero(known[1:] != known[:-1]).flatten() + 1
    runs = [run for run in torch.tensor_split(columns, ends) if known[run[0]]]
    filled = log_mel.clone()
    for run in torch.tensor_split(columns, ends):
        if known[run[0]]:
            continue
        depth = torch.arange(len(run))  # how far into the hole
        sides = []  # where the hole reaches an end of the sound, there is only one
        if before := [r for r in runs if r[-1] < run[0]]:
            left = before[-1].flip(0)
            sides.append(log_mel[..., left[_bounce(depth, len(left))]])
        if after := [r for r in runs if r[0] > run[-1]]:
            right = after[0]
            sides.append(log_mel[..., right[_bounce(depth, len(right))]].flip(-1))
        share = ((depth + 0.5) / len(run)).to(log_mel)
        filled[..., run] = sides[0].lerp(sides[-1], share)
    return filled


def _bounce(depth: Tensor, length: int) -> Tensor:
    """0, 1, ... `length` - 1, and back again, for ever."""
    place = depth % (2 * length)
    return torch.minimum(place, 2 * length - 1 - place)


# --- from what the model made to samples


@dataclass(frozen=True)
class _Cut:
    """A part of the clip that is replaced; in seconds from the clip's start."""

    start_s: float
    end_s: float
    fade_in_s: float
    fade_out_s: float


def _cuts(
    plan: InpaintPlan,
    window: FillWindow,
    crossfade_s: float,
    config: SpectrogramConfig,
    duration_s: float,
) -> list[_Cut]:
    """The spans, as far as this window fills them.

    There is nothing to fade from at the clip's own ends. Where a span goes on into the next window
    the next part is laid over this one: it has faded in, in the first half of what they share,
    before this one fades out to the old sound in the second.
    """
    half_overlap_s = config.frames_to_seconds(plan.overlap_columns) / 2
    cuts = []
    for first, last in window.fill:
        fill_start_s, fill_end_s = config.frames_to_seconds(first), config.frames_to_seconds(last)
        for span in plan.spans:
            continues = fill_start_s > span.start + 1e-6
            ends_here = fill_end_s > span.end - 1e-6
            start_s = fill_start_s if continues else span.start
            end_s = span.end if ends_here else fill_end_s
            if start_s >= end_s:
                continue
            fade_in_s = crossfade_s if span.start > 0 else 0.0
            fade_out_s = crossfade_s if span.end < duration_s else 0.0
            if continues:
                fade_in_s = half_overlap_s
            if not ends_here:
                fade_out_s = half_overlap_s
            cuts.append(_Cut(start_s, end_s, fade_in_s, fade_out_s))
    return cuts


def _place(cut: _Cut, first: int, n: int, rate_hz: int) -> slice:
    """Where a cut lies in `n` samples that begin at the sample `first` of the clip."""
    start, end = round(cut.start_s * rate_hz), round(cut.end_s * rate_hz)
    return slice(max(start - first, 0), min(end - first, n))


def _gains(
    new: np.ndarray, cuts: Sequence[_Cut], ceiling: Ceiling, first: int, rate_hz: int
) -> np.ndarray:
    """(n,) gains for `new` (n, C), which begins at the sample `first` of the clip.

    They are those of each cut, and between cuts lead from the one to the other: nothing of that is
    heard, but a jump would be, in a band.
    """
    places, gains = [], []
    for cut in cuts:
        part = _place(cut, first, len(new), rate_hz)
        if part.start < part.stop:
            places.append(np.arange(part.start, part.stop))
            gains.append(ceiling.gains(new[part]))
    if not places:
        return np.ones(len(new))
    return np.interp(np.arange(len(new)), np.concatenate(places), np.concatenate(gains))


def _mix(
    old: np.ndarray,
    new: np.ndarray,
    cuts: Sequence[_Cut],
    bands: Sequence[Span],
    first: int,
    rate_hz: int,
) -> Iterator[tuple[int, np.ndarray]]:
    """(start sample in the clip, (n, C) samples) for each cut.

    `old` and `new` (n, C) begin at the sample `first` of the clip. The two have nothing to do with
    each other's phase, so that the cross-fade keeps their power rather than their sum.
    """
    old_band, new_band = (_in_bands(x, bands, rate_hz) for x in (old, new[: len(old)]))
    for cut in cuts:
        part = _place(cut, first, len(old), rate_hz)
        n = part.stop - part.start
        if n <= 0:
            continue
        angle = np.full(n, np.pi / 2)
        # A short cut is faded up to its middle.
        n_in = min(round(cut.fade_in_s * rate_hz), n // 2 if cut.fade_out_s else n)
        n_out = min(round(cut.fade_out_s * rate_hz), n // 2 if cut.fade_in_s else n)
        angle[:n_in] = (np.arange(n_in) + 0.5) / n_in * np.pi / 2 if n_in else 0
        if n_out:
            angle[-n_out:] = (np.arange(n_out)[::-1] + 0.5) / n_out * np.pi / 2
        gain_old, gain_new = np.cos(angle)[:, None], np.sin(angle)[:, None]
        mixed = old[part] + (gain_old - 1) * old_band[part] + gain_new * new_band[part]
        yield first + part.start, mixed


def _in_bands(samples: np.ndarray, bands: Sequence[Span], rate_hz: int) -> np.ndarray:
    """(n, C) -> what of it lies in the bands, in phase with it; no bands are all frequencies.

    The edges fall off inside the band, so that what lies outside of it stays.
    """
    if not bands:
        return samples
    n = 2 ** math.ceil(math.log2(2 * len(samples)))  # with silence behind, so that no end wraps
    hz = np.fft.rfftfreq(n, 1 / rate_hz)
    gain = np.zeros(len(hz))
    for band in bands:
        rise = _edge(hz - band.start, band.start, band) if band.start > 0 else 1.0
        fall = _edge(band.end - hz, band.end, band) if band.end < rate_hz / 2 else 1.0
        gain = np.maximum(gain, rise * fall)
    spectrum = np.fft.rfft(samples, n, axis=0) * gain[:, None]
    return np.fft.irfft(spectrum, n, axis=0)[: len(samples)]


def _edge(inside_hz: np.ndarray, edge_hz: float, band: Span) -> np.ndarray:
    """A gain that rises from 0 at the edge to 1, `inside_hz` further in."""
    width = min(max(EDGE_SHARE * edge_hz, MIN_EDGE_HZ), (band.end - band.start) / 4)
    return 0.5 - 0.5 * np.cos(np.pi * np.clip(inside_hz / width, 0, 1))


def _levels(
    heard: np.ndarray,
    made: np.ndarray,
    free_samples: np.ndarray,
    bands: Sequence[Span],
    rate_hz: int,
    scale: float,
) -> np.ndarray:
    """(C,) gains that make `made` (n,) as loud as each channel of `heard` (n, C) where both stay.

    So the new sound sits in the stereo image where the recording around it does. Where nothing
    stays, or what stays is silent, all channels get `scale`: the level at which the model heard.
    """
    changes = free_samples[:, None]
    heard_stays = heard - changes * _in_bands(heard, bands, rate_hz)
    made_stays = made[:, None] - changes * _in_bands(made[:, None], bands, rate_hz)
    heard_level = np.sqrt((heard_stays**2).mean(axis=0))
    made_level = np.sqrt((made_stays**2).mean())
    if heard_level.max() < SILENT or made_level < SILENT:
        return np.full(heard.shape[1], scale)
    return heard_level / made_level
