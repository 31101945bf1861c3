"""VGGish against its description, with random weights in the published layout.

While this was written, input and network were also compared with torchvggish 0.2, with the same
random weights: inputs differed by less than 2e-6, embeddings by less than 1e-6 of their size.
"""

import numpy as np
import pytest
import torch

from auffusion_cli.evaluation import vggish
from auffusion_cli.evaluation.protocols import WAVE_DATASET
from published_networks import reference_vggish, reference_vggish_input, vggish_state

torch.set_num_threads(1)


def noise(n_samples: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(n_samples, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def state():
    return vggish_state()


@pytest.fixture(scope="module")
def embedder(state):
    network = vggish.VGGish()
    network.load_state_dict(state, strict=True)
    return vggish.VGGishEmbedder(network, WAVE_DATASET, "0" * 64)


def test_has_the_published_names(state):
    layers = [f"features.{i}" for i in (0, 3, 6, 8, 11, 13)] + [
        f"embeddings.{i}" for i in (0, 2, 4)
    ]
    assert set(state) == {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")}
    assert state["embeddings.0.weight"].shape == (4096, 12288)


def test_is_what_its_description_says(embedder, state):
    waveform = noise(40_000)
    log_mel = reference_vggish_input(waveform.double().numpy())
    assert log_mel.shape == (2, 96, 64)
    np.testing.assert_allclose(embedder.spectrogram(vggish.frames(waveform)), log_mel, atol=1e-4)
    with torch.no_grad():
        expected = reference_vggish(state, torch.from_numpy(log_mel).float()).numpy()
    (found,) = embedder.embed([waveform])
    assert found.logits is None
    assert (found.embeddings < 0).any()  # without the last ReLU
    difference = np.linalg.norm(found.embeddings - expected)
    assert difference < 1e-4 * np.linalg.norm(expected)


@pytest.mark.parametrize(
    ("n_samples", "n_frames"),
    [(0, 0), (399, 0), (15_599, 0), (15_600, 1), (30_959, 1), (30_960, 2), (32_000, 2)],
)
def test_only_whole_frames_count(n_samples, n_frames):
    assert len(vggish.frames(noise(n_samples))) == n_frames


def test_clips_of_all_lengths_at_once(embedder):
    clips = [noise(32_000, 1), noise(100, 2), noise(16_000, 3)]
    together = list(embedder.embed(clips))
    assert [found.embeddings.shape for found in together] == [(2, 128), (0, 128), (1, 128)]
    for waveform, found in zip(clips, together, strict=True):
        (alone,) = embedder.embed([waveform])
        np.testing.assert_allclose(found.embeddings, alone.embeddings, atol=1e-4, rtol=1e-4)
    assert [found.embeddings.shape for found in embedder.embed([noise(10)])] == [(0, 128)]


def test_a_long_clip_is_heard_a_part_at_a_time(embedder, monkeypatch):
    waveform = noise(15_360 * 7 + 1_000)
    (whole,) = embedder.embed([waveform])
    sizes = []
    spectrogram = embedder.spectrogram.forward
    monkeypatch.setattr(
        embedder.spectrogram, "forward", lambda x: sizes.append(len(x)) or spectrogram(x)
    )
    monkeypatch.setitem(vggish.FRAMES_AT_ONCE, "cpu", 3)
    monkeypatch.setattr(vggish, "PICTURES_AT_ONCE", 2)
    (parts,) = embedder.embed([waveform])
    assert sizes == [3, 3, 1] and whole.embeddings.shape == (7, 128)
    np.testing.assert_allclose(parts.embeddings, whole.embeddings, atol=1e-4, rtol=1e-4)
