"""Levels of the bands of full-band recordings, to train on.

    python recipes/bandwidth/prepare_levels.py --data data/full-band -o data/full-band-levels.npz

The known bands are taken from what `generate --extend-band` will have: the recording resampled to
16 kHz and back; and again after a round trip through the embedded model's codec, since what it
makes is smoother than a recording.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from auffusion_cli import load_model
from auffusion_cli.codec.codec import decoding_noise
from auffusion_cli.codec.upper_band import (
    HIGH_EDGES,
    LOW_EDGES,
    SAMPLE_RATE_HZ,
    band_powers,
    levels_db,
    spectra,
)
from auffusion_cli.model import Model
from auffusion_cli.signal.audio import read_audio, resample

MODEL_RATE_HZ = 16_000


def low_levels(samples: np.ndarray) -> np.ndarray:
    """(N,) samples at 16 kHz -> (T, n_low) dB."""
    resampled = resample(samples, MODEL_RATE_HZ, SAMPLE_RATE_HZ)
    return levels_db(band_powers(spectra(resampled), LOW_EDGES))


def round_trip(model: Model, samples: np.ndarray, seed: int) -> np.ndarray:
    """(N,) samples at 16 kHz -> (N,) as the codec makes them, as loud."""
    n = model.codec.width_multiple * model.codec.spectrogram_config.hop_length_samples
    log_mel = model.analyze(np.pad(samples, (0, -len(samples) % n)))
    noise = decoding_noise(seed)
    decoded = model.decode(model.encode(log_mel[None]))
    made = model.vocode(model.codec.add_texture(decoded, noise), noise)[0][: len(samples)]
    return made * np.sqrt((samples**2).mean() / max((made**2).mean(), 1e-12))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="what build_recordings.py wrote")
    parser.add_argument("-o", "--output", type=Path, required=True, help=".npz to write")
    args = parser.parse_args()
    model = load_model("embedded")
    lines = (args.data / "train" / "metadata.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    low, coded, high = [], [], []
    for index, row in enumerate(rows):
        waveform, _ = read_audio(args.data / "train" / row["file_name"])
        samples = resample(waveform[0], SAMPLE_RATE_HZ, MODEL_RATE_HZ)
        low.append(low_levels(samples))
        coded.append(low_levels(round_trip(model, samples, index)))
        whole = np.pad(waveform[0], (0, -waveform.shape[1] % 3))  # as low's resampling ends
        high.append(levels_db(band_powers(spectra(whole), HIGH_EDGES)))
        print(f"\r{index + 1} of {len(rows)} recordings", end="", file=sys.stderr)
    np.savez(
        args.output,
        low_db=np.concatenate(low).astype(np.float16),
        coded_db=np.concatenate(coded).astype(np.float16),
        high_db=np.concatenate(high).astype(np.float16),
        n_frames=[len(part) for part in low],
        edge_hz=[row["edge_hz"] for row in rows],
        group=[row["group"] for row in rows],
    )


if __name__ == "__main__":
    main()
