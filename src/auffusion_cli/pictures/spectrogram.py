"""Pictures of spectrograms, drawn with Pillow.

Pillow imports in a few hundredths of a second; one picture with two axes
does not ask for a plotting library.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from auffusion_cli.config import SpectrogramConfig
from auffusion_cli.pictures.drawing import gradient, save_png
from auffusion_cli.signal.mel import mel_filterbank
from auffusion_cli.signal.spectrogram import DB_PER_NEPER

RANGE_DB = 80.0
"""Anything softer than this below the loudest cell is black."""
PLOT_HEIGHT_PX = 384
PIXELS_PER_SECOND = 160
MIN_PLOT_WIDTH_PX, MAX_PLOT_WIDTH_PX = 480, 1600
LEFT_PX, RIGHT_PX, TOP_PX, BOTTOM_PX = 64, 24, 16, 52
FONT_SIZE_PX = 16
TITLE_PX = 28
TICKS_KHZ = (0.25, 0.5, 1, 2, 4, 8, 16)
COLOURS = np.array(  # from silence to the loudest, evenly spaced
    [(0, 0, 8), (52, 16, 96), (140, 38, 110), (222, 82, 74), (252, 166, 74), (252, 248, 190)]
)


def save_spectrogram(
    log_mel: np.ndarray,
    path: str | Path,
    config: SpectrogramConfig | None = None,
    *,
    overwrite: bool = True,
) -> None:
    """Write a PNG of a log-mel (n_mels, T): seconds to the right, kHz upwards (mel scale)."""
    config = config or SpectrogramConfig(n_mels=len(log_mel))
    picture = draw_spectrogram(log_mel, config)
    save_png(picture, Path(path), overwrite=overwrite)


def save_comparison(
    titled_log_mels: Sequence[tuple[str, np.ndarray]],
    path: str | Path,
    config: SpectrogramConfig | None = None,
    *,
    overwrite: bool = True,
) -> None:
    """Write a PNG of several (title, log-mel (256, T)), one below the other on one time axis.

    They share one scale of colours: what did not change looks as it did.
    """
    config = config or SpectrogramConfig()
    loudest_db = max(float(x.max()) for _, x in titled_log_mels) * DB_PER_NEPER
    pictures = [draw_spectrogram(x, config, quiet_db=loudest_db) for _, x in titled_log_mels]
    width = max(picture.width for picture in pictures)
    height = sum(picture.height + TITLE_PX for picture in pictures)
    whole = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(whole)
    y = 0
    for (title, _), picture in zip(titled_log_mels, pictures, strict=True):
        font = ImageFont.load_default(FONT_SIZE_PX)
        draw.text((LEFT_PX, y + TITLE_PX - 6), title, fill="black", font=font, anchor="ls")
        whole.paste(picture, (0, y + TITLE_PX))
        y += TITLE_PX + picture.height
    save_png(whole, Path(path), overwrite=overwrite)


def draw_spectrogram(
    log_mel: np.ndarray, config: SpectrogramConfig, quiet_db: float = -np.inf
) -> Image.Image:
    """The picture itself, RGB; `quiet_db` as for `colour`."""
    duration_s = config.frames_to_seconds(log_mel.shape[1])
    width = round(min(max(duration_s * PIXELS_PER_SECOND, MIN_PLOT_WIDTH_PX), MAX_PLOT_WIDTH_PX))
    size = (LEFT_PX + width + RIGHT_PX, TOP_PX + PLOT_HEIGHT_PX + BOTTOM_PX)
    picture = Image.new("RGB", size, "white")
    cells = Image.fromarray(colour(log_mel, quiet_db)).resize(
        (width, PLOT_HEIGHT_PX), Image.BICUBIC
    )
    picture.paste(cells, (LEFT_PX, TOP_PX))

    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(FONT_SIZE_PX)
    floor = TOP_PX + PLOT_HEIGHT_PX
    for second in np.arange(0, duration_s + 1e-6, _tick_spacing_s(duration_s)):
        x = LEFT_PX + round(second / duration_s * (width - 1))
        draw.line([(x, floor), (x, floor + 5)], fill="black")
        draw.text((x, floor + 8), f"{second:g}", fill="black", font=font, anchor="mt")
    draw.text((LEFT_PX + width / 2, floor + 30), "seconds", fill="black", font=font, anchor="mt")

    for khz in TICKS_KHZ:
        if khz * 1000 > config.fmax_hz:
            break
        y = floor - 1 - round(_height(khz * 1000, config) * (PLOT_HEIGHT_PX - 1))
        draw.line([(LEFT_PX - 5, y), (LEFT_PX, y)], fill="black")
        draw.text((LEFT_PX - 9, y), f"{khz:g}", fill="black", font=font, anchor="rm")
    draw.text((4, TOP_PX + PLOT_HEIGHT_PX / 2), "kHz", fill="black", font=font, anchor="lm")
    return picture


def colour(log_mel: np.ndarray, quiet_db: float = -np.inf) -> np.ndarray:
    """(n_mels, T) log-mel -> (n_mels, T, 3) bytes, high frequencies first as pictures have it.

    The loudest cell is the brightest, unless it is below `quiet_db`: then all is darker by as much.
    """
    level_db = log_mel[::-1] * DB_PER_NEPER
    level = np.clip((level_db - max(level_db.max(), quiet_db)) / RANGE_DB + 1, 0, 1)
    return gradient(level, COLOURS)


def _height(frequency_hz: float, config: SpectrogramConfig) -> float:
    """Height of a frequency between the lowest (0) and the highest mel band (1)."""
    peaks = mel_filterbank(config).argmax(axis=0)
    centres_hz = peaks * config.sample_rate_hz / config.n_fft_samples
    return float(np.interp(frequency_hz, centres_hz, np.linspace(0, 1, config.n_mels)))


def _tick_spacing_s(duration_s: float) -> float:
    """The roundest spacing that gives at most ten ticks."""
    return next(
        (spacing for spacing in (0.05, 0.1, 0.2, 0.5, 1, 2, 5) if duration_s / spacing <= 10), 10
    )
