"""Small sounds in tar files, as training data."""

import io
import tarfile
from pathlib import Path

import numpy as np
import soundfile


def sound(seed=0, format="FLAC") -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(seed).uniform(-0.5, 0.5, 3000)
    soundfile.write(file, noise.astype(np.float32), 8000, format=format)
    return file.getvalue()


def write_tar(path: Path, files: dict[str, bytes], mode="w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path
