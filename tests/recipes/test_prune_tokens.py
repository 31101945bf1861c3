"""Pruning a text encoder changes nothing of what it says to Latin text."""

import json
import sys
from pathlib import Path

import pytest
import tokenizers
import torch
from tokenizers import models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel

from auffusion_cli.checkpoints.names import embedded_folder
from auffusion_cli.checkpoints.text import load_text_encoder as load_reader
from auffusion_cli.checkpoints.text_encoders import load_text_encoder

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes" / "embedded"))
import prune_tokens

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
KEPT = [*"abdg", *"!°æ", "dog", "bark", "rain", "##s", "##ing", "##a", "##²"]
DROPPED = ["[unused0]", "##!", "##犬", "犬", "д", "##о", "α", "ा", "。", "..."]
PROMPTS = ["Dogs barking, rain!", "a dog", "a° dægs²", "", "a dog [unused0] barks ... again"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    """A random BERT, and the same pruned."""
    whole = tmp_path_factory.mktemp("whole")
    tokens = ["[PAD]", *DROPPED[:3], *SPECIAL[1:], *KEPT[:5], *DROPPED[3:], *KEPT[5:]]
    vocab = {token: number for number, token in enumerate(tokens)}
    rules = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    rules.normalizer = normalizers.BertNormalizer()
    rules.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [(token, vocab[token]) for token in ("[CLS]", "[SEP]")]
    rules.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=ends)
    rules.add_special_tokens(SPECIAL)
    rules.enable_padding(length=128)
    rules.save(str(whole / "tokenizer.json"))
    (whole / "tokenizer_config.json").write_text('{"model_max_length": 200, "unk_token": "[UNK]"}')
    (whole / "vocab.txt").write_text("\n".join(tokens))

    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = BertConfig(vocab_size=len(vocab), max_position_embeddings=200, **sizes)
    BertModel(config).save_pretrained(whole)

    pruned = tmp_path_factory.mktemp("pruned")
    for path in whole.iterdir():
        (pruned / path.name).write_bytes(path.read_bytes())
    assert prune_tokens.prune(pruned) == (len(tokens), len(SPECIAL) + len(KEPT))
    return whole, pruned


def test_latin_text_means_the_same(folders):
    for prompt in PROMPTS:
        before, after = (
            load_text_encoder(folder, torch.float32)(
                torch.tensor([load_reader(folder, 32).ids(prompt)])
            ).last_hidden_state
            for folder in folders
        )
        assert torch.equal(before, after), prompt


def test_other_scripts_are_unknown_and_their_tokens_gone(folders):
    _, pruned = folders
    reader = load_reader(pruned, 32)
    assert reader.unknown("a dog д 犬 о") == ["д", "犬", "о"]
    assert reader.max_tokens == reader.tokenizer.max_length == prune_tokens.N_POSITIONS
    assert sorted(reader.tokenizer.rules.get_vocab()) == sorted(SPECIAL + KEPT)
    numbers = reader.tokenizer.rules.get_vocab(with_added_tokens=True).values()
    assert sorted(numbers) == list(range(len(SPECIAL + KEPT)))
    assert not (pruned / "vocab.txt").exists()


def test_pruning_again_changes_nothing(folders):
    _, pruned = folders
    before = {path.name: path.read_bytes() for path in pruned.iterdir()}
    prune_tokens.prune(pruned)
    assert {path.name: path.read_bytes() for path in pruned.iterdir()} == before


def test_the_embedded_model_is_pruned():
    folder = embedded_folder() / "text_encoder_0"
    rules = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    n_tokens = json.loads((folder / "config.json").read_text())["vocab_size"]
    assert prune_tokens.kept_tokens(rules, set(SPECIAL)) == list(range(n_tokens))
