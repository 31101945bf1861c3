"""The embedded model's graphs in ONNX Runtime give the numbers of its networks in torch."""

from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch

from auffusion_cli.checkpoints.layout import part_folders
from auffusion_cli.checkpoints.load import load_model
from auffusion_cli.checkpoints.names import embedded_folder
from auffusion_cli.engines.onnx_networks import OnnxNetworks, Runtime, choose_provider
from auffusion_cli.errors import CheckpointError, UsageError


@pytest.fixture(scope="module")
def networks() -> OnnxNetworks:
    return OnnxNetworks(part_folders(embedded_folder()), "cpu", n_threads=2)


@pytest.fixture(scope="module")
def model():
    return load_model("embedded", device="cpu", dtype="fp32", engine="torch")


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def assert_same(found: np.ndarray, expected: torch.Tensor) -> None:
    assert found.dtype == np.float32
    scale = float(expected.abs().max())
    np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-5 * scale)


def test_sizes(networks):
    sizes = networks.sizes
    assert (sizes.text_widths, sizes.cross_attention_dim, sizes.has_adapters) == ((384,), 256, True)
    assert (sizes.latent_channels, sizes.downsample) == (32, 16)
    assert (sizes.has_texture, sizes.has_vocoder) == (True, False)


@torch.no_grad()
def test_words(networks, model):
    ids = np.array([[101, 3899, 19372, 102], [101, 4542, 1999, 102]])
    states = networks.hidden_states(0, ids, None)
    encoder = model.networks.text_encoders[0]
    assert_same(states, encoder(torch.from_numpy(ids)).last_hidden_state)
    padded = np.pad(states, ((0, 0), (0, 28), (0, 0)))
    assert_same(networks.adapt(0, padded), model.networks.adapters[0](torch.from_numpy(padded)))


@pytest.mark.parametrize(("n_sounds", "width"), [(1, 32), (3, 48)])
@torch.no_grad()
def test_a_step(networks, model, n_sounds, width):
    latents, text = normal(n_sounds, 32, 16, width), normal(n_sounds, 32, 256)
    expected = model.networks.unet(
        torch.from_numpy(latents),
        torch.tensor(123.75),
        encoder_hidden_states=torch.from_numpy(text),
    ).sample
    assert_same(networks.predict(latents, 123.75, text), expected)


def test_calls_at_once_share_a_session(monkeypatch):
    made = []
    make = Runtime.session
    monkeypatch.setattr(Runtime, "session", lambda self, *args: made.append(0) or make(self, *args))
    networks = OnnxNetworks(part_folders(embedded_folder()), "cpu", n_threads=2, optimised=False)
    latents, text = normal(3, 32, 16, 8), normal(3, 5, 256)
    together = networks.predict(latents, 500.0, text)
    alone = [networks.predict(latents[[i]], 500.0, text[[i]]) for i in range(3)]
    np.testing.assert_allclose(together, np.concatenate(alone), rtol=0, atol=1e-5)
    assert len(made) == 1
    together = networks.decode_latents(latents)
    alone = [networks.decode_latents(latents[[i]]) for i in range(3)]
    np.testing.assert_allclose(together, np.concatenate(alone), rtol=0, atol=1e-5)
    assert len(made) == 2


def test_a_unet_that_was_begun_is_made_once_with_threads_for_its_calls(monkeypatch):
    n_threads = []
    make = onnxruntime.InferenceSession

    def spy(content, options, providers):
        n_threads.append(options.intra_op_num_threads)
        return make(content, options, providers=providers)

    monkeypatch.setattr(onnxruntime, "InferenceSession", spy)
    latents, text = normal(2, 32, 16, 8), normal(2, 5, 256)
    for n_rows in (1, 2):
        networks = OnnxNetworks(
            part_folders(embedded_folder()), "cpu", n_threads=2, optimised=False
        )
        networks.begin_unet(n_rows)
        networks.hidden_states(0, np.array([[101, 102]]), None)
        networks.predict(latents[:n_rows], 500.0, text[:n_rows])
        networks.predict(latents, 500.0, text)
    # Of the text encoder and of the UNet, with one caller and then with two.
    assert n_threads == [2, 2, 2, 1]


def test_a_unet_that_could_not_be_begun_fails_when_it_is_called(tmp_path):
    parts = replace(part_folders(embedded_folder()), unet=tmp_path)
    networks = OnnxNetworks(parts, "cpu", n_threads=1, optimised=False)
    networks.begin_unet(1)
    with pytest.raises(CheckpointError, match=r"model\.onnx"):
        networks.predict(normal(1, 32, 16, 8), 500.0, normal(1, 5, 256))


@torch.no_grad()
def test_image_and_texture(networks, model):
    autoencoder = model.networks.autoencoder
    image = np.random.default_rng(0).random((2, 1, 256, 80), np.float32)
    latents = networks.encode_image(image)
    assert_same(latents, autoencoder.encode(torch.from_numpy(image)))
    decoded = networks.decode_latents(latents)
    assert_same(decoded, autoencoder.decode(torch.from_numpy(latents))[:, :1])
    noise = normal(1, 1, 256, 80)
    strength = autoencoder.texture_strength(torch.from_numpy(decoded))
    expected = strength * autoencoder.lost(torch.from_numpy(noise))
    assert_same(networks.texture(decoded, noise), expected)


def test_a_batch_that_does_not_fit_the_graph_is_one_line(networks):
    with pytest.raises(CheckpointError, match=r"model.onnx: does not work in ONNX Runtime: .+"):
        networks.predict(normal(1, 3, 16, 32), 1.0, normal(1, 32, 256))


def test_devices_that_are_not_here_are_refused():
    assert choose_provider("cpu") == "cpu"
    with pytest.raises(UsageError, match="--device 'tpu' is not one"):
        choose_provider("tpu")
    with pytest.raises(UsageError, match="has no DmlExecutionProvider"):
        choose_provider("directml")


def test_graphs_are_read_when_they_are_called(networks, tmp_path):
    parts = part_folders(embedded_folder())
    words = replace(parts, unet=tmp_path, vae=tmp_path)
    for optimised in (True, False):
        brief = OnnxNetworks(words, "cpu", n_threads=1, optimised=optimised)
        ids = np.array([[101, 3899, 102]])
        expected = networks.hidden_states(0, ids, None)
        np.testing.assert_allclose(brief.hidden_states(0, ids, None), expected, atol=1e-4)
    with pytest.raises(CheckpointError, match="missing"):
        brief.read_all()
