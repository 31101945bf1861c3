"""Checkpoints whose configs and weights ask for more than there is, or for what cannot be."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import ClapConfig, ClapModel, CLIPConfig, CLIPModel

from auffusion_cli.checkpoints import weights
from auffusion_cli.checkpoints.load import load_model
from auffusion_cli.checkpoints.load_torch import (
    empty_unet,
    load_autoencoder,
    load_unet,
    load_vocoder,
)
from auffusion_cli.checkpoints.save import save_model
from auffusion_cli.checkpoints.text import load_tokenizer
from auffusion_cli.checkpoints.text_encoders import load_text_encoder, load_text_networks
from auffusion_cli.errors import AuffusionWarning, CheckpointError

GOLDEN = Path(__file__).parents[1] / "golden" / "tiny-auffusion"
F32 = torch.float32


def edit_json(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_tensors(path: Path, change) -> None:
    tensors = torch.load(path, weights_only=True)
    torch.save({name: change(name, tensor) for name, tensor in tensors.items()}, path)


@pytest.fixture
def part(tmp_path):
    """Copies of parts of the tiny checkpoint."""

    def copy(name: str) -> Path:
        return shutil.copytree(GOLDEN / name, tmp_path / name)

    return copy


def assert_one_line(error: CheckpointError) -> None:
    assert "\n" not in error.message and len(error.message) < 500


# --- Sizes and counts


@pytest.mark.parametrize(
    "change",
    [
        {"layers_per_block": 10**6},
        {"transformer_layers_per_block": 10**6},
        {"layers_per_block": [10**6, 1]},
        {"reverse_transformer_layers_per_block": 5, "transformer_layers_per_block": [10**6, 1]},
    ],
)
def test_layers_of_a_unet_that_its_weights_do_not_have(part, change):
    folder = part("unet")
    edit_json(folder / "config.json", **change)
    with pytest.raises(CheckpointError, match=r"unet/config.json: .*") as caught:
        empty_unet(folder.parent)
    assert_one_line(caught.value)


def test_ten_thousand_blocks_of_a_unet(part):
    folder = part("unet")
    n = 10_000
    edit_json(
        folder / "config.json",
        block_out_channels=[32] * n,
        down_block_types=["DownBlock2D"] * n,
        up_block_types=["UpBlock2D"] * n,
    )
    with pytest.raises(CheckpointError, match="more layers than its weights have"):
        load_unet(folder.parent, F32)


def test_layers_of_autoencoders_that_their_weights_do_not_have(part, tmp_path):
    folder = part("vae")
    edit_json(folder / "config.json", layers_per_block=10**6)
    with pytest.raises(CheckpointError, match="more layers than its weights have"):
        load_autoencoder(folder)
    from auffusion_cli.codec.patch_autoencoder import PatchAutoencoder

    PatchAutoencoder(refinement_channels=8, refinement_blocks=1).save_pretrained(tmp_path / "p")
    edit_json(tmp_path / "p" / "config.json", refinement_blocks=10**7)
    with pytest.raises(CheckpointError, match="more layers than its weights have"):
        load_autoencoder(tmp_path / "p")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_hidden_layers": 10**6}, "num_hidden_layers is 1000000, beyond the sizes"),
        ({"num_hidden_layers": 50_000}, "more layers than its weights have"),
        ({"vocab_size": 3 * 10**7}, "vocab_size is 30000000, beyond the sizes"),
        ({"vocab_size": 60_000}, "asks for .* parameters, but its weights hold"),
    ],
)
def test_sizes_of_a_text_encoder_that_its_weights_do_not_have(part, change, message):
    folder = part("text_encoder_0")
    for name in ("condition_config.json", "condition_adapter_0"):
        path = GOLDEN / name
        (shutil.copytree if path.is_dir() else shutil.copy)(path, folder.parent / name)
    edit_json(folder / "config.json", **change)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_text_networks(folder.parent, F32)
    assert_one_line(caught.value)


def test_a_vocoder_larger_than_its_weights_takes_no_memory(part):
    folder = part("vocoder")
    edit_json(folder / "config.json", upsample_initial_channel=8192)
    with pytest.raises(CheckpointError, match=r"but config\.json says"):
        load_vocoder(folder)


# --- Single wrong fields


@pytest.mark.parametrize(
    "change",
    [
        {"block_out_channels": [0, 0]},
        {"norm_num_groups": 0},
        {"attention_head_dim": 0},
        {"cross_attention_dim": "x"},
        {"in_channels": None},
        {"act_fn": "evil"},
        {"down_block_types": ["EvilBlock"] * 2},
        {"class_embed_type": "timestep"},
        {"addition_embed_type": "text"},
        {"out_channels": 10**30},
        {"sample_size": {"a": 1}, "layers_per_block": "1"},
    ],
)
def test_a_wrong_field_of_a_unet(part, change):
    folder = part("unet")
    edit_json(folder / "config.json", **change)
    with pytest.raises(CheckpointError, match="unet/") as caught:
        load_unet(folder.parent, F32)
    assert_one_line(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"scaling_factor": "x"},
        {"scaling_factor": 0},
        {"scaling_factor": True},
        {"shift_factor": "a"},
        {"shift_factor": float("nan")},
        {"latent_channels": 10**30},
        {"block_out_channels": []},
        {"in_channels": 5},
        {"_class_name": ["AutoencoderKL"]},
    ],
)
def test_a_wrong_field_of_an_autoencoder(part, change):
    folder = part("vae")
    edit_json(folder / "config.json", **change)
    with pytest.raises(CheckpointError) as caught:
        load_autoencoder(folder)
    assert_one_line(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"num_attention_heads": 0},
        {"hidden_size": "x"},
        {"quantization_config": {"quant_method": "gptq", "bits": 4}},
        {"hidden_act": "eval"},
        {"model_type": "evil"},
        {"model_type": None},
        {"model_type": ["clip"]},
        {"architectures": 5},
        {"layer_norm_eps": "x"},
    ],
)
def test_a_wrong_field_of_a_text_encoder(part, change):
    folder = part("text_encoder_0")
    edit_json(folder / "config.json", **change)
    with pytest.raises(CheckpointError, match=r"config\.json") as caught:
        load_text_encoder(folder, F32)
    assert_one_line(caught.value)


@pytest.mark.parametrize("value", ["x", 0, -1, [3]])
def test_a_wrong_length_of_a_tokenizer(part, value):
    folder = part("text_encoder_0")
    edit_json(folder / "tokenizer_config.json", model_max_length=value)
    with pytest.raises(CheckpointError, match="cannot load the tokenizer") as caught:
        load_tokenizer(folder)
    assert_one_line(caught.value)


@pytest.mark.parametrize("name", ["_attn_implementation", "attn_implementation"])
def test_an_attention_that_the_config_names_is_not_used(part, name, monkeypatch):
    """transformers would fetch a kernel of that name from the Hub, and run it."""
    folder = part("text_encoder_0")
    edit_json(folder / "config.json", **{name: "kernels-community/flash-attn"})
    encoder = load_text_encoder(folder, F32)
    assert encoder.config._attn_implementation in ("sdpa", "eager")


@pytest.mark.parametrize("name", ["config.json", "diffusion_pytorch_model.safetensors"])
def test_deep_nesting(part, name):
    folder = part("vae")
    prefix = (100_000).to_bytes(8, "little") if name.endswith("safetensors") else b""
    (folder / name).write_bytes(prefix + b"[" * 100_000)
    with pytest.raises(CheckpointError, match=name) as caught:
        load_autoencoder(folder)
    assert_one_line(caught.value)


# --- Odd tensors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.to(torch.int8), "is of type int8, not floating-point"),
        (lambda t: t.to(torch.complex64), "is of type complex64, not floating-point"),
        (lambda t: t.to_sparse(), "is sparse, quantised, or without content"),
        (lambda t: t.to("meta"), "is sparse, quantised, or without content"),
        (lambda t: torch.zeros(1).expand(t.shape), "is sparse, quantised, or without content"),
        (lambda t: torch.zeros(1).expand(10**12), "is sparse, quantised, or without content"),
    ],
)
@pytest.mark.parametrize(
    ("name", "file", "load"),
    [
        ("unet", "diffusion_pytorch_model.bin", lambda folder: load_unet(folder.parent, F32)),
        ("vae", "diffusion_pytorch_model.bin", load_autoencoder),
        ("text_encoder_0", "pytorch_model.bin", lambda folder: load_text_encoder(folder, F32)),
    ],
)
def test_tensors_that_are_no_weights(part, name, file, load, change, message):
    folder = part(name)
    edit_tensors(folder / file, lambda _, tensor: change(tensor))
    with pytest.raises(CheckpointError, match=message) as caught:
        load(folder)
    assert_one_line(caught.value)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_names_of_wrapped_networks_are_read(part, prefix):
    folder = part("unet")
    expected = load_unet(folder.parent, F32).state_dict()
    path = folder / "diffusion_pytorch_model.bin"
    tensors = torch.load(path, weights_only=True)
    path.unlink()
    save_file(
        {prefix + name: tensor for name, tensor in tensors.items()},
        folder / ("diffusion_pytorch_model.safetensors"),
    )
    with pytest.warns(AuffusionWarning, match=f"begin with '{prefix}'"):
        loaded = load_unet(folder.parent, F32).state_dict()
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)


def test_weights_beyond_the_range_of_half_precision_are_refused(tmp_path):
    model = load_model(GOLDEN, device="cpu")
    with torch.no_grad():
        model.networks.unet.conv_in.weight[0, 0] = 1e30
    with pytest.raises(CheckpointError, match=r"conv_in.weight' has 9 numbers beyond .*fp16"):
        save_model(model, tmp_path / "half", dtype="fp16")
    assert list(tmp_path.iterdir()) == []
    save_model(model, tmp_path / "bf16", dtype="bf16")
    with pytest.raises(CheckpointError, match="beyond the range of fp16"):
        load_unet(tmp_path / "bf16", torch.float16)


def test_infinities_that_were_there_are_kept(tmp_path):
    weights.save_weights(
        {"a": torch.tensor([float("inf"), 1.0])}, tmp_path / "a.safetensors", torch.float16
    )
    assert load_file(tmp_path / "a.safetensors")["a"].isinf().tolist() == [True, False]


def test_a_full_disk_is_an_os_error(tmp_path, monkeypatch):
    from safetensors import SafetensorError

    def full(*_, **__):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(weights, "save_file", full)
    model = load_model(GOLDEN, device="cpu")
    with pytest.raises(OSError, match="No space left") as caught:
        save_model(model, tmp_path / "out")
    assert caught.value.errno == 28 and caught.value.filename == str(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


# --- Noise schedules


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "FlowMatchEulerDiscreteScheduler"),
        ({"_class_name": 5}, "_class_name is '5'"),
        ({"beta_schedule": "evil"}, "beta_schedule is 'evil'; valid: linear"),
        ({"beta_start": None}, "beta_start"),
        ({"beta_end": 2}, "beta_end"),
        ({"num_train_timesteps": 0}, "num_train_timesteps is 0"),
        ({"num_train_timesteps": 10**8}, "num_train_timesteps is 100000000"),
        ({"trained_betas": "x"}, "trained_betas is not 1000 numbers"),
        ({"trained_betas": [0.1] * 999}, "trained_betas is not 1000 numbers"),
        ({"prediction_type": "sample"}, "prediction_type is 'sample'"),
        ({"timestep_spacing": []}, "timestep_spacing"),
        ({"rescale_betas_zero_snr": True}, "holds no signal"),
        ({"use_flow_sigmas": True}, "use_flow_sigmas"),
    ],
)
def test_a_noise_schedule_that_cannot_be_right_is_refused(tmp_path, change, message):
    from auffusion_cli.checkpoints.schedule import read_scheduler_config

    folder = shutil.copytree(GOLDEN / "scheduler", tmp_path / "scheduler")
    edit_json(folder / "scheduler_config.json", **change)
    with pytest.raises(CheckpointError, match=message) as caught:
        read_scheduler_config(tmp_path)
    assert_one_line(caught.value)


def test_an_empty_noise_schedule_is_refused(tmp_path):
    from auffusion_cli.checkpoints.schedule import read_scheduler_config

    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="lacks beta_start"):
        read_scheduler_config(tmp_path)


# --- Text encoders inside of others


def test_the_text_part_of_clip_and_clap(tmp_path):
    torch.manual_seed(0)
    sizes = {
        "vocab_size": 20,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    image = {name: value for name, value in sizes.items() if name != "vocab_size"}
    image |= {"image_size": 8, "patch_size": 4}
    clip = CLIPModel(
        CLIPConfig(
            text_config=sizes | {"bos_token_id": 18, "eos_token_id": 19},
            vision_config=image,
            projection_dim=8,
        )
    )
    audio = {"depths": [1, 1], "num_attention_heads": [2, 2], "hidden_size": 16}
    audio |= {"patch_embeds_hidden_size": 8, "spec_size": 32, "num_mel_bins": 8}
    clap = ClapModel(ClapConfig(text_config=sizes, audio_config=audio, projection_dim=8))
    ids = torch.tensor([[3, 4, 5, 19]])
    for name, whole in (("clip", clip.eval()), ("clap", clap.eval())):
        whole.save_pretrained(tmp_path / name)
        encoder = load_text_encoder(tmp_path / name, F32).eval()
        with torch.no_grad():
            expected = whole.text_model(ids).last_hidden_state
            torch.testing.assert_close(encoder(ids).last_hidden_state, expected)
