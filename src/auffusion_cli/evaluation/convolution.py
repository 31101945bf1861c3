"""3x3 convolutions for inference, with fewer multiplications.

Cnn14 and VGGish are nearly nothing but 3x3 convolutions, and their multiplications are what an
evaluation waits for. Winograd's minimal filtering (Lavin & Gray 2016, arXiv 1509.09308)
computes a 4x4 patch of the output with 36 of them for each pair of channels, instead of 144. Its
sums round differently: outputs differ by a few parts in 100,000.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

MIN_CHANNEL_PAIRS = 64 * 64
"""Pairs of an input and an output channel. With fewer, the transforms cost what they save."""
PATCHES_AT_ONCE = {"cpu": 128, "cuda": 2**16}
"""On a CPU few enough that its cache holds them between the steps, on a GPU enough to keep it
busy."""
MAX_CACHED_PAIRS = 512 * 512
"""Pairs whose weights fit into the cache. Beyond, a layout with the weights of each output together
is faster; below, one with those of each input."""

# (B^T, G, A^T) of the paper's sections 4.1 and 4.3, for patches of 2 and of 4 outputs.
TRANSFORMS = {
    2: (
        [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]],
        [[1, 0, 0], [1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [0, 0, 1]],
        [[1, 1, 1, 0], [0, 1, -1, -1]],
    ),
    4: (
        [
            [4, 0, -5, 0, 1, 0],
            [0, -4, -4, 1, 1, 0],
            [0, 4, -4, -1, 1, 0],
            [0, -2, -1, 2, 1, 0],
            [0, 2, -1, -2, 1, 0],
            [0, 4, 0, -5, 0, 1],
        ],
        [
            [1 / 4, 0, 0],
            [-1 / 6, -1 / 6, -1 / 6],
            [-1 / 6, 1 / 6, -1 / 6],
            [1 / 24, 1 / 12, 1 / 6],
            [1 / 24, -1 / 12, 1 / 6],
            [0, 0, 1],
        ],
        [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]],
    ),
}


class ConvReLU(nn.Module):
    """A 3x3 convolution with padding 1, batch norm folded in, then ReLU."""

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d | None = None) -> None:
        super().__init__()
        weight = conv.weight.detach()
        bias = torch.zeros_like(weight[:, 0, 0, 0]) if conv.bias is None else conv.bias.detach()
        if norm is not None:
            scale = norm.weight.detach() / torch.sqrt(norm.running_var + norm.eps)
            weight = weight * scale[:, None, None, None]
            bias = norm.bias.detach() + (bias - norm.running_mean) * scale
        weight = weight.contiguous(memory_format=torch.channels_last)
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K, H, W)"""
        return conv2d(x, self.weight, self.bias, padding=1).relu_()


class OneChannelConvReLU(ConvReLU):
    """The same as a matrix product, for the first layer.

    On a CPU torch's convolution of a single channel is several times slower, and puts the channels
    of what it returns first, which slows all that follows.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d | None) -> None:
        super().__init__(conv, norm)
        self.weight = self.weight.reshape(len(self.bias), 9).T.contiguous()

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, H, W) -> (B, K, H, W)"""
        n_batch, _, height, width = x.shape
        patches = pad(x[:, 0], (1, 1, 1, 1)).unfold(1, 3, 1).unfold(2, 3, 1)
        y = torch.addmm(self.bias, patches.reshape(-1, 9), self.weight).relu_()
        return y.view(n_batch, height, width, len(self.bias)).permute(0, 3, 1, 2)


class WinogradConvReLU(ConvReLU):
    """The same with fewer multiplications, for inputs of a known width."""

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d | None, width: int) -> None:
        super().__init__(conv, norm)
        self.patch = (4, 4 if width > 2 else 2)
        (b_h, g_h, a_h), (b_w, g_w, a_w) = (
            tuple(self.weight.new_tensor(matrix) for matrix in TRANSFORMS[n]) for n in self.patch
        )
        # Both axes at once: one product with a Kronecker product.
        self.register_buffer("input_transform", torch.kron(b_h, b_w))
        self.register_buffer("output_transform", torch.kron(a_h, a_w))
        # One row after another: the last layers' weights are too large for further copies.
        rows = torch.kron(g_h, g_w)
        n_out, n_in = self.weight.shape[:2]
        cached = n_in * n_out <= MAX_CACHED_PAIRS
        axes, shape = ((2, 3, 1, 0), (n_in, n_out)) if cached else ((2, 3, 0, 1), (n_out, n_in))
        kernels = self.weight.permute(axes).reshape(9, n_in * n_out)
        weight = kernels.new_empty(len(rows), *shape)
        for transformed, row in zip(weight, rows, strict=True):
            torch.mv(kernels.T, row, out=transformed.view(-1))
        self.weight = weight if cached else weight.transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K, H, W)"""
        n_batch, n_in, height, width = x.shape
        p_h, p_w = self.patch
        rows, columns = -(-height // p_h), -(-width // p_w)
        n_out = len(self.bias)
        if n_batch == 0:
            return x.new_empty(0, n_out, height, width)
        x = x.permute(0, 2, 3, 1)
        x = pad(x, (0, 0, 1, columns * p_w + 1 - width, 1, rows * p_h + 1 - height))
        patches = x.unfold(1, p_h + 2, p_h).unfold(2, p_w + 2, p_w)
        y = x.new_empty(n_batch, rows, p_h, columns, p_w, n_out)
        step = max(PATCHES_AT_ONCE[x.device.type] // (n_batch * columns), 1)
        for start in range(0, rows, step):
            part = patches[:, start : start + step]  # (B, rows, columns, C, p_h + 2, p_w + 2)
            flat = part.permute(4, 5, 0, 1, 2, 3).reshape(len(self.input_transform), -1)
            transformed = (self.input_transform @ flat).view(len(flat), -1, n_in)
            products = torch.bmm(transformed, self.weight)
            outputs = self.output_transform @ products.view(len(flat), -1)
            outputs = outputs.view(p_h, p_w, *part.shape[:3], n_out).add_(self.bias).relu_()
            y[:, start : start + step] = outputs.permute(2, 3, 0, 4, 1, 5)
        y = y.view(n_batch, rows * p_h, columns * p_w, n_out)[:, :height, :width]
        return y.permute(0, 3, 1, 2)


def fast_conv_relu(conv: nn.Conv2d, norm: nn.BatchNorm2d | None, width: int) -> ConvReLU:
    """The fastest of the three for a convolution on inputs of `width`, and for its device."""
    if conv.weight.device.type not in PATCHES_AT_ONCE:
        return ConvReLU(conv, norm)
    if conv.in_channels == 1:
        return OneChannelConvReLU(conv, norm)
    if conv.in_channels * conv.out_channels >= MIN_CHANNEL_PAIRS:
        return WinogradConvReLU(conv, norm, width)
    return ConvReLU(conv, norm)
