"""The network of `--extend-band`, which comes with the package."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from auffusion_cli.checkpoints.names import embedded_folder
from auffusion_cli.codec.upper_band import UpperBand

FILE = "upper_band.safetensors"


def load_upper_band(folder: Path | None = None) -> UpperBand:
    """The network of `folder`, by default the package's."""
    from safetensors.numpy import load_file

    folder = folder or embedded_folder().parent / "bandwidth"
    tensors = load_file(folder / FILE)
    return UpperBand({name: tensor.astype(np.float32) for name, tensor in tensors.items()})
