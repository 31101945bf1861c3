"""The autoencoder stage, alone and in the loop."""

import dataclasses
import shutil

import pytest
import torch
from accelerate import Accelerator

from auffusion_cli.checkpoints.load_torch import load_autoencoder
from auffusion_cli.codec.autoencoder import KLAutoencoder
from auffusion_cli.errors import CheckpointError, UsageError
from auffusion_cli.training.autoencoder import AutoencoderStage, build_kl_autoencoder
from auffusion_cli.training.config import AutoencoderConfig, LoopConfig, SceneConfig, TrainingConfig
from auffusion_cli.training.loop import train
from auffusion_cli.training.samples import Sample
from layouts import as_stable_diffusion

TINY = {
    "in_channels": 16,
    "out_channels": 16,
    "latent_channels": 4,
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "block_out_channels": [8, 8],
    "norm_num_groups": 4,
    "mid_block_add_attention": False,
}
CONFIG = AutoencoderConfig(model=TINY)
SCENES = SceneConfig(duration_s=0.5)
CPU = torch.device("cpu")


def make_stage(store, config=CONFIG):
    torch.manual_seed(0)
    return AutoencoderStage(TrainingConfig(autoencoder=config, scenes=SCENES), store, CPU)


def test_images_are_padded_to_what_the_autoencoder_can_halve(store):
    stage = make_stage(store)
    images = stage._images_of([0, 1])
    assert images.shape == (2, 3, 256, 56)  # 50 columns, up to a multiple of 8
    assert not images[..., 50:].any() and images[..., :50].any()


def test_terms_are_weighted_and_add_up(store):
    batch = [Sample(0, seed=0)]
    stage = make_stage(store)
    ((_, plain),) = stage.losses(stage.load(batch), step=0)
    weights = {"l1_weight": 2.0, "gradient_weight": 3.0, "kl_weight": 4e-6}
    stage = make_stage(store, dataclasses.replace(CONFIG, **weights))
    ((loss, weighted),) = stage.losses(stage.load(batch), 0)
    for name, factor in (("l1", 2), ("gradient", 3), ("kl", 4)):
        assert weighted[name] == pytest.approx(factor * plain[name], rel=1e-5)
    assert loss.item() == pytest.approx(sum(weighted[name] for name in ("l1", "gradient", "kl")))


def test_latent_noise_comes_from_the_sample_alone(store):
    stage = make_stage(store)
    pair = [Sample(0, seed=5), Sample(1, seed=6)]
    ((_, first),) = stage.losses(stage.load(pair[:1]), step=0)
    ((_, second),) = stage.losses(stage.load(pair[1:]), step=9)
    ((_, both),) = stage.losses(stage.load(pair), step=3)
    for name in ("l1", "gradient", "kl"):
        assert both[name] == pytest.approx((first[name] + second[name]) / 2, rel=1e-4)
    torch.manual_seed(123)
    ((_, again),) = stage.losses(stage.load(pair), step=3)
    assert again == both


def test_the_critic_joins_in_and_each_loss_moves_its_own_network(store):
    config = dataclasses.replace(CONFIG, adversarial_weight=0.1, adversarial_start_step=3)
    stage = make_stage(store, config)
    batch = [Sample(0, seed=0)]
    assert len(list(stage.losses(stage.load(batch), step=2))) == 1

    losses = stage.losses(stage.load(batch), step=3)
    critic_loss, numbers = next(losses)
    assert numbers.keys() == {"discriminator"}
    critic_loss.backward()
    assert all(p.grad is None for p in stage.autoencoder.parameters())
    assert all(p.grad is not None for p in stage.discriminator.parameters())
    stage.discriminator.zero_grad()
    loss, numbers = next(losses)
    assert "adversarial" in numbers
    loss.backward()
    assert all(p.grad is not None for p in stage.autoencoder.parameters())
    assert all(p.grad is None for p in stage.discriminator.parameters())


def run(store, output, max_steps, resume=False, config=CONFIG):
    training = TrainingConfig(
        stage="autoencoder",
        autoencoder=config,
        scenes=SCENES,
        loop=LoopConfig(
            batch_size=2,
            max_steps=max_steps,
            learning_rate=3e-3,
            warmup_steps=0,
            ema_decay=None,
            checkpoint_every_steps=2,
            tensorboard=False,
        ),
    )
    numbers = []
    stage = make_stage(store, config)
    train(
        stage,
        training,
        Accelerator(cpu=True),
        output,
        resume=resume,
        on_step=lambda progress: numbers.append(progress.losses),
    )
    return numbers, stage


def test_its_losses_teach(store):
    stage = make_stage(store)
    optimizer = torch.optim.AdamW(stage.autoencoder.parameters(), lr=5e-3)
    batch = [Sample(i, seed=i) for i in range(2)]
    l1 = []
    for step in range(40):
        ((loss, numbers),) = stage.losses(stage.load(batch), step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        l1.append(numbers["l1"])
    assert l1[-1] < l1[0] / 2


def test_a_resumed_run_has_the_losses_of_one_never_stopped(store, tmp_path):
    whole, _ = run(store, tmp_path / "whole", max_steps=5)
    before, _ = run(store, tmp_path / "halves", max_steps=3)
    after, _ = run(store, tmp_path / "halves", max_steps=5, resume=True)
    assert len(after) == 2
    for expected, numbers in zip(whole, before + after, strict=True):
        assert numbers == pytest.approx(expected, rel=1e-4)


def test_what_the_run_writes_is_an_autoencoder_with_latents_of_unit_scale(store, tmp_path):
    _, stage = run(store, tmp_path, max_steps=2)
    autoencoder = load_autoencoder(tmp_path / "vae")
    assert isinstance(autoencoder, KLAutoencoder)
    images = stage._images_of(range(len(store)))
    with torch.no_grad():
        assert autoencoder.encode(images).std().item() == pytest.approx(1, rel=0.05)

    stage.preview(tmp_path / "previews", step=2)
    from PIL import Image

    with Image.open(tmp_path / "previews/step-00000002.png") as picture:
        assert picture.size == (2 * 56, 2 * 256)

    # Going on from it keeps the scale: a diffusion model may depend on it.
    again = dataclasses.replace(CONFIG, init_from=str(tmp_path), model={})
    run(store, tmp_path / "again", max_steps=1, config=again)
    tuned = load_autoencoder(tmp_path / "again/vae")
    assert tuned.scaling_factor == autoencoder.scaling_factor


def test_a_model_that_cannot_be_is_told(tmp_path):
    with pytest.raises(UsageError, match=r"autoencoder\.model.*depth"):
        build_kl_autoencoder(AutoencoderConfig(model={"depth": 3}))
    with pytest.raises(UsageError, match="in_channels"):
        build_kl_autoencoder(AutoencoderConfig(model={**TINY, "in_channels": 5}))
    with pytest.raises(CheckpointError):
        build_kl_autoencoder(AutoencoderConfig(init_from=str(tmp_path)))


def test_the_autoencoder_of_an_image_model_is_gone_on_with(tiny_checkpoint, tmp_path):
    """Of Stable Diffusion's folder its `vae`."""
    folder = as_stable_diffusion(shutil.copytree(tiny_checkpoint, tmp_path / "sd"))
    expected = load_autoencoder(folder / "vae").state_dict()
    for name in (folder, folder / "vae"):
        found = build_kl_autoencoder(AutoencoderConfig(init_from=str(name))).state_dict()
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in expected)
