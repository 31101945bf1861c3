"""The blocks of SAME-S, chunk by chunk; pieces of a sound are those of the whole."""

import pytest
import torch
from diffusers import AutoencoderSAME
from torch import nn

from auffusion_cli.codec import same
from auffusion_cli.codec.same import SAME, ChunkedBlock

STRIDE = 3


def chunked(mode: str, **sizes) -> ChunkedBlock:
    torch.manual_seed(0)
    n_in, n_out = (6, 8) if mode == "encoder" else (8, 6)
    block = ChunkedBlock(
        in_channels=n_in, out_channels=n_out, stride=STRIDE, mode=mode, transformer_depth=4,
        dim_heads=4, **sizes,
    )  # fmt: skip
    return lively(block)


def lively(network: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return network.eval()


def by_hand(block: ChunkedBlock, latents: list[torch.Tensor]) -> list[torch.Tensor]:
    """Tokens (1, n, D) of each latent through the layers: pairs, then pairs shifted by one."""
    for layer in block.transformers[:2]:
        pairs = [layer(torch.cat(latents[i : i + 2], 1)) for i in range(0, len(latents), 2)]
        latents = [half for pair in pairs for half in pair.chunk(2, dim=1)]
    latents = [latents[0], *latents, latents[-1]]
    for layer in block.transformers[2:]:
        pairs = [layer(torch.cat(latents[i : i + 2], 1)) for i in range(0, len(latents), 2)]
        latents = [half for pair in pairs for half in pair.chunk(2, dim=1)]
    return latents[1:-1]


@pytest.mark.parametrize("n", [2, 4, 5])
def test_an_encoder_takes_the_last_token_of_each_segment(n):
    block = chunked("encoder")
    x = torch.randn(1, 6, n * STRIDE)
    with torch.no_grad():
        padded = torch.cat([x, x.new_zeros(1, 6, n % 2 * STRIDE)], -1)
        segments = block.mapping(padded).transpose(1, 2).split(STRIDE, dim=1)
        latents = by_hand(block, [torch.cat([one, block.new_tokens], 1) for one in segments])
        expected = torch.cat([one[:, -1:] for one in latents[:n]], 1).transpose(1, 2)
        torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("n", [4, 5])
def test_a_decoder_takes_all_but_the_first(n, kernel):
    block = chunked("decoder", mapping_kernel=kernel)
    x = torch.randn(1, 8, n)
    with torch.no_grad():
        padded = torch.cat([x, x.new_zeros(1, 8, n % 2)], -1)
        new = block.new_tokens.expand(1, STRIDE, -1)
        seeds = padded.transpose(1, 2).split(1, dim=1)
        latents = by_hand(block, [torch.cat([one, new], 1) for one in seeds])
        made = torch.cat([one[:, 1:] for one in latents], 1).transpose(1, 2)
        torch.testing.assert_close(block(x), block.mapping(made)[..., : n * STRIDE])


@pytest.mark.parametrize("is_chunked", [False, True])
@pytest.mark.parametrize("n", [8, 9, 31])
def test_pieces_are_those_of_the_whole(monkeypatch, is_chunked, n):
    torch.manual_seed(0)
    network = AutoencoderSAME(
        patch_size=2, encoder_channels=4, encoder_c_mults=(2,), encoder_strides=(STRIDE,),
        encoder_transformer_depths=(4,), latent_dim=6, dim_heads=4,
    )  # fmt: skip
    if is_chunked:
        for part, kernel in ((network.encoder, 1), (network.decoder, 3)):
            (old,) = part.blocks
            part.blocks = nn.ModuleList(
                [
                    ChunkedBlock(
                        in_channels=old.in_channels, out_channels=old.out_channels, stride=STRIDE,
                        mode=old.mode, transformer_depth=4, dim_heads=4, mapping_kernel=kernel,
                    )
                ]
            )  # fmt: skip
    lively(network)
    autoencoder = SAME(network)
    monkeypatch.setattr(same, "PIECE_COLUMNS", 8)
    sound = torch.randn(2, 2, n * 2 * STRIDE)
    with torch.no_grad():
        latents = network.encode(sound).latents
        torch.testing.assert_close(autoencoder.encode(sound).latents, latents)
        expected = network.decode(latents).sample
        torch.testing.assert_close(autoencoder.decode(latents).sample, expected)
    assert autoencoder.column_multiple == (2 if is_chunked else 1)
