"""Whether a seam can be told: a click, a gap or a cut, in level and in spectrum."""

from itertools import pairwise

import numpy as np

FRAME_S, HOP_S = 0.02, 0.005
BAND_EDGES_HZ = (0, 150, 300, 500, 800, 1200, 1800, 2600, 3600, 5000, 7000)
FLOOR = 1e-10
"""-100 dB: what is softer than that is as good as silent."""


def jumps(samples, rate_hz):
    """(seconds (F,), level (F,), spectrum (F,)), in dB, of samples (N, C).

    How far each 20 ms stand out from both the 20 ms before and the 20 ms after: louder than the
    louder, or softer than the softer of the two. Where one sound turns into another nothing does;
    a click, a gap or the splatter of a cut does. The spectrum is the mean over ten bands of how far
    each of them stands out.
    """
    frame, hop = round(FRAME_S * rate_hz), round(HOP_S * rate_hz)
    frames = np.lib.stride_tricks.sliding_window_view(samples.mean(axis=1), frame)[::hop]
    power = np.abs(np.fft.rfft(frames * np.hanning(frame), axis=1)) ** 2 / frame
    hz = np.fft.rfftfreq(frame, 1 / rate_hz)
    bands = [
        power[:, (hz >= low) & (hz < high)].sum(axis=1) for low, high in pairwise(BAND_EDGES_HZ)
    ]
    level_db = 10 * np.log10(np.maximum(sum(bands), FLOOR))
    # What is 50 dB below the level of its moment is not heard beside it.
    bands_db = 10 * np.log10(np.maximum(bands, np.maximum(sum(bands) * 1e-5, FLOOR)))
    seconds = (np.arange(len(frames)) * hop + frame / 2) / rate_hz
    lag = frame // hop
    spectrum = np.mean([_stands_out(band, lag) for band in bands_db], axis=0)
    return seconds[lag:-lag], _stands_out(level_db, lag), spectrum


def _stands_out(values_db, lag):
    before, at, after = values_db[: -2 * lag], values_db[lag:-lag], values_db[2 * lag :]
    return np.maximum(0, np.maximum(at - np.maximum(before, after), np.minimum(before, after) - at))


def at_seams(samples, rate_hz, seams_s, reach_s):
    """(level, spectrum): the largest of `jumps` within `reach_s` of any seam."""
    seconds, level, spectrum = jumps(samples, rate_hz)
    near = np.min(np.abs(seconds[:, None] - np.asarray(seams_s)), axis=1) <= reach_s
    return level[near].max(), spectrum[near].max()


def within(samples, rate_hz):
    """(level, spectrum): the largest of `jumps` inside of a sound."""
    _, level, spectrum = jumps(samples, rate_hz)
    return level.max(), spectrum.max()
