"""Extension of a recording: after it, before it, or from its end back to its start (a loop).

The clip lies beside a hole that is filled as in `inpaint`; every sample of the clip stays. Beyond
the clip's end there is nothing to cross-fade from, so the clip is extrapolated by linear prediction
for as long as the cross-fade takes.

A model that sees nothing behind the hole may let the sound end in it. So the clip's own end stands
there once more while the hole is filled, and is left out of the result.

A fade at the clip's end would stay as a dip in the longer sound, so that it can be made anew.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from auffusion_cli.config import MIN_DURATION_S
from auffusion_cli.diffusion.holes import CONTEXT_SHARE, plan_fill
from auffusion_cli.errors import UsageError
from auffusion_cli.requests.finish import Finish
from auffusion_cli.requests.masks import Span
from auffusion_cli.requests.provenance import Provenance
from auffusion_cli.requests.request import ExtendRequest, GenerateSettings
from auffusion_cli.requests.seeds import seed_after
from auffusion_cli.signal.extrapolation import extrapolate
from auffusion_cli.signal.loudness import Ceiling
from auffusion_cli.signal.overlap import OVERLAP_S
from auffusion_cli.signal.recording import Recording, to_full_scale
from auffusion_cli.signal.trim import fade_s
from auffusion_cli.tasks.edits import EditResult, OnProgress, edit_result
from auffusion_cli.tasks.inpaint import fill

if TYPE_CHECKING:
    from auffusion_cli.model import Model

FADED_TO = 10 ** (-12 / 20)
"""Level of the last quarter of a fade against what is before it, at most."""
GOES_ON = 10 ** (-20 / 20)
"""Level of a sound that is faded against the whole recording, at least."""


def extend(
    model: Model,
    source: Recording,
    request: ExtendRequest,
    settings: GenerateSettings,
    *,
    on_progress: OnProgress | None = None,
) -> EditResult:
    """`source` extended by `request.by_s`, at its own rate, width and channels.

    Raises:
        UsageError: all of it would be made anew.
        AuffusionError: the result is not finite.
    """
    check_over(request, source.duration_s)
    n_over = round(request.over_s * source.sample_rate_hz)
    n_new = n_over + max(round(request.by_s * source.sample_rate_hz), 1)
    is_before = request.where == "before"
    clip = source.samples[n_over:] if is_before else source.samples[: len(source.samples) - n_over]
    source = replace(source, samples=clip)
    grower = _Grower(model, source, request, settings, n_new, on_progress)
    match request.where:
        case "before":
            samples = np.concatenate([grower.grow(n_new, before=True), clip])
        case "loop":
            n_bridge = min(n_new, grower.n_piece)
            longer = np.concatenate([clip, grower.grow(n_new - n_bridge)])
            samples = np.concatenate([longer, grower.bridge(longer, n_bridge)])
        case _:
            samples = np.concatenate([clip, grower.grow(n_new)])
    return edit_result(model, source, samples, request, settings, grower.lowest_gain)


def check_over(request: ExtendRequest, duration_s: float) -> None:
    """Raise a UsageError where nothing of a recording of `duration_s` would stay."""
    if duration_s - request.over_s < MIN_DURATION_S:
        raise UsageError(f"--over {request.over_s:g}s: {request.source} lasts {duration_s:g} s")


def faded_s(source: Recording, record: Provenance | None, where: str) -> float:
    """How long the fade is in `source`, where it is extended, by its `record`; 0 where none is.

    It counts where it is heard, as it cuts off what goes on.
    """
    if record is None:
        return 0.0
    finish, samples = record.finish or Finish(), to_full_scale(source.samples)
    if where == "before":
        length_s, samples = finish.fade_in_s, samples[::-1]
    else:
        is_trimmed = getattr(record.request, "trim", False)
        length_s = max(finish.fade_out_s, fade_s(source.duration_s) if is_trimmed else 0.0)
    n = round(length_s * source.sample_rate_hz)
    if n < 4 or 2 * n > len(samples):
        return 0.0
    before, end = samples[-2 * n : -n].std(), samples[-n // 4 :].std()
    goes_on = before > GOES_ON * samples.std()
    return length_s if goes_on and end < FADED_TO * before else 0.0


@dataclass
class _Grower:
    """Maker of the pieces, each with the next seed; all sizes are in samples of `source`."""

    model: Model
    source: Recording
    request: ExtendRequest
    settings: GenerateSettings
    n_new: int
    on_progress: OnProgress | None
    n_made: int = 0
    """Pieces made so far."""
    lowest_gain: float = 1.0
    """The lowest with which a piece was turned down."""

    def __post_init__(self) -> None:
        rate_hz, window_s = self.source.sample_rate_hz, self.model.defaults.max_duration_s
        self.n_window = round(window_s * rate_hz)
        self.n_context = round(CONTEXT_SHARE * window_s * rate_hz)
        self.n_shared = round(min(OVERLAP_S, window_s / 8) * rate_hz)
        self.n_fade = round(min(self.request.crossfade_s, window_s / 8) * rate_hz)
        # Whole columns of the spectrogram are filled, up to one more on either side.
        config = self.model.codec.spectrogram_config
        n_rounding = round(config.frames_to_seconds(2) * rate_hz)
        n_beside = 2 * self.n_context + self.n_shared + self.n_fade + n_rounding
        self.n_piece = self.n_window - n_beside
        self.n_pieces = -(-self.n_new // self.n_piece)
        # Of the whole clip; a piece has only the part of it that is near.
        self.ceiling = Ceiling.of(to_full_scale(self.source.samples), rate_hz)

    def grow(self, n_new: int, *, before: bool = False) -> np.ndarray:
        """(n_new, C) samples after the clip, or before it.

        Piece after piece, away from the clip: for `before` that is backwards in time, so that all
        samples are reversed here, but for the model. Each piece makes the end of the last one
        again, and is cross-faded from it.
        """
        turn = slice(None, None, -1 if before else None)
        clip = self.source.samples[turn]
        made = clip[:0]
        while len(made) < n_new:
            n = min(self.n_piece, n_new - len(made))
            n_again = min(self.n_shared, len(made))
            begin = made[-n_again:] if n_again else self._extrapolate(clip, min(self.n_fade, n))
            # At the far end it would fade to the hole's own content, which is not wanted.
            hole = np.zeros_like(clip, shape=(n_again + n + self.n_fade, clip.shape[1]))
            hole[: len(begin)] = begin
            near = np.concatenate([clip[-self.n_window :], made[: len(made) - n_again]])
            near = near[-self.n_window :]
            far = clip[-self.n_context :]  # so that the sound does not end in the hole
            parts = (near, hole, far) if not before else (far[turn], hole[turn], near[turn])
            new = self._fill(*parts, n_fade=n_again or self.n_fade)[turn]
            made = np.concatenate([made[: len(made) - n_again], new[: n_again + n]])
        return made[turn]

    def bridge(self, longer: np.ndarray, n: int) -> np.ndarray:
        """(n, C) samples that lead from the end of `longer` to the clip's start."""
        clip = self.source.samples
        n_fade = min(self.n_fade, n // 2)
        hole = np.zeros_like(clip, shape=(n, clip.shape[1]))
        if n_fade:
            hole[:n_fade] = self._extrapolate(longer, n_fade)
            hole[-n_fade:] = self._extrapolate(clip[::-1], n_fade)[::-1]
        return self._fill(
            longer[-self.n_window :],
            hole,
            clip[: self.n_window],
            n_fade=self.n_fade,
        )

    def _extrapolate(self, samples: np.ndarray, n: int) -> np.ndarray:
        rate_hz = self.source.sample_rate_hz
        more = extrapolate(to_full_scale(samples[-self.n_window :]), n, rate_hz, self.request.seed)
        return self.source.quantize(more)

    def _fill(
        self, left: np.ndarray, hole: np.ndarray, right: np.ndarray, n_fade: int
    ) -> np.ndarray:
        """The hole (n, C) filled by the model, with `left` before and `right` after it."""
        around = replace(self.source, samples=np.concatenate([left, hole, right]))
        rate_hz = self.source.sample_rate_hz
        span = Span(len(left) / rate_hz, (len(left) + len(hole)) / rate_hz)
        config = self.model.codec.spectrogram_config
        window_s = self.model.window_s(around.duration_s)
        plan = plan_fill([span], [], around.duration_s, config, window_s)
        seed = seed_after(self.request.seed, self.n_made)
        request = replace(self.request, seed=seed, crossfade_s=n_fade / rate_hz)
        samples, gain = fill(
            self.model,
            around,
            plan,
            request,
            self.settings,
            ceiling=self.ceiling,
            on_progress=self._report,
        )
        self.lowest_gain = min(self.lowest_gain, gain)
        self.n_made += 1
        return samples[len(left) : len(left) + len(hole)]

    def _report(self, n_done: int, n: int) -> None:
        if self.on_progress:
            self.on_progress(self.n_made * n + n_done, self.n_pieces * n)
