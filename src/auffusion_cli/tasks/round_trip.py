"""A sound through the codec and back, to measure the error of the codec in dB."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from auffusion_cli.codec.codec import Codec, decoding_noise
from auffusion_cli.signal.overlap import OVERLAP_S, sound_in_windows, window_starts
from auffusion_cli.signal.spectrogram import DB_PER_NEPER, LogMel, has_sound, normalize_peak

Through = Literal["mel", "latent"]


def round_trip(
    codec: Codec,
    waveform: np.ndarray,
    through: Through,
    *,
    window_s: float,
    on_window: Callable[[int, int], None] | None = None,
) -> tuple[np.ndarray, float]:
    """Take (N,) samples at the codec's rate to log-mels, or on to latents, and back.

    Works window by window, each as long as what the model was trained on, so that memory beyond
    the two waveforms does not grow with the clip. `on_window(n_done, n_windows)` follows it.

    Returns the (N,) samples at the level of the input, and the error in dB (see `clip_error_db`).
    """
    config = codec.spectrogram_config
    hop = config.hop_length_samples
    overlap = config.seconds_to_frames(OVERLAP_S) * hop
    window = max(config.seconds_to_frames(window_s) * hop, 2 * overlap)
    reference = normalize_peak(waveform, config.peak)
    # Whole hops, and at least one column: what a window lacks is silence.
    n_missing = max(-len(reference) % hop, hop - len(reference))
    padded = np.pad(reference, (0, n_missing))
    noise = decoding_noise(0)
    n_windows, n_done = len(window_starts(len(padded), window, overlap)), 0

    def through_codec(piece: np.ndarray) -> np.ndarray:
        nonlocal n_done
        log_mel = codec.spectrogram(piece[None])
        if through == "latent":
            n_frames = log_mel.shape[-1]
            log_mel = codec.decode_log_mel(codec.encode_log_mel(log_mel))[..., :n_frames]
            log_mel = codec.add_texture(log_mel, noise)
        sound = codec.vocode(log_mel, noise)[0]
        n_done += 1
        if on_window:
            on_window(n_done, n_windows)
        return sound

    result = sound_in_windows(through_codec, padded, window, overlap)[: len(waveform)]
    error_db = clip_error_db(codec.spectrogram, reference, result, block=window)
    peak = float(np.abs(waveform).max(initial=0))
    return result * (peak / config.peak if peak > 0 else 1.0), error_db


def clip_error_db(
    spectrogram: LogMel, reference: np.ndarray, waveform: np.ndarray, *, block: int
) -> float:
    """`spectrogram.mel_error_db` between the log-mels of two clips (N,), `block` samples at a time.

    Cells count within 60 dB of the maximum of the whole clip, not of a block.
    """

    def log_mel(samples: np.ndarray, start: int) -> np.ndarray:
        piece = samples[start : start + block]
        n_missing = -len(piece) % spectrogram.config.hop_length_samples
        return spectrogram(np.pad(piece, (0, n_missing))[None])

    starts = range(0, len(reference), block)
    loudest = max(float(log_mel(reference, start).max()) for start in starts)
    total, n_cells = 0.0, 0
    for start in starts:
        expected = log_mel(reference, start)
        counts = has_sound(expected, loudest)
        difference = np.abs(log_mel(waveform, start) - expected)
        total += float(difference[counts].sum(dtype=np.float64))
        n_cells += int(counts.sum())
    return total / n_cells * DB_PER_NEPER
