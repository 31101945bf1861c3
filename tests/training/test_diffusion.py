"""The diffusion stage on the tiny checkpoint: losses, dropped captions, weights, the result."""

import re
import shutil
from dataclasses import replace

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from transformers import ClapConfig, ClapModel, CLIPConfig, CLIPModel

from auffusion_cli.checkpoints.load import load_model
from auffusion_cli.codec.autoencoder import KLAutoencoder
from auffusion_cli.codec.codec import Codec
from auffusion_cli.codec.vocoder import GriffinLim
from auffusion_cli.config import GenerationDefaults
from auffusion_cli.errors import AuffusionWarning, UsageError
from auffusion_cli.signal.audio import read_audio
from auffusion_cli.training.config import (
    DiffusionConfig,
    LoopConfig,
    PreviewConfig,
    SceneConfig,
    TextEncoderConfig,
    TrainingConfig,
)
from auffusion_cli.training.diffusion import DiffusionStage, build_model
from auffusion_cli.training.latents import FreshScenes
from auffusion_cli.training.loop import train
from auffusion_cli.training.samples import Sample

CPU = torch.device("cpu")
SCENES = SceneConfig(duration_s=0.64)
BATCH = [Sample(0, seed=5), Sample(1, seed=6)]
LOOP = LoopConfig(
    batch_size=2, max_steps=4, learning_rate=1e-3, warmup_steps=0, ema_decay=0.5, tensorboard=False
)


class FixedExamples:
    """Two latents and captions that need no codec."""

    def __init__(self, model):
        generator = torch.Generator().manual_seed(1)
        self.latents = torch.randn(2, 4, 32, 8, generator=generator)
        self.latent_shape = (4, 32, 8)
        self.hidden_states = [model.text.hidden_states(caption) for caption in ("a dog", "rain")]

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
    handle = stage.model.unet.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["encoder_hidden_states"]),
        with_kwargs=True,
    )
    list(stage.losses(stage.load(BATCH), step=0))
    handle.remove()
    return seen[0]


def test_dropped_captions_are_zeros_after_the_adapter(model):
    kept = conditioning_of(make_stage(model, text_dropout=0.0))
    expected = model.text.encode(["a dog", "rain"]).cond
    torch.testing.assert_close(kept, expected)
    dropped = conditioning_of(make_stage(model, text_dropout=1.0))
    assert not dropped.any()
    torch.testing.assert_close(dropped[0], model.text.unconditional())


def test_in_the_stable_diffusion_layout_a_dropped_caption_is_the_empty_prompt(model):
    model.text.adapters = None
    dropped = conditioning_of(make_stage(model, text_dropout=1.0))
    assert dropped.any()
    torch.testing.assert_close(dropped[1], model.text.encode([""]).cond[0])
    stage = make_stage(model)
    assert not any("adapter" in name for name, _ in stage.networks["denoiser"].named_parameters())


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
    encoder = [p.clone() for p in model.text.encoders.parameters()]
    optimizer = torch.optim.AdamW(stage.networks["denoiser"].parameters(), lr=2e-3)
    losses = []
    for _ in range(12):
        ((loss, numbers),) = stage.losses(stage.load(BATCH), step=0)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in model.unet.parameters())
        assert all(p.grad.any() for p in model.text.adapters.parameters())
        optimizer.step()
        losses.append(numbers["loss"])
    assert losses[-1] < 0.8 * losses[0]
    for before, after in zip(encoder, model.text.encoders.parameters(), strict=True):
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
        parts = [*loaded.unet.parameters(), *loaded.text.adapters.parameters()]
        for expected, got in zip(average, parts, strict=True):
            assert torch.equal(expected, got)
        assert not torch.equal(parts[0], next(trained.unet.parameters()))


def test_bf16(model, tmp_path):
    AcceleratorState._reset_state()  # a process has one precision
    losses = run(model, tmp_path / "out", mixed_precision="bf16", max_steps=2)
    assert len(losses) == 2
    assert next(model.unet.parameters()).dtype == torch.float32
    AcceleratorState._reset_state()


def test_previews_are_sounds_and_pictures(model, tmp_path):
    stage = make_stage(model, preview_prompts=("a dog", "rain"))
    stage.preview(tmp_path / "previews", step=7)
    for index in (0, 1):
        path = tmp_path / f"previews/step-00000007-{index}.wav"
        assert read_audio(path)[0].shape == (1, 16000)
        with Image.open(path.with_suffix(".png")) as picture:
            assert picture.size[0] > 400
    assert model.unet.training  # and goes on
    with pytest.raises(UsageError, match="prompt"):
        make_stage(model, preview_prompts=("",))


def test_previews_take_few_steps_unless_asked(model):
    model = replace(model, defaults=replace(model.defaults, steps=100))
    settings = make_stage(model).preview_settings
    assert (settings.steps, settings.duration_s) == (25, model.defaults.duration_s)
    asked = PreviewConfig(steps=3, duration_s=0.5, guidance_scale=2.0)
    settings = make_stage(model, preview=asked).preview_settings
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


# From scratch -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("parts") / "vae"
    vae = AutoencoderKL(
        in_channels=16,
        out_channels=16,
        latent_channels=8,
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        block_out_channels=[8, 8],
        norm_num_groups=4,
    )
    vae.save_pretrained(folder)
    return folder


def scratch(tiny_checkpoint, vae, **changes):
    config = DiffusionConfig(
        autoencoder=str(vae),
        text_encoders=(TextEncoderConfig(str(tiny_checkpoint / "text_encoder_0"), max_length=9),),
        unet={
            "block_out_channels": [16, 32],
            "layers_per_block": 1,
            "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
            "cross_attention_dim": 24,
            "attention_head_dim": 4,
            "norm_num_groups": 4,
        },
        generation=GenerationDefaults(duration_s=0.5, max_duration_s=0.64, steps=2),
        name="fresh",
        licence="CC0-1.0",
    )
    return build_model(replace(config, **changes), CPU, 0.64)


def test_from_scratch_the_sizes_are_filled_in(tiny_checkpoint, autoencoder, tmp_path):
    model = scratch(tiny_checkpoint, autoencoder)
    assert model.unet.config.in_channels == model.unet.config.out_channels == 8
    assert model.unet.config.sample_size == (32, 8)
    assert model.text.adapters[0].proj.out_features == 24
    assert isinstance(model.codec.vocoder, GriffinLim)

    stage = DiffusionStage(model, FixedExamples8(model), DiffusionConfig())
    ((loss, _),) = stage.losses(stage.load(BATCH), step=0)
    assert loss.isfinite()
    stage.export(tmp_path)
    loaded = load_model(tmp_path, device="cpu")
    assert isinstance(loaded.codec.vocoder, GriffinLim) and loaded.licence == "CC0-1.0"
    assert isinstance(loaded.codec, Codec) and isinstance(loaded.codec.autoencoder, KLAutoencoder)
    assert loaded.defaults.max_duration_s == 0.64


class FixedExamples8(FixedExamples):
    def __init__(self, model):
        super().__init__(model)
        self.latents = self.latents.repeat(1, 2, 1, 1)
        self.latent_shape = (8, 32, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"autoencoder": None}, "needs diffusion.autoencoder"),
        ({"text_encoders": ()}, "needs diffusion.autoencoder and diffusion.text_encoders"),
        ({"unet": {"depth": 3}}, r"diffusion\.unet: .*depth"),
        ({"unet": {"block_out_channels": []}}, r"diffusion\.unet: "),
        ({"unet": {"layers_per_block": 1_000_000}}, r"diffusion\.unet: more than 10,000 tensors"),
        ({"unet": {"norm_num_groups": 0}}, r"diffusion\.unet: "),
        ({"unet": {"class_embed_type": "timestep"}}, r"diffusion\.unet: the network does not work"),
        ({"unet": {"cross_attention_dim": "wide"}}, r"cross_attention_dim: 'wide' is not a whole"),
        ({"unet": {"block_out_channels": [65536] * 4}}, r"diffusion\.unet: .* weights are more"),
        ({"scheduler": {"predction_type": "epsilon"}}, "unknown key 'predction_type'"),
        ({"scheduler": {"beta_schedule": "steep"}}, r"diffusion\.scheduler: "),
        ({"scheduler": {}}, r"diffusion\.scheduler: lacks beta_start"),
        (
            {"generation": GenerationDefaults(0.5, 0.64, vocoder="wavenet")},
            r"diffusion\.generation: vocoder is 'wavenet'",
        ),
        ({"generation": GenerationDefaults()}, "max_duration_s: 10.24 s is not the window"),
        (
            {"generation": GenerationDefaults(0.5, 0.64, scheduler="best")},
            r"diffusion\.generation: .*'best'",
        ),
    ],
)
def test_from_scratch_what_is_impossible_is_told(tiny_checkpoint, autoencoder, changes, message):
    with pytest.raises(UsageError, match=message):
        scratch(tiny_checkpoint, autoencoder, **changes)


def test_a_fresh_unet_is_drawn_as_if_it_were_not_checked_before(tiny_checkpoint, autoencoder):
    torch.manual_seed(3)
    model = scratch(tiny_checkpoint, autoencoder)
    torch.manual_seed(3)
    [torch.nn.Linear(a.proj.in_features, a.proj.out_features) for a in model.text.adapters]
    unet = UNet2DConditionModel.from_config(model.unet.config)
    for expected, got in zip(unet.parameters(), model.unet.parameters(), strict=True):
        assert torch.equal(expected, got)


@pytest.mark.parametrize("kind", ["clip", "clap"])
def test_of_a_clip_or_clap_the_text_part_is_used(tiny_checkpoint, autoencoder, tmp_path, kind):
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    text = sizes | {"num_attention_heads": 2, "vocab_size": 1200}
    source = tiny_checkpoint / "text_encoder_0"
    shutil.copytree(source, tmp_path / kind, ignore=shutil.ignore_patterns("*.safetensors"))
    if kind == "clip":
        vision = sizes | {"num_attention_heads": 2, "image_size": 32, "patch_size": 16}
        config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
        CLIPModel(config).save_pretrained(tmp_path / kind)
    else:
        audio = {
            "depths": [1],
            "num_attention_heads": [2],
            "hidden_size": 8,
            "patch_embeds_hidden_size": 8,
            "spec_size": 64,
            "num_mel_bins": 16,
            "num_classes": 2,
        }
        config = ClapConfig(text_config=text, audio_config=audio, projection_dim=8)
        ClapModel(config).save_pretrained(tmp_path / kind)
    entry = TextEncoderConfig(str(tmp_path / kind), max_length=5)
    model = scratch(tiny_checkpoint, autoencoder, text_encoders=(entry,))
    assert model.text.encode(["a dog"]).cond.shape == (1, 5, 24)


def test_a_prediction_of_the_sample_is_refused(model):
    model.scheduler_config = {**model.scheduler_config, "prediction_type": "sample"}
    with pytest.raises(UsageError, match="'sample' is not one of epsilon, v_prediction"):
        make_stage(model)


def test_fine_tuning_keeps_the_licence_and_takes_the_new_name(tiny_checkpoint):
    config = DiffusionConfig(init_from=str(tiny_checkpoint), name="mine")
    model = build_model(config, CPU, 1.28)
    assert model.name == "mine"
    assert model.defaults == load_model(tiny_checkpoint, device="cpu").defaults
    assert build_model(replace(config, licence="MIT"), CPU, 1.28).licence == "MIT"


def test_a_shorter_window_is_recorded_in_the_result(tiny_checkpoint, tmp_path):
    config = DiffusionConfig(init_from=str(tiny_checkpoint))
    with pytest.warns(
        AuffusionWarning, match=r"shrinks from 1\.28 s to scenes\.duration_s, 0\.64 s"
    ):
        model = build_model(config, CPU, 0.64)
    DiffusionStage(model, FixedExamples(model), config).export(tmp_path)
    defaults = load_model(tmp_path, device="cpu").defaults
    assert (defaults.max_duration_s, defaults.duration_s) == (0.64, 0.64)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_whole_checkpoint_stands_for_its_parts(tiny_checkpoint):
    model = scratch(tiny_checkpoint, tiny_checkpoint, vocoder=str(tiny_checkpoint))
    assert model.codec.autoencoder.latent_channels == 4
    assert model.codec.vocoder.name == "hifigan"


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"autoencoder": "stabilityai/sd-vae-ft-mse"}, "diffusion.autoencoder"),
        ({"vocoder": "absent"}, "diffusion.vocoder"),
        (
            {"text_encoders": (TextEncoderConfig("openai/clip-vit-large-patch14"),)},
            "diffusion.text_encoders[0].path",
        ),
    ],
)
def test_a_folder_that_is_not_there_is_told_and_ids_of_the_hub_are_recognised(
    tiny_checkpoint, autoencoder, changes, key
):
    with pytest.raises(UsageError, match=f"{re.escape(key)}: .* is not a folder") as caught:
        scratch(tiny_checkpoint, autoencoder, **changes)
    assert ("hf download" in (caught.value.hint or "")) == ("absent" not in str(changes))
