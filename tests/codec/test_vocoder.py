import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from auffusion_cli.checkpoints.load_torch import load_vocoder
from auffusion_cli.checkpoints.save import save_vocoder
from auffusion_cli.codec.vocoder import HiFiGAN, HiFiGANConfig
from auffusion_cli.errors import CheckpointError

GOLDEN = Path(__file__).parents[1] / "golden"
SIGNALS = np.load(GOLDEN / "signal_path.npz")
TINY = HiFiGANConfig(upsample_initial_channel=16, num_mels=8)


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(GOLDEN / "vocoder", tmp_path / "vocoder"))


@torch.no_grad()
def assert_golden(vocoder):
    waveform = vocoder(torch.from_numpy(SIGNALS["vocoder_in"])[None])
    np.testing.assert_allclose(waveform[0].numpy(), SIGNALS["vocoder_out"], atol=1e-5, rtol=0)


def test_equals_the_original_with_folded_weights(folder):
    vocoder = load_vocoder(folder)
    assert not [name for name in vocoder.state_dict() if "weight_" in name or "original" in name]
    assert_golden(vocoder)


def test_weight_norm_comes_back_for_training_and_saves_folded(folder, tmp_path):
    vocoder = load_vocoder(folder, weight_norm=True)
    assert "conv_pre.parametrizations.weight.original0" in vocoder.state_dict()
    assert_golden(vocoder)
    save_vocoder(vocoder, tmp_path / "saved")
    assert sorted(path.name for path in (tmp_path / "saved").iterdir()) == [
        "config.json",
        "vocoder.safetensors",
    ]
    saved = load_vocoder(tmp_path / "saved")
    assert saved.config == vocoder.config
    assert_golden(saved)


def test_new_style_names_load(folder, tmp_path):
    state = load_vocoder(folder, weight_norm=True).state_dict()
    (folder / "vocoder.pt").unlink()
    save_file(state, folder / "vocoder.safetensors")
    assert_golden(load_vocoder(folder))


def test_bare_state_dict_loads(folder):
    weights = torch.load(folder / "vocoder.pt", weights_only=True)["generator"]
    torch.save(weights, folder / "vocoder.pt")
    assert_golden(load_vocoder(folder))


@torch.no_grad()
@pytest.mark.parametrize("kernels", [(11, 8, 8, 4), (10, 7, 4, 3), (5, 4, 4, 2)])
def test_one_hop_a_frame_for_every_kernel(kernels):
    vocoder = HiFiGAN(
        HiFiGANConfig(num_mels=8, upsample_initial_channel=16, upsample_kernel_sizes=kernels)
    )
    for n_frames in (0, 1, 7):
        assert vocoder(torch.randn(2, 8, n_frames)).shape == (2, n_frames * 160)


@torch.no_grad()
def test_half_precision():
    assert HiFiGAN(TINY).bfloat16()(torch.randn(1, 8, 4)).dtype == torch.bfloat16


def test_weight_norm_trains_every_tensor():
    vocoder = HiFiGAN(TINY, weight_norm=True)
    vocoder(torch.randn(1, 8, 4)).square().sum().backward()
    assert all(p.grad is not None for p in vocoder.parameters())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"num_mels": -1}, "num_mels"),
        ({"num_mels": "256"}, "num_mels"),
        ({"upsample_initial_channel": 10**9}, "upsample_initial_channel"),
        ({"upsample_initial_channel": 24}, "upsample_initial_channel"),
        ({"upsample_rates": [5, 4, 4, 4]}, "upsample_rates"),
        ({"upsample_rates": 5}, "config"),
        ({"upsample_kernel_sizes": [11, 8, 8]}, "upsample_kernel_sizes"),
        ({"upsample_kernel_sizes": [4, 8, 8, 4]}, "upsample_kernel_sizes"),
        ({"resblock_kernel_sizes": [3, 7, 10]}, "resblock_kernel_sizes"),
        ({"resblock_dilation_sizes": [[1, 3, 5]]}, "resblock_dilation_sizes"),
        ({"resblock": "2"}, "resblock"),
    ],
)
def test_impossible_config_names_the_field(folder, change, named):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(CheckpointError, match=named) as failure:
        load_vocoder(folder)
    assert "config.json" in str(failure.value)


def test_published_config_with_training_keys_loads(folder):
    config = json.loads((folder / "config.json").read_text())
    extra = {"learning_rate": 2e-4, "segment_size": 5120}
    (folder / "config.json").write_text(json.dumps(config | extra))
    assert_golden(load_vocoder(folder))


@pytest.mark.parametrize("content", ["[]", "{", '{"resblock": "1"}'])
def test_foreign_config(folder, content):
    (folder / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_vocoder(folder)


def test_missing_files(tmp_path, folder):
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load_vocoder(tmp_path)
    (folder / "vocoder.pt").unlink()
    with pytest.raises(CheckpointError, match=r"vocoder\.pt"):
        load_vocoder(folder)


@pytest.mark.parametrize("kept", [0, 100, -100])
def test_truncated_weights_name_the_file(folder, kept):
    path = folder / "vocoder.pt"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"vocoder\.pt"):
        load_vocoder(folder)


def test_truncated_safetensors_name_the_file(folder, tmp_path):
    save_vocoder(load_vocoder(folder), tmp_path / "saved")
    path = tmp_path / "saved" / "vocoder.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match=r"vocoder\.safetensors"):
        load_vocoder(tmp_path / "saved")


def test_mismatched_tensors_are_named(folder, tmp_path):
    save_vocoder(load_vocoder(folder), tmp_path / "saved")
    path = tmp_path / "saved" / "vocoder.safetensors"
    weights = load_file(path)
    faults = {
        r"ups\.1\.bias.*\(3,\)": weights | {"ups.1.bias": torch.zeros(3)},
        r"ups\.9\.bias": weights | {"ups.9.bias": torch.zeros(3)},
        r"conv_post\.bias": {n: t for n, t in weights.items() if n != "conv_post.bias"},
        r"conv_pre\.weight": {n: t for n, t in weights.items() if n != "conv_pre.weight"},
        r"x\.weight_v": weights | {"x.weight_g": torch.zeros(3)},
    }
    for named, broken in faults.items():
        save_file(broken, path)
        with pytest.raises(CheckpointError, match=named):
            load_vocoder(tmp_path / "saved")


def test_pickle_that_carries_code_is_refused(folder):
    class Code:
        def __reduce__(self):
            return print, ("executed",)

    torch.save({"generator": Code()}, folder / "vocoder.pt")
    with pytest.raises(CheckpointError, match=r"vocoder\.pt"):
        load_vocoder(folder)


def sweep(n_samples: int) -> torch.Tensor:
    """A chirp with a beating overtone, (1, N)."""
    t = torch.arange(n_samples) / 16_000
    return (torch.sin(2e3 * t + 3e3 * t**2) + 0.3 * torch.sin(9e3 * t) * torch.sin(20 * t))[None]
