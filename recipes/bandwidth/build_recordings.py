"""Collect the full-band recordings among the embedded model's sources, at 48 kHz.

    python recipes/bandwidth/build_recordings.py --data data/embedded-sounds --cache data/cache \
        -o data/full-band

`--data` and `--cache` are what `recipes/embedded/build_sounds.py` wrote. What is held out there is
held out here. Many files of high rate hold less than their rate allows, because they were made of
one of a lower rate, or coded with losses; the frequency above which there is nothing is in
`metadata.jsonl`, and files without anything from 8 to 12 kHz are left out.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import soundfile

from auffusion_cli.signal.audio import resample

SAMPLE_RATE_HZ = 48_000
MIN_RATE_HZ = 44_100
MIN_SECONDS, MAX_SECONDS = 0.15, 40.0
LOWEST_EDGE_HZ, HIGHEST_EDGE_HZ = 12_000.0, 20_000.0
STEP_HZ = 500.0
CLIFF_DB = 18.0
"""A fall within a kilohertz that no sound has by itself."""
FLOOR_DB = -100.0
"""Below full scale: what is as soft as this in 500 Hz is the rounding to 16 bits."""
N_FFT = 2048


def read(path: Path) -> np.ndarray:
    """(N,) float32 at 48 kHz: the first channel of a file's beginning; empty where it is no use.

    The mean of two channels would lose of the high frequencies what differs in phase.
    """
    try:
        with soundfile.SoundFile(path) as file:
            rate_hz = file.samplerate
            if rate_hz < MIN_RATE_HZ:
                return np.zeros(0, np.float32)
            samples = file.read(int(MAX_SECONDS * rate_hz), dtype="float32", always_2d=True)[:, 0]
    except (soundfile.LibsndfileError, RuntimeError):
        return np.zeros(0, np.float32)
    peak = np.abs(samples).max(initial=0.0)
    if len(samples) < MIN_SECONDS * rate_hz or peak < 1e-3:
        return np.zeros(0, np.float32)
    return resample(samples * np.float32(0.9 / peak), rate_hz, SAMPLE_RATE_HZ)


def edge_hz(samples: np.ndarray) -> float:
    """The frequency above which the recording has nothing, or 20 kHz where it has all."""
    padded = np.pad(samples, (0, max(0, N_FFT - len(samples))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, N_FFT)[:: N_FFT // 2]
    power = (np.abs(np.fft.rfft(frames * np.hanning(N_FFT))) ** 2).mean(axis=0)
    hz = np.fft.rfftfreq(N_FFT, 1 / SAMPLE_RATE_HZ)
    edges = np.arange(7_000.0, HIGHEST_EDGE_HZ + STEP_HZ, STEP_HZ)
    full_scale = (N_FFT / 4) ** 2  # of a sine under this window
    level_db = 10 * np.log10(
        [power[(hz >= low) & (hz < low + STEP_HZ)].sum() / full_scale + 1e-14 for low in edges]
    )
    for i in range(1, len(edges)):
        falls = level_db[max(i - 2, 0)] - level_db[i] > CLIFF_DB
        if falls or level_db[i] < FLOOR_DB:
            return float(edges[max(i - 2, 0)])
    return HIGHEST_EDGE_HZ


def build(data: Path, cache: Path, out: Path) -> str:
    """Write `out`/{train,test}/ with flac files and `metadata.jsonl`; say what they are."""
    partial = out.with_name(out.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    lines = []
    for split in ("train", "test"):
        (partial / split / "clips").mkdir(parents=True)
        rows: dict[str, dict] = {}
        for line in (data / split / "metadata.jsonl").read_text("utf-8").splitlines():
            row = json.loads(line)
            rows.setdefault(row["source"], row)
        kept, seconds = [], 0.0
        for source, row in sorted(rows.items()):
            package, path = source.split(":", 1)
            samples = read(cache / "sounds" / package / path)
            if not len(samples) or (edge := edge_hz(samples)) < LOWEST_EDGE_HZ:
                continue
            name = f"clips/{row['kind']}_{len(kept):04d}.flac"
            soundfile.write(partial / split / name, samples, SAMPLE_RATE_HZ, subtype="PCM_16")
            kept.append(
                {"file_name": name, "edge_hz": edge}
                | {key: row[key] for key in ("kind", "source", "group", "credit", "licence")}
            )
            seconds += len(samples) / SAMPLE_RATE_HZ
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in kept)
        (partial / split / "metadata.jsonl").write_text(text, encoding="utf-8")
        whole = sum(row["edge_hz"] == HIGHEST_EDGE_HZ for row in kept)
        lines.append(
            f"{split}: {len(kept)} of {len(rows)} recordings, {seconds / 60:.0f} minutes,"
            f" {whole} with all up to 20 kHz"
        )
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="what build_sounds.py wrote")
    parser.add_argument("--cache", type=Path, required=True, help="its packages, unpacked")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to write")
    args = parser.parse_args()
    print(build(args.data, args.cache, args.output))


if __name__ == "__main__":
    main()
