"""The tagger: clips of any length, whatever else is in the batch; a file that says what it is."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from auffusion_cli.errors import CheckpointError
from auffusion_cli.evaluation.protocols import PROTOCOLS
from auffusion_cli.evaluation.tagger import (
    EMBEDDING_DIM,
    WINDOW_SAMPLES,
    Tagger,
    TaggerEmbedder,
    TaggerFeatures,
    load_tagger,
    save_tagger,
    windows,
)
from auffusion_cli.evaluation.weights import load_embedder

ROOT = Path(__file__).parents[2]
KINDS = ("rain", "dog_barking", "piano")


@pytest.fixture(scope="module")
def tagger() -> Tagger:
    torch.manual_seed(0)
    return Tagger(KINDS).eval()


@pytest.fixture(scope="module")
def embedder(tagger) -> TaggerEmbedder:
    return TaggerEmbedder(tagger, PROTOCOLS["embedded"].classifier.audio_input, "0" * 64)


def noise(n_samples: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(n_samples, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("n_samples", "n_windows"),
    [
        (1, 1),
        (WINDOW_SAMPLES, 1),
        (WINDOW_SAMPLES * 3 // 2 - 1, 1),  # less than half a window is left
        (WINDOW_SAMPLES * 3 // 2, 2),
        (WINDOW_SAMPLES * 2, 2),
    ],
)
def test_windows_cover_a_clip(n_samples, n_windows):
    cut = windows(torch.ones(n_samples))
    assert cut.shape == (n_windows, WINDOW_SAMPLES)
    assert cut.sum() == min(n_samples, n_windows * WINDOW_SAMPLES)


def test_one_window_gives_what_the_network_gives(embedder, tagger):
    clip = noise(WINDOW_SAMPLES)
    (features,) = embedder.embed([clip])
    heard = TaggerFeatures()(clip[None])
    assert features.embeddings.shape == (1, EMBEDDING_DIM)
    np.testing.assert_allclose(features.embeddings, tagger.embed(heard).detach().numpy(), atol=1e-5)
    expected = tagger(heard).log_softmax(dim=1)[0].detach().numpy()
    np.testing.assert_allclose(features.logits, expected, atol=1e-5)


def test_long_clips_are_the_mean_of_their_windows(embedder):
    first, second = noise(WINDOW_SAMPLES, 1), noise(WINDOW_SAMPLES, 2)
    a, b, both = embedder.embed([first, second, torch.cat([first, second])])
    np.testing.assert_allclose(both.embeddings, (a.embeddings + b.embeddings) / 2, atol=1e-5)
    np.testing.assert_allclose(both.logits, (a.logits + b.logits) / 2, atol=1e-5)


def test_a_clip_does_not_depend_on_its_batch(embedder):
    clips = [noise(32_000 + 5000 * i, i) for i in range(20)]
    together = list(embedder.embed(clips))
    for clip, features in zip(clips, together, strict=True):
        (alone,) = embedder.embed([clip])
        np.testing.assert_allclose(alone.embeddings, features.embeddings, atol=1e-5)
        np.testing.assert_allclose(alone.logits, features.logits, atol=1e-5)


def test_it_reads_back_what_it_wrote(tagger, tmp_path):
    save_tagger(tagger, tmp_path, note="random")
    again = load_tagger(tmp_path)
    assert again.kinds == KINDS
    for name, tensor in again.state_dict().items():
        written = tagger.state_dict()[name]
        assert torch.equal(tensor, written.half() if written.is_floating_point() else written)
        assert tensor.dtype == written.dtype
    features = torch.rand(2, 64, 128)
    assert torch.allclose(again(features), tagger(features), atol=0.02)
    assert json.loads((tmp_path / "config.json").read_text())["note"] == "random"


@pytest.mark.parametrize(
    "config", ['{"kinds": ["a"]}', '{"format_version": 1, "kinds": [1]}', "[]", "{", '{"kinds": 1}']
)
def test_another_configuration_is_refused(tagger, tmp_path, config):
    save_tagger(tagger, tmp_path)
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_tagger(tmp_path)


def test_weights_of_other_kinds_are_refused(tagger, tmp_path):
    save_tagger(tagger, tmp_path)
    (tmp_path / "config.json").write_text('{"format_version": 1, "kinds": ["a", "b"]}')
    with pytest.raises(CheckpointError, match="head"):
        load_tagger(tmp_path)


def test_the_tagger_of_this_package_knows_the_kinds_of_its_recipe():
    config = yaml.safe_load((ROOT / "recipes" / "embedded" / "tagger.yaml").read_text())
    embedder, _ = load_embedder(PROTOCOLS["embedded"].classifier)
    assert embedder.tagger.kinds == tuple(config["scenes"]["kinds"])
