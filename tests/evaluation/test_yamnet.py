"""YAMNet's windows, features and loading, with stand-ins for LiteRT and for the published file."""

import numpy as np
import pytest
import torch

from auffusion_cli.errors import CheckpointError, UsageError
from auffusion_cli.evaluation import yamnet
from auffusion_cli.evaluation.protocols import PROTOCOLS
from auffusion_cli.evaluation.published import published_network
from auffusion_cli.evaluation.yamnet import HOP_SAMPLES, WINDOW_SAMPLES, YamnetEmbedder, windows

AUDIO_INPUT = PROTOCOLS["yamnet"].classifier.audio_input
NO_LITERT = "no LiteRT: pip install 'auffusion[yamnet]'"


def level_network(window):
    """The window's mean as embedding, its largest sample as the probability of class 7."""
    probabilities = np.zeros(yamnet.N_CLASSES, np.float32)
    probabilities[7] = window.max()
    return np.full(yamnet.EMBEDDING_DIM, window.mean(), np.float32), probabilities


class FakeInterpreter:
    """LiteRT's interpreter of a network that returns the first two samples."""

    def __init__(self, input_shape=(WINDOW_SAMPLES,), output_shape=(1, 521), embedding=(1, 1024)):
        self.tensors = [
            {"index": 3, "shape": np.array(input_shape), "dtype": np.float32},
            {"index": 5, "shape": np.array([1, 1024]), "dtype": np.int8},
            {"index": 8, "shape": np.array(embedding), "dtype": np.float32},
            {"index": 9, "shape": np.array(output_shape), "dtype": np.float32},
        ]
        self.given = None

    def get_input_details(self):
        return self.tensors[:1]

    def get_output_details(self):
        return self.tensors[-1:]

    def get_tensor_details(self):
        return self.tensors

    def set_tensor(self, index, value):
        assert index == 3
        self.given = value

    def invoke(self):
        pass

    def get_tensor(self, index):
        return {8: np.full((1, 1024), self.given[0]), 9: np.full((1, 521), self.given[1])}[index]


@pytest.mark.parametrize(
    ("n_samples", "n_windows"),
    [(1, 1), (WINDOW_SAMPLES, 1), (WINDOW_SAMPLES + 1, 2), (WINDOW_SAMPLES + 3 * HOP_SAMPLES, 4)],
)
def test_windows_hold_every_sample(n_samples, n_windows):
    samples = np.arange(1, n_samples + 1, dtype=np.float32)
    found = windows(samples)
    assert found.shape == (n_windows, WINDOW_SAMPLES) and found.dtype == np.float32
    for i, window in enumerate(found):
        start = i * HOP_SAMPLES
        expected = samples[start : start + WINDOW_SAMPLES]
        np.testing.assert_array_equal(window[: len(expected)], expected)
        assert not window[len(expected) :].any()


def test_a_clip_has_its_mean_embedding_and_the_largest_logits():
    embedder = YamnetEmbedder(level_network, AUDIO_INPUT, "0" * 64)
    soft, loud = torch.full((WINDOW_SAMPLES,), 0.25), torch.full((WINDOW_SAMPLES,), 0.75)
    alone, together = embedder.embed([soft])[0], embedder.embed([soft, torch.cat([soft, loud])])
    np.testing.assert_array_equal(alone.embeddings, together[0].embeddings)
    assert together[1].embeddings.shape == (1, 1024) and together[1].logits.shape == (521,)
    assert 0.25 < together[1].embeddings[0, 0] < 0.75
    assert together[1].logits[7] == pytest.approx(np.log(0.75 / 0.25))
    assert np.isfinite(together[1].logits).all() and together[1].logits[0] < -16
    assert embedder.embed([torch.ones(9)])[0].logits[7] == pytest.approx(16.1, abs=0.1)


def test_the_classes_have_their_names():
    names = yamnet.class_names()
    assert len(set(names)) == yamnet.N_CLASSES
    assert (names[0], names[69], names[494]) == ("Speech", "Dog", "Silence")


def test_tensors_are_found_by_their_shapes(tmp_path):
    run = yamnet.as_network(FakeInterpreter(), tmp_path)
    embedding, probabilities = run(np.array([2.0, 0.5]))
    assert (embedding == 2).all() and embedding.shape == (1024,)
    assert (probabilities == 0.5).all() and probabilities.shape == (521,)


@pytest.mark.parametrize(
    "shapes", [{"input_shape": (1, 96, 64)}, {"output_shape": (1, 527)}, {"embedding": (1, 256)}]
)
def test_other_networks_are_refused(tmp_path, shapes):
    with pytest.raises(CheckpointError, match=r"other\.tflite: not YAMNet"):
        yamnet.as_network(FakeInterpreter(**shapes), tmp_path / "other.tflite")


def test_without_litert_the_error_has_the_command_that_installs_it(tmp_path, monkeypatch):
    monkeypatch.setattr(yamnet.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="needs LiteRT") as raised:
        yamnet.load_yamnet(tmp_path / "yamnet.tflite")
    assert "auffusion[yamnet]" in raised.value.hint


@pytest.mark.parametrize("content", [b"", b"TFL3", b"no network" * 1000])
def test_files_that_hold_no_network_are_refused(tmp_path, content):
    pytest.importorskip("ai_edge_litert", reason=NO_LITERT)
    (tmp_path / "yamnet.tflite").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"yamnet\.tflite: not a network"):
        yamnet.load_yamnet(tmp_path / "yamnet.tflite")


def test_the_published_file_knows_silence_and_a_tone():
    pytest.importorskip("ai_edge_litert", reason=NO_LITERT)
    known = published_network("yamnet")
    if not known.here:
        pytest.skip("no yamnet.tflite in the cache: `auffusion models list` has its place")
    embedder = YamnetEmbedder(yamnet.load_yamnet(known.place), AUDIO_INPUT, known.sha256)
    time_s = torch.arange(2 * 16_000) / 16_000
    tone = 0.5 * torch.sin(2 * torch.pi * 1000 * time_s)
    silence, beep = embedder.embed([torch.zeros(16_000), tone])
    assert embedder.class_names[silence.logits.argmax()] == "Silence"
    first = {embedder.class_names[i] for i in np.argsort(beep.logits)[-5:]}
    assert first & {"Sine wave", "Beep, bleep", "Dial tone", "Tuning fork"}
    assert np.abs(silence.embeddings - beep.embeddings).max() > 0.1
