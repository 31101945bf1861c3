"""Quick 3x3 convolutions against torch's own."""

import pytest
import torch
from torch import nn

from auffusion_cli.evaluation.convolution import ConvReLU, WinogradConvReLU, for_listening
from published_networks import spread_out

torch.set_num_threads(1)


def layer(n_in: int, n_out: int, bias: bool, norm: bool):
    layers = nn.ModuleList([nn.Conv2d(n_in, n_out, 3, padding=1, bias=bias)])
    if norm:
        layers.append(nn.BatchNorm2d(n_out))
    spread_out(layers)
    return layers[0], layers[1] if norm else None


@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("width", [1, 2, 3, 4, 8, 13])
@pytest.mark.parametrize("height", [1, 2, 4, 7, 50])
@torch.no_grad()
def test_all_ways_give_the_same(height, width, norm):
    conv, batch_norm = layer(8, 12, bias=not norm, norm=norm)
    x = torch.randn(3, 8, height, width, generator=torch.Generator().manual_seed(height))
    expected = conv(x.double().float())
    expected = (expected if batch_norm is None else batch_norm(expected)).relu()
    channels_last = x.contiguous(memory_format=torch.channels_last)
    for quick in (ConvReLU(conv, batch_norm), WinogradConvReLU(conv, batch_norm, width)):
        found = quick(channels_last)
        assert found.shape == (3, 12, height, width)
        torch.testing.assert_close(found, expected, atol=2e-4, rtol=0)
        assert found.std() > 0.1


def test_many_channels_take_fewer_multiplications():
    assert isinstance(for_listening(*layer(64, 128, False, True), 16), WinogradConvReLU)
    assert not isinstance(for_listening(*layer(64, 64, False, True), 16), WinogradConvReLU)
