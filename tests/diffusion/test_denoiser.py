import numpy as np
import pytest

from auffusion_cli.diffusion.denoiser import guided_denoiser, rescale_guidance
from auffusion_cli.diffusion.text import Conditioning


class Spy:
    """Output = latents times the mean of each row's text: guidance can be computed by hand."""

    def __init__(self):
        self.n_rows = []

    def __call__(self, latents, timestep, text):
        self.n_rows.append(len(latents))
        return latents * text.mean(axis=(1, 2))[:, None, None, None]


@pytest.fixture
def texts():
    shape = (2, 3, 5)
    return Conditioning(cond=np.full(shape, 3, np.float32), uncond=np.full(shape, 1, np.float32))


LATENTS = np.arange(2 * 4 * 2 * 2, dtype=np.float32).reshape(2, 4, 2, 2)
TIME = 10


def spread(values):
    return values.std(axis=(1, 2, 3))


def test_both_branches_go_through_the_unet_in_one_call(texts):
    predict = Spy()
    guided = guided_denoiser(predict, texts, 7.5)(LATENTS, TIME)
    np.testing.assert_allclose(guided, LATENTS * (1 + 7.5 * 2))
    assert predict.n_rows == [4]
    assert guided.dtype == np.float32


def test_a_scale_of_one_computes_only_the_conditional_branch(texts):
    predict = Spy()
    np.testing.assert_allclose(guided_denoiser(predict, texts, 1.0)(LATENTS, TIME), LATENTS * 3)
    assert predict.n_rows == [2]


def test_after_the_last_guided_step_only_the_conditional_branch_is_computed(texts):
    predict = Spy()
    denoise = guided_denoiser(predict, texts, 7.5, is_guided=lambda timestep: timestep >= TIME)
    np.testing.assert_allclose(denoise(LATENTS, TIME), LATENTS * (1 + 7.5 * 2))
    np.testing.assert_allclose(denoise(LATENTS, TIME - 0.5), LATENTS * 3)
    assert predict.n_rows == [4, 2]


def test_a_scale_of_zero_ignores_the_prompt(texts):
    np.testing.assert_allclose(guided_denoiser(Spy(), texts, 0.0)(LATENTS, TIME), LATENTS)


def test_rescale_one_restores_the_spread_of_the_conditional_branch(texts):
    guided = guided_denoiser(Spy(), texts, 7.5, guidance_rescale=1.0)(LATENTS, TIME)
    np.testing.assert_allclose(spread(guided), spread(LATENTS * 3), rtol=1e-5)
    assert guided.dtype == np.float32


def test_rescale_is_a_mix_row_by_row():
    guided, cond = np.random.default_rng(0).standard_normal((2, 2, 4, 8, 8))
    guided *= 9
    half = rescale_guidance(guided, cond, 0.5)
    full = rescale_guidance(guided, cond, 1.0)
    np.testing.assert_allclose(half, (guided + full) / 2)
    np.testing.assert_allclose(full[:1], rescale_guidance(guided[:1], cond[:1], 1.0))
