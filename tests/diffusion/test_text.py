"""Prompts -> conditioning, against the original's numbers and against the encoders themselves."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
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
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from auffusion_cli.checkpoints.text_encoders import load_text
from auffusion_cli.diffusion.text import (
    ConditionAdapter,
    TextConditioner,
    TextEncoder,
)

GOLDEN = Path(__file__).parents[1] / "golden"
WIDTH = 32
LONG_PROMPT = "dog rain " * 60


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(GOLDEN / "tiny-auffusion" / "text_encoder_0")


@pytest.fixture(scope="module")
def golden_text() -> TextConditioner:
    return load_text(GOLDEN / "tiny-auffusion", torch.float32)


def make_encoder(kind: str, tokenizer, **options) -> TextEncoder:
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
    return TextEncoder(tokenizer, model, **{"max_length": 20} | options)


def make_conditioner(encoders: list[TextEncoder]) -> TextConditioner:
    torch.manual_seed(1)
    adapters = [ConditionAdapter(e.encoder.config.hidden_size, WIDTH) for e in encoders]
    return TextConditioner(encoders, adapters)


def test_embeddings_equal_the_originals(golden_text):
    expected = np.load(GOLDEN / "tiny-auffusion-expected.npz")
    conditioning = golden_text.encode([str(expected["prompt"])])
    both = torch.cat([conditioning.uncond, conditioning.cond]).numpy()
    np.testing.assert_allclose(both, expected["prompt_embeds"], atol=1e-5)


def test_padded_rows_are_the_adapters_image_of_zero(golden_text):
    conditioning = golden_text.encode(["dog"])
    (adapter,) = golden_text.adapters
    expected = adapter(torch.zeros(1, 1, 32))[0, 0]
    torch.testing.assert_close(conditioning.cond[0, -1], expected)
    assert expected.abs().max() > 0
    assert not conditioning.uncond.any()


def test_negative_prompts_are_encoded_like_prompts(golden_text):
    conditioning = golden_text.encode(["dog", "rain"], ["", "dog"])
    assert not conditioning.uncond[0].any()
    torch.testing.assert_close(conditioning.uncond[1], conditioning.cond[0], rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["clip", "t5", "clap", "bert"])
def test_encoders_follow_the_reference(kind, tokenizer):
    encoder = make_encoder(kind, tokenizer)
    ids = torch.tensor([tokenizer("a dog")["input_ids"]])
    with torch.no_grad():
        states = encoder.encoder(ids).last_hidden_state[0]
    hidden_states = encoder("a dog")
    n_tokens = ids.shape[1]
    torch.testing.assert_close(hidden_states[:n_tokens], states)
    assert hidden_states.shape == (20, states.shape[1])
    assert not hidden_states[n_tokens:].any()


@pytest.mark.parametrize("kind", ["clip", "t5", "clap", "bert"])
def test_long_outputs_are_cut_after_the_encoder(kind, tokenizer):
    encoder = make_encoder(kind, tokenizer, max_length=4)
    ids = torch.tensor([tokenizer("a dog barks")["input_ids"]])
    assert ids.shape[1] > 4
    with torch.no_grad():
        states = encoder.encoder(ids).last_hidden_state[0]
    torch.testing.assert_close(encoder("a dog barks"), states[:4])


@pytest.mark.parametrize(
    "kind, max_tokens", [("clip", 77), ("t5", None), ("clap", 32), ("bert", 32)]
)
def test_prompts_beyond_the_encoders_positions_are_truncated(kind, max_tokens, tokenizer):
    encoder = make_encoder(kind, tokenizer, max_length=20)
    assert encoder.max_tokens == max_tokens
    assert encoder(LONG_PROMPT).isfinite().all()


def test_several_encoders_are_concatenated_along_tokens(tokenizer):
    clip, t5 = make_encoder("clip", tokenizer), make_encoder("t5", tokenizer, max_length=15)
    text = make_conditioner([clip, t5])
    cond = text.encode(["a dog"]).cond
    assert cond.shape == (1, 35, WIDTH)
    with torch.no_grad():
        torch.testing.assert_close(cond[0, :20], text.adapters[0](clip("a dog")))
        torch.testing.assert_close(cond[0, 20:], text.adapters[1](t5("a dog")))
    assert text.unconditional().shape == (35, WIDTH)


def test_an_embedding_does_not_depend_on_its_batch(golden_text):
    prompts = ["a dog", LONG_PROMPT, "rain", "a dog"]
    together = golden_text.encode(prompts, ["", "rain", "", "dog"])
    for i, prompt in enumerate(prompts):
        assert torch.equal(together.cond[i], golden_text.encode([prompt]).cond[0])


@pytest.mark.parametrize("kind", ["clip", "t5"])
@pytest.mark.parametrize("pads_tokens", [False, True])
def test_many_prompts_at_once_are_encoded_as_one_by_one(kind, pads_tokens, tokenizer):
    encoder = make_encoder(kind, tokenizer, max_length=9, pads_tokens=pads_tokens)
    prompts = ["rain", "a dog barks", "rain", "", "wind", "a dog and a cat and a cow and a bell"]
    together = encoder.encode_many(prompts)
    assert together.shape[:2] == (len(prompts), 9)
    for prompt, states in zip(prompts, together, strict=True):
        torch.testing.assert_close(states, encoder(prompt), rtol=1e-5, atol=1e-5)


def test_equal_prompts_are_encoded_once(tokenizer):
    text = make_conditioner([make_encoder("clip", tokenizer)])
    calls = []
    text.encoders[0].register_forward_hook(lambda *_: calls.append(1))
    text.encode(["dog", "rain", "dog", "dog"])
    assert len(calls) == 2


def test_hidden_states_and_adapt_make_encode(tokenizer):
    text = make_conditioner([make_encoder("clip", tokenizer), make_encoder("bert", tokenizer)])
    states = [
        torch.stack(rows) for rows in zip(*map(text.hidden_states, ["dog", "rain"]), strict=True)
    ]
    adapted = text.adapt(states)
    torch.testing.assert_close(adapted, text.encode(["dog", "rain"]).cond)
    adapted.sum().backward()
    assert text.adapters[0].proj.weight.grad is not None
    assert all(not p.requires_grad for p in text.encoders.parameters())


def test_overflow_names_the_tail_that_is_cut(golden_text):
    assert golden_text.overflow("a dog barks") is None
    tail = golden_text.overflow(LONG_PROMPT + "END")
    assert tail.endswith("END")
    assert LONG_PROMPT.startswith("dog rain") and (LONG_PROMPT + "END").endswith(tail)


def test_overflow_beyond_max_length_though_the_encoder_sees_it(tokenizer):
    text = make_conditioner(
        [make_encoder("t5", tokenizer, max_length=8), make_encoder("t5", tokenizer, max_length=4)]
    )
    tail = text.overflow("dog rain dog rain dog rain dog rain")
    short = text.encoders[0].overflow("dog rain dog rain dog rain dog rain")
    assert tail.endswith(short) and len(tail) > len(short)


def test_what_no_encoder_has_a_token_for_is_unknown(golden_text):
    words = {"[UNK]": 0, "dog": 1, "barks": 2}
    backend = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    backend.pre_tokenizer = Whitespace()
    few_words = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    text = make_conditioner([make_encoder("bert", few_words)])
    assert text.unknown("dog barks") == []
    assert text.unknown("a dog barks 🐸 a") == ["a", "🐸"]
    # Bytes stand for all there is: what one encoder reads is not lost.
    assert golden_text.unknown("a dog barks 🐸") == []
    both = make_conditioner([make_encoder("bert", few_words), golden_text.encoders[0]])
    assert both.unknown("a dog barks 🐸") == []


@settings(max_examples=30, deadline=None)
@given(prompt=st.text(max_size=300))
def test_any_prompt_can_be_encoded(golden_text, prompt):
    tail = golden_text.overflow(prompt)
    assert tail is None or prompt.rstrip().endswith(tail)
    assert golden_text.encode([prompt]).cond.shape == (1, 77, 32)


# --- an adapter that was taught other wordings


def taught_adapter(n_layers=2):
    torch.manual_seed(0)
    adapter = ConditionAdapter(48, 64, n_layers)
    torch.nn.init.normal_(adapter.reword.out.weight)
    return adapter.eval()


def states_of(n_tokens, n_rows=9):
    states = torch.zeros(1, n_rows, 48)
    states[:, :n_tokens] = torch.randn(1, n_tokens, 48)
    return states


def test_an_adapter_to_be_taught_begins_as_the_one_that_was_trained():
    trained, adapter = ConditionAdapter(48, 64), ConditionAdapter(48, 64, n_layers=2)
    missing, unexpected = adapter.load_state_dict(trained.state_dict(), strict=False)
    assert not unexpected and all(name.startswith("reword.") for name in missing)
    states = states_of(5)
    torch.testing.assert_close(adapter(states), trained(states))


def test_a_taught_adapter_moves_the_tokens_and_not_the_padding():
    adapter, states = taught_adapter(), states_of(5)
    plain = adapter.norm(adapter.proj(states))
    taught = adapter(states)
    torch.testing.assert_close(taught[:, 5:], plain[:, 5:])
    assert (taught[:, :5] - plain[:, :5]).abs().amin(dim=(0, 2)).min() > 0


def test_a_taught_adapter_hears_the_sentence_but_not_how_far_it_is_padded():
    adapter, states = taught_adapter(), states_of(5)
    torch.testing.assert_close(adapter(states)[:, :6], adapter(states[:, :6]))
    other = states.clone()
    other[:, 4] += 1
    assert not torch.allclose(adapter(states)[:, 0], adapter(other)[:, 0])


def test_a_taught_adapter_can_take_nothing_at_all():
    assert taught_adapter()(torch.zeros(1, 9, 48)).isfinite().all()
