from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from auffusion_cli.codec.image import image_to_log_mel, log_mel_to_image, pad_image
from auffusion_cli.config import ImageConfig

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "signal_path.npz")


def test_image_equals_the_original():
    image = log_mel_to_image(torch.from_numpy(GOLDEN["log_mel"])[None])
    np.testing.assert_allclose(image[0].numpy(), GOLDEN["image"], atol=1e-5, rtol=0)


def test_denormalized_equals_the_original():
    log_mel = image_to_log_mel(torch.from_numpy(GOLDEN["image"])[None])
    np.testing.assert_allclose(log_mel[0].numpy(), GOLDEN["denormalized"], atol=1e-5, rtol=0)


@settings(deadline=None, max_examples=30)
@given(
    n_mels=st.integers(1, 8),
    n_frames=st.integers(0, 9),
    low=st.floats(-20, 0),
    span=st.floats(0.5, 30),
    seed=st.integers(0, 99),
)
def test_round_trip(n_mels, n_frames, low, span, seed):
    config = ImageConfig(log_mel_min=low, log_mel_max=low + span)
    generator = torch.Generator().manual_seed(seed)
    log_mel = low + span * torch.rand(2, n_mels, n_frames, generator=generator)
    image = log_mel_to_image(log_mel, config)
    assert image.shape == (2, 3, n_mels, n_frames)
    torch.testing.assert_close(image_to_log_mel(image, config), log_mel, atol=1e-4, rtol=0)


def test_low_frequencies_are_at_the_bottom_and_out_of_range_is_clamped():
    log_mel = torch.tensor([[[100.0], [-100.0]]])  # loud low band, silent high band
    assert log_mel_to_image(log_mel)[0, 0].tolist() == [[0.0], [1.0]]


def test_pad_image_adds_silence_on_the_right():
    padded = pad_image(torch.ones(1, 3, 2, 3), 5)
    assert padded[0, 0].tolist() == [[1, 1, 1, 0, 0]] * 2
    with pytest.raises(ValueError, match="width 3"):
        pad_image(torch.ones(1, 3, 2, 5), 3)
