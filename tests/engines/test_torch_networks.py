"""The torch engine: float32 arrays in and out, whatever it computes in."""

import numpy as np
import pytest
import torch

from auffusion_cli.checkpoints.load import load_model
from auffusion_cli.engines.torch_networks import TorchNetworks
from auffusion_cli.errors import DeviceMemoryError
from model_parts import with_parts


def normal(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_arrays_go_in_and_come_out_and_are_left_as_they_were(tiny_checkpoint, dtype):
    networks = load_model(tiny_checkpoint, device="cpu", dtype=dtype).networks
    assert (networks.engine, networks.device, networks.dtype) == ("torch", "cpu", dtype)
    sizes = networks.sizes
    rows = sizes.cross_attention_dim
    latents = normal(2, sizes.latent_channels, 32, 16)
    image = np.random.default_rng(0).random((2, 1, 256, 32), np.float32)
    calls = {
        "hidden_states": (0, np.array([[4, 5, 7]]), None),
        "adapt": (0, normal(2, 9, sizes.text_widths[0])),
        "predict": (latents, 7.5, normal(2, 9, rows)),
        "encode_image": (image,),
        "decode_latents": (latents,),
        "vocode": (normal(2, 256, 5),),
    }
    shapes = {
        "hidden_states": (1, 3, sizes.text_widths[0]),
        "adapt": (2, 9, rows),
        "predict": latents.shape,
        "encode_image": (2, sizes.latent_channels, 256 // sizes.downsample, 32 // sizes.downsample),
        "decode_latents": (2, 1, 32 * sizes.downsample, 16 * sizes.downsample),
        "vocode": (2, 800),
    }
    for name, given in calls.items():
        before = [np.copy(x) if isinstance(x, np.ndarray) else x for x in given]
        found = getattr(networks, name)(*given)
        assert found.dtype == np.float32 and found.shape == shapes[name], name
        assert np.isfinite(found).all(), name
        for x, y in zip(before, given, strict=True):
            assert np.array_equal(x, y) if isinstance(x, np.ndarray) else x == y


def test_read_only_and_strided_arrays_are_taken(tiny_model):
    networks = tiny_model.networks
    latents = np.broadcast_to(normal(1, 4, 32, 16), (2, 4, 32, 16))
    text = normal(2, 9, networks.sizes.cross_attention_dim)
    found = networks.predict(latents[..., ::-1], 3, text)
    np.testing.assert_array_equal(found, networks.predict(latents[..., ::-1].copy(), 3, text))


def test_too_little_memory_is_an_error_of_the_program(tiny_model):
    class Full(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(()))

        def forward(self, *args, **kwargs):
            raise torch.OutOfMemoryError("CUDA out of memory")

    networks = with_parts(tiny_model, unet=Full()).networks
    with pytest.raises(DeviceMemoryError, match="memory of cpu") as error:
        networks.predict(normal(1, 4, 32, 16), 3, normal(1, 9, 32))
    assert error.value.__context__ is None  # it would hold the batch's tensors


def test_parts_that_are_not_there_have_no_size():
    sizes = TorchNetworks().sizes
    assert sizes.text_widths == () and not sizes.has_vocoder and not sizes.has_texture
