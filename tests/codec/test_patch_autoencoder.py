"""The patch autoencoder: a linear transform with an exact inverse, and a refinement."""

import pytest
import torch

from auffusion_cli.checkpoints.load_torch import load_autoencoder
from auffusion_cli.codec.patch_autoencoder import PatchAutoencoder
from auffusion_cli.errors import CheckpointError

SIZES = {
    "n_mels": 32,
    "patch_size": 4,
    "space_to_depth": 2,
    "refinement_channels": 8,
    "refinement_blocks": 1,
}


@pytest.fixture
def images():
    """(6, 1, 32, 24): smooth pictures, so that few components hold most of them."""
    coarse = torch.rand(6, 1, 8, 6, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, scale_factor=4, mode="bilinear")


def test_shapes_and_range(images):
    model = PatchAutoencoder(**SIZES, n_coefficients=5)
    model.fit(images)
    latent = model.encode(images.expand(-1, 3, -1, -1))
    assert (model.downsample, model.latent_channels) == (8, 20)
    assert latent.shape == (6, 20, 4, 3)
    image = model.decode(latent)
    assert image.shape == (6, 3, 32, 24)
    assert image.min() >= 0 and image.max() <= 1
    assert torch.equal(image[:, 0], image[:, 2])


def test_with_all_components_nothing_is_lost(images):
    model = PatchAutoencoder(**SIZES, n_coefficients=16)
    assert model.fit(images) < 1e-5
    # The refinement starts as the identity.
    torch.testing.assert_close(model.decode(model.encode(images))[:, :1], images)


def test_the_components_are_the_principal_ones(images):
    """By another way: the singular values of the centred patches."""
    model = PatchAutoencoder(**SIZES, n_coefficients=3, finest_std=1.0)
    error = model.fit(images)
    patches = images.unfold(2, 4, 4).unfold(3, 4, 4)[:, 0]  # (N, rows, columns, 4, 4)
    patches = patches.flatten(3)
    centred = (patches - patches.mean(dim=(0, 2), keepdim=True)).flatten(0, 2)
    _, values, vectors = torch.linalg.svd(centred, full_matrices=False)
    torch.testing.assert_close(model.coefficient_scale, values[:3] / len(centred) ** 0.5)
    overlap = (model.components @ vectors[:3].T).abs()
    torch.testing.assert_close(overlap, torch.eye(3), atol=1e-3, rtol=0)
    rebuilt = centred @ vectors[:3].T @ vectors[:3]
    assert error == pytest.approx((rebuilt - centred).abs().mean().item(), rel=1e-3)


def test_the_latent_has_the_deviations_asked_for(images):
    model = PatchAutoencoder(**{**SIZES, "space_to_depth": 1}, n_coefficients=3, finest_std=0.5)
    model.fit(images)
    latent = model.encode(images).transpose(0, 1).flatten(1)
    deviations = latent.square().mean(dim=1).sqrt()
    torch.testing.assert_close(deviations, torch.tensor([1.0, 0.75, 0.5]), rtol=1e-4, atol=0)


def test_a_fit_in_chunks_is_the_same_fit(images, monkeypatch):
    whole, parts = (PatchAutoencoder(**SIZES, n_coefficients=4) for _ in range(2))
    error = whole.fit(images)
    monkeypatch.setattr("auffusion_cli.codec.patch_autoencoder.FIT_CHUNK", 4)
    assert parts.fit(images.half()) == pytest.approx(error, rel=0.02)
    parts.fit(images)
    for name in ("patch_mean", "components", "coefficient_scale"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name))


def test_images_without_enough_components_are_fitted_too():
    model = PatchAutoencoder(**SIZES, n_coefficients=4)
    model.fit(torch.full((2, 1, 32, 8), 0.5))
    latent = model.encode(torch.full((1, 1, 32, 8), 0.5))
    assert latent.isfinite().all() and latent.abs().max() < 1


def test_it_is_saved_and_loaded(images, tmp_path):
    model = PatchAutoencoder(**SIZES, n_coefficients=5)
    model.fit(images)
    torch.nn.init.normal_(model.refinement.conv_out.weight, std=0.01)
    model.save_pretrained(tmp_path / "vae")
    loaded = load_autoencoder(tmp_path / "vae")
    assert isinstance(loaded, PatchAutoencoder)
    latent = model.encode(images)
    assert torch.equal(loaded.encode(images), latent)
    assert torch.equal(loaded.decode(latent), model.decode(latent))


def test_a_texture_part_is_saved_and_loaded(images, tmp_path):
    model = PatchAutoencoder(**SIZES, n_coefficients=5, texture_channels=4)
    model.fit(images)
    model.save_pretrained(tmp_path)
    loaded = load_autoencoder(tmp_path)
    assert torch.equal(loaded.texture_strength(images), model.texture_strength(images))
    assert PatchAutoencoder(**SIZES, n_coefficients=5).texture is None


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"patch_size": 5}, "must divide n_mels"),
        ({"patch_size": 0}, "must divide n_mels"),
        ({"patch_size": 2, "space_to_depth": 1}, "multiple of 4"),
        ({"n_coefficients": 17}, "1 to 16"),
        ({"n_coefficients": 0}, "1 to 16"),
        ({"finest_std": 0.0}, "finest_std"),
    ],
)
def test_sizes_that_do_not_fit_are_told(sizes, message):
    with pytest.raises(ValueError, match=message):
        PatchAutoencoder(**{**SIZES, "n_coefficients": 5, **sizes})


def test_a_folder_with_such_sizes_is_refused(tmp_path):
    PatchAutoencoder(**SIZES, n_coefficients=5).save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"patch_size": 4', '"patch_size": 5'))
    with pytest.raises(CheckpointError, match="must divide n_mels"):
        load_autoencoder(tmp_path)
