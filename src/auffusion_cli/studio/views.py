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
SILENCE_LUFS = -70.0
"""What the measure's gate leaves out is not softer than this."""


def spectrogram_png(path: Path) -> bytes:
    """The log-mel spectrogram of a file: a row a mel band, the highest first; no axes."""
    from PIL import Image

    from auffusion_cli.pictures.spectrogram import colour
    from auffusion_cli.signal.audio import read_audio
    from auffusion_cli.signal.spectrogram import LogMel, analyze

    spectrogram = LogMel()
    waveform, _ = read_audio(path, spectrogram.config.sample_rate_hz, mono=True)
    picture = Image.fromarray(colour(analyze(spectrogram, waveform)[0]))
    if picture.width > MAX_COLUMNS:
        picture = picture.resize((MAX_COLUMNS, picture.height))
    content = io.BytesIO()
    picture.save(content, format="PNG")
    return content.getvalue()


@lru_cache(maxsize=1)
def row_frequencies_hz() -> list[float]:
    """The centre frequency of each row of a spectrogram, the lowest first."""
    from auffusion_cli.signal.mel import mel_filterbank

    config = SpectrogramConfig()
    bins = mel_filterbank(config).argmax(axis=0)
    return (bins * config.sample_rate_hz / config.n_fft_samples).tolist()


def outline(path: Path) -> dict[str, Any]:
    """Peaks of the waveform, in -1..1, and its loudness in LUFS, both of its mix to one channel."""
    from auffusion_cli.signal.meters import loudness_lufs
    from auffusion_cli.signal.recording import read_recording, to_full_scale

    recording = read_recording(path)
    samples = to_full_scale(recording.samples)
    mono = samples.mean(axis=1)
    n = max(-(-len(mono) // N_PEAKS), 1)
    blocks = np.pad(mono, (0, -len(mono) % n)).reshape(-1, n)
    low, high = blocks.min(axis=1), blocks.max(axis=1)
    peaks = np.where(-low > high, low, high)
    loudness = max(loudness_lufs(mono[None], recording.sample_rate_hz), SILENCE_LUFS)
    return {"peaks": np.round(peaks, 4).tolist(), "loudness_lufs": round(loudness, 2)}
