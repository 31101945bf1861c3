"""Prompts -> conditioning, against the original's numbers and against the encoders themselves."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Rules
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertModel,
    ClapTextConfig,
    ClapTextModelWithProjection,
    CLIPTextConfig,
    CLIPTextModel,
    T5Config,
    T5EncoderModel,
)

from auffusion_cli.checkpoints.text import count_positions, load_text, load_tokenizer
from auffusion_cli.checkpoints.text_encoders import load_text_networks
from auffusion_cli.diffusion.adapter import ConditionAdapter
from auffusion_cli.diffusion.text import TextConditioner, TextEncoder, TextReader, Tokenizer
from auffusion_cli.engines.torch_networks import TorchNetworks

GOLDEN = Path(__file__).parents[1] / "golden"
WIDTH = 32
LONG_PROMPT = "dog rain " * 60


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer(GOLDEN / "tiny-auffusion" / "text_encoder_0")


@pytest.fixture(scope="module")
def golden_text() -> TextConditioner:
    encoders, adapters = load_text_networks(GOLDEN / "tiny-auffusion", torch.float32)
    networks = TorchNetworks(text_encoders=encoders, adapters=adapters)
    return TextConditioner(load_text(GOLDEN / "tiny-auffusion").encoders, networks)


def make_network(kind: str):
    torch.manual_seed(0)
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    if kind == "clip":
        model = CLIPTextModel(
            CLIPTextConfig(vocab_size=526, hidden_size=24, max_position_embeddings=77, **sizes)
        )
    elif kind == "t5":
        model = T5EncoderModel(
            T5Config(vocab_size=526, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
        )
    elif kind == "clap":
        model = ClapTextModelWithProjection(
            ClapTextConfig(
                vocab_size=526, hidden_size=24, max_position_embeddings=34, pad_token_id=1, **sizes
            )
        )
    else:
        model = BertModel(
            BertConfig(vocab_size=526, hidden_size=24, max_position_embeddings=32, **sizes),
            add_pooling_layer=False,
        )
    return model.eval().requires_grad_(False)


def make_text(kinds: list[str], tokenizer, with_adapters=True, **options) -> TextConditioner:
    """A conditioner of small encoders of these kinds; `options` are those of each encoder."""
    networks = [make_network(kind) for kind in kinds]
    torch.manual_seed(1)
    adapters = [ConditionAdapter(n.config.hidden_size, WIDTH).eval() for n in networks]
    encoders = [
        TextEncoder(
            tokenizer,
            **{
                "max_length": 20,
                "n_positions": count_positions(network.config.to_dict(), Path()),
            }
            | options,
        )
        for network in networks
    ]
    return TextConditioner(
        encoders,
        TorchNetworks(text_encoders=networks, adapters=adapters if with_adapters else None),
    )


def states_by_hand(text: TextConditioner, prompt: str) -> np.ndarray:
    """(n, D_i): what transformers' own tokenizer and the network make of a prompt."""
    tokenizer = AutoTokenizer.from_pretrained(GOLDEN / "tiny-auffusion" / "text_encoder_0")
    with torch.no_grad():
        ids = torch.tensor([tokenizer(prompt)["input_ids"]])
        return text.networks.text_encoders[0](ids).last_hidden_state[0].numpy()


def test_embeddings_equal_the_originals(golden_text):
    expected = np.load(GOLDEN / "tiny-auffusion-expected.npz")
    conditioning = golden_text.encode([str(expected["prompt"])])
    both = np.concatenate([conditioning.uncond, conditioning.cond])
    np.testing.assert_allclose(both, expected["prompt_embeds"], atol=1e-5)


def test_padded_rows_are_the_adapters_image_of_zero(golden_text):
    conditioning = golden_text.encode(["dog"])
    expected = golden_text.networks.adapt(0, np.zeros((1, 1, 32), np.float32))[0, 0]
    np.testing.assert_allclose(conditioning.cond[0, -1], expected, atol=1e-6)
    assert np.abs(expected).max() > 0
    assert not conditioning.uncond.any()


def test_negative_prompts_are_encoded_like_prompts(golden_text):
    conditioning = golden_text.encode(["dog", "rain"], ["", "dog"])
    assert not conditioning.uncond[0].any()
    np.testing.assert_array_equal(conditioning.uncond[1], conditioning.cond[0])


@pytest.mark.parametrize("kind", ["clip", "t5", "clap", "bert"])
def test_encoders_follow_the_reference(kind, tokenizer):
    text = make_text([kind], tokenizer)
    states = states_by_hand(text, "a dog")
    (hidden_states,) = text.hidden_states(0, ["a dog"])
    np.testing.assert_allclose(hidden_states[: len(states)], states, atol=1e-6)
    assert hidden_states.shape == (20, states.shape[1])
    assert not hidden_states[len(states) :].any()


@pytest.mark.parametrize("kind", ["clip", "t5", "clap", "bert"])
def test_long_outputs_are_cut_after_the_encoder(kind, tokenizer):
    text = make_text([kind], tokenizer, max_length=4)
    states = states_by_hand(text, "a dog barks")
    assert len(states) > 4
    (hidden_states,) = text.hidden_states(0, ["a dog barks"])
    np.testing.assert_allclose(hidden_states, states[:4], atol=1e-6)


@pytest.mark.parametrize(
    "kind, max_tokens", [("clip", 77), ("t5", None), ("clap", 32), ("bert", 32)]
)
def test_prompts_beyond_the_encoders_positions_are_truncated(kind, max_tokens, tokenizer):
    text = make_text([kind], tokenizer)
    assert text.encoders[0].max_tokens == max_tokens
    assert np.isfinite(text.hidden_states(0, [LONG_PROMPT])).all()


def test_several_encoders_are_concatenated_along_tokens(tokenizer):
    text = make_text(["clip", "t5"], tokenizer)
    cond = text.encode(["a dog"]).cond
    assert cond.shape == (1, 40, WIDTH)
    for i, part in enumerate((cond[0, :20], cond[0, 20:])):
        expected = text.networks.adapt(i, text.hidden_states(i, ["a dog"]))[0]
        np.testing.assert_allclose(part, expected, atol=1e-6)
    assert text.unconditional().shape == (40, WIDTH)


def test_an_embedding_does_not_depend_on_its_batch(golden_text):
    prompts = ["a dog", LONG_PROMPT, "rain", "a dog"]
    together = golden_text.encode(prompts, ["", "rain", "", "dog"])
    for i, prompt in enumerate(prompts):
        np.testing.assert_array_equal(together.cond[i], golden_text.encode([prompt]).cond[0])


@pytest.mark.parametrize("kind", ["clip", "t5"])
@pytest.mark.parametrize("pads_tokens", [False, True])
@pytest.mark.parametrize("hides_padding", [False, True])
def test_many_prompts_at_once_are_encoded_as_one_by_one(
    kind, pads_tokens, hides_padding, tokenizer
):
    padding = {"pads_tokens": pads_tokens, "hides_padding": hides_padding}
    text = make_text([kind], tokenizer, max_length=9, **padding)
    prompts = ["rain", "a dog barks", "rain", "", "wind", "a dog and a cat and a cow and a bell"]
    together = text.hidden_states(0, prompts)
    assert together.shape[:2] == (len(prompts), 9)
    for prompt, states in zip(prompts, together, strict=True):
        np.testing.assert_allclose(states, text.hidden_states(0, [prompt])[0], atol=1e-5)


def test_stable_diffusions_layout_pads_the_tokens(tokenizer):
    text = make_text(["clip"], tokenizer, with_adapters=False, max_length=9, pads_tokens=True)
    ids = text.encoders[0].ids("a dog")
    padded = torch.tensor([ids + [tokenizer.pad_id] * (9 - len(ids))])
    with torch.no_grad():
        expected = text.networks.text_encoders[0](padded).last_hidden_state.numpy()
    np.testing.assert_allclose(text.encode(["a dog"]).cond, expected, atol=1e-6)
    np.testing.assert_array_equal(text.unconditional(), text.encode([""]).cond[0])


def test_equal_prompts_are_encoded_once(tokenizer):
    text = make_text(["clip"], tokenizer)
    calls = []
    text.networks.text_encoders[0].register_forward_hook(lambda *_: calls.append(1))
    text.encode(["dog", "rain", "dog", "dog"])
    assert len(calls) == 2


def test_overflow_names_the_tail_that_is_cut(golden_text):
    assert golden_text.overflow("a dog barks") is None
    tail = golden_text.overflow(LONG_PROMPT + "END")
    assert tail.endswith("END")
    assert LONG_PROMPT.startswith("dog rain") and (LONG_PROMPT + "END").endswith(tail)


def test_overflow_beyond_max_length_though_the_encoder_sees_it(tokenizer):
    encoders = [TextEncoder(tokenizer, n_rows, None) for n_rows in (8, 4)]
    prompt = "dog rain dog rain dog rain dog rain"
    tail = TextReader(encoders).overflow(prompt)
    short = encoders[0].overflow(prompt)
    assert tail.endswith(short) and len(tail) > len(short)


def test_what_no_encoder_has_a_token_for_is_unknown(golden_text):
    rules = Rules(WordLevel({"[UNK]": 0, "dog": 1, "barks": 2}, unk_token="[UNK]"))
    rules.pre_tokenizer = Whitespace()
    few_words = TextEncoder(Tokenizer(rules, 32, pad_id=0, unknown_id=0), 20, 32)
    text = TextReader([few_words])
    assert text.unknown("dog barks") == []
    assert text.unknown("a dog barks 🐸 a") == ["a", "🐸"]
    # Bytes stand for all there is: what one encoder reads is not lost.
    assert golden_text.unknown("a dog barks 🐸") == []
    assert TextReader([few_words, *golden_text.encoders]).unknown("a dog barks 🐸") == []


@settings(max_examples=30)
@given(prompt=st.text(max_size=300))
def test_any_prompt_can_be_encoded(golden_text, prompt):
    tail = golden_text.overflow(prompt)
    assert tail is None or prompt.rstrip().endswith(tail)
    assert golden_text.encode([prompt]).cond.shape == (1, 77, 32)
