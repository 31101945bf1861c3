"""The patch autoencoder's stage, alone and in the loop."""

from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from PIL import Image

from auffusion_cli.checkpoints.load_torch import load_autoencoder
from auffusion_cli.errors import CheckpointError, UsageError
from auffusion_cli.training.config import AutoencoderConfig, LoopConfig, SceneConfig, TrainingConfig
from auffusion_cli.training.loop import train
from auffusion_cli.training.patch_autoencoder import (
    PatchAutoencoderStage,
    build_patch_autoencoder,
)
from auffusion_cli.training.samples import Sample

CONFIG = TrainingConfig(
    stage="autoencoder",
    scenes=SceneConfig(duration_s=0.5),
    autoencoder=AutoencoderConfig(
        kind="patch",
        model={"n_coefficients": 8, "refinement_channels": 16, "refinement_blocks": 1},
        n_fit_images=5,
    ),
    loop=LoopConfig(
        batch_size=2, learning_rate=2e-3, warmup_steps=0, ema_decay=None, tensorboard=False
    ),
)
CPU = torch.device("cpu")
BATCH = [Sample(0, seed=1), Sample(1, seed=2)]


def make_stage(store, config=CONFIG, on_prepare=None):
    torch.manual_seed(0)
    return PatchAutoencoderStage(config, store, CPU, on_prepare)


def test_the_fit_comes_first_and_is_the_same_again(store):
    seen = []
    stage = make_stage(store, on_prepare=lambda *report: seen.append(report))
    assert seen == [("fitting patches", 5, 5)]
    again = make_stage(store)
    assert torch.equal(stage.model.components, again.model.components)
    ((_, numbers),) = stage.losses(stage.load(BATCH), step=0)
    # The refinement starts as the identity; the linear round trip is already close.
    assert numbers["l1"] == pytest.approx(numbers["linear_l1"]) and numbers["l1"] < 0.1


def test_images_are_padded_to_what_it_can_divide(store):
    stage = make_stage(store)
    images = stage._images(stage._waveforms([1]))
    assert images.shape == (1, 1, 256, 64) and not images[..., 50:].any()  # 50 columns of sound


def test_only_the_refinement_learns(store):
    stage = make_stage(store)
    components = stage.model.components.clone()
    optimizer = torch.optim.AdamW(stage.networks["refinement"].parameters(), lr=1e-3)
    losses = []
    for _ in range(60):
        ((loss, numbers),) = stage.losses(stage.load(BATCH), step=0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(numbers["loss"])
    assert losses[-1] < 0.99 * losses[0]  # half of what is there to learn from is noise
    assert torch.equal(components, stage.model.components)


def test_noise_on_the_latents_is_the_samples_own(store):
    settings = replace(CONFIG.autoencoder, latent_noise=0.5)
    stage = make_stage(store, replace(CONFIG, autoencoder=settings))
    waveforms, noise = stage.load(BATCH)
    assert noise.shape == stage.model.encode(stage._images(waveforms)).shape
    assert torch.equal(noise[1:], stage.load(BATCH[1:])[1])  # whatever is beside it
    assert 0 < noise.std() < 0.5 and not torch.equal(noise[0], noise[1])
    ((_, noisy),) = stage.losses((waveforms, noise), step=0)
    ((_, exact),) = make_stage(store).losses(make_stage(store).load(BATCH), step=0)
    assert noisy["linear_l1"] > exact["linear_l1"]


def run(store, output, max_steps, resume=False, config=CONFIG):
    config = replace(config, loop=replace(config.loop, max_steps=max_steps, preview_every_steps=2))
    losses = []
    train(
        make_stage(store, config),
        config,
        Accelerator(cpu=True),
        output,
        resume=resume,
        on_step=lambda progress: losses.append(progress.losses),
    )
    return losses


def test_resume_preview_and_result(store, tmp_path):
    whole = run(store, tmp_path / "whole", 3)
    before = run(store, tmp_path / "parts", 2)
    assert before + run(store, tmp_path / "parts", 3, resume=True) == whole

    with Image.open(tmp_path / "whole/previews/step-00000002.png") as picture:
        assert picture.size == (4 * 64, 2 * 256)

    one, other = (load_autoencoder(tmp_path / name / "vae") for name in ("whole", "parts"))
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])

    # Going on from the result: nothing is fitted again, and the latents stay what they are.
    settings = replace(
        CONFIG.autoencoder, init_from=str(tmp_path / "whole"), model={}, n_fit_images=1000
    )
    stage = make_stage(store, replace(CONFIG, autoencoder=settings))
    assert torch.equal(stage.model.components, one.components)


def test_what_it_cannot_start_from_is_told(tiny_checkpoint):
    with pytest.raises(UsageError, match=r"autoencoder\.model: .*depth"):
        build_patch_autoencoder(AutoencoderConfig(kind="patch", model={"depth": 3}))
    with pytest.raises(UsageError, match=r"autoencoder\.model: patch_size"):
        build_patch_autoencoder(AutoencoderConfig(kind="patch", model={"patch_size": 7}))
    with pytest.raises(CheckpointError, match=r"than autoencoder\.kind: patch"):
        build_patch_autoencoder(AutoencoderConfig(kind="patch", init_from=str(tiny_checkpoint)))
