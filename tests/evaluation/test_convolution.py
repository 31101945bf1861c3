"""Quick 3x3 convolutions against torch's own."""

import pytest
import torch
from torch import nn

from auffusion_cli.evaluation.convolution import (
    MAX_CACHED_PAIRS,
    ConvReLU,
    OneChannelConvReLU,
    WinogradConvReLU,
    fast_conv_relu,
)
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


@torch.no_grad()
def test_weights_that_no_cache_holds():
    conv, batch_norm = layer(512, 1024, bias=False, norm=True)
    assert conv.in_channels * conv.out_channels > MAX_CACHED_PAIRS
    x = torch.randn(2, 512, 5, 4, generator=torch.Generator().manual_seed(0))
    expected = batch_norm(conv(x)).relu()
    found = WinogradConvReLU(conv, batch_norm, 4)(x)
    assert torch.linalg.norm(found - expected) < 1e-5 * torch.linalg.norm(expected)


@pytest.mark.parametrize("norm", [True, False])
@torch.no_grad()
def test_one_channel(norm):
    conv, batch_norm = layer(1, 12, bias=not norm, norm=norm)
    x = torch.randn(3, 1, 50, 13, generator=torch.Generator().manual_seed(0))
    expected = (conv(x) if batch_norm is None else batch_norm(conv(x))).relu()
    quick = fast_conv_relu(conv, batch_norm, 13)
    assert isinstance(quick, OneChannelConvReLU)
    found = quick(x)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert quick(x[:0]).shape == (0, 12, 50, 13)


def test_many_channels_take_fewer_multiplications():
    assert isinstance(fast_conv_relu(*layer(64, 128, False, True), 16), WinogradConvReLU)
    assert not isinstance(fast_conv_relu(*layer(32, 64, False, True), 16), WinogradConvReLU)
