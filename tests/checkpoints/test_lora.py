"""LoRA files of all who write them, merged as diffusers and peft apply them."""

import copy

import pytest
import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file

from auffusion_cli.checkpoints.load import load_model
from auffusion_cli.checkpoints.lora import apply_loras, merge, read_lora, save_lora
from auffusion_cli.checkpoints.lora_file import check_loras
from auffusion_cli.errors import AuffusionWarning, CheckpointError
from auffusion_cli.requests.loras import LoraChoice

TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "proj_in", "conv1"]


@pytest.fixture(scope="module")
def tuned(tiny_model):
    """A UNet with a random LoRA of scale 2 in linear layers and convolutions, as peft holds it."""
    unet = copy.deepcopy(tiny_model.networks.unet)
    unet.add_adapter(LoraConfig(r=2, lora_alpha=4, target_modules=TARGETS))
    generator = torch.Generator().manual_seed(0)
    for name, parameter in unet.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(0, 0.3, generator=generator)
    return unet


@pytest.fixture
def unet(tiny_model):
    return copy.deepcopy(tiny_model.networks.unet)


def predict(unet):
    generator = torch.Generator().manual_seed(1)
    latents, text = torch.randn(1, 4, 32, 8, generator=generator), torch.ones(1, 3, 32)
    with torch.no_grad():
        return unet(latents, 500, encoder_hidden_states=text).sample


def matrices(tuned):
    """(down, up) by layer."""
    state = get_peft_model_state_dict(tuned)
    layers = {name.split(".lora_")[0] for name in state}
    return {
        layer: (state[f"{layer}.lora_A.weight"], state[f"{layer}.lora_B.weight"])
        for layer in sorted(layers)
    }


def write(path, tuned, form):
    """The LoRA of `tuned` in the form of a program that writes such files, and its weight there."""
    if form.startswith("diffusers"):
        layers = get_peft_model_state_dict(tuned)
        kept = {}
        if form != "diffusers, without settings":
            kept = {"unet_lora_adapter_metadata": tuned.peft_config["default"].to_dict()}
        StableDiffusionPipeline.save_lora_weights(path.parent, unet_lora_layers=layers, **kept)
        if form == "diffusers, UNet":
            tuned.save_lora_adapter(path.parent)
        (path.parent / "pytorch_lora_weights.safetensors").rename(path)
        return 1.0 if kept else 2.0
    tensors = {}
    for layer, (down, up) in matrices(tuned).items():
        if form == "kohya":
            name = f"lora_unet_{layer.replace('.', '_')}"
            tensors[f"{name}.lora_down.weight"], tensors[f"{name}.lora_up.weight"] = down, up
            tensors[f"{name}.alpha"] = torch.tensor(4.0)
        elif form == "peft":
            tensors[f"base_model.model.{layer}.lora_A.weight"] = down
            tensors[f"base_model.model.{layer}.lora_B.weight"] = up
        else:
            tensors[f"unet.{layer}.lora.down.weight"] = down
            tensors[f"unet.{layer}.lora.up.weight"] = up
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    if form == "peft":
        path.with_name("adapter_config.json").write_text('{"lora_alpha": 4, "r": 2}')
        return 1.0
    return 1.0 if form == "kohya" else 2.0


@pytest.mark.parametrize(
    "form",
    [
        "diffusers, pipeline",
        "diffusers, UNet",
        "diffusers, without settings",
        "kohya",
        "peft",
        "old diffusers",
    ],
)
def test_merged_it_computes_what_peft_does(form, tuned, unet, tmp_path):
    name = "adapter_model.safetensors" if form == "peft" else "lora.safetensors"
    weight = write(tmp_path / name, tuned, form)
    before = predict(unet)
    apply_loras(unet, [LoraChoice(str(tmp_path / name), weight)])
    torch.testing.assert_close(predict(unet), predict(tuned), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(before, predict(unet), atol=1e-2)


def test_diffusers_loads_what_is_written(tuned, unet, tiny_model, tmp_path):
    path = tmp_path / "pytorch_lora_weights.safetensors"
    save_lora(matrices(tuned), path, trigger="a bell", base="embedded")
    lora = read_lora(path)
    assert (lora.trigger, lora.base) == ("a bell", "embedded")
    merge(unet, lora, 1.0)
    theirs = copy.deepcopy(tiny_model.networks.unet)
    state, alphas = StableDiffusionPipeline.lora_state_dict(tmp_path, local_files_only=True)[:2]
    StableDiffusionPipeline.load_lora_into_unet(state, alphas, theirs)
    torch.testing.assert_close(predict(unet), predict(theirs), rtol=1e-4, atol=1e-5)


def test_weights_add_up_and_half_precision_stays(tuned, unet, tmp_path):
    path = tmp_path / "lora.safetensors"
    save_lora(matrices(tuned), path, trigger=None, base="x")
    before = unet.mid_block.attentions[0].proj_in.weight.clone()
    apply_loras(unet, [LoraChoice(str(path), 0.75), LoraChoice(str(path), -0.75)])
    torch.testing.assert_close(unet.mid_block.attentions[0].proj_in.weight, before)
    apply_loras(unet.half(), [LoraChoice(str(path), 0.5)])
    assert unet.mid_block.attentions[0].proj_in.weight.dtype == torch.float16


def test_damage_is_found_before_anything_is_loaded(tuned, tmp_path):
    path = tmp_path / "lora.safetensors"
    save_lora(matrices(tuned), path, trigger=None, base="x")
    check_loras([LoraChoice(str(path))])
    content = path.read_bytes()
    cases = {"truncated in tensor": content[:-100], "damaged": b"\xff" * 100}
    for words, damaged in cases.items():
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=words):
            load_model("nowhere", loras=[LoraChoice(str(path))])
    save_file({"unet.conv_in.weight": torch.ones(2)}, path)
    with pytest.raises(CheckpointError, match="is of no LoRA"):
        check_loras([LoraChoice(str(path))])


DOWN, UP = torch.ones(2, 32), torch.ones(32, 2)
LAYER = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"unet.absent.lora_A.weight": DOWN, "unet.absent.lora_B.weight": UP}, "'absent', which"),
        ({f"{LAYER}.lora_A.weight": DOWN}, "only one of its two matrices"),
        (
            {f"{LAYER}.lora_A.weight": DOWN, f"{LAYER}.lora_B.weight": torch.ones(32, 3)},
            r"are \(2, 32\) and \(32, 3\)",
        ),
        (
            {f"{LAYER}.lora_A.weight": torch.ones(2, 31), f"{LAYER}.lora_B.weight": UP},
            r"made for weights of \(32, 31\), but the UNet's are \(32, 32\)",
        ),
        ({f"{LAYER}.lora_A.weight": DOWN.int(), f"{LAYER}.lora_B.weight": UP}, "floating-point"),
        ({f"{LAYER}.lora_magnitude_vector": UP}, "is of DoRA or another LoRA"),
        ({"conv_in.weight": UP}, "is of no LoRA"),
        ({f"{LAYER}.alpha": UP}, "not one number"),
        ({"text_encoder.to_k.lora_A.weight": UP}, "changes nothing of a UNet"),
    ],
)
def test_what_cannot_be_merged_is_told(tensors, message, unet, tmp_path):
    path = tmp_path / "lora.safetensors"
    save_file(tensors, path)
    before = copy.deepcopy(unet.state_dict())
    with pytest.raises(CheckpointError, match=message):
        merge(unet, read_lora(path), 1.0)
    assert all(torch.equal(before[name], value) for name, value in unet.state_dict().items())


def test_settings_of_peft_that_cannot_be_merged_are_told(unet, tmp_path):
    path = tmp_path / "lora.safetensors"
    tensors = {f"{LAYER}.lora_A.weight": DOWN, f"{LAYER}.lora_B.weight": UP}
    cases = {
        '{"unet.use_rslora": true, "unet.lora_alpha": 4}': "rsLoRA and alpha_pattern cannot",
        '{"lora_alpha": [4]}': r"lora_alpha is '\[4\]', not a number",
    }
    for settings, message in cases.items():
        save_file(tensors, path, metadata={"lora_adapter_metadata": settings})
        with pytest.raises(CheckpointError, match=message):
            read_lora(path)
    of_text = '{"text_encoder.lora_alpha": 4}'
    save_file(tensors, path, metadata={"lora_adapter_metadata": of_text})
    assert read_lora(path).layers[LAYER.removeprefix("unet.")].alpha is None


def test_what_is_for_the_text_encoder_is_left_out_with_a_note(unet, tmp_path):
    path = tmp_path / "lora.safetensors"
    of_text = {"text_encoder.layers.0.q_proj.lora_A.weight": DOWN.clone()}
    save_file({f"{LAYER}.lora_A.weight": DOWN, f"{LAYER}.lora_B.weight": UP} | of_text, path)
    with pytest.warns(AuffusionWarning, match="1 tensors for the text encoder are left out"):
        assert len(read_lora(path).layers) == 1


def test_a_damaged_file_is_one_line(tmp_path):
    path = tmp_path / "lora.safetensors"
    path.write_bytes(b"\x00" * 40)
    with pytest.raises(CheckpointError, match=r"lora\.safetensors: "):
        read_lora(path)
