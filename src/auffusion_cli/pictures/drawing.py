"""PNG files with a record of their source, and the drawing that pictures share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from auffusion_cli.files import atomic_file

RECORD_KEY = "auffusion"
"""Key of the comment in a PNG that records the source of the picture."""


def save_png(
    picture: Image.Image, path: Path, *, record: str | None = None, overwrite: bool = True
) -> None:
    """Write a PNG atomically; `read_png_record` gives `record` back."""
    comments = PngInfo()
    if record is not None:
        comments.add_itxt(RECORD_KEY, record)
    with atomic_file(path, overwrite=overwrite) as beside:
        picture.save(beside, format="PNG", pnginfo=comments)


def read_png_record(path: Path) -> str | None:
    """The record that `save_png` was given; None if this is not such a file."""
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            record = picture.info.get(RECORD_KEY)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return record if isinstance(record, str) else None


def gradient(level: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """(h, w) levels from 0 to 1 -> (h, w, 3) bytes between `colours` (n, 3), evenly spaced."""
    stops = np.linspace(0, 1, len(colours))
    channels = [np.interp(level, stops, colours[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).astype(np.uint8)
