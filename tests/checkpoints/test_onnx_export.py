"""Checkpoints of the published layouts -> graphs that compute what their networks do in torch."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import (
    ClapTextConfig,
    ClapTextModelWithProjection,
    CLIPTextConfig,
    CLIPTextModel,
    T5Config,
    T5EncoderModel,
)
from typer.testing import CliRunner

from auffusion_cli.checkpoints import onnx_export, onnx_graph
from auffusion_cli.checkpoints.layout import part_folders
from auffusion_cli.checkpoints.load import load_model
from auffusion_cli.cli.app import build_app
from auffusion_cli.codec.vocoder import HiFiGAN, HiFiGANConfig
from auffusion_cli.engines.graph_file import OPSET
from auffusion_cli.engines.onnx_networks import OnnxNetworks
from auffusion_cli.requests.request import GenerateRequest
from auffusion_cli.tasks.generate import generate

GOLDEN = Path(__file__).parents[1] / "golden" / "tiny-auffusion"
WIDTH = 8
"""Of the UNet's cross-attention."""
SIZES = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def text_encoders() -> dict[str, torch.nn.Module]:
    return {
        "clip": CLIPTextModel(CLIPTextConfig(vocab_size=1000, hidden_size=WIDTH, **SIZES)),
        "clap": ClapTextModelWithProjection(
            ClapTextConfig(vocab_size=1000, hidden_size=12, max_position_embeddings=34, **SIZES)
        ),
        "t5": T5EncoderModel(
            T5Config(vocab_size=1000, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
        ),
    }


@pytest.fixture(scope="module")
def published(tmp_path_factory) -> Path:
    """Auffusion's layout with three text encoders and a vocoder; all networks are random."""
    folder = tmp_path_factory.mktemp("published") / "adapter"
    torch.manual_seed(0)
    shutil.copytree(GOLDEN / "scheduler", folder / "scheduler")
    write_codec_and_unet(folder)
    conditions = []
    for i, (kind, encoder) in enumerate(text_encoders().items()):
        shutil.copytree(GOLDEN / "text_encoder_0", folder / f"text_encoder_{i}")
        (folder / f"text_encoder_{i}" / "pytorch_model.bin").unlink()
        encoder.save_pretrained(folder / f"text_encoder_{i}")
        n_channels = encoder.config.hidden_size
        (folder / f"condition_adapter_{i}").mkdir()
        torch.save(
            {
                "proj.weight": torch.randn(WIDTH, n_channels),
                "proj.bias": torch.randn(WIDTH),
                "norm.weight": torch.randn(WIDTH),
                "norm.bias": torch.randn(WIDTH),
            },
            folder / f"condition_adapter_{i}" / "condition_adapter.pt",
        )
        conditions.append(
            {
                "text_encoder_name": f"text_encoder_{i}",
                "condition_adapter_name": f"condition_adapter_{i}",
                "condition_type": kind,
                "condition_max_length": 9,
                "condition_dim": n_channels,
                "cross_attention_dim": WIDTH,
            }
        )
    (folder / "condition_config.json").write_text(json.dumps(conditions))
    generation = {"duration_s": 0.6, "max_duration_s": 0.64, "steps": 2, "vocoder": "hifigan"}
    identity = {"format_version": 1, "generation": generation}
    (folder / "auffusion.json").write_text(json.dumps(identity))
    return folder


def write_codec_and_unet(folder: Path) -> None:
    AutoencoderKL(
        block_out_channels=(4, 4),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=2,
        layers_per_block=1,
    ).save_pretrained(folder / "vae")
    UNet2DConditionModel(
        in_channels=4,
        out_channels=4,
        block_out_channels=(4, 8),
        norm_num_groups=2,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        cross_attention_dim=WIDTH,
        attention_head_dim=2,
    ).save_pretrained(folder / "unet", safe_serialization=False)
    config = HiFiGANConfig(
        upsample_rates=(16, 10),
        upsample_kernel_sizes=(16, 11),
        upsample_initial_channel=8,
        resblock_kernel_sizes=(3,),
        resblock_dilation_sizes=((1, 3),),
    )
    vocoder = HiFiGAN(config, weight_norm=True)  # as it is published
    (folder / "vocoder").mkdir()
    torch.save({"generator": vocoder.state_dict()}, folder / "vocoder" / "vocoder.pt")
    sizes = {
        name: getattr(config, name)
        for name in HiFiGANConfig.__dataclass_fields__
        if name.startswith(("num_", "upsample_", "resblock"))
    }
    (folder / "vocoder" / "config.json").write_text(json.dumps(sizes))


@pytest.fixture(scope="module")
def converted(published) -> tuple[Path, dict]:
    folder = published.parent / "converted"
    words = ["models", "convert", published, "-o", folder, "--to", "onnx", "--json"]
    result = CliRunner().invoke(build_app(), [*map(str, words), "--dtype", "bf16"])
    assert result.exit_code == 0, result.output
    return folder, json.loads(result.stdout)


def test_every_network_gets_a_graph_that_agrees_with_torch(converted):
    folder, row = converted
    graphs = {graph["name"]: graph for graph in row["graphs"]}
    parts = ("text_encoder_{}", "condition_adapter_{}")
    assert graphs.keys() == {
        *(f"{part.format(i)}/model.onnx" for part in parts for i in range(3)),
        *("vae/encoder.onnx", "vae/decoder.onnx", "vocoder/model.onnx", "unet/model.onnx"),
    }
    for name, graph in graphs.items():
        assert (folder / name).stat().st_size == graph["size_bytes"]
        assert 0 <= graph["max_difference"] <= onnx_graph.MAX_DIFFERENCE


def test_no_weight_is_in_a_graph(converted):
    folder, _ = converted
    for path in folder.rglob("*.onnx"):
        model = onnx.load(path, load_external_data=False)
        assert model.opset_import[0].version == OPSET
        inline = [one for one in model.graph.initializer if not one.external_data]
        assert all(np.prod(one.dims) < 1000 for one in inline), path


def test_the_networks_are_torchs(converted):
    """With the weights that were written, which have the precision that was asked for."""
    folder, _ = converted
    onnx_networks = OnnxNetworks(part_folders(folder), "cpu", n_threads=1)
    model = load_model(folder, device="cpu", dtype="fp32", engine="torch")
    rng = np.random.default_rng(0)
    sizes = onnx_networks.sizes
    assert (sizes.text_widths, sizes.cross_attention_dim) == ((WIDTH, 12, 16), WIDTH)
    assert (sizes.latent_channels, sizes.downsample, sizes.has_texture) == (4, 2, False)
    with torch.no_grad():
        for i, encoder in enumerate(model.networks.text_encoders):
            ids = rng.integers(3, 400, (3, 11))
            expected = encoder(torch.from_numpy(ids)).last_hidden_state
            found = onnx_networks.hidden_states(i, ids, None)
            np.testing.assert_allclose(found, expected, atol=1e-5)
        log_mel = rng.normal(size=(3, 256, 50)).astype(np.float32)
        expected = model.networks.vocoder(torch.from_numpy(log_mel))
        np.testing.assert_allclose(onnx_networks.vocode(log_mel), expected, atol=1e-5)


def stable_diffusion_layout(folder: Path, into: Path) -> Path:
    """The first text encoder of `folder`, without its adapter, in Stable Diffusion's layout."""
    for part in ("unet", "vae", "scheduler", "vocoder"):
        shutil.copytree(folder / part, into / part)
    shutil.copytree(folder / "text_encoder_0", into / "text_encoder")
    shutil.copytree(GOLDEN / "text_encoder_0", into / "tokenizer")
    shutil.copy(folder / "auffusion.json", into)
    (into / "model_index.json").write_text("{}")
    return into


@pytest.mark.parametrize("layout", ["adapter", "Stable Diffusion"])
def test_a_seed_is_the_same_sound_in_either_layout(converted, layout, tmp_path):
    folder, _ = converted
    if layout != "adapter":
        folder = stable_diffusion_layout(folder, tmp_path / "sd")
    request = GenerateRequest("a dog", seed=3, negative_prompt="rain")
    torchs, onnxs = (
        next(generate(load_model(folder, device="cpu", dtype="fp32", engine=engine), [request]))
        for engine in ("torch", "onnx")
    )
    np.testing.assert_allclose(onnxs.log_mel, torchs.log_mel, rtol=0, atol=1e-3)
    np.testing.assert_allclose(onnxs.waveform, torchs.waveform, rtol=0, atol=1e-3)
    assert onnxs.provenance.vocoder == "hifigan" and np.abs(onnxs.waveform).max() > 0


def test_a_network_that_computes_something_else_is_refused_and_leaves_nothing(
    published, monkeypatch, tmp_path
):
    all_of_them = onnx_export._makers
    monkeypatch.setattr(onnx_export, "_makers", lambda folder: list(all_of_them(folder))[3:4])
    monkeypatch.setattr(onnx_graph, "MAX_DIFFERENCE", -1.0)  # so that none agrees
    words = ["models", "convert", published, "-o", tmp_path / "out", "--to", "onnx"]
    result = CliRunner().invoke(build_app(), list(map(str, words)))
    assert result.exit_code == 1 and "differs from torch by" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_without_the_exporter_nothing_is_read(published, monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    words = ["models", "convert", published, "-o", tmp_path / "out", "--to", "onnx"]
    result = CliRunner().invoke(build_app(), list(map(str, words)))
    assert result.exit_code == 2 and "auffusion[onnx-export]" in result.stderr
    assert list(tmp_path.iterdir()) == []
