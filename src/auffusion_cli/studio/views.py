"""What the page shows of a sound file: its spectrogram, its waveform's peaks, its loudness."""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from auffusion_cli.config import SpectrogramConfig

N_PEAKS = 800
MAX_COLUMNS = 2400
"""Of a spectrogram; that of a longer sound is drawn coarser."""
WINDOW_S = 10.0
"""Spectrograms of long sounds are computed by so much at a time."""
SILENCE_DB = -100.0
GATE_DB = 30.0
"""Moments that are softer than the loudest by more do not count in the loudness."""


def spectrogram_png(path: Path) -> bytes:
    """The log-mel spectrogram of a file: a row a mel band, the highest first; no axes."""
    from PIL import Image

    from auffusion_cli.pictures.spectrogram import colour
    from auffusion_cli.signal.audio import read_audio
    from auffusion_cli.signal.spectrogram import LogMel, analyze

    spectrogram = LogMel()
    waveform, _ = read_audio(path, spectrogram.config.sample_rate_hz, mono=True)
    picture = Image.fromarray(colour(analyze(spectrogram, waveform[0], WINDOW_S)))
    if picture.width > MAX_COLUMNS:
        picture = picture.resize((MAX_COLUMNS, picture.height))
    content = io.BytesIO()
    picture.save(content, format="PNG")
    return content.getvalue()


@lru_cache(maxsize=1)
def row_frequencies_hz() -> list[float]:
    """The centre frequency of each row of a spectrogram, the lowest first."""
    from auffusion_cli.signal.spectrogram import mel_filterbank

    config = SpectrogramConfig()
    bins = np.asarray(mel_filterbank(config)).argmax(axis=0)
    return (bins * config.sample_rate_hz / config.n_fft_samples).tolist()


def outline(path: Path) -> dict[str, Any]:
    """The peaks of the waveform, in -1..1, and its loudness in dB of full scale.

    The loudness is the root mean square over the moments of 0.1 s that are within `GATE_DB` of the
    loudest one, so that two versions can be heard at the same level.
    """
    from auffusion_cli.signal.recording import read_recording, to_full_scale

    recording = read_recording(path)
    samples = to_full_scale(recording.samples)
    mono = samples.mean(axis=1)
    n = max(-(-len(mono) // N_PEAKS), 1)
    blocks = np.pad(mono, (0, -len(mono) % n)).reshape(-1, n)
    low, high = blocks.min(axis=1), blocks.max(axis=1)
    peaks = np.where(-low > high, low, high)
    return {
        "peaks": np.round(peaks, 4).tolist(),
        "loudness_db": round(_loudness_db(samples, recording.sample_rate_hz), 2),
    }


def _loudness_db(samples: np.ndarray, rate_hz: int) -> float:
    n = max(round(0.1 * rate_hz), 1)
    power = (samples**2).mean(axis=1)
    moments = np.pad(power, (0, -len(power) % n)).reshape(-1, n).mean(axis=1)
    heard = moments[moments >= moments.max() * 10 ** (-GATE_DB / 10)]
    return float(10 * np.log10(max(heard.mean(), 10 ** (SILENCE_DB / 10))))
