"""Tokenizers without transformers give its tokens; positions are those of the networks."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import (
    AlbertConfig,
    AutoModel,
    AutoTokenizer,
    BertConfig,
    ClapTextConfig,
    ClapTextModel,
    CLIPTextConfig,
    CLIPTextModel,
    DistilBertConfig,
    ElectraConfig,
    MPNetConfig,
    RobertaConfig,
    T5Config,
)

from auffusion_cli.checkpoints.names import embedded_folder
from auffusion_cli.checkpoints.text import (
    count_positions,
    load_text,
    load_text_encoder,
    load_tokenizer,
    save_tokenizer,
    text_config,
)
from auffusion_cli.errors import CheckpointError
from layouts import as_stable_diffusion

GOLDEN = Path(__file__).parents[1] / "golden" / "tiny-auffusion" / "text_encoder_0"
FOLDERS = {"minilm": embedded_folder() / "text_encoder_0", "clip": GOLDEN}


@pytest.mark.parametrize("name", FOLDERS)
@settings(max_examples=60)
@given(
    prompt=st.text(max_size=120) | st.sampled_from(["", "a dog", "Dog barking, in RAIN!", "é🐸"])
)
def test_the_tokens_are_transformers_own(name, prompt):
    theirs = THEIRS.setdefault(name, AutoTokenizer.from_pretrained(FOLDERS[name]))
    encoder = OURS.setdefault(name, load_text_encoder(FOLDERS[name], 32))
    assert encoder.ids(prompt)[:30] == theirs(prompt, verbose=False)["input_ids"][:30]
    kept = theirs(prompt, verbose=False, return_offsets_mapping=True)["offset_mapping"][:30]
    assert [(token.start, token.end) for token in encoder.tokens(prompt)][:30] == kept[:32]


OURS, THEIRS = {}, {}


def test_padding_and_cutting_are_transformers_own():
    theirs = AutoTokenizer.from_pretrained(GOLDEN)
    tokenizer = load_tokenizer(GOLDEN)
    assert tokenizer.pad_id == theirs.pad_token_id
    assert tokenizer.unknown_id == theirs.unk_token_id
    assert tokenizer.max_length == theirs.model_max_length
    encoder = load_text_encoder(GOLDEN, 77)
    long = "dog rain " * 60
    assert encoder.ids(long) == theirs(long, truncation=True, max_length=77)["input_ids"]


def test_a_tokenizer_in_an_older_form_is_converted(tmp_path):
    folder = tmp_path / "older"
    shutil.copytree(GOLDEN, folder)
    (folder / "tokenizer.json").unlink()
    older, newer = load_tokenizer(folder), load_tokenizer(GOLDEN)
    for prompt in ("a dog barks", "", "rain 🐸"):
        assert older.rules.encode(prompt).ids == newer.rules.encode(prompt).ids
    assert (older.pad_id, older.max_length) == (newer.pad_id, newer.max_length)


@pytest.mark.parametrize("name", FOLDERS)
def test_a_saved_tokenizer_is_the_same_to_both(name, tmp_path):
    save_tokenizer(load_tokenizer(FOLDERS[name]), tmp_path)
    again, theirs = load_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    first = load_tokenizer(FOLDERS[name])
    expected = first.rules.encode("dog barking in rain").ids
    assert again.rules.encode("dog barking in rain").ids == expected
    assert theirs("dog barking in rain")["input_ids"] == expected
    assert (again.pad_id, again.unknown_id, again.max_length) == (
        first.pad_id,
        first.unknown_id,
        first.max_length,
    )


def positions_of(network: nn.Module) -> int | None:
    """As the network's own table of positions tells."""
    for name, module in network.named_modules():
        if name.endswith(("position_embedding", "position_embeddings")) and isinstance(
            module, nn.Embedding
        ):
            # RoBERTa's kind counts positions from behind the padding index.
            return module.num_embeddings - (
                0 if module.padding_idx is None else module.padding_idx + 1
            )
    return None


SMALL = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
SMALL |= {"intermediate_size": 8, "max_position_embeddings": 40}


@pytest.mark.parametrize(
    "network",
    [
        lambda: AutoModel.from_config(BertConfig(**SMALL)),
        lambda: AutoModel.from_config(RobertaConfig(**SMALL)),
        lambda: AutoModel.from_config(RobertaConfig(**SMALL | {"pad_token_id": 3})),
        lambda: AutoModel.from_config(MPNetConfig(**SMALL)),
        lambda: AutoModel.from_config(ElectraConfig(**SMALL, embedding_size=8)),
        lambda: AutoModel.from_config(AlbertConfig(**SMALL, embedding_size=8)),
        lambda: AutoModel.from_config(
            DistilBertConfig(
                vocab_size=20, dim=8, n_layers=1, n_heads=1, max_position_embeddings=40
            )
        ),
        lambda: CLIPTextModel(CLIPTextConfig(**SMALL)),
        lambda: ClapTextModel(ClapTextConfig(**SMALL, pad_token_id=1)),
        lambda: AutoModel.from_config(
            T5Config(vocab_size=20, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=1)
        ),
    ],
)
def test_positions_are_those_of_the_network(network, tmp_path):
    network = network()
    network.config.save_pretrained(tmp_path)
    assert count_positions(text_config(tmp_path), tmp_path) == positions_of(network)


@pytest.mark.parametrize(
    "change",
    [
        {"max_position_embeddings": "many"},
        {"max_position_embeddings": 0},
        {"max_position_embeddings": 10**9},
        {"model_type": "roberta", "pad_token_id": "x"},
        {"model_type": "roberta", "pad_token_id": 10**6},
    ],
)
def test_impossible_positions_are_named(change, tmp_path):
    config = json.loads((GOLDEN / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="max_position_embeddings"):
        count_positions(text_config(tmp_path), tmp_path)


def test_stable_diffusions_layout(tiny_checkpoint, tmp_path):
    folder = as_stable_diffusion(shutil.copytree(tiny_checkpoint, tmp_path / "sd"))
    (encoder,) = load_text(folder).encoders
    assert encoder.pads_tokens and encoder.max_length == encoder.max_tokens == 77
