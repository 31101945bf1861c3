"""The model that the diffusion stage trains: a start's UNet or a fresh one, and named parts."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import (
    ClapConfig,
    ClapModel,
    CLIPConfig,
    CLIPModel,
)

from auffusion_cli.checkpoints.layout import read_conditions
from auffusion_cli.checkpoints.load import load_model
from auffusion_cli.checkpoints.save import save_model
from auffusion_cli.codec.autoencoder import KLAutoencoder
from auffusion_cli.errors import AuffusionWarning, DownloadError, UsageError
from auffusion_cli.requests.request import GenerateRequest
from auffusion_cli.tasks.attention import generate_with_attention
from auffusion_cli.tasks.generate import generate
from auffusion_cli.training.config import LoopConfig, TrainingConfig
from auffusion_cli.training.diffusion import DiffusionStage
from auffusion_cli.training.diffusion_config import (
    DiffusionConfig,
    GenerationConfig,
    TextEncoderConfig,
)
from auffusion_cli.training.loop import train
from auffusion_cli.training.start import build_model
from layouts import as_stable_diffusion, write_encoder

CPU = torch.device("cpu")


class NoExamples:
    """A stage that is only exported needs none."""

    latent_shape = (4, 32, 8)
    shards = None

    def __len__(self):
        return 1


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
        generation=GenerationConfig(duration_s=0.5, max_duration_s=0.64, steps=2),
        name="fresh",
        licence="CC0-1.0",
    )
    return build_model(replace(config, **changes), CPU, 0.64)


def test_from_scratch_the_sizes_are_filled_in(tiny_checkpoint, autoencoder, tmp_path):
    model = scratch(tiny_checkpoint, autoencoder)
    assert model.networks.unet.config.in_channels == model.networks.unet.config.out_channels == 8
    assert model.networks.unet.config.sample_size == (32, 8)
    assert model.networks.adapters[0].proj.out_features == 24
    assert model.codec.vocoder_name == "griffin-lim"

    DiffusionStage(model, NoExamples(), DiffusionConfig()).export(tmp_path)
    loaded = load_model(tmp_path, device="cpu")
    assert loaded.codec.vocoder_name == "griffin-lim" and loaded.licence == "CC0-1.0"
    assert isinstance(loaded.networks.autoencoder, KLAutoencoder)
    assert loaded.defaults.max_duration_s == 0.64


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
        (
            {"generation": GenerationConfig(vocoder="wavenet")},
            r"diffusion\.generation: vocoder is 'wavenet'",
        ),
        (
            {"generation": GenerationConfig(max_duration_s=10.24)},
            "max_duration_s: 10.24 s is not the window",
        ),
        (
            {"generation": GenerationConfig(scheduler="best")},
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
    unet = UNet2DConditionModel.from_config(model.networks.unet.config)
    for expected, got in zip(unet.parameters(), model.networks.unet.parameters(), strict=True):
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
    DiffusionStage(model, NoExamples(), config).export(tmp_path)
    defaults = load_model(tmp_path, device="cpu").defaults
    assert (defaults.max_duration_s, defaults.duration_s) == (0.64, 0.64)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_whole_checkpoint_stands_for_its_parts(tiny_checkpoint):
    model = scratch(tiny_checkpoint, tiny_checkpoint, vocoder=str(tiny_checkpoint))
    assert model.networks.autoencoder.latent_channels == 4
    assert model.codec.vocoder_name == "hifigan"


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
    tiny_checkpoint, autoencoder, changes, key, monkeypatch
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    is_id = "absent" not in str(changes)
    reason = "there is no folder .*, and as an id of the Hub: .* is not on this machine"
    message = reason if is_id else "'absent' is not a folder, a known name or an id of the Hub"
    with pytest.raises(
        DownloadError if is_id else UsageError, match=f"{re.escape(key)}: {message}"
    ):
        scratch(tiny_checkpoint, autoencoder, **changes)


# From a checkpoint, with other parts -------------------------------------------------------------


@pytest.fixture(scope="module")
def parts(tiny_checkpoint, tmp_path_factory):
    """A plain Stable Diffusion (no vocoder, nothing of ours), CLAP and T5 as they are published."""
    folder = tmp_path_factory.mktemp("published")
    image_model = shutil.copytree(tiny_checkpoint, folder / "sd")
    shutil.rmtree(image_model / "vocoder")
    (image_model / "auffusion.json").unlink()
    encoder = tiny_checkpoint / "text_encoder_0"
    return {
        "sd": str(as_stable_diffusion(image_model)),
        "vocoder": str(tiny_checkpoint),
        "clap": str(write_encoder(folder / "clap", "clap", encoder)),
        "t5": str(write_encoder(folder / "t5", "t5", encoder)),
    }


FEW_STEPS = GenerationConfig(duration_s=0.5, max_duration_s=0.64, steps=2, scheduler="ddim")


def from_image_model(parts, encoders, **changes):
    config = DiffusionConfig(
        init_from=parts["sd"],
        vocoder=parts["vocoder"],
        text_encoders=tuple(TextEncoderConfig(parts[kind], max_length=7) for kind in encoders),
        generation=FEW_STEPS,
    )
    return build_model(replace(config, **changes), CPU, 0.64)


@pytest.mark.parametrize("encoders", [("sd",), ("clap",), ("t5",), ("sd", "t5")])
def test_an_image_model_gets_any_text_encoders(parts, encoders, tmp_path):
    model = from_image_model(parts, encoders)
    start = load_file_of(parts["sd"])
    for name, weights in model.networks.unet.state_dict().items():
        assert torch.equal(weights, start[name])
    save_model(model, tmp_path / "out")

    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"condition_config.json", "vocoder", "unet", "vae"} <= written
    assert "model_index.json" not in written
    loaded = load_model(tmp_path / "out", device="cpu")
    assert loaded.codec.vocoder_name == "hifigan"
    assert (loaded.defaults.max_duration_s, loaded.defaults.steps) == (0.64, 2)
    assert len(loaded.text.encoders) == len(encoders)
    (sound,) = generate(loaded, [GenerateRequest("a dog", seed=0)])
    assert np.isfinite(np.asarray(sound.waveform)).all() and len(sound.waveform) == 8000


class Drawn:
    """Two examples of drawn latents."""

    latent_shape, shards = (4, 32, 8), None

    def __init__(self, model):
        self.latents = torch.randn(2, *self.latent_shape)
        states = (model.text.hidden_states(i, ["a dog"]) for i in range(len(model.text.encoders)))
        self.hidden_states = [torch.from_numpy(rows[0]) for rows in states]

    def __len__(self):
        return 2

    def load(self, batch):
        return self.latents[: len(batch)], [
            rows.expand(len(batch), *rows.shape) for rows in self.hidden_states
        ]

    def examples(self, loaded):
        return loaded


@pytest.mark.parametrize("encoders", [("sd",), ("clap",), ("t5",), ("sd", "t5")])
def test_an_image_model_is_trained_with_any_text_encoders(parts, encoders, tmp_path):
    model = from_image_model(parts, encoders)
    stage = DiffusionStage(model, Drawn(model), DiffusionConfig(name="trained"))
    loop = LoopConfig(batch_size=2, max_steps=1, ema_decay=None, tensorboard=False)
    accelerator = Accelerator(cpu=True)
    train(stage, TrainingConfig(loop=loop), accelerator, tmp_path / "run", resume=False)

    conditions = read_conditions(tmp_path / "run")
    assert [c.text_encoder_name for c in conditions] == [
        f"text_encoder_{i}" for i in range(len(encoders))
    ]
    loaded = load_model(tmp_path / "run", device="cpu")
    result = generate_with_attention(loaded, GenerateRequest("a dog", seed=0))
    assert "dog" in result.words and np.isfinite(result.maps).all()
    assert len(result.sound.waveform) == 8000


def load_file_of(folder):
    return torch.load(f"{folder}/unet/diffusion_pytorch_model.bin", weights_only=True)


def test_without_text_encoders_the_layout_of_the_start_stays(parts, tmp_path):
    model = from_image_model(parts, ())
    assert model.networks.adapters is None
    save_model(model, tmp_path / "out")
    assert (tmp_path / "out/model_index.json").is_file()


def test_an_image_model_without_a_vocoder_is_told(parts):
    with pytest.warns(AuffusionWarning, match="has no vocoder: .* diffusion.vocoder names one"):
        model = from_image_model(parts, ("sd",), vocoder=None)
    assert model.codec.vocoder_name == "griffin-lim"
    asked = from_image_model(parts, ("sd",), vocoder="griffin-lim")  # and now nothing is told
    assert asked.defaults.vocoder == "griffin-lim"


def test_the_schedule_of_the_start_is_changed_where_it_is_named(parts):
    unchanged = from_image_model(parts, ()).scheduler_config
    zero_snr = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
    model = from_image_model(parts, (), scheduler=zero_snr)
    assert model.scheduler_config == unchanged | zero_snr
    stage = DiffusionStage(model, NoExamples(), DiffusionConfig())
    assert stage.scheduler.alphas_cumprod[-1] == 0


def test_adapters_start_from_a_checkpoint(parts, tiny_checkpoint):
    def entries(*kinds):
        return tuple(
            TextEncoderConfig(parts[kind], max_length=7, adapter=str(tiny_checkpoint))
            for kind in kinds
        )

    model = from_image_model(parts, (), text_encoders=entries("sd"))
    expected = load_model(tiny_checkpoint, device="cpu").networks.adapters[0].state_dict()
    for name, weights in model.networks.adapters[0].state_dict().items():
        assert torch.equal(weights, expected[name])
    with pytest.raises(UsageError, match=r"leads from 32 to 32 channels, but .* gives 24"):
        from_image_model(parts, (), text_encoders=entries("clap"))
    wrong = TextEncoderConfig(parts["clap"], adapter=parts["sd"])
    with pytest.raises(UsageError, match=r"\[0\]\.adapter: .* has no adapters"):
        from_image_model(parts, (), text_encoders=(wrong,))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"scheduler": {"rescale_betas_zero_snr": True}},
            "which a network that predicts the noise",
        ),
        (
            {
                "scheduler": {
                    "rescale_betas_zero_snr": True,
                    "prediction_type": "v_prediction",
                },
                "generation": replace(FEW_STEPS, scheduler="pndm"),
            },
            "pndm cannot sample from a zero terminal SNR",
        ),
        ({"generation": GenerationConfig(max_duration_s=5.0)}, "5 s is not the window"),
        (
            {"vocoder": "griffin-lim", "generation": replace(FEW_STEPS, vocoder="hifigan")},
            "hifigan is not there",
        ),
    ],
)
def test_what_contradicts_the_start_is_told(parts, changes, message):
    with pytest.raises(UsageError, match=message):
        from_image_model(parts, (), **changes)


def test_an_autoencoder_of_another_width_is_told(parts, autoencoder):
    with pytest.raises(UsageError, match=r"latents have 8 channels, but the UNet of .* takes 4"):
        from_image_model(parts, (), autoencoder=str(autoencoder))


def test_a_window_is_widened_where_that_is_said(tiny_checkpoint):
    config = DiffusionConfig(init_from=str(tiny_checkpoint))
    with pytest.raises(UsageError, match=r"2\.56 s is more than the window") as caught:
        build_model(config, CPU, 2.56)
    assert "diffusion.generation.max_duration_s=2.56" in caught.value.hint
    wider = replace(config, generation=GenerationConfig(max_duration_s=2.56))
    assert build_model(wider, CPU, 2.56).defaults.max_duration_s == 2.56


def test_several_windows_at_once_are_inherited_with_the_window_alone(tiny_checkpoint, tmp_path):
    start = shutil.copytree(tiny_checkpoint, tmp_path / "start")
    identity = json.loads((start / "auffusion.json").read_text())
    identity["generation"]["windows_at_once"] = 2
    (start / "auffusion.json").write_text(json.dumps(identity))
    wider = GenerationConfig(max_duration_s=2.56)
    for generation, window_s, n in ((GenerationConfig(), 1.28, 2), (wider, 2.56, 1)):
        config = DiffusionConfig(init_from=str(start), generation=generation)
        assert build_model(config, CPU, window_s).defaults.windows_at_once == n


def test_of_several_text_encoders_one_is_to_be_named(parts, tmp_path):
    save_model(from_image_model(parts, ("sd", "t5")), tmp_path / "two")
    entry = TextEncoderConfig(str(tmp_path / "two"))
    with pytest.raises(UsageError, match=r"two has 2 text encoders") as caught:
        from_image_model(parts, (), text_encoders=(entry,))
    assert "text_encoder_1" in caught.value.hint
