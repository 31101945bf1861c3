"""Curves of quality against seconds as a picture, drawn with Pillow like the spectrograms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from auffusion_cli.pictures.drawing import save_png

PANEL_PX = (520, 380)
"""Width and height of one panel, with its axes."""
LEFT_PX, RIGHT_PX, TOP_PX, BOTTOM_PX = 76, 26, 52, 58
LEGEND_ROW_PX = 28
PANELS_IN_A_ROW = 2
SCALE = 3
"""Drawn so many times larger and made smaller again, for smooth lines."""
COLOURS = ("#1a5fb4", "#b3500a", "#0b7468", "#9c1f5f", "#6336b8", "#4d6b0c")
INK, SOFT, GRID = "#1b1c1f", "#5c5e66", "#e2dfd9"


@dataclass(frozen=True)
class Point:
    """One measured setting."""

    x: float
    """Above 0: the axis is logarithmic."""
    y: float
    interval: tuple[float, float] | None
    label: str


@dataclass(frozen=True)
class Curve:
    """The points of one series, in the order in which they are joined."""

    name: str
    """The same name has the same colour in all panels."""
    points: tuple[Point, ...]


@dataclass(frozen=True)
class Panel:
    """One number against `x_title`."""

    title: str
    hint: str
    """Direction of the number: "lower is better"."""
    curves: tuple[Curve, ...]


def save_curves(
    panels: Sequence[Panel], x_title: str, path: Path, record: str | None = None
) -> None:
    """Write a PNG of panels with at least a point each, all with the same axis of x.

    Written beside and renamed; `read_png_record` gives `record` back.
    """
    names = list(dict.fromkeys(curve.name for panel in panels for curve in panel.curves))
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    n_columns = min(len(panels), PANELS_IN_A_ROW)
    n_rows = math.ceil(len(panels) / n_columns)
    width, height = PANEL_PX
    size = (width * n_columns, height * n_rows + LEGEND_ROW_PX * math.ceil(len(names) / n_columns))
    picture = Image.new("RGB", (size[0] * SCALE, size[1] * SCALE), "white")
    draw = ImageDraw.Draw(picture)
    xs = [math.log10(p.x) for panel in panels for curve in panel.curves for p in curve.points]
    x_range = _widened(xs, 0.08, least=0.1)
    for i, panel in enumerate(panels):
        corner = (width * (i % n_columns), height * (i // n_columns))
        _draw_panel(draw, panel, x_title, x_range, corner, colours)
    for i, name in enumerate(names):
        x = width * (i % n_columns) + LEFT_PX
        y = height * n_rows + LEGEND_ROW_PX * (i // n_columns) + 6
        _line(draw, [(x, y), (x + 26, y)], colours[name], 3)
        _text(draw, (x + 36, y), name, INK, "lm")
    save_png(picture.resize(size, Image.LANCZOS), path, record=record)


def _draw_panel(
    draw: ImageDraw.ImageDraw,
    panel: Panel,
    x_title: str,
    x_range: tuple[float, float],
    corner: tuple[int, int],
    colours: dict[str, str],
) -> None:
    points = [point for curve in panel.curves for point in curve.points]
    left, top = corner[0] + LEFT_PX, corner[1] + TOP_PX
    right, bottom = corner[0] + PANEL_PX[0] - RIGHT_PX, corner[1] + PANEL_PX[1] - BOTTOM_PX
    x_low, x_high = x_range
    ends = [end for point in points for end in (point.y, *(point.interval or ()))]
    y_low, y_high = _widened(ends, 0.08, least=1e-3)

    def place(x: float, y: float) -> tuple[float, float]:
        across = (math.log10(x) - x_low) / (x_high - x_low)
        up = (y - y_low) / (y_high - y_low)
        return left + across * (right - left), bottom - up * (bottom - top)

    _text(draw, (left, corner[1] + 18), panel.title, INK, "lm", 18)
    _text(draw, (left, corner[1] + 38), panel.hint, SOFT, "lm", 13)
    for tick in ticks(y_low, y_high):
        _, y = place(points[0].x, tick)
        _line(draw, [(left, y), (right, y)], GRID, 1)
        _text(draw, (left - 8, y), f"{tick:g}", SOFT, "rm", 13)
    for tick in log_ticks(10**x_low, 10**x_high):
        x, _ = place(tick, y_low)
        _line(draw, [(x, bottom), (x, bottom + 5)], SOFT, 1)
        _text(draw, (x, bottom + 16), f"{tick:g}", SOFT, "mm", 13)
    _line(draw, [(left, bottom), (right, bottom)], SOFT, 1)
    _text(draw, ((left + right) / 2, bottom + 38), x_title, SOFT, "mm", 13)

    for curve in panel.curves:
        colour = colours[curve.name]
        places = [place(point.x, point.y) for point in curve.points]
        _line(draw, places, colour, 2)
        for point, (x, y) in zip(curve.points, places, strict=True):
            if point.interval:
                (_, low), (_, high) = (place(point.x, end) for end in point.interval)
                _line(draw, [(x, low), (x, high)], colour, 1)
            box = [(x - 4) * SCALE, (y - 4) * SCALE, (x + 4) * SCALE, (y + 4) * SCALE]
            draw.ellipse(box, fill="white", outline=colour, width=2 * SCALE)
            _text(draw, (x + 7, y - 9), point.label, colour, "lm", 12)


def _widened(values: Sequence[float], share: float, least: float) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = max((high - low) * share, least / 2 if high - low < least else 0.0)
    return low - margin, high + margin


def ticks(low: float, high: float, at_most: int = 6) -> list[float]:
    """Round numbers between `low` and `high`, evenly spaced."""
    step = 10.0 ** math.floor(math.log10(high - low))
    spacing = next(
        step * factor
        for factor in (0.1, 0.2, 0.5, 1, 2, 5, 10)
        if (high - low) / (step * factor) <= at_most
    )
    return [
        round(i * spacing, 12)
        for i in range(math.ceil(low / spacing), math.floor(high / spacing) + 1)
    ]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 of each power of ten between `low` and `high`; finer where these are too few."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8)):
        found = [
            round(d * 10.0**p, 12) for p in powers for d in digits if low <= d * 10.0**p <= high
        ]
        if len(found) >= 3:
            break
    return found if len(found) >= 2 else ticks(low, high)


def _line(draw: ImageDraw.ImageDraw, points, colour: str, width: int) -> None:
    scaled = [(x * SCALE, y * SCALE) for x, y in points]
    draw.line(scaled, fill=colour, width=width * SCALE, joint="curve")


def _text(draw: ImageDraw.ImageDraw, at, text: str, colour: str, anchor: str, size: int = 14):
    font = ImageFont.load_default(size * SCALE)
    draw.text((at[0] * SCALE, at[1] * SCALE), text, fill=colour, font=font, anchor=anchor)
