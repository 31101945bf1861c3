"""Other published systems: whole sounds equal those of diffusers' own pipelines."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from diffusers.models.attention_processor import Attention, AttnProcessor, AttnProcessor2_0
from safetensors.torch import load_file, save_file

from auffusion_cli.checkpoints import download
from auffusion_cli.checkpoints.download import looks_complete
from auffusion_cli.checkpoints.families import TEXT_FILES
from auffusion_cli.checkpoints.listing import needed_files
from auffusion_cli.checkpoints.load import load_model
from auffusion_cli.checkpoints.names import Checkpoint
from auffusion_cli.diffusion.samplers import initial_noise
from auffusion_cli.diffusion.schedulers import make_scheduler
from auffusion_cli.errors import CheckpointError
from auffusion_cli.requests.request import GenerateRequest, GenerateSettings
from auffusion_cli.tasks.attention import generate_with_attention
from auffusion_cli.tasks.generate import generate
from published_systems import WINDOW_S, write_audioldm, write_audioldm2, write_tango

PROMPTS = (("a dog barks in the rain", ""), ("rain", "dog"), ("a cat", ""))
SYSTEMS = {"audioldm": write_audioldm, "audioldm2": write_audioldm2}


@pytest.fixture(scope="module", params=SYSTEMS)
def system(request, tmp_path_factory):
    """(folder, diffusers' pipeline, our model) of each system."""
    folder = tmp_path_factory.mktemp("systems") / request.param
    pipeline = SYSTEMS[request.param](folder)
    return folder, pipeline, load_model(folder, device="cpu")


def lying(latents: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(latents[:, :, ::-1].swapaxes(2, 3)))


@pytest.mark.parametrize(("prompt", "negative"), PROMPTS)
def test_sounds_equal_those_of_the_pipeline(system, prompt, negative):
    _, pipeline, model = system
    noise = initial_noise([7], model.latent_shape(WINDOW_S))
    expected = pipeline(
        prompt,
        negative_prompt=negative,
        audio_length_in_s=WINDOW_S,
        num_inference_steps=2,
        guidance_scale=3.0,
        latents=lying(noise),
    ).audios
    (sound,) = generate(model, [GenerateRequest(prompt, negative_prompt=negative, seed=7)])
    assert sound.waveform.std() > 1e-3
    np.testing.assert_allclose(sound.waveform, expected[0], atol=1e-4)


def test_a_sound_does_not_depend_on_its_batch(system):
    _, _, model = system
    requests = [
        GenerateRequest(prompt, negative_prompt=negative, seed=seed)
        for seed, (prompt, negative) in enumerate(PROMPTS)
    ]
    together = list(generate(model, requests, batch_size=3))
    alone = [next(generate(model, [request])) for request in requests]
    assert np.abs(alone[0].waveform - alone[1].waveform).max() > 0.01
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one.waveform, other.waveform, atol=1e-4)


def test_a_recording_goes_through_the_latents_upright(system):
    _, pipeline, model = system
    log_mel = np.random.default_rng(0).normal(-5, 2, (1, 64, 128)).astype(np.float32)
    log_mel = log_mel.clip(-11.5, 5.2)
    latents = model.encode(log_mel)
    with torch.no_grad():
        rows = torch.from_numpy(log_mel.swapaxes(1, 2)[:, None].copy())
        expected = pipeline.vae.encode(rows).latent_dist.mode() * pipeline.vae.config.scaling_factor
    np.testing.assert_allclose(lying(latents), expected, atol=2e-5)
    assert latents.shape == (1, *model.latent_shape(WINDOW_S))


@pytest.fixture(scope="module")
def tango(tmp_path_factory):
    """(folder, its parts, our model)"""
    folder = tmp_path_factory.mktemp("systems") / "tango"
    return folder, write_tango(folder), load_model(folder, device="cpu")


@pytest.mark.parametrize("scheduler", ["ddim", "ddpm"])
@pytest.mark.parametrize("prompt", ["a dog barks in the rain", "rain"])
def test_sounds_equal_those_of_tangos_own_loop(tango, prompt, scheduler, monkeypatch):
    _, parts, model = tango
    noise = initial_noise([7], model.latent_shape(WINDOW_S))
    if scheduler == "ddpm":
        parts = replace(parts, scheduler=DDPMScheduler.from_config(parts.scheduler.config))
        own = make_scheduler(scheduler, model.scheduler_config)
        own.begin(noise)
        monkeypatch.setattr(
            "diffusers.schedulers.scheduling_ddpm.randn_tensor",
            lambda *_, **__: lying(own.draw(noise.shape[1:])),
        )
    expected = parts(prompt, lying(noise), 2, 3.0)
    settings = GenerateSettings.from_defaults(model.defaults, scheduler=scheduler)
    (sound,) = generate(model, [GenerateRequest(prompt, seed=7)], settings)
    assert sound.waveform.std() > 1e-3
    np.testing.assert_allclose(sound.waveform, expected[: len(sound.waveform)], atol=1e-4)


def test_tangos_words_matter_and_batches_do_not(tango):
    _, _, model = tango
    requests = [GenerateRequest(prompt, seed=1) for prompt in ("a dog barks", "rain")]
    together = list(generate(model, requests, batch_size=2))
    alone = [next(generate(model, [request])) for request in requests]
    assert np.abs(alone[0].waveform - alone[1].waveform).max() > 0.001
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one.waveform, other.waveform, atol=1e-4)


def test_maps_of_tangos_words_are_those_of_its_own_unet(tango, monkeypatch):
    _, parts, model = tango
    prompt = "a dog in rain"
    result = generate_with_attention(model, GenerateRequest(prompt, seed=7))
    (sound,) = generate(model, [GenerateRequest(prompt, seed=7)])
    assert np.array_equal(result.sound.waveform, sound.waveform)

    unet, tokens = parts.unet, parts.tokenizer(prompt).input_ids
    layer = unet.mid_block.attentions[0].transformer_blocks[0].attn2
    compute, seen = Attention.get_attention_scores, []

    def watched(attention, *scores):
        shares = compute(attention, *scores)
        if attention is layer:
            seen.append(shares[-attention.heads :].mean(dim=0))
        return shares

    monkeypatch.setattr(Attention, "get_attention_scores", watched)
    unet.set_attn_processor(AttnProcessor())
    try:
        parts(prompt, lying(initial_noise([7], model.latent_shape(WINDOW_S))), 2, 3.0)
    finally:
        unet.set_attn_processor(AttnProcessor2_0())
    spelled = parts.tokenizer.convert_ids_to_tokens(tokens)
    dog = spelled.index("d") - 1
    assert spelled[dog : dog + 4] == ["▁", "d", "o", "g"]
    (of_latents,) = generate_with_attention(
        model, GenerateRequest(prompt, seed=7), layers=["mid"]
    ).on_latents.by_layer
    n_times, n_bands = (-(-side // 8) for side in reversed(model.latent_shape(WINDOW_S)[1:]))
    expected = torch.stack(seen)[:, :, dog : dog + 4].sum(dim=2).mean(dim=0)
    expected = expected.reshape(1, 1, n_times, n_bands).mT  # lowest frequency first
    expected = F.interpolate(expected, of_latents.shape[1:], mode="bilinear")
    torch.testing.assert_close(of_latents[1], expected[0, 0], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("pytorch_model_main.bin", {"group_in.0.weight": torch.zeros(1)}, "UNet of images"),
        ("pytorch_model_main.bin", {"unet.conv_in.weight": None}, "unet.conv_in.weight"),
        ("pytorch_model_vae.bin", {"quant_conv.bias": torch.zeros(3)}, "quant_conv.bias"),
        ("pytorch_model_vae.bin", {"vocoder.ups.0.bias": None}, "upsampler.0.bias"),
    ],
)
def test_a_tango_that_is_wrong_is_told_by_its_tensor(tango, tmp_path, name, change, message):
    folder = shutil.copytree(tango[0], tmp_path / "tango")
    weights = torch.load(folder / name, weights_only=True) | change
    torch.save({k: v for k, v in weights.items() if v is not None}, folder / name)
    with pytest.raises(CheckpointError, match=message):
        load_model(folder, device="cpu")


def test_a_tango_without_the_files_of_its_text_encoder_says_which(tango, tmp_path):
    folder = shutil.copytree(tango[0], tmp_path / "tango")
    shutil.rmtree(folder / "text_encoder")
    assert not looks_complete(folder)
    with pytest.raises(CheckpointError, match="text_encoder") as raised:
        load_model(folder, device="cpu")
    assert "google/flan-t5-large" in raised.value.hint


def test_a_download_of_tango_fetches_the_files_of_its_text_encoder(tango, tmp_path, monkeypatch):
    folder = shutil.copytree(tango[0], tmp_path / "tango")
    (folder / "text_encoder").rename(tmp_path / "t5")
    asked = []

    def pull(source, *, parts):
        asked.append((source.repo_id, parts))
        return Checkpoint(source.name, tmp_path / "t5")

    monkeypatch.setattr(download, "pull", pull)
    monkeypatch.setattr(download, "find_cached", lambda source, parts: None)
    download._add_text_files(folder)
    assert asked == [("google/flan-t5-large", TEXT_FILES)]
    assert looks_complete(folder)
    paths = [str(path.relative_to(folder)) for path in folder.rglob("*")]
    assert needed_files(paths) == [
        "main_config.json",
        "pytorch_model_main.bin",
        "pytorch_model_vae.bin",
        "vae_config.json",
    ]
    (folder / "main_config.json").write_text('{"text_encoder_name": "evil/model"}')
    with pytest.raises(CheckpointError, match="evil/model"):
        download._add_text_files(folder)


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("vocoder/config.json", {"model_in_dim": 80}, "80 bands"),
        ("vocoder/config.json", {"upsample_rates": [5, 4, 2, 2]}, "vocoder/config.json"),
        ("unet/config.json", {"projection_class_embeddings_input_dim": 20}, "16 channels"),
        ("unet/config.json", {"in_channels": 8}, "unet/config.json"),
        ("text_encoder/config.json", {"projection_dim": 10**9}, "projection_dim"),
        ("model_index.json", {"_class_name": "MusicLDMPipeline"}, "not supported"),
    ],
)
def test_parts_that_do_not_fit_are_named(broken, part, change, message):
    path = broken / part
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match=message):
        load_model(broken, device="cpu")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("systems") / "whole"
    write_audioldm(folder)
    return folder


@pytest.fixture
def broken(whole, tmp_path):
    """A copy of AudioLDM, to be broken."""
    return shutil.copytree(whole, tmp_path / "broken")


def test_a_text_encoder_without_a_pooler_is_refused(broken):
    path = broken / "text_encoder" / "model.safetensors"
    save_file({k: v for k, v in load_file(path).items() if "pooler" not in k}, path)
    with pytest.raises(CheckpointError, match="pooler"):
        load_model(broken, device="cpu")
