"""Cnn14 against PANNs' description, torchlibrosa and random weights in the published layout.

While this was written, the network was also compared with the one in the package audioldm-eval
0.0.3, with the same random weights: embeddings and logits differed by less than 1e-6 of their norm.
"""

import numpy as np
import pytest
import torch

from auffusion_cli.errors import CheckpointError
from auffusion_cli.evaluation import cnn14
from auffusion_cli.evaluation.protocols import WAVE_DATASET
from published_networks import cnn14_state, reference_cnn14

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def state():
    return cnn14_state()


@pytest.fixture(scope="module")
def network(state):
    network = cnn14.Cnn14()
    network.load_state_dict(cnn14.published_state(state), strict=True)
    return network


@pytest.fixture(scope="module")
def embedder(network):
    return cnn14.Cnn14Embedder(network, WAVE_DATASET, "0" * 64)


def clip(n_samples: int, seed: int = 0) -> torch.Tensor:
    """A tone that fades into noise, then silence."""
    time_s = torch.arange(n_samples) / 16_000
    noise = torch.randn(n_samples, generator=torch.Generator().manual_seed(seed))
    x = 0.5 * torch.sin(2 * torch.pi * 440 * time_s) * (-4 * time_s).exp() + 0.05 * noise
    x[n_samples * 3 // 4 :] = 0
    return x


def test_is_what_the_paper_describes(embedder, state):
    waveform = clip(40_000)
    (found,) = embedder.embed([waveform])
    with torch.no_grad():
        embedding, logits = reference_cnn14(state, waveform)
    assert found.embeddings.shape == (1, 2048) and found.logits.shape == (527,)
    assert (found.embeddings > 0).mean() > 0.2  # the weights do not make it trivial
    for ours, theirs in ((found.embeddings[0], embedding), (found.logits, logits)):
        difference = np.linalg.norm(ours - theirs.numpy())
        assert difference < 1e-4 * np.linalg.norm(theirs.numpy())


def test_front_end_is_torchlibrosas():
    stft = pytest.importorskip("torchlibrosa.stft", exc_type=ImportError)
    spectrogram = stft.Spectrogram(n_fft=512, hop_length=160, win_length=512)
    log_mel = stft.LogmelFilterBank(sr=16000, n_fft=512, n_mels=64, fmin=50, fmax=8000, top_db=None)
    ours = cnn14.LogMel()
    waveform = torch.stack([clip(40_000), clip(40_000, seed=1)])
    torch.testing.assert_close(ours.melW, log_mel.melW.detach(), atol=1e-7, rtol=0)
    expected = log_mel(spectrogram(waveform))
    found = ours(waveform)
    assert found.shape == expected.shape == (2, 1, 251, 64)
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)  # decibels


def test_a_clip_does_not_depend_on_those_beside_it(embedder):
    clips = [clip(32_000), clip(40_000, 1), 0.1 * clip(32_000, 2)]
    together = list(embedder.embed(clips))
    for waveform, found in zip(clips, together, strict=True):
        (alone,) = embedder.embed([waveform])
        np.testing.assert_allclose(found.embeddings, alone.embeddings, atol=1e-4, rtol=1e-4)
        np.testing.assert_allclose(found.logits, alone.logits, atol=1e-4, rtol=1e-4)
    assert np.abs(together[0].logits - together[2].logits).max() > 0.01


def test_the_shortest_clip_that_leaves_something(embedder):
    (found,) = embedder.embed([clip(cnn14.MIN_SAMPLES)])
    assert np.isfinite(found.logits).all()


@pytest.mark.parametrize("n_samples", [31 * 160 * 32, 33 * 160 * 32 + 17])
@torch.inference_mode()
def test_a_long_clip_in_parts_is_the_clip_as_a_whole(network, monkeypatch, n_samples):
    waveform = clip(n_samples)[None] + 0.1 * clip(n_samples, 3).flip(0)
    whole = network(waveform)
    sizes = []
    outputs = network.outputs
    monkeypatch.setattr(network, "outputs", lambda x: sizes.append(x.shape[2]) or outputs(x))
    monkeypatch.setattr(cnn14, "OUTPUTS_AT_ONCE", 8)
    for found, expected in zip(network(waveform), whole, strict=True):
        assert torch.linalg.norm(found - expected) < 1e-5 * torch.linalg.norm(expected)
    assert len(sizes) > 3 and max(sizes) <= 8 * 32 + 2 * cnn14.CONTEXT_COLUMNS + 31
    # The context is needed, and that it is enough is no accident of these weights.
    monkeypatch.setattr(cnn14, "CONTEXT_COLUMNS", 64)
    less, _ = network(waveform)
    assert torch.linalg.norm(less - whole[0]) > 1e-5 * torch.linalg.norm(whole[0])


def test_parts_of_the_spectrogram_are_those_of_the_whole():
    waveform = torch.stack([clip(40_000), clip(40_000, seed=1)])
    ours = cnn14.LogMel()
    whole = ours(waveform)
    for start, stop in ((0, 4), (0, 100), (100, 251), (247, 251), (3, 17)):
        torch.testing.assert_close(
            ours(waveform, start, stop), whole[:, :, start:stop], atol=1e-4, rtol=0
        )


@pytest.mark.parametrize("part", ["real", "imag"])
def test_another_transform_is_refused(state, part):
    name = f"spectrogram_extractor.stft.conv_{part}.weight"
    with pytest.raises(CheckpointError, match=f"{name}.*another network"):
        cnn14.published_state(state | {name: state[name] * 1.01})
    with pytest.raises(CheckpointError, match=f"lack tensor '{name}'"):
        cnn14.published_state({key: value for key, value in state.items() if key != name})
