"""Pictures of spectrograms."""

import numpy as np
from PIL import Image

from auffusion_cli.pictures.spectrogram import (
    LEFT_PX,
    PLOT_HEIGHT_PX,
    TITLE_PX,
    TOP_PX,
    save_comparison,
)


def test_what_did_not_change_looks_the_same_before_and_after(tmp_path):
    before = np.zeros((256, 200))
    after = before.copy()
    after[:, 150:] = 4.0  # louder than anything before
    save_comparison([("before", before), ("after", after)], tmp_path / "both.png")

    pixels = np.asarray(Image.open(tmp_path / "both.png"))
    upper, lower = np.split(pixels, 2)
    rows = slice(TITLE_PX + TOP_PX, TITLE_PX + TOP_PX + PLOT_HEIGHT_PX)
    unchanged = (rows, slice(LEFT_PX, LEFT_PX + 300))
    changed = (rows, slice(LEFT_PX + 400, LEFT_PX + 470))
    assert np.array_equal(upper[unchanged], lower[unchanged])
    assert lower[changed].mean() > upper[changed].mean()
