"""Pictures of spectrograms."""

import numpy as np
import torch
from PIL import Image

from auffusion_cli.pictures.spectrogram import (
    LEFT_PX,
    PLOT_HEIGHT_PX,
    TITLE_PX,
    TOP_PX,
    read_png_record,
    save_comparison,
    save_png,
)


def test_what_did_not_change_looks_the_same_before_and_after(tmp_path):
    before = torch.zeros(256, 200)
    after = before.clone()
    after[:, 150:] = 4.0  # louder than anything before
    save_comparison([("before", before), ("after", after)], tmp_path / "both.png")

    pixels = np.asarray(Image.open(tmp_path / "both.png"))
    upper, lower = np.split(pixels, 2)
    rows = slice(TITLE_PX + TOP_PX, TITLE_PX + TOP_PX + PLOT_HEIGHT_PX)
    unchanged = (rows, slice(LEFT_PX, LEFT_PX + 300))
    changed = (rows, slice(LEFT_PX + 400, LEFT_PX + 470))
    assert np.array_equal(upper[unchanged], lower[unchanged])
    assert lower[changed].mean() > upper[changed].mean()


def test_a_picture_carries_a_record_and_others_have_none(tmp_path):
    path = tmp_path / "a.png"
    save_png(Image.new("RGB", (2, 2)), path, record='{"of": "Ünïcode 🐕"}')
    assert read_png_record(path) == '{"of": "Ünïcode 🐕"}'
    save_png(Image.new("RGB", (2, 2)), path)
    assert read_png_record(path) is None
    path.write_bytes(b"\x89PNG\r\n\x1a\n cut short")
    assert read_png_record(path) is None and read_png_record(tmp_path / "none.png") is None
