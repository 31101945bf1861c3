"""CLAP through transformers, with a tiny random model."""

import json
import random
import shutil
import string

import numpy as np
import pytest
import torch
from transformers import (
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    RobertaTokenizer,
)

from auffusion_cli.errors import CheckpointError
from auffusion_cli.evaluation.clap import load_clap
from auffusion_cli.evaluation.protocols import CLAP_INPUT

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of the published layout; its feature extractor is the published one's."""
    folder = tmp_path_factory.mktemp("clap")
    torch.manual_seed(0)
    letters = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "Ġ", *string.ascii_lowercase]
    config = ClapConfig(
        text_config={
            "vocab_size": len(letters),
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 16,
            "max_position_embeddings": 40,
        },
        audio_config={
            "hidden_size": 32,
            "patch_embeds_hidden_size": 4,
            "depths": [1, 1, 1, 1],
            "num_attention_heads": [1, 1, 1, 1],
            "enable_fusion": False,
        },
        projection_dim=8,
    )
    ClapModel(config).save_pretrained(folder)
    ClapFeatureExtractor(truncation="rand_trunc").save_pretrained(folder)
    vocabulary = {letter: i for i, letter in enumerate(letters)}
    RobertaTokenizer(vocab=vocabulary, merges=[], model_max_length=38).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clap(folder):
    return load_clap(folder, CLAP_INPUT, "cpu")


def sound(n_samples: int) -> torch.Tensor:
    return torch.sin(torch.arange(n_samples) * 0.05)


def test_embeds_texts_and_sounds_into_one_space(clap, folder):
    texts = clap.embed_texts(["a dog barks", "rain", "a dog barks"])
    (short, whole) = clap.embed([sound(48_000), sound(480_000)])
    assert texts.shape == (3, 8) and short.embeddings.shape == (1, 8)
    assert texts.dtype == short.embeddings.dtype == np.float32
    rows = np.concatenate([texts, short.embeddings, whole.embeddings])
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(texts[0], texts[2], atol=1e-6)
    assert np.abs(texts[0] - texts[1]).max() > 1e-4
    assert clap.embedding_dim == 8 and clap.n_classes is None and len(clap.weights_sha256) == 64


def test_is_what_transformers_computes(clap, folder):
    """The whole model at once, by its own forward pass: cosines of both embeddings."""
    waveform, texts = sound(100_000), ["a dog barks in the rain", "wind"]
    model = ClapModel.from_pretrained(folder).eval()
    audio = ClapFeatureExtractor.from_pretrained(folder)(
        waveform.numpy(), sampling_rate=48_000, return_tensors="pt"
    )
    words = RobertaTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        both = model(**audio, input_ids=words["input_ids"], attention_mask=words["attention_mask"])
    (heard,) = clap.embed([waveform])
    np.testing.assert_allclose(
        clap.embed_texts(texts) @ heard.embeddings[0],
        (both.text_embeds @ both.audio_embeds.T)[:, 0].numpy(),
        atol=1e-5,
    )


def test_nothing_is_drawn_at_random(clap):
    waveform = sound(480_000)
    first = clap.embed([waveform])
    np.random.seed(7)
    random.seed(7)
    torch.manual_seed(7)
    np.testing.assert_array_equal(clap.embed([waveform])[0].embeddings, first[0].embeddings)
    with pytest.raises(AssertionError):  # would be cropped at random
        clap.embed([sound(480_001)])


def test_long_texts_count_by_their_beginning(clap):
    long = "rain " * 100
    np.testing.assert_allclose(
        clap.embed_texts([long]), clap.embed_texts([long + "dogs"]), atol=1e-6
    )
    assert clap.embed_texts([]).shape == (0, 8)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("no weights", "no CLAP model: looked for model.safetensors or pytorch_model.bin"),
        ("truncated", "not a CLAP model that can be loaded"),
        ("no config", "not a CLAP model that can be loaded"),
        ("other rate", "takes sounds at 44,100 Hz, but the protocol has 48,000 Hz"),
        ("tensor lacking", "lacks 1 tensors, such as 'audio_projection.linear1.weight'"),
    ],
)
def test_damage_is_named(folder, tmp_path, damage, message):
    from safetensors.torch import load_file, save_file

    copy = shutil.copytree(folder, tmp_path / "clap")
    weights = copy / "model.safetensors"
    if damage == "no weights":
        weights.unlink()
    elif damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "no config":
        (copy / "config.json").unlink()
    elif damage == "other rate":
        config = json.loads((copy / "preprocessor_config.json").read_text())
        config["sampling_rate"] = 44_100
        (copy / "preprocessor_config.json").write_text(json.dumps(config))
    else:
        tensors = load_file(weights)
        del tensors["audio_projection.linear1.weight"]
        save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=message):
        load_clap(copy, CLAP_INPUT, "cpu")
