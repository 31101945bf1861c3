"""The upper band of a sound, made with the noise of its seed."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np

from auffusion_cli.checkpoints.upper_band import load_upper_band
from auffusion_cli.codec.upper_band import FULL_RATE_HZ, MIN_RATE_HZ, SAMPLE_RATE_HZ, UpperBand
from auffusion_cli.errors import UsageError
from auffusion_cli.requests.provenance import Provenance
from auffusion_cli.signal.audio import resample
from auffusion_cli.signal.noise import Noise

BAND_HZ, MAX_GAIN = 1_000.0, 10.0
"""How closely, and how far, an upper band follows that of the recording which it goes into."""
STREAM = 0x7570_7065_72
"""Mixed into a sound's seed, which has drawn other noise already."""


def check_rate(rate_hz: int, name: object) -> None:
    """Raise a UsageError, which names the sound, where there is too little to go by."""
    if rate_hz < MIN_RATE_HZ:
        raise UsageError(
            f"--extend-band goes by what is below 8 kHz, and {name} has a rate of {rate_hz:,} Hz",
            hint=f"Valid: rates from {MIN_RATE_HZ} Hz.",
        )


def upper_band(waveform: np.ndarray, rate_hz: int, seed: int) -> tuple[np.ndarray, int]:
    """(C, N) samples -> what they lack above half of `rate_hz`, (C, N') samples, and their rate.

    Raises:
        UsageError: there is too little below to go by.
    """
    check_rate(rate_hz, "the sound")
    n = -(-waveform.shape[-1] * SAMPLE_RATE_HZ // rate_hz)
    return _network()(waveform, rate_hz, Noise(seed ^ STREAM).normal((n,))), SAMPLE_RATE_HZ


def extended(waveform: np.ndarray, from_hz: int, to_hz: int, seed: int) -> np.ndarray:
    """`resample` to a rate with room for more, which is made; other rates have nothing to add."""
    resampled = resample(waveform, from_hz, to_hz)
    if from_hz >= min(to_hz, FULL_RATE_HZ):
        return resampled
    made = resample(*upper_band(waveform, from_hz, seed), to_hz)
    return resampled + made[..., : resampled.shape[-1]]


def matching_upper_band(
    old: np.ndarray,
    known: np.ndarray,
    made: np.ndarray,
    is_known: np.ndarray,
    rates_hz: tuple[int, int],
    seed: int,
) -> np.ndarray:
    """What `made` lacks to sound like a part of `old`, (N, C) at its rate; silence if nothing.

    `old` (N, C) is at the first rate; `known`, which is the same, and `made` are at the second. The
    upper band is made for `known` as well, to see how much softer or louder each kilohertz of it
    should be: where `is_known` (N,), that of `old` is there to compare with.
    """
    rate_hz, low_hz = rates_hz
    n = len(old)
    if low_hz >= min(rate_hz, FULL_RATE_HZ):
        return np.zeros_like(old)

    def at_rate(samples: np.ndarray, from_hz: int) -> np.ndarray:
        return resample(samples, from_hz, rate_hz).T[:n]

    new, guessed = (at_rate(*upper_band(x.T, low_hz, seed)) for x in (made, known))
    there = old - at_rate(known.T, low_hz)
    spectrum = np.fft.rfft(new, axis=0)
    bands = (np.arange(len(spectrum)) * rate_hz / n / BAND_HZ).astype(int)
    starts = np.flatnonzero(np.diff(bands, prepend=-1))
    is_known = is_known[:, None]
    powers = [
        np.add.reduceat(np.abs(np.fft.rfft(is_known * x, axis=0)) ** 2, starts, axis=0)
        for x in (there, guessed)
    ]
    gains = np.sqrt(np.divide(*powers, out=np.ones(powers[0].shape), where=powers[1] > 0))
    return np.fft.irfft(spectrum * np.minimum(gains, MAX_GAIN)[bands], n, axis=0)


def with_upper_band(provenance: Provenance) -> Provenance:
    """`provenance` with the version of what made the upper band."""
    versions = provenance.versions | {UpperBand.name: UpperBand.version}
    return replace(provenance, versions=versions)


@cache
def _network() -> UpperBand:
    return load_upper_band()
