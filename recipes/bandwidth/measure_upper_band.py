r"""Held-out recordings, reduced to 16 kHz and extended again: how far from what they were.

    python recipes/bandwidth/measure_upper_band.py --data data/full-band \
        --levels data/full-band-levels.npz

Compares plain resampling, one average spectrum above 8 kHz for all sounds (as loud as the sound is
below), and the network. Prints a table, and with `--json` writes the numbers to a file.

- Log-spectral distance from 8 kHz up: for each frame sqrt(mean over bins of (log10 power ratio)²),
  the mean over frames; 2048-point Hann windows every 512 samples. Powers below -80 dB of the clip's
  loudest bin count as that, else plain resampling could be as far off as one likes.
- Error of the levels in 640 Hz and 10.7 ms, in dB, floored likewise.
- Kernel distance (KAD) and Fréchet distance of clips' statistics: of each band above 8 kHz the mean
  level over time, its deviation and its mean change from frame to frame, in 10 dB.
- How often a linear classifier of kinds of sound, trained on these statistics of the training
  recordings, has the right kind among its first five: it hears nothing of what is below 8.4 kHz.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from auffusion_cli import load_model
from auffusion_cli.checkpoints.upper_band import load_upper_band
from auffusion_cli.codec.upper_band import (
    DECIBELS,
    HIGH_EDGES,
    LOW_EDGES,
    SAMPLE_RATE_HZ,
    UpperBand,
    band_powers,
    levels_db,
    network_input,
    spectra,
)
from auffusion_cli.evaluation.metrics import KernelDistance
from auffusion_cli.model import Model
from auffusion_cli.signal.audio import read_audio, resample
from auffusion_cli.signal.noise import Noise

sys.path.insert(0, str(Path(__file__).parent))
from prepare_levels import round_trip

NARROW_HZ = 16_000
BIN_HZ = SAMPLE_RATE_HZ / 512
N_FFT, HOP = 2048, 512
FLOOR_DB = -80.0
WHOLE_HZ = 20_000
MIN_OF_KIND, SHRINKAGE, TOP = 3, 0.3, 5
FIRST_BAND = 2
"""From 8.4 kHz: the bands below are partly in what is resampled."""


def log_spectrum(waveform: np.ndarray, edge_hz: float, floor_db: float) -> np.ndarray:
    """(N,) -> (T, n_bins) log10 powers from 8 kHz to the edge."""
    padded = np.pad(waveform, (N_FFT // 2, N_FFT))
    frames = np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[::HOP]
    power = np.abs(np.fft.rfft(frames * np.hanning(N_FFT))) ** 2
    hz = np.fft.rfftfreq(N_FFT, 1 / SAMPLE_RATE_HZ)
    return np.log10(np.maximum(power[:, (hz > 8000) & (hz < edge_hz)], 10 ** (floor_db / 10)))


def loudest_db(waveform: np.ndarray) -> float:
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(waveform, N_FFT), N_FFT)[::HOP]
    return 20 * float(np.log10(np.abs(np.fft.rfft(frames * np.hanning(N_FFT))).max()))


def log_spectral_distance(real: np.ndarray, made: np.ndarray, edge_hz: float) -> float:
    floor_db = loudest_db(real) + FLOOR_DB
    one, other = (log_spectrum(x, edge_hz, floor_db) for x in (real, made))
    return float(np.sqrt(((one - other) ** 2).mean(axis=1)).mean())


def upper_levels(waveform: np.ndarray, peak_db: float) -> np.ndarray:
    """(T, n_bands) dB from `FIRST_BAND` on, not below `FLOOR_DB` of `peak_db`."""
    db = levels_db(band_powers(spectra(waveform), HIGH_EDGES))[:, FIRST_BAND:]
    return np.maximum(db, peak_db + FLOOR_DB)


def statistics(levels: np.ndarray, peak_db: float) -> np.ndarray:
    relative = (levels - peak_db) / DECIBELS
    changes = np.abs(np.diff(relative, axis=0))
    return np.concatenate([relative.mean(0), relative.std(0), changes.mean(0)])


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Of two sets of rows (n, D), as Gaussians."""
    covariances = [np.cov(part, rowvar=False) for part in (x, y)]
    values, vectors = np.linalg.eigh(covariances[0])
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    product = np.linalg.eigvalsh(root @ covariances[1] @ root)
    cross = np.sqrt(np.maximum(product, 0)).sum()
    mean = ((x.mean(0) - y.mean(0)) ** 2).sum()
    return float(mean + sum(np.trace(c) for c in covariances) - 2 * cross)


class Training:
    """Of each training recording the kind, its edge and the levels of its bands."""

    def __init__(self, data: Path, levels: Path) -> None:
        self.rows = read_rows(data / "train")
        table = np.load(levels)
        bounds = np.cumsum(table["n_frames"])[:-1]
        self.low_db, self.high_db = (
            [part.astype(np.float32) for part in np.split(table[name], bounds)]
            for name in ("low_db", "high_db")
        )

    def average_spectrum(self, network: UpperBand) -> UpperBand:
        """A network that always tells the mean levels of these recordings."""
        seen = [
            np.median((high_db - network_input(low_db)[1]) / DECIBELS, axis=0)
            for row, low_db, high_db in zip(self.rows, self.low_db, self.high_db, strict=True)
            if row["edge_hz"] >= WHOLE_HZ
        ]
        tensors = {name: np.zeros_like(tensor) for name, tensor in network.tensors.items()}
        tensors["last.bias"] = np.mean(seen, axis=0).astype(np.float32)
        return UpperBand(tensors)

    def judge(self) -> KindsAbove:
        """A classifier that hears nothing below 8.4 kHz."""
        described, kinds = [], []
        for row, low_db, high_db in zip(self.rows, self.low_db, self.high_db, strict=True):
            if row["edge_hz"] >= WHOLE_HZ:
                peak_db = float(low_db.max())
                levels = np.maximum(high_db[:, FIRST_BAND:], peak_db + FLOOR_DB)
                described.append(statistics(levels, peak_db))
                kinds.append(row["kind"])
        return KindsAbove(np.array(described), kinds)


class KindsAbove:
    """Which kind of sound is it, by what is above 8 kHz? Linear discriminant analysis."""

    def __init__(self, described: np.ndarray, kinds: Sequence[str]) -> None:
        self.kinds = sorted({kind for kind in kinds if kinds.count(kind) >= MIN_OF_KIND})
        members = [described[np.array(kinds) == kind] for kind in self.kinds]
        self.means = np.array([part.mean(axis=0) for part in members])
        within = np.concatenate(
            [part - mean for part, mean in zip(members, self.means, strict=True)]
        )
        covariance = within.T @ within / len(within)
        self.precision = np.linalg.inv(covariance + SHRINKAGE * np.diag(np.diag(covariance)))

    def accuracy(self, described: np.ndarray, kinds: Sequence[str]) -> float:
        """Percent of those of known kinds whose kind is among the first `TOP`."""
        hits = []
        for row, kind in zip(described, kinds, strict=True):
            if kind in self.kinds:
                apart = self.means - row
                first = np.argsort(np.einsum("ki,ij,kj->k", apart, self.precision, apart))[:TOP]
                hits.append(self.kinds.index(kind) in first)
        return 100 * float(np.mean(hits))


def read_rows(folder: Path) -> list[dict]:
    lines = (folder / "metadata.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def measure(
    data: Path,
    systems: Mapping[str, UpperBand | None],
    judge: KindsAbove,
    model: Model | None = None,
) -> dict[str, dict[str, float]]:
    """The table's numbers; with a `model` the recordings go through its codec first."""
    rows = read_rows(data / "test")
    distances, errors = ({name: [] for name in systems} for _ in range(2))
    described: dict[str, list[np.ndarray]] = {name: [] for name in ("real", *systems)}
    for index, row in enumerate(rows):
        real = read_audio(data / "test" / row["file_name"])[0][0]
        narrow = resample(real, SAMPLE_RATE_HZ, NARROW_HZ)
        if model is not None:
            narrow = round_trip(model, narrow, index)
        plain = resample(narrow, NARROW_HZ, SAMPLE_RATE_HZ)[: len(real)]
        noise = Noise(index).normal((len(real) + 3,))
        peak_db = float(levels_db(band_powers(spectra(real), LOW_EDGES)).max())
        there = np.array(HIGH_EDGES[1:])[FIRST_BAND:] * BIN_HZ <= row["edge_hz"]
        real_db = upper_levels(real, peak_db)
        sounds = {"real": real}
        for name, network in systems.items():
            sounds[name] = plain
            if network is not None:
                made = network(narrow[None], NARROW_HZ, noise)[0]
                sounds[name] = plain + made[: len(plain)]
            made_db = upper_levels(sounds[name], peak_db)
            distances[name].append(log_spectral_distance(real, sounds[name], row["edge_hz"]))
            errors[name].append(np.abs(made_db - real_db)[:, there].mean())
        if row["edge_hz"] >= WHOLE_HZ:
            for name, sound in sounds.items():
                described[name].append(statistics(upper_levels(sound, peak_db), peak_db))
        print(f"\r{index + 1} of {len(rows)} recordings", end="", file=sys.stderr)
    print(file=sys.stderr)
    kinds = [row["kind"] for row in rows if row["edge_hz"] >= WHOLE_HZ]
    real = np.array(described["real"])
    found = {"real": {"top_5_percent": judge.accuracy(real, kinds)}}
    for name in systems:
        of_clips = np.array(described[name])
        apart = DECIBELS * (of_clips - real).reshape(len(real), 3, -1).mean(axis=(0, 2))
        found[name] = {
            "log_spectral_distance": float(np.mean(distances[name])),
            "level_error_db": float(np.mean(errors[name])),
            "kernel_distance": KernelDistance(of_clips, real).of(),
            "frechet_distance": frechet_distance(real, of_clips),
            "top_5_percent": judge.accuracy(of_clips, kinds),
            "louder_db": float(apart[0]),
            "more_deviation_db": float(apart[1]),
            "more_change_db": float(apart[2]),
        }
    return found


def show(found: Mapping[str, Mapping[str, float]]) -> str:
    names = list(next(reversed(found.values())))
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for system, values in found.items():
        cells = (f"{values[name]:.2f}" if name in values else "" for name in names)
        lines.append(f"| {system} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="what build_recordings.py wrote")
    parser.add_argument("--levels", type=Path, required=True, help="what prepare_levels.py wrote")
    parser.add_argument("--network", type=Path, help="a folder; by default the package's")
    parser.add_argument(
        "--codec", action="store_true", help="extend what the embedded model's codec makes of them"
    )
    parser.add_argument("--json", type=Path, help="a file for the numbers")
    args = parser.parse_args()
    network = load_upper_band(args.network)
    training = Training(args.data, args.levels)
    average = training.average_spectrum(network)
    systems = {"plain": None, "average": average, "network": network}
    model = load_model("embedded") if args.codec else None
    found = measure(args.data, systems, training.judge(), model)
    print(show(found))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
