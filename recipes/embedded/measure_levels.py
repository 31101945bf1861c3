"""Does a sound go on as loud as it was where nothing is asked for?

    python recipes/embedded/measure_levels.py --model embedded

Lengthens each clip by 2 s and replaces 2 s of it, without a prompt and with several seeds: two
recordings, and steady sounds made here. Prints a Markdown table, in dB: the softest 0.1 s of what
is new against the softest of the clip, at the worst and the median seed, the same for its median
0.1 s, and for how long it is more than 3 dB under the clip's softest twentieth.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

from auffusion_cli.checkpoints.load import load_model
from auffusion_cli.model import Model
from auffusion_cli.requests.request import ExtendRequest, GenerateSettings, InpaintRequest
from auffusion_cli.signal.recording import Recording, read_recording, to_full_scale
from auffusion_cli.tasks.extend import extend
from auffusion_cli.tasks.inpaint import inpaint

SOUNDS = Path(__file__).parents[2] / "docs" / "sounds"
RATE_HZ, DURATION_S, NEW_S = 16_000, 5, 2
MASK_START_S = 1.5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--seeds", type=int, default=4)
    options = parser.parse_args()
    model = load_model(options.model)
    print("| clip | task | softest, worst | softest, median | median, worst | too soft, longest |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, path in clips(Path(folder)):
            source = read_recording(path)
            for task in ("extend", "inpaint"):
                rows = [against(source, task, model, seed) for seed in range(1, options.seeds + 1)]
                softest, medians, too_soft_s = zip(*rows, strict=True)
                print(
                    f"| {name} | {task} | {min(softest):+.1f} | {np.median(softest):+.1f} | "
                    f"{min(medians):+.1f} | {max(too_soft_s):.2f} s |",
                    flush=True,
                )


def clips(folder: Path) -> Iterator[tuple[str, Path]]:
    for name in ("river", "frogs"):
        yield name, SOUNDS / f"{name}.flac"
    time_s = np.arange(DURATION_S * RATE_HZ) / RATE_HZ
    white = np.random.default_rng(0).normal(size=len(time_s))
    hz = np.fft.rfftfreq(len(white), 1 / RATE_HZ)
    pink = np.fft.irfft(np.fft.rfft(white) / np.sqrt(np.maximum(hz, 4)), len(white))
    tones = sum(0.2 / n * np.sin(2 * np.pi * 440 * n * time_s) for n in (1, 2, 3))
    for name, samples in (("pink noise", 0.1 * pink / pink.std()), ("three tones", tones)):
        path = folder / f"{name}.wav"
        soundfile.write(path, samples, RATE_HZ)
        yield name, path


def against(source: Recording, task: str, model: Model, seed: int) -> tuple[float, float, float]:
    """How the new part's softest and median 0.1 s compare with the clip's; seconds too soft."""
    settings = GenerateSettings.from_defaults(model.defaults)
    rate_hz = source.sample_rate_hz
    if task == "extend":
        request = ExtendRequest("clip", source.sha256, seed, NEW_S)
        samples = to_full_scale(extend(model, source, request, settings).recording.samples)
        new = samples[-NEW_S * rate_hz :]
    else:
        mask = f"{MASK_START_S}-{MASK_START_S + NEW_S}s"
        request = InpaintRequest("clip", source.sha256, seed, masks=(mask,))
        samples = to_full_scale(inpaint(model, source, request, settings).recording.samples)
        start = round(MASK_START_S * rate_hz)
        new = samples[start : start + NEW_S * rate_hz]
    old_db, new_db = levels_db(to_full_scale(source.samples), rate_hz), levels_db(new, rate_hz)
    longest = run = 0
    for is_soft in new_db < np.percentile(old_db, 5) - 3:
        run = run + 1 if is_soft else 0
        longest = max(longest, run)
    medians = np.median(new_db) - np.median(old_db)
    return new_db.min() - old_db.min(), medians, longest * 0.05


def levels_db(samples: np.ndarray, rate_hz: int) -> np.ndarray:
    """(N, C) -> the level of each 0.1 s, one every 0.05 s."""
    n = round(0.1 * rate_hz)
    moments = np.lib.stride_tricks.sliding_window_view(samples.mean(axis=1), n)[:: n // 2]
    return 10 * np.log10((moments**2).mean(axis=1) + 1e-12)


if __name__ == "__main__":
    main()
