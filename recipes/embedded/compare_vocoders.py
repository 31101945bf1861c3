"""Which vocoder rebuilds held-out sounds best? Griffin-Lim against trained HiFi-GANs.

    python recipes/embedded/compare_vocoders.py --data DATA/test --vocoder runs/vocoder

Each clip's log-mel is vocoded and analysed again; the distance is the mean absolute difference of
the two log-mels in dB, where the clip has sound (`spectrogram.mel_error_db`). Prints one row a
vocoder: mean, median and worst over clips, and seconds of computation a second of sound.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from auffusion_cli.checkpoints.load_torch import load_vocoder
from auffusion_cli.engines.torch_networks import TorchNetworks
from auffusion_cli.signal.griffin_lim import GriffinLim
from auffusion_cli.signal.spectrogram import LogMel, mel_error_db, normalize_peak
from auffusion_cli.training.clip_check import check_clips
from auffusion_cli.training.clip_store import load_waveform
from auffusion_cli.training.data import load_clips


def measure(
    vocoder: Callable[[np.ndarray], np.ndarray], log_mels: Sequence[np.ndarray], log_mel: LogMel
) -> tuple[list[float], float]:
    """Error of each clip (dB), and seconds of computation for one second of sound."""
    errors_db, duration_s, elapsed_s = [], 0.0, 0.0
    for reference in log_mels:
        started = time.perf_counter()
        waveform = vocoder(reference)
        elapsed_s += time.perf_counter() - started
        duration_s += log_mel.config.frames_to_seconds(reference.shape[-1])
        errors_db.append(mel_error_db(reference, log_mel(waveform)))
    return errors_db, elapsed_s / duration_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of held-out clips")
    parser.add_argument(
        "--vocoder", type=Path, action="append", default=[], help="a trained folder; repeatable"
    )
    parser.add_argument("--clips", type=int, default=100, help="so many, evenly spread")
    parser.add_argument("--max-seconds", type=float, default=5.0, help="of each clip")
    args = parser.parse_args()

    log_mel = LogMel()
    sample_rate_hz = log_mel.config.sample_rate_hz
    clips = check_clips(load_clips(args.data)).clips
    log_mels = []
    for clip in clips[:: max(1, len(clips) // args.clips)][: args.clips]:
        waveform = load_waveform(clip, sample_rate_hz)[: round(args.max_seconds * sample_rate_hz)]
        log_mels.append(log_mel(normalize_peak(waveform[None].numpy())))

    vocoders = {"griffin-lim": GriffinLim()}
    for folder in args.vocoder:
        inner = folder / "vocoder"
        trained = load_vocoder(inner if inner.is_dir() else folder)
        vocoders[str(folder)] = TorchNetworks(vocoder=trained).vocode
    print(f"{len(log_mels)} clips, log-mel error in dB")
    print(f"{'vocoder':32} {'mean':>6} {'median':>6} {'worst':>6} {'s per s':>8}")
    for name, vocoder in vocoders.items():
        errors_db, cost = measure(vocoder, log_mels, log_mel)
        print(
            f"{name:32} {statistics.mean(errors_db):6.2f} {statistics.median(errors_db):6.2f} "
            f"{max(errors_db):6.2f} {cost:8.3f}"
        )


if __name__ == "__main__":
    main()
