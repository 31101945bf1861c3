import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auffusion_cli.signal.events import find_events
from auffusion_cli.signal.trim import PEAK, Part, find_event, find_part, trim

RATE_HZ = 16_000


def events(*spans_s, level=0.5, total_s=5.0):
    """Noise bursts (start, end, level) in silence."""
    waveform = np.zeros(round(total_s * RATE_HZ), np.float32)
    noise = np.clip(np.random.default_rng(0).standard_normal(len(waveform)), -2, 2) / 2
    for start_s, end_s, level in spans_s:
        span = slice(round(start_s * RATE_HZ), round(end_s * RATE_HZ))
        waveform[span] = level * noise[span]
    return waveform


def found_s(waveform, duration_s):
    return find_part(waveform, round(duration_s * RATE_HZ), RATE_HZ).start / RATE_HZ


def test_a_late_event_begins_at_once():
    assert found_s(events((1.5, 2.5, 0.5)), 2.0) == pytest.approx(1.48)


def test_the_loudest_event_is_kept_and_of_equal_ones_the_first():
    assert found_s(events((0.5, 1, 0.1), (2.5, 3, 0.5)), 1.0) == pytest.approx(2.48)
    assert found_s(events((0.5, 1, 0.5), (2.5, 3, 0.5)), 1.0) == pytest.approx(0.48)


def test_two_events_that_fit_are_kept_together():
    assert found_s(events((1, 1.3, 0.5), (2, 2.3, 0.5)), 2.0) == pytest.approx(0.98)


def test_a_steady_sound_is_kept_from_its_start():
    assert found_s(events((0, 5, 0.5)), 2.0) == 0
    assert found_s(np.zeros(5 * RATE_HZ), 2.0) == 0


@pytest.mark.parametrize(
    ("spans", "longest_s", "kept_s"),
    [
        (((0.5, 0.8, 0.1), (2, 2.5, 0.5), (3, 3.2, 0.5)), 3.0, (1.98, 2.6)),
        (((1, 1.3, 0.5), (2, 2.3, 0.5)), 3.0, (0.98, 1.4)),  # of equal ones the first
        (((1, 1.1, 0.1), (1.2, 1.5, 0.5)), 3.0, (0.98, 1.6)),  # 0.1 s is no pause
        (((1, 3, 0.5),), 0.5, (0.98, 1.48)),
        (((0, 5, 0.5),), 1.0, (0, 1)),
        ((), 1.0, (0, 1)),
    ],
)
def test_one_event_is_kept_alone_and_to_its_end(spans, longest_s, kept_s):
    part = find_event(events(*spans), round(longest_s * RATE_HZ), RATE_HZ)
    ends_s = (part.start / RATE_HZ, (part.start + part.n_samples) / RATE_HZ)
    assert ends_s == pytest.approx(kept_s, abs=0.021)


def test_rumble_is_no_event():
    waveform = events((1, 1.5, 0.1))
    rumble = 0.05 * np.sin(2 * np.pi * 12 * np.arange(len(waveform)) / RATE_HZ)
    part = find_event((waveform + rumble).astype(np.float32), 3 * RATE_HZ, RATE_HZ)
    assert part.start == round(0.98 * RATE_HZ) and part.n_samples < 0.7 * RATE_HZ
    assert find_events((waveform + rumble)[np.newaxis], RATE_HZ)[0][0] == 0  # but for the cut


def test_an_event_at_the_very_end_is_followed_by_silence():
    waveform = events((4.5, 5, 0.5))
    part = find_part(waveform, 2 * RATE_HZ, RATE_HZ)
    sound = trim(waveform, part, RATE_HZ)
    assert part.start == round(4.48 * RATE_HZ) and len(sound) == 2 * RATE_HZ
    assert not sound[round(0.53 * RATE_HZ) :].any()
    assert np.abs(sound[round(0.519 * RATE_HZ) : round(0.52 * RATE_HZ)]).max() < 0.01  # faded


def test_the_end_is_faded_and_the_peak_is_at_minus_1_db():
    waveform = events((0, 5, 0.2))
    sound = trim(waveform, find_part(waveform, RATE_HZ, RATE_HZ), RATE_HZ)
    assert np.abs(sound).max() == pytest.approx(PEAK) and 20 * math.log10(PEAK) == pytest.approx(-1)
    assert sound[-1] == 0 and np.abs(sound[-160:]).max() < 0.02
    assert sound[: RATE_HZ // 2].std() > 0.2  # the start is not


def test_columns_are_cut_like_the_samples():
    part = Part(start=320, n_samples=1_000)
    columns = part.of(np.arange(6.0)[None], hop=160, fill=-1.0)
    assert columns.tolist() == [[2, 3, 4, 5, -1, -1, -1]]


@settings(max_examples=50)
@given(st.integers(0, 3 * RATE_HZ), st.integers(1, 3 * RATE_HZ), st.integers(0, 9))
def test_any_length(n, n_samples, seed):
    rng = np.random.default_rng(seed)
    waveform = (rng.standard_normal(n) * (rng.random(n) > 0.9999).cumsum()).astype(np.float32)
    part = find_part(waveform, n_samples, RATE_HZ)
    sound = trim(waveform, part, RATE_HZ)
    assert sound.shape == (n_samples,) and np.isfinite(sound).all()
    assert part == find_part(waveform, n_samples, RATE_HZ)
    assert 0 <= part.start <= n
