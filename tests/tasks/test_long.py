"""With the embedded model: a sound of four windows does not tell where they are, nor drift."""

import numpy as np
import pytest

from auffusion_cli.requests.request import GenerateRequest, GenerateSettings
from auffusion_cli.signal.overlap import window_starts
from auffusion_cli.signal.spectrogram import DB_PER_NEPER
from auffusion_cli.tasks.generate import generate

DURATION_S = 30.0


@pytest.fixture(scope="module")
def settings(embedded):
    return GenerateSettings.from_defaults(embedded.defaults, duration_s=DURATION_S, steps=6)


@pytest.fixture(scope="module")
def level_db(embedded, settings):
    """(256, n_columns): the levels of a long sound, by columns of the latent."""
    (sound,) = generate(embedded, [GenerateRequest("rain", 1)], settings)
    f = embedded.codec.width_multiple
    log_mel = sound.log_mel[:, : sound.log_mel.shape[1] // f * f]
    return log_mel.reshape(len(log_mel), -1, f).mean(axis=2) * DB_PER_NEPER


@pytest.fixture(scope="module")
def edges(embedded, settings, level_db):
    """The columns at which windows begin or end."""
    n, window = level_db.shape[1], settings.windows_at_once * embedded.window
    starts = window_starts(n, window, embedded.overlap)
    edges = {edge for start in starts for edge in (start, start + window)} - {0, n}
    assert len(edges) >= 5
    return sorted(edge for edge in edges if 0 < edge < n)


def chance_of(level_db, edges):
    """How likely it is that so many columns chosen blindly change as much as those at `edges`."""
    change = np.abs(np.diff(level_db, axis=1)).mean(axis=0)  # [i]: from column i to i + 1
    at_edges = change[np.array(edges) - 1].mean()
    rng = np.random.default_rng(0)
    blind = [rng.choice(change, len(edges), replace=False).mean() for _ in range(5000)]
    return np.mean(np.array(blind) >= at_edges)


def test_the_edges_of_windows_cannot_be_told_from_the_rest(level_db, edges):
    assert chance_of(level_db, edges) > 0.01


def test_windows_that_do_not_agree_would_be_told(level_db, edges):
    louder = level_db.copy()
    for start, end in zip(edges[::2], edges[1::2], strict=False):
        louder[:, start:end] += 6
    assert chance_of(louder, edges) < 0.01


def trend_db(level_db):
    """How much louder the line through all levels is at the end than at the start."""
    level = level_db.mean(axis=0)
    slope, _ = np.polyfit(np.arange(len(level)), level, 1)
    return slope * len(level)


def test_the_level_does_not_drift(level_db):
    assert abs(trend_db(level_db)) < 6
    assert abs(trend_db(level_db + np.linspace(0, 15, level_db.shape[1]))) > 6
