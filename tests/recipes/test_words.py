"""Wordings of the kinds, what they are composed to, and what they do in a UNet."""

import random
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes" / "embedded"))

import build_vocabulary
import teach_words
import words as recipe


@pytest.fixture(scope="module")
def words():
    return recipe.load_words()


def test_every_kind_has_wordings_and_every_key_is_a_kind_or_one_of_its_captions(words):
    assert {words.kind_of(key) for key in words.wordings} == set(words.kinds)
    assert all(isinstance(w, str) for wordings in words.wordings.values() for w in wordings)


def test_no_wording_stands_for_two_kinds(words):
    every = [w.lower() for wordings in words.wordings.values() for w in wordings]
    assert len(set(every)) == len(every)


def test_about_a_fifth_is_held_out_and_never_taught(words):
    held_out = {w for key in words.wordings for w in words.held_out(key)}
    assert 0.17 < len(held_out) / sum(map(len, words.wordings.values())) < 0.23
    assert recipe.is_held_out("Puppy") == recipe.is_held_out("puppy")
    taught = {e.prompt for e in recipe.single_examples(words, 0, random.Random(0))}
    assert not taught & held_out
    tests = recipe.held_out_examples(words, random.Random(0))
    assert {example.prompt for example in tests["single"]} == held_out


def test_compositions_mean_known_phrases_of_their_kinds(words):
    examples = list(recipe.composed_examples(words, 300, random.Random(0)))
    assert {len(example.kinds) for example in examples} == {2, 3}
    for example in examples:
        assert len(set(example.kinds)) == len(example.kinds)
        assert "{" not in example.prompt + example.caption
    again = list(recipe.composed_examples(words, 300, random.Random(0)))
    assert again == examples


def small_unet():
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    return UNet2DConditionModel(
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=4,
        norm_num_groups=4,
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    ).eval()


@torch.no_grad()
def test_an_effect_is_what_the_cross_attention_gives():
    unet = small_unet()
    names = [name for name, _ in unet.named_modules() if name.endswith("attn2")]
    layers = {name: unet.get_submodule(name) for name in names}
    hidden = torch.randn(1, 5, 16)
    queries = {name: layer.to_q(hidden)[0] for name, layer in layers.items()}
    text = torch.randn(2, 7, 32)
    text[:, 4:] = text[:1, 4:5]  # padding: equal rows
    effects = teach_words.Effects(unet, queries, n_rows=7)
    *attended, pooled = effects.parts(text[:, :5])
    for layer, found in zip(layers.values(), attended, strict=True):
        expected = layer(hidden.expand(2, -1, -1), encoder_hidden_states=text)
        torch.testing.assert_close(found, expected.flatten(1))
    torch.testing.assert_close(pooled, unet.add_embedding(text))


@torch.no_grad()
def test_two_kinds_are_two_apart_in_units_of_their_spread():
    unet = small_unet()
    name = next(name for name, _ in unet.named_modules() if name.endswith("attn2"))
    effects = teach_words.Effects(unet, {name: torch.randn(3, 16)}, n_rows=4)
    text = torch.randn(200, 4, 32)
    effects.fit(text)
    found = effects(text)
    assert (found[::2] - found[1::2]).square().sum(dim=1).mean() == pytest.approx(2, rel=0.2)


def test_wordings_alike_are_kept_once_for_each_kind():
    sentences = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [1.0, 0.0]])
    assert build_vocabulary.different(sentences, [0, 0, 0, 1]) == [0, 2, 3]
