"""Loudness and true peak of a sound, as ITU-R BS.1770-5 (2023) measures them. No torch."""

from __future__ import annotations

import math

import numpy as np

from auffusion_cli.signal.filters import Response, apply_filter, biquad

BLOCK_S, STEP_S = 0.4, 0.1
ABSOLUTE_GATE_LUFS, RELATIVE_GATE_LU = -70.0, -10.0
OFFSET = -0.691
"""Of a 997 Hz sine in one channel, which at full scale is -3.01 LUFS."""
TAIL_S = 0.5
"""The K-weighting's impulse response has ended by then."""
TABLES_HZ, LEAST_RATE_HZ = 48_000, 8_000
"""The rate of the K-weighting's tables, and that below which its shelf at 1.7 kHz has no place."""
OVERSAMPLING = 4
PHASE_TAPS = 32
"""Of the interpolator, for each of the phases between two samples."""


def loudness_lufs(waveform: np.ndarray, rate_hz: int) -> float:
    """Integrated loudness of (C, N) samples of one or two channels; -inf for silence.

    A sound shorter than a block of 0.4 s is one, completed by silence.
    """
    n_block, n_step = round(BLOCK_S * rate_hz), round(STEP_S * rate_hz)
    if waveform.shape[1] < n_block:
        waveform = np.pad(waveform, ((0, 0), (0, n_block - waveform.shape[1])))
    power = apply_filter(waveform, _k_weighting(rate_hz), round(TAIL_S * rate_hz))
    energy = np.concatenate([[0.0], np.cumsum((power**2).sum(axis=0))])
    starts = np.arange(0, len(energy) - n_block, n_step)
    blocks = (energy[starts + n_block] - energy[starts]) / n_block
    for gate in (ABSOLUTE_GATE_LUFS, None):
        if gate is None:
            gate = _lufs(blocks.mean()) + RELATIVE_GATE_LU
        blocks = blocks[blocks > 10 ** ((gate - OFFSET) / 10)]
        if not len(blocks):
            return -math.inf
    return _lufs(float(blocks.mean()))


def _lufs(power: float) -> float:
    return OFFSET + 10 * math.log10(power)


def _k_weighting(rate_hz: int) -> Response:
    """A shelf for the head and a high-pass, at any rate.

    The recommendation's tables are for 48 kHz: these are the analogue filters behind them, by the
    bilinear transform. At low rates the gains are those that the tables have at the same frequency.
    """
    if rate_hz < LEAST_RATE_HZ:
        tables = _k_weighting(TABLES_HZ)
        return lambda z1: tables(z1 ** (rate_hz / TABLES_HZ))
    head = _shelf(1681.9744509555, 3.99984385397, 0.7071752369554, rate_hz)
    low_cut = _high_pass(38.13547087613982, 0.5003270373253953, rate_hz)
    return lambda z1: head(z1) * low_cut(z1)


def _shelf(f0_hz: float, gain_db: float, q: float, rate_hz: int) -> Response:
    k, high = math.tan(math.pi * f0_hz / rate_hz), 10 ** (gain_db / 20)
    middle = high**0.499666774155
    b = (high + middle * k / q + k * k, 2 * (k * k - high), high - middle * k / q + k * k)
    return biquad(b, (1 + k / q + k * k, 2 * (k * k - 1), 1 - k / q + k * k))


def _high_pass(f0_hz: float, q: float, rate_hz: int) -> Response:
    k = math.tan(math.pi * f0_hz / rate_hz)
    a = (1 + k / q + k * k, 2 * (k * k - 1), 1 - k / q + k * k)
    # In the tables the numerator is 1, -2, 1: as here, but for a gain of 0.05 dB.
    return biquad((a[0], -2 * a[0], a[0]), a)


def true_peak(waveform: np.ndarray) -> float:
    """The largest magnitude of (C, N) samples and of three points between any two of them."""
    peak = float(np.abs(waveform).max(initial=0.0))
    for interpolator in _interpolators():
        for channel in waveform:
            peak = max(peak, float(np.abs(np.convolve(channel, interpolator)).max(initial=0.0)))
    return peak


def _interpolators() -> list[np.ndarray]:
    """A windowed sinc for each of the points between two samples."""
    taps = np.arange(PHASE_TAPS) - PHASE_TAPS // 2 + 1
    interpolators = []
    for phase in range(1, OVERSAMPLING):
        offset = taps - phase / OVERSAMPLING
        window = np.i0(8.0 * np.sqrt(np.maximum(1 - (offset / (PHASE_TAPS // 2)) ** 2, 0)))
        interpolators.append(np.sinc(offset) * window / np.i0(8.0))
    return interpolators


def to_db(amplitude: float) -> float:
    """An amplitude from 0 up in dB over 1; -inf for 0."""
    return 20 * math.log10(amplitude) if amplitude > 0 else -math.inf
