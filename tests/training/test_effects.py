"""No key is ignored in silence: whatever a run does not read is refused when it is set."""

import dataclasses
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from diffusers import AutoencoderKL

import auffusion_cli.training
from auffusion_cli.errors import UsageError
from auffusion_cli.training.config import (
    AutoencoderConfig,
    DistillConfig,
    LoopConfig,
    SceneConfig,
    TrainingConfig,
    VocoderConfig,
)
from auffusion_cli.training.diffusion_config import (
    DiffusionConfig,
    GenerationConfig,
    LoraConfig,
    TextEncoderConfig,
)
from auffusion_cli.training.effects import check_effects
from auffusion_cli.training.run import run

ROOM = str(Path(auffusion_cli.training.__file__).parent)
CHECKS = ("config.py", "diffusion_config.py", "checks.py", "effects.py", "config_file.py")
"""Files that look at every key."""
BY_THE_COMMAND = {"data", "caption_column", "encoding", "output", "skip_bad"}
"""Keys that the command reads."""
SECTIONS = {
    "": TrainingConfig,
    "loop": LoopConfig,
    "scenes": SceneConfig,
    "diffusion": DiffusionConfig,
    "autoencoder": AutoencoderConfig,
    "vocoder": VocoderConfig,
    "distill": DistillConfig,
}
OTHER = {
    "stage": "vocoder",
    "teacher_steps": 8,
    "guidance_scale": 2.0,
    "betas": (0.5, 0.6),
    "epoch_decay": 0.5,
    "ema_decay": 0.5,
    "max_minutes": 1.0,
    "mixed_precision": "bf16",
    "workers": 1,
    "preview_every_steps": 3,
    "duration_s": 0.5,
    "n_cached": 3,
    "kinds": ("a",),
    "kind_weights": {"a": 2.0},
    "gap_s": (0.1, 0.2),
    "background_gain_db": (-5.0, -4.0),
    "text_encoders": (TextEncoderConfig("x"),),
    "lora": LoraConfig(rank=1),
    "preview_prompts": ("x",),
    "preview": dataclasses.replace(DiffusionConfig().preview, steps=1),
    "generation": GenerationConfig(steps=1),
    "kind": "patch",
    "mels": "decoded",
    "segment_samples": 160,
    "max_grad_norm": 2.0,
    "min_snr_gamma": 2.0,
}
"""Values that are not the default, where its type does not tell one."""


def other_value(field: dataclasses.Field, value):
    if field.name in OTHER:
        return OTHER[field.name]
    if isinstance(value, bool):
        return not value
    if isinstance(value, dict):
        return {"x": 1}
    if isinstance(value, int):
        return value + 1
    return value + 0.1 if isinstance(value, float) else "x"


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kl") / "vae"
    AutoencoderKL(**KL).save_pretrained(folder)
    return str(folder)


KL = {
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "block_out_channels": [4, 4],
    "norm_num_groups": 2,
}
PATCH = {"patch_size": 16, "n_coefficients": 4, "refinement_channels": 4, "refinement_blocks": 1}
VOCODER = {
    "upsample_initial_channel": 16,
    "resblock_kernel_sizes": [3],
    "resblock_dilation_sizes": [[1]],
}
UNET = {
    "block_out_channels": [8, 8],
    "layers_per_block": 1,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "cross_attention_dim": 8,
    "attention_head_dim": 4,
    "norm_num_groups": 2,
}
PATCH_RUN = AutoencoderConfig(kind="patch", model=PATCH, n_fit_images=4)


def of_run(name: str, checkpoint: Path, vae: str) -> dict:
    """Stage and sections of the run called `name`."""
    encoders = (TextEncoderConfig(str(checkpoint / "text_encoder_0"), max_length=5),)
    sections = {
        "diffusion from scratch": DiffusionConfig(
            autoencoder=str(checkpoint), text_encoders=encoders, unet=UNET
        ),
        "diffusion": DiffusionConfig(init_from=str(checkpoint)),
        "autoencoder from scratch": AutoencoderConfig(model=KL),
        "autoencoder": AutoencoderConfig(init_from=vae),
        "vocoder from scratch": VocoderConfig(model=VOCODER, discriminator_width=0.01),
        "vocoder": VocoderConfig(init_from=str(checkpoint), adversarial_start_step=None),
        "patch": PATCH_RUN,
        "distill": DistillConfig(),
    }
    stage = {"patch": "autoencoder"}.get(name, name.split()[0])
    of_teacher = {"diffusion": sections["diffusion"]} if stage == "distill" else {}
    return {"stage": stage, stage: sections[name], **of_teacher}


@pytest.mark.parametrize(
    "name",
    [
        "diffusion from scratch",
        "diffusion",
        "autoencoder from scratch",
        "autoencoder",
        "patch",
        "vocoder from scratch",
        "vocoder",
        "distill",
    ],
)
def test_what_a_run_does_not_read_is_refused(
    name, tiny_checkpoint, vae, store, tmp_path, monkeypatch
):
    loop = LoopConfig(batch_size=1, max_steps=1, warmup_steps=0, tensorboard=False)
    scenes = SceneConfig() if name.startswith("vocoder") else SceneConfig(duration_s=1.28)
    config = TrainingConfig(loop=loop, scenes=scenes, **of_run(name, tiny_checkpoint, vae))
    read: set[tuple[str, str]] = set()

    def watch(section: str, kind: type) -> None:
        def watched(self, attribute):
            path = Path(sys._getframe(1).f_code.co_filename)
            if str(path.parent) == ROOM and path.name not in CHECKS:
                read.add((section, attribute))
            return object.__getattribute__(self, attribute)

        monkeypatch.setattr(kind, "__getattribute__", watched)

    with monkeypatch.context() as monkeypatch:
        for section, kind in SECTIONS.items():
            watch(section, kind)
        run(config, store.clips, tmp_path / "out", device="cpu", resume=False)

    ignored = []
    for section in SECTIONS:
        part = getattr(config, section) if section else config
        for field in dataclasses.fields(part):
            unread = (section, field.name) not in read
            if not unread or field.name in (*SECTIONS, *BY_THE_COMMAND):
                continue
            value = other_value(field, getattr(part, field.name))
            try:
                changed = replace(part, **{field.name: value})
                check_effects(replace(config, **{section: changed}) if section else changed)
            except UsageError as error:
                message = error.message
                is_told = "without effect" in message or "needs diffusion.init_from" in message
                assert is_told, (section, field.name, message)
            else:
                ignored.append(f"{section}.{field.name}")
    assert ignored == []
    shutil.rmtree(tmp_path / "out")


@pytest.mark.parametrize(
    ("config", "keys"),
    [
        (
            TrainingConfig(scenes=SceneConfig(max_repeats=2, pitch_range=0.1)),
            "scenes.max_repeats, scenes.pitch_range",
        ),
        (
            TrainingConfig(stage="vocoder", scenes=SceneConfig(duration_s=2.0, kinds=("dog",))),
            "scenes.duration_s",
        ),
        (
            TrainingConfig(
                stage="distill",
                diffusion=DiffusionConfig(init_from="x", text_dropout=0.5, scheduler={"a": 1}),
            ),
            "diffusion.scheduler, diffusion.text_dropout",
        ),
        (
            TrainingConfig(stage="vocoder", diffusion=DiffusionConfig(init_from="x", name="y")),
            "diffusion.init_from, diffusion.name",
        ),
    ],
)
def test_keys_without_effect_are_named(config, keys):
    with pytest.raises(UsageError) as caught:
        check_effects(config)
    assert caught.value.message.startswith(f"{keys}: without effect ")
