"""Checkpoint folders: both layouts, every encoder, precisions, saving, and what is wrong in one."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertModel,
    ClapTextConfig,
    ClapTextModelWithProjection,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from auffusion_cli.checkpoints.load import load_model
from auffusion_cli.checkpoints.save import save_model
from auffusion_cli.checkpoints.text_encoders import load_text_encoder
from auffusion_cli.diffusion.adapter import ConditionAdapter
from auffusion_cli.diffusion.vocabulary import Vocabulary
from auffusion_cli.errors import (
    AuffusionWarning,
    CheckpointError,
    OutputExistsError,
    UsageError,
)
from layouts import as_stable_diffusion


def assert_close(ours, expected):
    if isinstance(expected, torch.Tensor):
        expected = expected.detach().numpy()
    np.testing.assert_allclose(ours, expected, atol=1e-5, rtol=1e-4)


GOLDEN = Path(__file__).parents[1] / "golden"


def edit_json(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    return shutil.copytree(GOLDEN / "tiny-auffusion", tmp_path / "tiny")


@pytest.fixture
def sd_checkpoint(checkpoint) -> Path:
    """The same weights in Stable Diffusion's layout."""
    return as_stable_diffusion(checkpoint)


def make_encoder(kind: str):
    torch.manual_seed(0)
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    if kind == "t5":
        config = T5Config(vocab_size=20, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
        return T5EncoderModel(config)
    if kind == "clap":
        config = ClapTextConfig(
            vocab_size=20, hidden_size=24, max_position_embeddings=34, pad_token_id=1, **sizes
        )
        return ClapTextModelWithProjection(config)
    return BertModel(BertConfig(vocab_size=20, hidden_size=24, **sizes))


def save_tokenizer(folder: Path) -> None:
    words = ["<s>", "<pad>", "</s>", "<unk>", "dog", "barking", "in", "rain"]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>")
    fast.save_pretrained(folder)


def add_encoder(checkpoint: Path, kind: str, max_length: int) -> torch.nn.Module:
    """One more encoder and adapter, after those that `checkpoint` has."""
    config_path = checkpoint / "condition_config.json"
    conditions = json.loads(config_path.read_text())
    i = len(conditions)
    encoder = make_encoder(kind).eval()
    encoder.save_pretrained(checkpoint / f"text_encoder_{i}")
    save_tokenizer(checkpoint / f"text_encoder_{i}")
    width = encoder.config.hidden_size
    adapter = {
        "proj.weight": torch.randn(32, width),
        "proj.bias": torch.randn(32),
        "norm.weight": torch.randn(32),
        "norm.bias": torch.randn(32),
    }
    (checkpoint / f"condition_adapter_{i}").mkdir()
    torch.save(adapter, checkpoint / f"condition_adapter_{i}" / "condition_adapter.pt")
    conditions.append(
        {
            "text_encoder_name": f"text_encoder_{i}",
            "condition_adapter_name": f"condition_adapter_{i}",
            "condition_type": kind,
            "pretrained_model_name_or_path": f"some/{kind}",
            "condition_max_length": max_length,
            "condition_dim": width,
            "cross_attention_dim": 32,
        }
    )
    config_path.write_text(json.dumps(conditions))

    def expected(ids: list[int]) -> torch.Tensor:
        states = encoder(torch.tensor([ids])).last_hidden_state[0, :max_length]
        padded = torch.zeros(max_length, width)
        padded[: len(states)] = states
        projected = padded @ adapter["proj.weight"].T + adapter["proj.bias"]
        norm = torch.nn.functional.layer_norm
        return norm(projected, (32,), adapter["norm.weight"], adapter["norm.bias"])

    return expected


def test_the_published_form_loads(checkpoint):
    model = load_model(checkpoint, device="cpu")
    assert (model.name, model.revision) == (str(checkpoint), None)
    assert model.scheduler_config["_class_name"] == "PNDMScheduler"
    assert (model.defaults.steps, model.defaults.scheduler) == (100, "pndm")
    assert model.codec.vocoder_name == "hifigan"
    unet = model.networks.unet
    assert (model.dtype, model.device, unet.dtype) == ("fp32", "cpu", torch.float32)
    assert not any(part.training for module in model.networks.modules for part in module.children())
    assert not any(p.is_meta for p in [*unet.parameters(), *unet.buffers()])
    saved = torch.load(checkpoint / "unet" / "diffusion_pytorch_model.bin", weights_only=True)
    assert all(torch.equal(saved[name], value) for name, value in unet.state_dict().items())


@pytest.mark.parametrize("kind", ["t5", "clap", "bert"])
@torch.no_grad()
def test_several_encoders_follow_the_reference(checkpoint, kind):
    expected = add_encoder(checkpoint, kind, max_length=9)
    text = load_model(checkpoint, device="cpu").text
    conditioning = text.encode(["dog barking in rain"], ["rain"])
    golden = np.load(GOLDEN / "tiny-auffusion-expected.npz")["prompt_embeds"]
    assert conditioning.cond.shape == (1, 77 + 9, 32)
    np.testing.assert_allclose(conditioning.cond[0, :77], golden[1], atol=1e-5)
    assert_close(conditioning.cond[0, 77:], expected([4, 5, 6, 7]))
    assert_close(conditioning.uncond[0, 77:], expected([7]))
    long = text.encode(["dog rain " * 10]).cond
    assert_close(long[0, 77:], expected([4, 7] * 10))


def test_the_stable_diffusion_layout_is_what_diffusers_makes_of_it(sd_checkpoint):
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(sd_checkpoint, local_files_only=True)
    model = load_model(sd_checkpoint, device="cpu")
    for prompt, negative in [("dog barking in rain", ""), ("dog rain " * 60, "rain"), ("", "")]:
        cond, uncond = pipeline.encode_prompt(prompt, "cpu", 1, True, negative)
        ours = model.text.encode([prompt], [negative])
        assert_close(ours.cond, cond)
        assert_close(ours.uncond, uncond)
    assert_close(model.text.unconditional(), model.text.encode([""]).cond[0])
    assert model.text.overflow("dog rain " * 60).startswith(("dog", "rain"))


@pytest.mark.parametrize("layout", ["adapter", "sd"])
def test_a_saved_model_loads_as_the_same(layout, request, tmp_path):
    folder = request.getfixturevalue("checkpoint" if layout == "adapter" else "sd_checkpoint")
    if layout == "adapter":
        add_encoder(folder, "t5", max_length=5)
    model = load_model(folder, device="cpu")
    saved = save_model(model, tmp_path / "saved")
    again = load_model(saved, device="cpu")
    assert not [p for p in saved.rglob("*") if p.suffix in (".bin", ".pt")]
    assert (saved / "condition_config.json").exists() == (layout == "adapter")
    prompts = ["dog barking in rain"]
    assert_close(again.text.encode(prompts).cond, model.text.encode(prompts).cond)
    for part in ("unet", "autoencoder", "vocoder"):
        ours, theirs = (getattr(m.networks, part).state_dict() for m in (again, model))
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert again.scheduler_config == model.scheduler_config
    assert again.defaults == model.defaults
    unet = UNet2DConditionModel.from_pretrained(saved / "unet", local_files_only=True)
    for name, weights in model.networks.unet.state_dict().items():
        assert torch.equal(unet.state_dict()[name], weights)
    if layout == "sd":
        from diffusers import StableDiffusionPipeline

        assert StableDiffusionPipeline.from_pretrained(saved, local_files_only=True)


@pytest.mark.parametrize("has_positions", [True, False])
def test_positions_that_older_versions_of_transformers_saved_do_no_harm(checkpoint, has_positions):
    path = checkpoint / "text_encoder_0" / "pytorch_model.bin"
    expected = load_model(checkpoint, device="cpu").text.encode(["dog barking"]).cond
    tensors = torch.load(path, weights_only=True)
    name = "text_model.embeddings.position_ids"
    tensors.pop(name, None)
    if has_positions:
        tensors[name] = torch.arange(77)[None]
    torch.save(tensors, path)
    assert_close(load_model(checkpoint, device="cpu").text.encode(["dog barking"]).cond, expected)


def test_a_taught_adapter_is_saved_and_the_published_layout_does_not_know_of_it(
    checkpoint, tmp_path
):
    model = load_model(checkpoint, device="cpu")
    entry = json.loads((save_model(model, tmp_path / "a") / "condition_config.json").read_text())
    assert "adapter_layers" not in entry[0]
    model.networks.adapters[0] = ConditionAdapter(32, 32, n_layers=2).eval()
    torch.nn.init.normal_(model.networks.adapters[0].reword.out.weight)
    saved = save_model(model, tmp_path / "b")
    again = load_model(saved, device="cpu")
    cond = again.text.encode(["dog barking"]).cond
    assert_close(cond, model.text.encode(["dog barking"]).cond)
    assert again.networks.adapters[0].n_layers == 2


def vocabulary(n_channels=32):
    return Vocabulary(
        kinds=("dog barking", "rain"),
        sentences=np.linalg.qr(np.random.default_rng(0).normal(size=(n_channels, 3)))[0].T,
        kind_of=np.array([0, 1, -1]),
        min_similarity=0.5,
        backgrounds=frozenset({"rain"}),
    )


def test_a_vocabulary_is_saved_with_the_model(checkpoint, tmp_path):
    model = load_model(checkpoint, device="cpu")
    assert model.vocabulary is None and model.unknown("theremin") == []
    model.vocabulary = vocabulary()
    again = load_model(save_model(model, tmp_path / "saved", dtype="fp16"), device="cpu")
    assert again.vocabulary.kinds == model.vocabulary.kinds
    assert again.vocabulary.backgrounds == {"rain"}
    assert again.vocabulary.kind_of.tolist() == [0, 1, -1]
    assert np.abs(again.vocabulary.sentences - model.vocabulary.sentences).max() < 0.01
    again.vocabulary = replace(again.vocabulary, min_similarity=1.0)
    (unknown,) = again.unknown("theremin")
    assert unknown.words == "theremin" and set(unknown.nearest) == {"dog barking", "rain"}


def write_vocabulary(folder, config=None, **tensors):
    made = save_model(
        replace(load_model(folder, device="cpu"), vocabulary=vocabulary()), folder.parent / "made"
    )
    part = folder / "vocabulary"
    (made / "vocabulary").rename(part)
    if config:
        edit_json(part / "config.json", **config)
    file = part / "vocabulary.safetensors"
    save_file(load_file(file) | tensors, file)


@pytest.mark.parametrize(
    "config, tensors, message",
    [
        ({"kinds": [1]}, {}, "kinds is not a list of names"),
        ({"min_similarity": "high"}, {}, "min_similarity is 'high'"),
        ({"min_similarity": 2.0}, {}, "min_similarity is 2.0"),
        ({"backgrounds": ["wind"]}, {}, "backgrounds is not a list of its kinds"),
        ({"kinds": ["rain"]}, {}, "kind_of .* of the 1 kinds"),
        ({}, {"kind_of": torch.zeros(2).short()}, r"not \(N, D\) sentences"),
        ({}, {"kind_of": torch.zeros(3)}, r"not \(N, D\) sentences"),
        ({}, {"sentences": torch.ones(3, 8).char()}, "gives 32 channels, but the vocabulary"),
        (
            {},
            {"sentences": torch.zeros(0, 32).char(), "kind_of": torch.zeros(0).short()},
            r"not \(N, D\) sentences",
        ),
    ],
)
def test_a_damaged_vocabulary_is_named(checkpoint, config, tensors, message):
    write_vocabulary(checkpoint, config, **tensors)
    with pytest.raises(CheckpointError, match=message):
        load_model(checkpoint, device="cpu")


def test_credits_go_on_with_the_model(checkpoint, tmp_path):
    (checkpoint / "CREDITS.md").write_text("Thanks to Zoë.\n", "utf-8")
    save_model(load_model(checkpoint), tmp_path / "saved")
    assert (tmp_path / "saved" / "CREDITS.md").read_text("utf-8") == "Thanks to Zoë.\n"


def test_saving_in_half_precision(checkpoint, tmp_path):
    model = load_model(checkpoint, device="cpu", dtype="bf16", vocoder="griffin-lim")
    assert model.networks.unet.dtype == torch.bfloat16
    assert model.codec.vocoder_name == "griffin-lim"
    saved = save_model(model, tmp_path / "half", dtype="fp16")
    for path in saved.rglob("*.safetensors"):
        dtypes = {t.dtype for t in load_file(path).values() if t.is_floating_point()}
        assert dtypes == {torch.float16}, path
    again = load_model(saved, device="cpu")
    assert again.networks.unet.dtype == torch.float32 and again.defaults.vocoder == "griffin-lim"
    assert again.networks.text_encoders[0].dtype == torch.float32


def test_saving_replaces_only_when_told_and_whole(checkpoint, tmp_path, monkeypatch):
    model = load_model(checkpoint, device="cpu")
    target = tmp_path / "out"
    target.mkdir()
    (target / "mine.txt").write_text("keep")
    with pytest.raises(OutputExistsError):
        save_model(model, target)
    monkeypatch.setattr("auffusion_cli.checkpoints.save._write_text", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_model(model, target, overwrite=True)
    assert (target / "mine.txt").read_text() == "keep"
    assert {p.name for p in tmp_path.iterdir()} == {"out", "tiny"}
    monkeypatch.undo()
    save_model(model, target, overwrite=True)
    assert load_model(target, device="cpu").name == str(target)
    assert not (target / "mine.txt").exists()


def test_half_precision_variants(checkpoint):
    for part in ("unet", "vae"):
        path = checkpoint / part / "diffusion_pytorch_model.bin"
        tensors = torch.load(path, weights_only=True)
        half = {name: t.half() for name, t in tensors.items()}
        save_file(half, checkpoint / part / "diffusion_pytorch_model.fp16.safetensors")
        path.unlink()
    path = checkpoint / "text_encoder_0" / "pytorch_model.bin"
    torch.save(torch.load(path, weights_only=True), path.with_name("pytorch_model.fp16.bin"))
    path.unlink()
    assert load_model(checkpoint, device="cpu").networks.unet.dtype == torch.float32


def test_a_checkpoint_of_a_t5_with_decoder(tmp_path):
    """Only the encoder is taken from a whole T5."""
    from transformers import T5ForConditionalGeneration

    config = T5Config(vocab_size=20, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    whole = T5ForConditionalGeneration(config)
    whole.save_pretrained(tmp_path)
    encoder = load_text_encoder(tmp_path, torch.float32)
    ids = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        torch.testing.assert_close(
            encoder(ids).last_hidden_state, whole.eval().get_encoder()(ids).last_hidden_state
        )


def test_without_a_vocoder(checkpoint):
    shutil.rmtree(checkpoint / "vocoder")
    with pytest.warns(AuffusionWarning, match="Griffin-Lim"):
        model = load_model(checkpoint, device="cpu")
    assert model.codec.vocoder_name == "griffin-lim"
    with pytest.raises(UsageError, match="no vocoder"):
        load_model(checkpoint, device="cpu", vocoder="hifigan")


@pytest.mark.parametrize(
    "option, value", [("device", "toaster"), ("dtype", "fp8"), ("vocoder", "bigvgan")]
)
def test_options_that_are_not(checkpoint, option, value):
    with pytest.raises(UsageError, match=value):
        load_model(checkpoint, **{"device": "cpu", option: value})


# --- What can be wrong


def break_unet_shape(folder):
    edit_json(folder / "unet" / "config.json", block_out_channels=[32, 96])


def break_unet_file(folder):
    path = folder / "unet" / "diffusion_pytorch_model.bin"
    path.write_bytes(path.read_bytes()[:100_000])


def break_autoencoder(folder):
    path = folder / "vae" / "diffusion_pytorch_model.bin"
    path.write_bytes(path.read_bytes()[:10_000])


def put_code_in_vocoder(folder):
    torch.save({"generator": torch.nn.Linear(1, 1)}, folder / "vocoder" / "vocoder.pt")


def break_encoder_shape(folder):
    edit_json(folder / "text_encoder_0" / "config.json", intermediate_size=48)


def break_encoder_names(folder):
    path = folder / "text_encoder_0" / "pytorch_model.bin"
    tensors = torch.load(path, weights_only=True)
    del tensors["text_model.final_layer_norm.weight"]
    torch.save(tensors, path)


def break_adapter(folder):
    torch.save({"proj.weight": torch.zeros(32, 32)}, adapter_path(folder))


def adapter_path(folder):
    return folder / "condition_adapter_0" / "condition_adapter.pt"


def break_channels(folder):
    entries = json.loads((folder / "condition_config.json").read_text())
    entries[0]["cross_attention_dim"] = 16
    (folder / "condition_config.json").write_text(json.dumps(entries))
    weights = {
        "proj.weight": (16, 32),
        "proj.bias": (16,),
        "norm.weight": (16,),
        "norm.bias": (16,),
    }
    torch.save({name: torch.zeros(shape) for name, shape in weights.items()}, adapter_path(folder))


def ask_for_adapter_layers(n_layers):
    def change(folder):
        entries = json.loads((folder / "condition_config.json").read_text())
        entries[0]["adapter_layers"] = n_layers
        (folder / "condition_config.json").write_text(json.dumps(entries))

    return change


def break_architecture(folder):
    edit_json(
        folder / "text_encoder_0" / "config.json", architectures=["ViTModel"], model_type="vit"
    )


def break_architectures(folder):
    edit_json(folder / "text_encoder_0" / "config.json", architectures={"a": 1})


def break_tokenizer(folder):
    (folder / "text_encoder_0" / "tokenizer.json").write_text("{")


def break_scheduler(folder):
    (folder / "scheduler" / "scheduler_config.json").unlink()


def break_layout(folder):
    (folder / "condition_config.json").unlink()


@pytest.mark.parametrize(
    "damage, message",
    [
        (break_unet_shape, r"diffusion_pytorch_model.bin: tensor '.*' is \(.*64.*\), .*96"),
        (break_unet_file, r"diffusion_pytorch_model.bin: truncated"),
        (break_autoencoder, r"vae/diffusion_pytorch_model.bin: truncated"),
        (put_code_in_vocoder, r"vocoder.pt: refused: .*Linear"),
        (break_encoder_shape, r"pytorch_model.bin: tensor '.*fc1.*' is \(64.*48"),
        (break_encoder_names, r"pytorch_model.bin: lacks 1 .*final_layer_norm.weight"),
        (break_adapter, r"condition_adapter.pt: lacks 3 tensors"),
        (break_channels, r"adapter 0 gives 16 channels, but the UNet.* takes 32"),
        (ask_for_adapter_layers(1), r"condition_adapter.pt: lacks 18 tensors"),
        (ask_for_adapter_layers(999), r"adapter_layers is 999; it must be 0 to 24"),
        (ask_for_adapter_layers("2"), r"adapter_layers is '2'"),
        (break_architecture, r"config.json: not a text encoder: architecture 'ViTModel'"),
        (break_architectures, r"config.json: not a text encoder"),
        (break_tokenizer, r"cannot load the tokenizer"),
        (break_scheduler, r"scheduler_config.json: missing"),
        (break_layout, r"not a checkpoint: it has neither"),
    ],
)
def test_damage_is_named(checkpoint, damage, message):
    damage(checkpoint)
    with pytest.raises(CheckpointError, match=message):
        load_model(checkpoint, device="cpu")
