import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auffusion_cli.signal.spectrogram import (
    LogMel,
    analyze,
    has_sound,
    mel_error_db,
    mix_log_mels,
    normalize_peak,
)

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "signal_path.npz")


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.5, 0.5, shape).astype(np.float32)


def test_log_mel_equals_the_original():
    """To 1e-5, but where a Fourier transform's rounding shows: 140 dB below the loudest."""
    waveform = GOLDEN["pcm"].astype(np.float32)[None] / 32768
    mel = np.exp(LogMel()(normalize_peak(waveform))[0].astype(np.float64))
    expected = np.exp(GOLDEN["log_mel"].astype(np.float64))
    np.testing.assert_allclose(mel, expected, rtol=1e-5, atol=1e-7 * expected.max())


@settings(max_examples=15)
@given(n_samples=st.integers(0, 5_000), batch=st.integers(1, 3))
def test_one_frame_a_hop(n_samples, batch):
    log_mel = LogMel()(noise(batch, n_samples))
    assert log_mel.shape == (batch, 256, n_samples // 160) and log_mel.dtype == np.float32
    assert np.isfinite(log_mel).all()


def test_rows_do_not_depend_on_their_batch():
    waveform = noise(3, 4_000)
    log_mel = LogMel()
    np.testing.assert_array_equal(log_mel(waveform)[1:2], log_mel(waveform[1:2]))


def test_memory_beyond_the_log_mel_does_not_grow_with_the_sound():
    log_mel = LogMel()
    waveform = np.zeros((1, 60 * 16_000), np.float32)
    tracemalloc.start()
    n_bytes = log_mel(waveform).nbytes
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < n_bytes + 2 * waveform.nbytes + 10 * 2**20


def test_zeros_complete_the_last_hop():
    log_mel = analyze(LogMel(), 0.1 * noise(2, 1_601))
    assert log_mel.shape == (2, 256, 11)
    np.testing.assert_allclose(log_mel, analyze(LogMel(), noise(2, 1_601)), atol=1e-4)


def test_normalize_peak_is_per_row_and_leaves_silence():
    waveform = np.array([[0.1, -0.2], [0.0, 0.0], [0.5, 0.25]], np.float32)
    normalized = normalize_peak(waveform)
    assert normalized.dtype == np.float32
    np.testing.assert_allclose(np.abs(normalized).max(-1), [0.95, 0.0, 0.95], rtol=1e-6)
    assert normalize_peak(np.zeros((2, 0))).shape == (2, 0)


def test_powers_of_a_mix_add_up():
    log_mels = np.log(np.array([[[3.0, 1.0]], [[4.0, 0.0001]]]))
    np.testing.assert_allclose(np.exp(mix_log_mels(log_mels)), [[5.0, 1.0]], rtol=1e-6)
    np.testing.assert_array_equal(mix_log_mels(log_mels[:1]), log_mels[0])


def test_mel_error_is_the_gain_in_db():
    reference = np.zeros((1, 4, 5), np.float32)
    ten_db = np.full_like(reference, np.log(10 ** (10 / 20)))
    assert mel_error_db(reference, ten_db) == pytest.approx(10.0, abs=1e-4)
    assert mel_error_db(reference[..., :0], reference[..., :0]) == 0.0


def test_mel_error_ignores_what_lies_60_db_below():
    reference = np.array([[[0.0, -np.log(10) * 2.9, -np.log(10) * 3.1]]])
    assert has_sound(reference).tolist() == [[[True, True, False]]]
    changed = reference + np.array([0.0, 0.0, 5.0])
    assert mel_error_db(reference, changed) == 0.0


def test_mel_error_refuses_other_shapes():
    with pytest.raises(ValueError, match="different shapes"):
        mel_error_db(np.zeros((1, 4, 5)), np.zeros((1, 4, 6)))
