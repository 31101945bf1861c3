from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from auffusion_cli.signal.spectrogram import LogMel, has_sound, mel_error_db, normalize_peak

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "signal_path.npz")


def golden_waveform() -> torch.Tensor:
    return torch.from_numpy(GOLDEN["pcm"].astype(np.float32) / 32768)[None]


def test_log_mel_equals_the_original():
    """To 1e-5, but where a Fourier transform's rounding shows: 140 dB below the loudest."""
    mel = LogMel()(normalize_peak(golden_waveform()))[0].double().exp().numpy()
    expected = np.exp(GOLDEN["log_mel"].astype(np.float64))
    np.testing.assert_allclose(mel, expected, rtol=1e-5, atol=1e-7 * expected.max())


@settings(deadline=None, max_examples=15)
@given(n_samples=st.integers(0, 5_000), batch=st.integers(1, 3))
def test_one_frame_a_hop(n_samples, batch):
    log_mel = LogMel()(torch.rand(batch, n_samples) - 0.5)
    assert log_mel.shape == (batch, 256, n_samples // 160)
    assert torch.isfinite(log_mel).all()


def test_rows_do_not_depend_on_their_batch():
    waveform = torch.randn(3, 4_000)
    log_mel = LogMel()
    torch.testing.assert_close(log_mel(waveform)[1:2], log_mel(waveform[1:2]), atol=1e-5, rtol=0)


def test_gradient_is_finite_in_silence():
    waveform = torch.zeros(1, 3_200, requires_grad=True)
    LogMel()(waveform).sum().backward()
    assert torch.isfinite(waveform.grad).all()


def test_half_precision_input_is_analysed_in_float32():
    assert LogMel()(torch.zeros(1, 1_600, dtype=torch.float16)).dtype == torch.float32


def test_normalize_peak_is_per_row_and_leaves_silence():
    waveform = torch.tensor([[0.1, -0.2], [0.0, 0.0], [0.5, 0.25]])
    normalized = normalize_peak(waveform)
    torch.testing.assert_close(normalized.abs().amax(-1), torch.tensor([0.95, 0.0, 0.95]))
    assert normalize_peak(torch.zeros(2, 0)).shape == (2, 0)


def test_mel_error_is_the_gain_in_db():
    reference = torch.zeros(1, 4, 5)
    ten_db = torch.full_like(reference, np.log(10 ** (10 / 20)))
    assert mel_error_db(reference, ten_db) == pytest.approx(10.0, abs=1e-4)
    assert mel_error_db(reference[..., :0], reference[..., :0]) == 0.0


def test_mel_error_ignores_what_lies_60_db_below():
    reference = torch.tensor([[[0.0, -np.log(10) * 2.9, -np.log(10) * 3.1]]])
    assert has_sound(reference).tolist() == [[[True, True, False]]]
    changed = reference + torch.tensor([0.0, 0.0, 5.0])
    assert mel_error_db(reference, changed) == 0.0


def test_mel_error_refuses_other_shapes():
    with pytest.raises(ValueError, match="different shapes"):
        mel_error_db(torch.zeros(1, 4, 5), torch.zeros(1, 4, 6))
