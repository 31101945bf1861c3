"""The diffusion stage on the tiny checkpoint: losses, dropped captions, weights, the result."""

from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from PIL import Image

from auffusion_cli.checkpoints.load import load_model
from auffusion_cli.errors import UsageError
from auffusion_cli.signal.audio import read_audio
from auffusion_cli.training.config import LoopConfig, SceneConfig, TrainingConfig
from auffusion_cli.training.diffusion import DiffusionStage
from auffusion_cli.training.diffusion_config import DiffusionConfig, PreviewConfig
from auffusion_cli.training.latents import FreshScenes
from auffusion_cli.training.loop import train
from auffusion_cli.training.samples import Sample
from model_parts import with_parts

CPU = torch.device("cpu")
SCENES = SceneConfig(duration_s=0.64)
BATCH = [Sample(0, seed=5), Sample(1, seed=6)]
LOOP = LoopConfig(
    batch_size=2, max_steps=4, learning_rate=1e-3, warmup_steps=0, ema_decay=0.5, tensorboard=False
)


class FixedExamples:
    """Two latents and captions that need no codec."""

    shards = None

    def __init__(self, model):
        generator = torch.Generator().manual_seed(1)
        self.latents = torch.randn(2, 4, 32, 8, generator=generator)
        self.latent_shape = (4, 32, 8)
        self.hidden_states = [
            [torch.from_numpy(model.text.hidden_states(0, [caption])[0])]
            for caption in ("a dog", "rain")
        ]

    def __len__(self):
        return 2

    def load(self, batch):
        rows = [self.hidden_states[s.index] for s in batch]
        latents = self.latents[[s.index for s in batch]]
        return latents, [torch.stack(states) for states in zip(*rows, strict=True)]

    def examples(self, loaded):
        return loaded


@pytest.fixture
def model(tiny_checkpoint):
    """One that may be trained."""
    return load_model(tiny_checkpoint, device="cpu")


def make_stage(model, **settings):
    return DiffusionStage(model, FixedExamples(model), DiffusionConfig(**settings))


def conditioning_of(stage):
    """What the UNet sees as text for BATCH."""
    seen = []
    handle = stage.model.networks.unet.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["encoder_hidden_states"]),
        with_kwargs=True,
    )
    list(stage.losses(stage.load(BATCH), step=0))
    handle.remove()
    return seen[0]


def test_dropped_captions_are_zeros_after_the_adapter(model):
    kept = conditioning_of(make_stage(model, text_dropout=0.0))
    expected = model.text.encode(["a dog", "rain"]).cond
    torch.testing.assert_close(kept, torch.from_numpy(expected))
    dropped = conditioning_of(make_stage(model, text_dropout=1.0))
    assert not dropped.any()
    torch.testing.assert_close(dropped[0], torch.from_numpy(model.text.unconditional()))


def test_in_the_stable_diffusion_layout_a_dropped_caption_is_the_empty_prompt(model):
    model = with_parts(model, adapters=None)
    dropped = conditioning_of(make_stage(model, text_dropout=1.0))
    assert dropped.any()
    torch.testing.assert_close(dropped[1], torch.from_numpy(model.text.encode([""]).cond[0]))
    stage = make_stage(model)
    assert not any("adapter" in name for name, _ in stage.networks["denoiser"].named_parameters())


def test_adapters_stay_where_they_are_not_to_be_trained(model):
    stage = make_stage(model, init_from="x", train_adapters=False)
    trained = {n for n, p in stage.networks["denoiser"].named_parameters() if p.requires_grad}
    assert trained and all(name.startswith("unet.") for name in trained)
    ((loss, _),) = stage.losses(stage.load(BATCH), step=0)
    loss.backward()
    assert all(p.grad is None for p in model.networks.adapters.parameters())
    with pytest.raises(UsageError, match="has no adapters"):
        make_stage(with_parts(model, adapters=None), init_from="x", train_adapters=False)


def test_captions_are_dropped_as_often_as_asked(model):
    stage = make_stage(model, text_dropout=0.25)
    batch = [Sample(i % 2, seed=i) for i in range(400)]
    kept = []

    def denoise(noisy, timesteps, hidden_states, rows):
        kept.append(rows)
        return noisy

    stage.networks["denoiser"] = denoise
    list(stage.losses(stage.load(batch), step=0))
    assert 1 - kept[0].float().mean().item() == pytest.approx(0.25, abs=0.07)


def test_noise_and_time_come_from_the_sample_alone(model):
    stage = make_stage(model)
    ((_, both),) = stage.losses(stage.load(BATCH), step=3)
    alone = [next(iter(stage.losses(stage.load([sample]), step=9)))[1] for sample in BATCH]
    for name in ("loss", "mse"):
        assert both[name] == pytest.approx(sum(n[name] for n in alone) / 2, rel=1e-4)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_target(model, prediction_type):
    """A denoiser that is right has no loss; one that says 0 has the target's power."""
    model.scheduler_config = {**model.scheduler_config, "prediction_type": prediction_type}
    stage = make_stage(model, min_snr_gamma=None)
    clean = stage.source.load(BATCH)[0]
    alphas = stage.scheduler.alphas_cumprod

    def right(noisy, timesteps, hidden_states, kept):
        signal = alphas[timesteps].sqrt()[:, None, None, None]
        sigma = (1 - alphas[timesteps]).sqrt()[:, None, None, None]
        noise = (noisy - signal * clean) / sigma
        return noise if prediction_type == "epsilon" else signal * noise - sigma * clean

    stage.networks["denoiser"] = right
    ((_, numbers),) = stage.losses(stage.load(BATCH), step=0)
    assert numbers["mse"] < 1e-6
    stage.networks["denoiser"] = lambda noisy, *rest: torch.zeros_like(noisy)
    ((_, numbers),) = stage.losses(stage.load(BATCH), step=0)
    assert numbers["mse"] == pytest.approx(1, abs=0.15)  # noise and latents have unit variance


def test_min_snr_weights_by_hand(model):
    """SNR = a / (1 - a): 1/3, 1, 9, 99; gamma 5."""
    stage = make_stage(model, min_snr_gamma=5.0)
    stage.scheduler.alphas_cumprod = torch.tensor([0.25, 0.5, 0.9, 0.99, 0.0])
    timesteps = torch.arange(4)
    epsilon = stage._weights(timesteps, velocity=False)
    assert epsilon.tolist() == pytest.approx([1, 1, 5 / 9, 5 / 99], rel=1e-4)
    velocity = stage._weights(timesteps, velocity=True)
    assert velocity.tolist() == pytest.approx([1 / 4, 1 / 2, 5 / 10, 5 / 100], rel=1e-4)
    # Where no signal is left, the noise has weight 1 and the velocity 0.
    assert stage._weights(torch.tensor([4]), velocity=False).item() == 1
    assert stage._weights(torch.tensor([4]), velocity=True).item() == 0
    assert make_stage(model, min_snr_gamma=None)._weights(timesteps, velocity=False) == 1.0


def test_the_loss_is_weighted(model):
    stage = make_stage(model, min_snr_gamma=1e-6)
    ((loss, numbers),) = stage.losses(stage.load(BATCH), step=0)
    assert loss.item() == pytest.approx(numbers["loss"]) and numbers["loss"] < 1e-2 * numbers["mse"]


def test_unet_and_adapters_learn_and_the_encoders_do_not(model):
    stage = make_stage(model, gradient_checkpointing=True, text_dropout=0.0)
    encoder = [p.clone() for p in model.networks.text_encoders.parameters()]
    optimizer = torch.optim.AdamW(stage.networks["denoiser"].parameters(), lr=2e-3)
    losses = []
    for _ in range(12):
        ((loss, numbers),) = stage.losses(stage.load(BATCH), step=0)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in model.networks.unet.parameters())
        assert all(p.grad.any() for p in model.networks.adapters.parameters())
        optimizer.step()
        losses.append(numbers["loss"])
    assert losses[-1] < 0.8 * losses[0]
    for before, after in zip(encoder, model.networks.text_encoders.parameters(), strict=True):
        assert torch.equal(before, after)


def run(model, output, **changes):
    stage = make_stage(model, name="mine", preview_prompts=("a dog",))
    losses = []
    train(
        stage,
        TrainingConfig(loop=replace(LOOP, **changes)),
        Accelerator(cpu=True, mixed_precision=changes.get("mixed_precision", "no")),
        output,
        resume=output.exists(),
        on_step=lambda progress: losses.append(progress.losses["loss"]),
    )
    return losses


def test_a_resumed_run_has_the_losses_of_one_never_stopped(tiny_checkpoint, tmp_path):
    def fresh():
        return load_model(tiny_checkpoint, device="cpu")

    whole = run(fresh(), tmp_path / "whole")
    before = run(fresh(), tmp_path / "parts", max_steps=2)
    assert before + run(fresh(), tmp_path / "parts") == whole

    # What it wrote is a checkpoint with the averaged weights under its own name.
    trained = fresh()
    run(trained, tmp_path / "third", max_steps=4)
    for output in ("whole", "parts"):
        loaded = load_model(tmp_path / output, device="cpu")
        average = torch.load(tmp_path / "third/checkpoints/step-00000004/ema.pt")["shadow_params"]
        parts = [*loaded.networks.unet.parameters(), *loaded.networks.adapters.parameters()]
        for expected, got in zip(average, parts, strict=True):
            assert torch.equal(expected, got)
        assert not torch.equal(parts[0], next(trained.networks.unet.parameters()))


def test_bf16(model, tmp_path):
    AcceleratorState._reset_state()  # a process has one precision
    losses = run(model, tmp_path / "out", mixed_precision="bf16", max_steps=2)
    assert len(losses) == 2
    assert next(model.networks.unet.parameters()).dtype == torch.float32
    AcceleratorState._reset_state()


def test_previews_are_sounds_and_pictures(model, tmp_path):
    stage = make_stage(model, preview_prompts=("a dog", "rain"))
    stage.preview(tmp_path / "previews", step=7)
    for index in (0, 1):
        path = tmp_path / f"previews/step-00000007-{index}.wav"
        assert read_audio(path)[0].shape == (1, 16000)
        with Image.open(path.with_suffix(".png")) as picture:
            assert picture.size[0] > 400
    assert model.networks.unet.training  # and goes on
    with pytest.raises(UsageError, match="prompt"):
        make_stage(model, preview_prompts=("",))


def test_previews_take_few_steps_unless_asked(model):
    model = replace(model, defaults=replace(model.defaults, steps=100))
    settings = make_stage(model).previews.settings
    assert (settings.steps, settings.duration_s) == (25, model.defaults.duration_s)
    asked = PreviewConfig(steps=3, duration_s=0.5, guidance_scale=2.0)
    settings = make_stage(model, preview=asked).previews.settings
    assert (settings.steps, settings.duration_s, settings.guidance_scale) == (3, 0.5, 2.0)
    with pytest.raises(UsageError, match=r"diffusion\.preview: .*--steps 0"):
        make_stage(model, preview=PreviewConfig(steps=0))


def test_previews_have_the_length_asked_for(model, tmp_path):
    preview = PreviewConfig(steps=1, duration_s=0.5)
    make_stage(model, preview_prompts=("a dog",), preview=preview).preview(tmp_path, step=1)
    assert read_audio(tmp_path / "step-00000001-0.wav")[0].shape == (1, 8000)


def test_fresh_scenes_teach_too(model, store):
    source = FreshScenes(model.codec, model.text, store, SCENES)
    stage = DiffusionStage(model, source, DiffusionConfig())
    assert stage.n_items == len(store)
    ((loss, _),) = stage.losses(stage.load(BATCH), step=0)
    assert loss.isfinite() and loss.requires_grad


def test_the_loss_on_held_out_data_is_fixed_and_of_the_current_weights(model):
    source = FixedExamples(model)
    stage = DiffusionStage(model, source, DiffusionConfig(), held_out=source)
    torch.manual_seed(0)
    loss = stage.validation_loss()
    torch.manual_seed(1)
    assert stage.validation_loss() == loss > 0
    assert stage.unet.training
    with torch.no_grad():
        next(stage.unet.conv_out.parameters()).mul_(2)
    assert stage.validation_loss() != loss


def test_a_prediction_of_the_sample_is_refused(model):
    model.scheduler_config = {**model.scheduler_config, "prediction_type": "sample"}
    with pytest.raises(UsageError, match="'sample' is not one of epsilon, v_prediction"):
        make_stage(model)
