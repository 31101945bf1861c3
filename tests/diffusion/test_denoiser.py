from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch

from auffusion_cli.diffusion.denoiser import guided_denoiser, rescale_guidance


@dataclass
class Texts:
    cond: torch.Tensor
    uncond: torch.Tensor


class SpyUNet(torch.nn.Module):
    """Output = the mean of each row's text, so that guidance can be computed by hand."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones((), dtype=dtype))
        self.calls = []

    def forward(self, latents, timestep, encoder_hidden_states):
        self.calls.append((latents.shape[0], latents.dtype, encoder_hidden_states.dtype))
        level = encoder_hidden_states.mean(dim=(1, 2))[:, None, None, None]
        return SimpleNamespace(sample=latents * level)


@pytest.fixture
def texts():
    return Texts(cond=torch.full((2, 3, 5), 3.0), uncond=torch.full((2, 3, 5), 1.0))


LATENTS = torch.arange(2 * 4 * 2 * 2, dtype=torch.float32).reshape(2, 4, 2, 2)
TIME = torch.tensor(10)


def test_both_branches_go_through_the_unet_in_one_call(texts):
    unet = SpyUNet()
    guided = guided_denoiser(unet, texts, 7.5)(LATENTS, TIME)
    torch.testing.assert_close(guided, LATENTS * (1 + 7.5 * 2))
    assert [call[0] for call in unet.calls] == [4]


def test_a_scale_of_one_computes_only_the_conditional_branch(texts):
    unet = SpyUNet()
    torch.testing.assert_close(guided_denoiser(unet, texts, 1.0)(LATENTS, TIME), LATENTS * 3)
    assert [call[0] for call in unet.calls] == [2]


def test_a_scale_of_zero_ignores_the_prompt(texts):
    torch.testing.assert_close(guided_denoiser(SpyUNet(), texts, 0.0)(LATENTS, TIME), LATENTS)


def test_rescale_one_restores_the_spread_of_the_conditional_branch(texts):
    guided = guided_denoiser(SpyUNet(), texts, 7.5, guidance_rescale=1.0)(LATENTS, TIME)
    torch.testing.assert_close(guided.std(dim=(1, 2, 3)), (LATENTS * 3).std(dim=(1, 2, 3)))


def test_rescale_is_a_mix_row_by_row():
    guided, cond = torch.randn(2, 4, 8, 8) * 9, torch.randn(2, 4, 8, 8)
    half = rescale_guidance(guided, cond, 0.5)
    full = rescale_guidance(guided, cond, 1.0)
    torch.testing.assert_close(half, (guided + full) / 2)
    torch.testing.assert_close(full[:1], rescale_guidance(guided[:1], cond[:1], 1.0))


def test_the_unet_keeps_its_precision_and_the_latents_theirs(texts):
    unet = SpyUNet(torch.bfloat16)
    assert guided_denoiser(unet, texts, 2.0)(LATENTS, TIME).dtype == torch.float32
    assert unet.calls == [(4, torch.bfloat16, torch.bfloat16)]
