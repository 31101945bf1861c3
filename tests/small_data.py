"""Small sounds and lists, as training data."""

import json
from pathlib import Path

import numpy as np
import soundfile

RATE_HZ = 8000


def write_sound(path: Path, seed: int = 0, duration_s: float = 0.3, peak: float = 0.5) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).uniform(-peak, peak, round(duration_s * RATE_HZ))
    soundfile.write(path, noise.astype(np.float32), RATE_HZ)
    return path


def write_lines(path: Path, rows: list) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
