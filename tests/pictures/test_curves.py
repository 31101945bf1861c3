"""Curves of quality against seconds: what is drawn, and on which axes."""

import numpy as np
import pytest
from PIL import Image

from auffusion_cli.pictures.curves import (
    PANEL_PX,
    Curve,
    Panel,
    Point,
    log_ticks,
    save_curves,
    ticks,
)


def point(x, y, interval=None, label="10"):
    return Point(x, y, interval, label)


def near(picture, colour):
    """Where `picture` (H, W, 3) has nearly that colour; lines are smoothed."""
    return np.abs(picture.astype(int) - colour).max(axis=2) < 30


def panel(*curves):
    return Panel("FD", "lower is better", tuple(Curve(name, points) for name, points in curves))


def test_every_curve_has_its_colour_and_panels_stand_side_by_side(tmp_path):
    one = panel(("guidance 1", (point(1, 5, (4, 6)), point(10, 3))), ("guidance 3", (point(2, 4),)))
    save_curves([one, one, one], "seconds", tmp_path / "curves.png")
    picture = np.array(Image.open(tmp_path / "curves.png"))
    assert picture.shape[1] == 2 * PANEL_PX[0] and picture.shape[0] > 2 * PANEL_PX[1]
    blue = near(picture, (0x1A, 0x5F, 0xB4))
    orange = near(picture, (0xB3, 0x50, 0x0A))
    for drawn in (blue, orange):
        assert drawn[: PANEL_PX[1], : PANEL_PX[0]].any()
        assert drawn[: PANEL_PX[1], PANEL_PX[0] :].any()
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]


def test_a_quicker_point_is_left_and_a_larger_number_above(tmp_path):
    def centre(x, y):
        others = ("guidance 3", (point(1, 0), point(100, 10)))
        save_curves([panel(("guidance 1", (point(x, y),)), others)], "seconds", tmp_path / "a.png")
        picture = np.array(Image.open(tmp_path / "a.png"))[: PANEL_PX[1]]
        rows, columns = np.nonzero(near(picture, (0x1A, 0x5F, 0xB4)))
        return rows.mean(), columns.mean()

    low, high = centre(2, 2), centre(50, 8)
    assert low[0] > high[0] and low[1] < high[1]
    middle = centre(10, 5)  # halfway between 1 and 100 on a logarithmic axis
    assert middle[1] == pytest.approx((76 + PANEL_PX[0] - 26) / 2, abs=12)


@pytest.mark.parametrize("points", [(point(1, 5),), (point(1, 5), point(1, 5)), (point(1e-3, 0),)])
def test_a_single_point_can_be_drawn(tmp_path, points):
    save_curves([panel(("guidance 1", points))], "seconds", tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").width == PANEL_PX[0]


def test_ticks_are_round_and_inside():
    assert ticks(0.03, 0.31) == [0.05, 0.1, 0.15, 0.2, 0.25, 0.3]
    assert ticks(-4, 101) == [0, 20, 40, 60, 80, 100]
    assert log_ticks(0.8, 30) == [1, 2, 5, 10, 20]
    assert log_ticks(2.1, 7.9) == [3, 4, 5, 6]
    for low, high in ((1.01, 1.02), (0.5, 0.51)):
        assert len(log_ticks(low, high)) >= 2
        assert all(low <= tick <= high for tick in log_ticks(low, high))
