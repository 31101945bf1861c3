import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes" / "embedded"))
import fit_texture

from auffusion_cli.codec.patch_autoencoder import PatchAutoencoder


def test_lines_have_no_variance():
    along_time = torch.randn(2, 1, 32, 1).expand(-1, -1, -1, 48)
    along_frequency = torch.randn(2, 1, 1, 48).expand(-1, -1, 32, -1)
    variance = fit_texture.patch_variance(along_time + along_frequency, 16)
    assert variance.shape == (2, 1, 2, 3)
    torch.testing.assert_close(variance, torch.zeros(2, 1, 2, 3), atol=1e-9, rtol=0)


def test_independent_values_have_their_variance():
    values = 0.3 * torch.randn(1, 1, 256, 256, generator=torch.Generator().manual_seed(0))
    variance = fit_texture.patch_variance(values, 16)
    assert variance.mean().item() == pytest.approx(0.09, rel=0.05)


def test_the_network_learns_where_an_image_is_rough():
    """Loud patches vary by 1, quiet ones by 0.01."""
    torch.manual_seed(0)
    model = PatchAutoencoder(
        n_mels=32, patch_size=4, space_to_depth=1, n_coefficients=3, texture_channels=8
    )
    level = torch.randint(0, 2, (64, 1, 8, 6)).float()
    images = torch.nn.functional.interpolate(level, scale_factor=4)
    model.fit(images)
    before, after = fit_texture.fit(model, images, 0.01 + 0.99 * level, n_steps=200, seed=0)
    assert after < before - 1
    predicted = model.texture_log_variance(images).exp()
    assert predicted[level == 1].mean() > 0.7 and predicted[level == 0].mean() < 0.1


def test_all_but_the_new_part_stays():
    torch.manual_seed(0)
    plain = PatchAutoencoder(n_mels=32, patch_size=4, space_to_depth=1, n_coefficients=3)
    model = fit_texture.with_texture(plain.half(), 8)
    assert all(t.isfinite().all() for t in model.state_dict().values())
    for name, tensor in plain.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor.float())
    again = fit_texture.with_texture(model, 4)
    assert again.texture.layers[0].out_channels == 4
