from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from auffusion_cli.codec import tensor_image
from auffusion_cli.codec.image import image_to_log_mel, log_mel_to_image, pad_image
from auffusion_cli.config import ImageConfig

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "signal_path.npz")


def test_image_equals_the_original():
    image = log_mel_to_image(GOLDEN["log_mel"][None], ImageConfig())
    np.testing.assert_allclose(np.repeat(image[0], 3, axis=0), GOLDEN["image"], atol=1e-5, rtol=0)


def test_denormalized_equals_the_original():
    log_mel = image_to_log_mel(GOLDEN["image"][None], ImageConfig())
    np.testing.assert_allclose(log_mel[0], GOLDEN["denormalized"], atol=1e-5, rtol=0)


def test_tensors_become_the_same_images():
    log_mel = GOLDEN["log_mel"][None]
    image = log_mel_to_image(log_mel, ImageConfig())
    tensor = tensor_image.log_mel_to_image(torch.from_numpy(log_mel))
    for channel in tensor.unbind(1):
        np.testing.assert_allclose(channel.numpy(), image[:, 0], atol=1e-6)
    again = tensor_image.image_to_log_mel(tensor).numpy()
    np.testing.assert_allclose(again, image_to_log_mel(image, ImageConfig()), atol=1e-5)
    padded = tensor_image.pad_image(tensor, image.shape[-1] + 3)[:, :1].numpy()
    np.testing.assert_allclose(padded, pad_image(image, image.shape[-1] + 3), atol=1e-6)


@settings(max_examples=30)
@given(
    n_mels=st.integers(1, 8),
    n_frames=st.integers(0, 9),
    low=st.floats(-20, 0),
    span=st.floats(0.5, 30),
    seed=st.integers(0, 99),
)
def test_round_trip(n_mels, n_frames, low, span, seed):
    config = ImageConfig(log_mel_min=low, log_mel_max=low + span)
    uniform = np.random.default_rng(seed).random((2, n_mels, n_frames), np.float32)
    log_mel = low + span * uniform
    image = log_mel_to_image(log_mel, config)
    assert image.shape == (2, 1, n_mels, n_frames)
    np.testing.assert_allclose(image_to_log_mel(image, config), log_mel, atol=1e-4, rtol=0)


def test_low_frequencies_are_at_the_bottom_and_out_of_range_is_clamped():
    log_mel = np.array([[[100.0], [-100.0]]])  # loud low band, silent high band
    assert log_mel_to_image(log_mel, ImageConfig())[0, 0].tolist() == [[0.0], [1.0]]


def test_pad_image_adds_silence_on_the_right():
    padded = pad_image(np.ones((1, 1, 2, 3)), 5)
    assert padded[0, 0].tolist() == [[1, 1, 1, 0, 0]] * 2
    with pytest.raises(ValueError, match="width 3"):
        pad_image(np.ones((1, 1, 2, 5)), 3)
