"""One YAML, strict: what is written down is what is trained."""

import dataclasses
import importlib.util
import math
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from auffusion_cli.config import GenerationDefaults
from auffusion_cli.errors import UsageError
from auffusion_cli.parsing import dump_yaml, parse_yaml
from auffusion_cli.training.config import (
    AutoencoderConfig,
    LoopConfig,
    SceneConfig,
    TrainingConfig,
    VocoderConfig,
)
from auffusion_cli.training.config_file import (
    changed_settings,
    dump_config,
    load_config,
    parse_config,
)
from auffusion_cli.training.diffusion_config import (
    FIRST_SCHEDULE,
    DiffusionConfig,
    GenerationConfig,
    TextEncoderConfig,
)


def parse(text: str, **overrides):
    return parse_config(parse_yaml(text, raising=UsageError, where="text"), overrides)


def test_nothing_said_is_the_defaults():
    assert parse_config({}, {}) == TrainingConfig()


def test_values_of_every_type():
    config = parse(
        """
        stage: vocoder
        seed: 3
        loop: {learning_rate: 1e-4, betas: [0.8, 0.9], max_minutes: 2, mixed_precision: bf16}
        scenes: {kinds: [rain, wind], n_cached: 0}
        diffusion:
          text_encoders: [{path: minilm, max_length: 32}]
          unet: {block_out_channels: [32, 64]}
          min_snr_gamma: null
          generation: {steps: 25}
        """
    )
    assert config.stage == "vocoder" and config.seed == 3
    assert config.loop.learning_rate == 1e-4 and config.loop.max_minutes == 2.0
    assert isinstance(config.loop.max_minutes, float)
    assert config.loop.betas == (0.8, 0.9) and config.loop.mixed_precision == "bf16"
    assert config.scenes.kinds == ("rain", "wind") and config.scenes.n_cached == 0
    assert config.diffusion.text_encoders == (TextEncoderConfig("minilm", max_length=32),)
    assert config.diffusion.unet == {"block_out_channels": [32, 64]}
    assert config.diffusion.min_snr_gamma is None
    assert config.diffusion.generation.steps == 25


@pytest.mark.parametrize("word", ["no", '"no"', "bf16", "fp16"])
def test_precisions_also_the_one_that_yaml_takes_for_false(word):
    assert parse(f"loop: {{mixed_precision: {word}}}").loop.mixed_precision == word.strip('"')


def test_true_mels_are_a_word_too():
    assert parse("vocoder: {mels: true}").vocoder.mels == "true"
    assert parse("vocoder: {mels: decoded}").vocoder.mels == "decoded"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr: 1", "lr: unknown name; valid: stage"),
        ("loop: {learningrate: 1}", "loop.learningrate: unknown name"),
        ("diffusion: {generation: {step: 3}}", "diffusion.generation.step: unknown name"),
        ("diffusion: {text_encoders: [{path: x, max: 3}]}", "text_encoders[0].max: unknown name"),
        ("diffusion: {text_encoders: [{name: x}]}", "text_encoders[0].path is missing"),
        ("stage: unet", 'stage is "unet", not one of autoencoder, vocoder, diffusion'),
        ("stage: no", "stage is false, not one of"),
        ("stage: [vocoder]", 'stage is ["vocoder"], not one of'),
        ("loop: {batch_size: 8.5}", "loop.batch_size is 8.5, not a whole number"),
        ("loop: {batch_size: true}", "batch_size is true, not a whole number"),
        ("loop: {batch_size: null}", "batch_size is null, not a whole number"),
        ("loop: {learning_rate: fast}", 'learning_rate is "fast", not a finite number'),
        ("loop: {learning_rate: .nan}", "learning_rate is NaN, not a finite number"),
        ("loop: {learning_rate: .inf}", "learning_rate is Infinity, not a finite number"),
        ("loop: {learning_rate: true}", "learning_rate is true, not a finite number"),
        ("loop: {tensorboard: 1}", "tensorboard is 1, not true or false"),
        ("loop: {mixed_precision: yes}", "mixed_precision is true, not one of no, bf16, fp16"),
        ("loop: {betas: [0.9]}", "betas is [0.9], not a list of 2"),
        ("loop: {betas: 0.9}", "betas is 0.9, not a list"),
        ("loop: 3", "loop is 3, not an object"),
        ("loop:", "loop is null, not an object"),
        ("diffusion: {unet: [1]}", "diffusion.unet is [1], not an object"),
        ("diffusion: {licence: no}", "licence is false, not text"),
        ("scenes: {kinds: rain}", 'kinds is "rain", not a list'),
        ("data: 2024", "data is 2024, not text"),
        ("seed: 2001-99-99", 'seed is "2001-99-99", not a whole number'),
        ("seed: -1", "seed: -1"),
        ("[stage]", "expected a mapping"),
    ],
)
def test_what_does_not_fit_is_named(text, message):
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert message in caught.value.message


def test_an_unknown_key_comes_with_the_known_ones():
    with pytest.raises(UsageError, match=r"scenes\.duration: unknown name; valid: duration_s"):
        parse("scenes: {duration: 5}")


@pytest.mark.parametrize(
    "value",
    [
        "{a: &a [*a]}",
        "[" * 3000,
        "9" * 5000,
        "&a [&b [*b, *b], *a]",
        "!!python/object/apply:print [x]",
    ],
)
def test_hostile_yaml_is_one_short_line(value):
    with pytest.raises(UsageError) as caught:
        parse(f"diffusion: {{unet: {value}}}")
    assert len(caught.value.message) < 300 and "\n" not in caught.value.message


def test_aliases_that_would_grow_are_refused(tmp_path):
    path = tmp_path / "laugh.yaml"
    lines = ["a: &a0 [x, x]", *(f"b{n}: &a{n + 1} [*a{n}, *a{n}]" for n in range(40))]
    path.write_text("diffusion:\n  unet:\n" + "".join(f"    {line}\n" for line in lines))
    with pytest.raises(UsageError, match=r"laugh\.yaml: is not YAML: aliases are not allowed"):
        load_config(path, {})


@pytest.mark.parametrize(
    ("section", "setting"),
    [
        (LoopConfig, {"batch_size": 0}),
        (LoopConfig, {"gradient_accumulation": 0}),
        (LoopConfig, {"keep_checkpoints": 0}),
        (LoopConfig, {"checkpoint_every_steps": 0}),
        (LoopConfig, {"preview_every_steps": 0}),
        (LoopConfig, {"learning_rate": 0.0}),
        (LoopConfig, {"ema_decay": 1.0}),
        (LoopConfig, {"betas": (0.9, 1.0)}),
        (LoopConfig, {"max_minutes": -1.0}),
        (LoopConfig, {"max_grad_norm": 0.0}),
        (LoopConfig, {"epoch_decay": 1.1}),
        (DiffusionConfig, {"text_dropout": 1.1}),
        (DiffusionConfig, {"min_snr_gamma": 0.0}),
        (LoopConfig, {"max_steps": 10**10}),
        (LoopConfig, {"workers": 10**6}),
        (AutoencoderConfig, {"n_fit_images": 0}),
        (AutoencoderConfig, {"l1_weight": -1.0}),
        (AutoencoderConfig, {"adversarial_start_step": -1}),
        (VocoderConfig, {"segment_samples": 10**9}),
        (VocoderConfig, {"discriminator_width": 0.0}),
        (VocoderConfig, {"mel_weight": -1.0}),
        (VocoderConfig, {"adversarial_start_step": -1}),
    ],
)
def test_impossible_values_are_named(section, setting):
    (name,) = setting
    with pytest.raises(UsageError, match=rf"\.{name}: "):
        section(**setting)


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("diffusion: {init_from: x, unet: {a: 1}, vocoder: v}", "diffusion.unet"),
        ("autoencoder: {init_from: x, model: {a: 1}}", "autoencoder.model"),
        ("autoencoder: {kind: patch, kl_weight: 1}", "autoencoder.kl_weight"),
        ("autoencoder: {latent_noise: 0.1}", "autoencoder.latent_noise"),
        ("autoencoder: {adversarial_start_step: 5}", "autoencoder.adversarial_start_step"),
        ("autoencoder: {kind: patch, init_from: x, n_fit_images: 5}", "autoencoder.n_fit_images"),
        ("vocoder: {init_from: x, model: {a: 1}}", "vocoder.model"),
        ("vocoder: {autoencoder: x}", "vocoder.autoencoder"),
        (
            "vocoder: {adversarial_start_step: null, feature_weight: 1, discriminator_width: 2}",
            "vocoder.feature_weight, vocoder.discriminator_width",
        ),
    ],
)
def test_keys_without_effect_are_refused(text, keys):
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert f"{keys}: without effect with" in caught.value.message
    assert "Remove" in caught.value.hint


def test_the_saved_settings_of_a_fine_tuning_are_read_again():
    config = parse("diffusion: {init_from: embedded}")
    assert parse(dump_config(config)) == config


def test_a_run_of_earlier_versions_keeps_what_its_start_gives(tmp_path):
    path = tmp_path / "training.yaml"
    of_start = {"generation": asdict(GenerationDefaults()), "scheduler": FIRST_SCHEDULE}
    path.write_text(dump_yaml({"diffusion": {"init_from": "embedded", **of_start}}))
    assert load_config(path, {}) == parse("diffusion: {init_from: embedded}")
    path.write_text(dump_yaml({"diffusion": {"init_from": None, **of_start}}))
    assert load_config(path, {}).diffusion.generation.steps == 100


def test_overrides_win_and_make_their_sections():
    document = {"loop": {"batch_size": 4}}
    config = parse_config(document, {"loop.batch_size": 8, "scenes.duration_s": 2, "seed": 5})
    assert (config.loop.batch_size, config.scenes.duration_s, config.seed) == (8, 2.0, 5)
    assert document == {"loop": {"batch_size": 4}}  # the caller's own


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("loop.bath_size", "loop.bath_size: unknown name"),
        ("lop.batch_size", "lop: unknown name"),
        ("seed.x", "seed: expected a mapping"),
    ],
)
def test_an_override_that_does_not_fit(key, message):
    with pytest.raises(UsageError) as caught:
        parse_config({"seed": 1}, {key: 1})
    assert message in caught.value.message


def test_files_that_are_no_yaml(tmp_path):
    path = tmp_path / "training.yaml"
    with pytest.raises(UsageError, match=r"training\.yaml: No such file"):
        load_config(path, {})
    for content, message in ((b"loop: {", "is not YAML"), (b"\xff\xfe\x00", "is not UTF-16 text")):
        path.write_bytes(content)
        with pytest.raises(UsageError, match=f"--config .*training.yaml: {message}"):
            load_config(path, {})
    path.write_text("")
    assert load_config(path, {}) == TrainingConfig()


# Round trip ---------------------------------------------------------------------------------------

words = st.text(min_size=0, max_size=12)
paths = st.none() | words
positive = st.floats(1e-9, 1e6)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | positive | words,
    lambda values: st.lists(values, max_size=3) | st.dictionaries(words, values, max_size=3),
    max_leaves=5,
)
configs = st.builds(
    TrainingConfig,
    stage=st.sampled_from(["autoencoder", "vocoder", "diffusion"]),
    data=paths,
    output=paths,
    seed=st.integers(0, 2**40),
    loop=st.builds(
        LoopConfig,
        batch_size=st.integers(1, 10**6),
        max_minutes=st.none() | positive,
        learning_rate=positive,
        betas=st.tuples(st.floats(0, 0.999), st.floats(0, 0.999)),
        ema_decay=st.none() | st.floats(0, 0.9999),
        mixed_precision=st.sampled_from(["no", "bf16", "fp16"]),
        tensorboard=st.booleans(),
    ),
    scenes=st.builds(
        SceneConfig,
        n_cached=st.none() | st.integers(0, 10**6),
        kinds=st.lists(words, max_size=3).map(tuple),
    ),
    diffusion=st.builds(
        DiffusionConfig,
        text_encoders=st.lists(st.builds(TextEncoderConfig, path=words, name=words)).map(tuple),
        unet=st.dictionaries(words, json_values, max_size=3),
        preview_prompts=st.lists(words, max_size=3).map(tuple),
        licence=paths,
        generation=st.builds(GenerationConfig, scheduler=paths, steps=st.integers()),
    ),
    vocoder=st.builds(VocoderConfig, adversarial_start_step=st.none() | st.integers(0, 2**40)),
)


@settings(max_examples=50)
@given(configs)
def test_what_is_dumped_reads_back_equal(config):
    assert parse(dump_config(config)) == config


def test_the_dump_says_everything():
    document = yaml.safe_load(dump_config(TrainingConfig()))
    assert set(document) == {f.name for f in dataclasses.fields(TrainingConfig)}
    assert set(document["loop"]) == {f.name for f in dataclasses.fields(LoopConfig)}
    assert document["loop"]["mixed_precision"] == "no"
    assert math.isclose(document["loop"]["learning_rate"], 1e-4)


def test_the_page_of_keys_is_current_and_explains_each():
    path = Path(__file__).parents[2] / "docs/make_training_keys.py"
    spec = importlib.util.spec_from_file_location("make_training_keys", path)
    make_training_keys = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_training_keys)
    assert make_training_keys.PAGE.read_text("utf-8") == make_training_keys.render(), (
        "run `make docs`"
    )
    for section in (TrainingConfig, LoopConfig, SceneConfig, DiffusionConfig, VocoderConfig):
        docs = make_training_keys.field_docs(section)
        sections = {"loop", "scenes", "diffusion", "autoencoder", "vocoder", "distill"}
        unexplained = {name for name, text in docs.items() if not text}
        assert unexplained <= (sections if section is TrainingConfig else set())


# What a resumed run may change -------------------------------------------------------------------


def test_changes_are_named_but_for_the_harmless():
    before = TrainingConfig(loop=LoopConfig(max_steps=10, batch_size=4))
    harmless = TrainingConfig(
        output="elsewhere", loop=LoopConfig(max_steps=20, batch_size=4, max_minutes=3)
    )
    assert changed_settings(before, harmless) == {}
    other = TrainingConfig(seed=1, loop=LoopConfig(max_steps=20, batch_size=8, decay_steps=5))
    assert changed_settings(before, other) == {
        "seed": (0, 1),
        "loop.batch_size": (4, 8),
        "loop.max_steps": (10, 20),
        "loop.decay_steps": (0, 5),
    }
