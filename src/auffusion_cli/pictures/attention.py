"""Pictures of attention: a strip for each word above the spectrogram, on one time axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from auffusion_cli.config import SpectrogramConfig
from auffusion_cli.pictures.drawing import gradient, save_png
from auffusion_cli.pictures.spectrogram import LEFT_PX, RIGHT_PX, draw_spectrogram

STRIP_HEIGHT_PX, GAP_PX = 60, 6
TITLE_PX, CAPTION_PX = 34, 22
SHARE_PX = 52
"""To the right of a strip, for its word's share."""
TITLE_SIZE_PX, WORD_SIZE_PX, NOTE_SIZE_PX = 20, 18, 14
GREY = (110, 110, 110)
COLOURS = np.array(  # from a word's least to its most
    [(255, 255, 255), (205, 226, 240), (120, 180, 214), (38, 112, 170), (8, 42, 88)]
)
CAPTION = "each word from its least (white) to its most (blue); %: its share of all attention"


@dataclass(frozen=True)
class AttentionColumn:
    """One sound in the picture."""

    title: str
    log_mel: np.ndarray
    """(n_mels, T)"""
    maps: np.ndarray
    """(W, n_mels, T), lowest frequency first."""
    shares: Sequence[float]
    """(W,), 0..1"""
    config: SpectrogramConfig
    """Of `log_mel`."""


def save_attention(
    words: Sequence[str],
    columns: Sequence[AttentionColumn],
    path: str | Path,
    *,
    record: str | None = None,
    overwrite: bool = True,
) -> None:
    """Write a PNG: a row for each of `words`, the spectrogram below, a column for each sound.

    `read_png_record` gives `record` back.
    """
    save_png(draw_attention(words, columns), Path(path), record=record, overwrite=overwrite)


def draw_attention(words: Sequence[str], columns: Sequence[AttentionColumn]) -> Image.Image:
    """The picture itself, RGB."""
    title_font, word_font, note_font = (
        ImageFont.load_default(size) for size in (TITLE_SIZE_PX, WORD_SIZE_PX, NOTE_SIZE_PX)
    )
    spectrograms = [draw_spectrogram(column.log_mel, column.config) for column in columns]
    word_px = max(round(word_font.getlength(word)) for word in words) + 2 * GAP_PX
    margin = max(word_px - LEFT_PX + GAP_PX, 0)  # beyond the room that the frequency axis has
    pitches = [picture.width - RIGHT_PX + SHARE_PX for picture in spectrograms]
    top = TITLE_PX + CAPTION_PX
    strips_height = len(words) * (STRIP_HEIGHT_PX + GAP_PX)
    size = (margin + sum(pitches), top + strips_height + spectrograms[0].height)
    whole = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(whole)
    draw.text((margin + LEFT_PX, TITLE_PX + 2), CAPTION, fill=GREY, font=note_font)

    left = margin
    for column, spectrogram, pitch in zip(columns, spectrograms, pitches, strict=True):
        x, width = left + LEFT_PX, spectrogram.width - LEFT_PX - RIGHT_PX
        title = _shortened(column.title, title_font, pitch - LEFT_PX)
        draw.text((x, TITLE_PX - 6), title, fill="black", font=title_font, anchor="ls")
        for row, (values, share) in enumerate(zip(column.maps, column.shares, strict=True)):
            y = top + row * (STRIP_HEIGHT_PX + GAP_PX)
            strip = Image.fromarray(_colour(values)).resize((width, STRIP_HEIGHT_PX), Image.BICUBIC)
            whole.paste(strip, (x, y))
            frame = (x - 1, y - 1, x + width, y + STRIP_HEIGHT_PX)
            draw.rectangle(frame, outline=(200, 200, 200))
            middle = y + STRIP_HEIGHT_PX // 2
            percent = f"{100 * share:.1f} %"
            draw.text((x + width + GAP_PX, middle), percent, fill=GREY, font=note_font, anchor="lm")
            if left == margin:
                place = (x - 2 * GAP_PX, middle)
                draw.text(place, words[row], fill="black", font=word_font, anchor="rm")
        whole.paste(spectrogram, (left, top + strips_height))
        left += pitch
    return whole


def _colour(values: np.ndarray) -> np.ndarray:
    """(256, T) -> (256, T, 3) bytes, high frequencies first as pictures have it."""
    level = values[::-1]
    level = (level - level.min()) / max(level.max() - level.min(), 1e-12)
    return gradient(level, COLOURS)


def _shortened(text: str, font: ImageFont.FreeTypeFont, width_px: int) -> str:
    """`text`, or as much of it as has room."""
    if font.getlength(text) <= width_px:
        return text
    while text and font.getlength(text + "…") > width_px:
        text = text[:-1]
    return text.rstrip() + "…"
