import numpy as np
import pytest

from auffusion_cli.diffusion.regions import FADE_S, region_weights, regional_denoiser
from auffusion_cli.requests.timeline import Region


def test_weights_cross_where_regions_meet_and_do_not_fade_at_the_ends():
    regions = [Region(0, 3, "a"), Region(3, 10, "b")]
    weights = region_weights(regions, 10.0, n_columns=100, column_s=0.1)
    assert weights.shape == (2, 100)
    assert np.allclose(weights.sum(axis=0), 1, atol=1e-5)
    assert weights[0, 0] == weights[1, -1] == 1
    assert weights[0, 35] == weights[1, 24] == 0
    fading = int(((weights > 0) & (weights < 1)).any(axis=0).sum())
    assert fading == pytest.approx(FADE_S / 0.1, abs=1)


def constant(value, seen):
    def denoise(latents, timestep):
        seen.append(latents.copy())
        return np.full_like(latents, value)

    return denoise


def test_each_region_gets_its_own_denoiser_and_the_bed_the_rest():
    regions = [Region(2, 4, "a"), Region(6, 8, "b")]
    weights = region_weights(regions, 10.0, 100, 0.1)
    bed = 1 - weights.sum(axis=0)
    parts = [(constant(value, []), w) for value, w in zip((1, 2, 3), [*weights, bed], strict=True)]
    denoise = regional_denoiser(parts, 16, 8, background=lambda timestep: None)
    output = denoise(np.zeros((2, 3, 4, 100)), 5)
    assert output.shape == (2, 3, 4, 100)
    row = output[1, 2, 3]
    assert (row[22:38] == 1).all() and (row[62:78] == 2).all()
    assert (row[:18] == 3).all() and (row[42:58] == 3).all() and (row[82:] == 3).all()
    between = row[38:42]  # from 1 to 3, by way of what lies between
    assert ((between >= 1) & (between <= 3)).all() and (np.diff(between) > 0).all()


def test_a_region_sees_one_window_and_the_background_around_itself():
    weight = np.zeros(100)
    weight[40:50] = 1
    latents, noise = np.ones((1, 1, 1, 100)), np.full((1, 1, 1, 100), 7.0)
    seen = []
    background = {9: noise, 1: None}.get
    denoise = regional_denoiser(
        [(constant(1.0, seen), weight)], 16, 8, lambda timestep: background(int(timestep))
    )
    output = denoise(latents, 9)
    denoise(latents, 1)
    focused, open_ = (x[0, 0, 0] for x in seen)
    assert len(focused) == 16
    assert (focused == 7).sum() == 6 and (focused[3:13] == 1).all()
    assert (open_ == 1).all()
    assert (output[..., 40:50] == 1).all() and (output[..., :40] == 0).all()


def test_a_long_region_is_denoised_in_windows():
    seen = []
    denoise = regional_denoiser([(constant(1.0, seen), np.ones(40))], 16, 8, lambda t: None)
    assert (denoise(np.zeros((1, 1, 1, 40)), 0) == 1).all()
    assert [x.shape[-1] for x in seen] == [16] * 4
