"""A LoRA in the diffusion stage: what is trained, what is saved, what stays."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from auffusion_cli.checkpoints.load import load_model
from auffusion_cli.errors import UsageError
from auffusion_cli.requests.loras import LORA_NAME, LoraChoice
from auffusion_cli.training.config import LoopConfig, SceneConfig, TrainingConfig
from auffusion_cli.training.diffusion_config import DiffusionConfig, GenerationConfig, LoraConfig
from auffusion_cli.training.run import run

LORA = LoraConfig(rank=2, trigger="a gong", prior_sounds=3, prior_prompts=("rain", "a dog"))
LOOP = LoopConfig(
    batch_size=2, max_steps=4, learning_rate=1e-2, warmup_steps=0, ema_decay=0.5, tensorboard=False
)


def train(store, checkpoint, output, lora=LORA, **changes):
    config = TrainingConfig(
        loop=replace(LOOP, **changes),
        scenes=SceneConfig(duration_s=1.28),
        diffusion=DiffusionConfig(init_from=str(checkpoint), lora=lora),
    )
    reports = []
    run(
        config,
        store.clips,
        output,
        device="cpu",
        resume=(output / "training.yaml").exists(),
        on_step=lambda report: reports.append(report.losses),
    )
    return reports


def test_a_lora_is_trained_resumed_and_added(store, tiny_checkpoint, tmp_path):
    whole = train(store, tiny_checkpoint, tmp_path / "whole")
    assert set(whole[0]) == {"loss", "mse", "prior"}
    assert whole[0]["prior"] < 1e-10 < whole[-1]["prior"]  # at first it changes nothing
    before = train(store, tiny_checkpoint, tmp_path / "parts", max_steps=2)
    assert before + train(store, tiny_checkpoint, tmp_path / "parts") == whole

    tensors = load_file(tmp_path / "whole" / LORA_NAME)
    assert all(name.startswith("unet.") and ".lora_" in name for name in tensors)
    for name, tensor in load_file(tmp_path / "parts" / LORA_NAME).items():
        assert torch.equal(tensor, tensors[name])
    assert not (tmp_path / "whole/unet").exists()
    saved = load_file(tmp_path / "whole/checkpoints/step-00000004/denoiser.safetensors")
    assert saved and all("lora_" in name for name in saved)

    plain = load_model(tiny_checkpoint, device="cpu", engine="torch").networks.unet.state_dict()
    tuned = load_model(
        tiny_checkpoint, device="cpu", loras=(LoraChoice(str(tmp_path / "whole")),)
    ).networks.unet.state_dict()
    changed = {name for name in plain if not torch.equal(plain[name], tuned[name])}
    assert changed == {
        f"{name.split('.lora_')[0].removeprefix('unet.')}.weight" for name in tensors
    }
    assert all("attn" in name for name in changed)


def test_without_a_prior_no_sounds_are_made(store, tiny_checkpoint, tmp_path):
    lora = LoraConfig(rank=1, prior_weight=0.0)
    reports = train(store, tiny_checkpoint, tmp_path / "out", lora, max_steps=1)
    assert set(reports[0]) == {"loss", "mse"}
    assert not list((tmp_path / "out/cache").glob("prior-*"))


def test_a_start_without_kinds_needs_prompts(store, tiny_checkpoint, tmp_path):
    with pytest.raises(UsageError, match="prior_prompts: the start states no kinds") as caught:
        train(store, tiny_checkpoint, tmp_path / "out", LoraConfig(rank=1), max_steps=1)
    assert "prior_weight=0" in caught.value.hint


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "diffusion.lora needs diffusion.init_from"),
        ({"init_from": "x", "vocoder": "y"}, "diffusion.vocoder: without effect with diffusion.lo"),
        (
            {"init_from": "x", "generation": GenerationConfig(steps=3), "scheduler": {"a": 1}},
            "diffusion.scheduler, diffusion.generation: without effect",
        ),
    ],
)
def test_what_a_lora_cannot_have_is_told(settings, message):
    with pytest.raises(UsageError, match=message):
        DiffusionConfig(lora=LoraConfig(rank=4), **settings)
    with pytest.raises(UsageError, match=r"diffusion\.lora\.trigger: without effect without"):
        LoraConfig(trigger="a bell")
