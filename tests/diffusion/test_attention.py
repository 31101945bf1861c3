import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from auffusion_cli.diffusion.attention import (
    AttentionRecorder,
    Layer,
    attending,
    cross_layers,
    grid_of,
    prompt_to_prompt,
)
from auffusion_cli.diffusion.denoiser import guided_denoiser
from auffusion_cli.diffusion.tokens import align_tokens, rows_of_words
from auffusion_cli.engines.torch_networks import TorchNetworks
from auffusion_cli.errors import AuffusionError
from auffusion_cli.requests.word_edits import edit_words, find_words
from auffusion_cli.signal.noise import Noise

PROMPT = "dog barking in rain, dog"
T = 77


@pytest.fixture(scope="module")
def text(wordy_model):
    return wordy_model.text


@pytest.fixture(scope="module")
def unet(wordy_model):
    return wordy_model.networks.unet


@pytest.fixture(scope="module")
def latents():
    return Noise(0).normal((2, 16, 8, 6))


TIME = 500


def denoiser(unet, text, prompt, guidance_scale=3.0):
    predict = TorchNetworks(unet=unet).predict
    return guided_denoiser(predict, text.encode([prompt]), guidance_scale)


def plain(layer, queries, keys, values, bias):
    return F.scaled_dot_product_attention(queries, keys, values)


# --- the processors


def test_attending_without_a_change_changes_no_bit(unet, text, latents):
    before = dict(unet.attn_processors)
    expected = denoiser(unet, text, PROMPT)(latents[:1], TIME)
    seen = []

    def watch(layer, *tensors):
        seen.append(layer)
        return plain(layer, *tensors)

    with attending(unet, watch):
        got = denoiser(unet, text, PROMPT)(latents[:1], TIME)
    assert np.array_equal(got, expected)
    assert unet.attn_processors == before
    assert {layer.name for layer in seen if layer.is_cross} == set(cross_layers(unet))
    assert {layer.is_cross for layer in seen} == {True, False}


def test_the_processors_come_back_whatever_happens(unet):
    before = dict(unet.attn_processors)
    with pytest.raises(KeyboardInterrupt), attending(unet, plain):
        raise KeyboardInterrupt
    assert unet.attn_processors == before


def test_a_strange_layer_is_refused(unet):
    from diffusers.models.attention_processor import AttnProcessor

    before = dict(unet.attn_processors)
    unet.set_attn_processor(AttnProcessor())
    try:
        with pytest.raises(AuffusionError, match="AttnProcessor"), attending(unet, plain):
            pass
    finally:
        unet.set_attn_processor(before)


# --- prompt-to-prompt


def denoise_pair(unet, text, words, latents, guidance_scale=3.0, **until):
    source = denoiser(unet, text, words.source, guidance_scale)
    edited = denoiser(unet, text, words.prompt, guidance_scale)
    with prompt_to_prompt(unet, source, edited, align_tokens(text, words), **until) as denoise:
        return denoise(latents, TIME)


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
@pytest.mark.parametrize("words", [edit_words(PROMPT), edit_words(PROMPT, reweights=["rain=1.0"])])
def test_an_edit_of_nothing_changes_no_bit(unet, text, latents, guidance_scale, words):
    pair = np.concatenate([latents[:1], latents[:1]])
    expected = denoiser(unet, text, PROMPT, guidance_scale)(latents[:1], TIME)
    for until in (0.0, math.inf):
        both = {"cross_until": until, "self_until": until}
        source, edited = np.split(denoise_pair(unet, text, words, pair, guidance_scale, **both), 2)
        assert np.array_equal(source, expected) and np.array_equal(edited, expected)


def test_without_control_an_edit_is_the_other_prompt(unet, text, latents):
    words = edit_words(PROMPT, ["dog=cat"])
    never = {"cross_until": math.inf, "self_until": math.inf}
    _, edited = np.split(denoise_pair(unet, text, words, latents, **never), 2)
    assert np.array_equal(edited, denoiser(unet, text, words.prompt)(latents[1:], TIME))


def explicit_maps(control, edit, takes_cross, takes_self):
    """Prompt-to-prompt as the paper writes it, on the maps themselves: section 3.2."""
    moved, own, weights = map(torch.from_numpy, (edit.moved, edit.own, edit.weights))

    def attend(layer, queries, keys, values, bias):
        maps = (queries @ keys.mT / math.sqrt(queries.shape[-1])).softmax(dim=-1)
        if control["is_source"]:
            control[layer] = maps[1:]
        elif layer.is_cross:
            conditional = maps[1:]
            if takes_cross:
                conditional = control[layer] @ moved + conditional * own
            maps = torch.cat([maps[:1], conditional * weights])
        elif takes_self:
            maps = torch.cat([maps[:1], control[layer]])
        return maps @ values

    return attend


@pytest.mark.parametrize("takes_cross", [True, False])
@pytest.mark.parametrize("takes_self", [True, False])
@pytest.mark.parametrize(
    "words",
    [
        edit_words(PROMPT, ["dog=cat", "rain=thunderstorm"]),
        edit_words(PROMPT, refine="a loud … far away"),
        edit_words(PROMPT, ["dog#1=cat"], "loud …", ["loud=2", "rain=-1"]),
    ],
)
def test_it_is_what_the_paper_does_to_the_maps(unet, text, latents, words, takes_cross, takes_self):
    control = {"is_source": True}
    edit = align_tokens(text, words)
    with attending(unet, explicit_maps(control, edit, takes_cross, takes_self)):
        source = denoiser(unet, text, words.source)(latents[:1], TIME)
        control["is_source"] = False
        edited = denoiser(unet, text, words.prompt)(latents[1:], TIME)
    until = {"cross_until": TIME if takes_cross else 501, "self_until": TIME if takes_self else 501}
    got = denoise_pair(unet, text, words, latents, **until)
    np.testing.assert_allclose(got, np.concatenate([source, edited]), atol=1e-5, rtol=1e-4)
    unchanged = denoiser(unet, text, words.source)(latents[1:], TIME)
    assert np.abs(got[1:] - unchanged).max() > 1e-4


def test_fine_grids_keep_their_own_self_attention(unet, text, latents, monkeypatch):
    words = edit_words(PROMPT, ["dog=cat"])
    # 4 x 3 positions are more than 11
    monkeypatch.setattr("auffusion_cli.diffusion.attention.MAX_SELF_POSITIONS", 11)
    never, always = {"self_until": math.inf}, {"self_until": 0.0}
    assert np.array_equal(
        denoise_pair(unet, text, words, latents, **never),
        denoise_pair(unet, text, words, latents, **always),
    )


# --- maps


def recorded(unet, text, latents, **options):
    rows = rows_of_words(text, PROMPT)
    chosen = {"steps": [0], "layers": list(cross_layers(unet)), "heads": None} | options
    recorder = AttentionRecorder(rows, T, (8, 6), **chosen)
    with attending(unet, recorder):
        for _ in range(2):
            output = denoiser(unet, text, PROMPT)(latents[:1], TIME)
    return recorder.word_maps([word.text for word in find_words(PROMPT)]), output


def test_maps_are_shares_of_the_attention(unet, text, latents):
    maps, output = recorded(unet, text, latents)
    assert np.array_equal(output, denoiser(unet, text, PROMPT)(latents[:1], TIME))
    assert maps.words == ("dog", "barking", "in", "rain", "dog")
    assert maps.by_step.shape == (1, 5, 8, 6)
    assert maps.by_layer.shape == (len(cross_layers(unet)), 5, 8, 6)
    torch.testing.assert_close(maps.mean, maps.by_layer.mean(dim=0))
    assert (maps.mean > 0).all() and (maps.mean.sum(dim=0) < 1).all()


def test_maps_are_the_conditional_branchs_own(unet, text, latents):
    """By hand for one layer and head: where the conditional row looks, lowest frequency first."""
    layer = next(iter(cross_layers(unet)))
    seen = []

    def watch(which, queries, keys, values, bias):
        if which.is_cross and which.name == layer:
            scores = queries[-1, 1] @ keys[-1, 1].mT / math.sqrt(queries.shape[-1])
            seen.append(scores.softmax(dim=-1))
        return plain(which, queries, keys, values, bias)

    with attending(unet, watch):
        denoiser(unet, text, PROMPT)(latents[:1], TIME)
    word = seen[0][:, rows_of_words(text, PROMPT)[1]].sum(dim=1).reshape(8, 6).flip(0)
    maps, _ = recorded(unet, text, latents, layers=[layer], heads=[1])
    torch.testing.assert_close(maps.by_layer[0, 1], word)


def test_steps_are_chosen(unet, text, latents):
    maps, _ = recorded(unet, text, latents, steps=[1])
    assert maps.steps == (1,) and maps.by_step.shape[0] == 1 and maps.by_step.any()


@pytest.mark.parametrize("lies", [False, True])
def test_maps_stand_upright_and_count_no_hidden_token(lies):
    """2 tokens that are shown, 1 that is not; a layer of (frequency, time) = (2, 3)."""
    scores = torch.arange(6.0).reshape(2, 3)  # of the word, highest frequency first
    seen = scores.flip(0).T if lies else scores
    queries = torch.stack([seen.flatten(), torch.ones(6)], dim=1)[None, None]
    keys = torch.tensor([[math.sqrt(2), 0.0], [0.0, 0.0], [9.0, 9.0]])[None, None]
    bias = torch.tensor([0.0, 0.0, -1e9])[None, None, None]
    recorder = AttentionRecorder([[0]], 8, (2, 3), [0], ["a"], lies=lies)
    recorder(Layer("a", is_cross=True), queries, keys, keys, bias)
    maps = recorder.word_maps(["dog"]).mean[0]
    torch.testing.assert_close(maps, scores.sigmoid().flip(0))


def test_a_layers_grid():
    assert grid_of(32 * 128, (32, 128)) == (32, 128)
    assert grid_of(8 * 32, (32, 128)) == (8, 32)
    assert grid_of(4 * 3, (8, 5)) == (4, 3)
    with pytest.raises(AuffusionError, match="100 positions"):
        grid_of(100, (32, 128))
