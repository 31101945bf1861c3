"""The judge in NumPy computes what the tagger's architecture does in torch, and matches words."""

import numpy as np
import pytest
import torch

from auffusion_cli.evaluation.judge import (
    ClapJudge,
    asks_for_voices,
    features_of,
    kinds_meant,
    load_kind_judge,
)
from auffusion_cli.evaluation.tagger import (
    Tagger,
    TaggerFeatures,
    load_tagger,
    save_tagger,
    windows,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    tagger = Tagger(["dog_barking", "rain", "man_speaking"]).eval()
    for module in tagger.modules():  # as training leaves them
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    folder = tmp_path_factory.mktemp("judge")
    save_tagger(tagger, folder)
    return folder


@pytest.fixture(scope="module")
def tagger(folder):
    return load_tagger(folder)


@pytest.fixture(scope="module")
def judge(folder):
    return load_kind_judge(folder)


@pytest.fixture(scope="module", params=[0.7, 5.12, 9.0])
def waveform(request):
    n = round(request.param * 16_000)
    return (np.random.default_rng(0).normal(size=n) * np.linspace(0, 0.3, n)).astype(np.float32)


def test_it_computes_what_torch_does(tagger, judge, waveform):
    parts = windows(torch.from_numpy(waveform))
    features = TaggerFeatures()(parts)
    assert np.allclose(features_of(parts.numpy()), features, atol=1e-4)
    with torch.inference_mode():
        expected = tagger(features).log_softmax(dim=1).mean(0)
    assert np.allclose(judge.log_probabilities(waveform), expected, atol=1e-3)


def test_the_score_is_that_of_the_kinds_that_the_words_mean(judge, waveform):
    dog, rain, man = judge.log_probabilities(waveform)
    assert judge.score(waveform, "a dog barks") == pytest.approx(dog, abs=1e-6)
    both = judge.score(waveform, "a dog barking in heavy rain")
    assert both == pytest.approx((dog + rain) / 2, abs=1e-6)
    assert judge.score(waveform, "a theremin") is None
    assert judge.score(waveform, "a cat meowing") is None  # of which this one has no class
    assert judge.hears_speech(waveform) == bool(np.exp(man) > 0.5)


def test_words():
    assert kinds_meant("a dog barking in the rain") == {"dog_barking", "rain"}
    for words in ("a man speaking", "people in a tavern", "she talks", "an old woman", "laughter"):
        assert asks_for_voices(words), words
    for words in ("a dog barking", "rain on a roof", "an explosion", "footsteps on snow"):
        assert not asks_for_voices(words), words


def test_the_judge_of_the_package_knows_every_kind_of_the_embedded_model():
    from auffusion_cli.evaluation.judge import _kinds

    judge = load_kind_judge()
    assert {kind.name.replace(" ", "_") for kind in _kinds()} == set(judge.kinds)


def test_clap_judges_by_the_cosine():
    class Embedder:
        class audio_input:
            sample_rate_hz = 48_000
            max_samples = 480_000

        def embed(self, waveforms):
            assert [len(waveform) for waveform in waveforms] == [48_000]
            return [type("Features", (), {"embeddings": np.array([[0.6, 0.8]])})]

        def embed_texts(self, texts):
            assert texts == ["a dog"]
            return np.array([[1.0, 0.0]])

    assert ClapJudge(Embedder()).score(np.zeros(16_000, np.float32), "a dog\n") == 0.6
