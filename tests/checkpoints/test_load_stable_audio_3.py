"""Stable Audio 3: whole sounds equal those of diffusers' own pipelines, in both layouts."""

import json
import shutil
import struct
from contextlib import contextmanager
from functools import partial
from unittest.mock import patch

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderSAME,
    StableAudio3AudioToAudioPipeline,
    StableAudio3DiTModel,
    StableAudio3InpaintPipeline,
)

from auffusion_cli.checkpoints.download import looks_complete
from auffusion_cli.checkpoints.families import find_family
from auffusion_cli.checkpoints.listing import needed_files
from auffusion_cli.checkpoints.load import load_model
from auffusion_cli.checkpoints.load_stable_audio_3 import unet_name, vae_name
from auffusion_cli.diffusion.flow_schedulers import PingPong
from auffusion_cli.diffusion.holes import known_part
from auffusion_cli.diffusion.samplers import initial_noise, sample
from auffusion_cli.errors import CheckpointError
from auffusion_cli.requests.request import GenerateRequest, GenerateSettings
from auffusion_cli.tasks.generate import generate
from published_systems import (
    stability_name_of_autoencoder,
    stability_name_of_transformer,
    write_stability,
    write_stable_audio_3,
)

DURATION_S = 0.5
RANDOM = "diffusers.schedulers.scheduling_flow_match_euler_discrete.randn_tensor"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return tmp_path_factory.mktemp("systems")


@pytest.fixture(scope="module")
def stable_audio(folders):
    """(diffusers' pipeline, our model)"""
    pipeline = write_stable_audio_3(folders / "sees-known")
    return pipeline, load_model(folders / "sees-known", device="cpu")


@contextmanager
def drawn_as_ours(noise, n_steps):
    """A block in which diffusers' scheduler draws what ours does after `noise`."""
    ours = PingPong({})
    ours.set_timesteps(n_steps)
    ours.begin(noise)
    with patch(RANDOM, lambda *_, **__: torch.from_numpy(ours.draw(noise.shape[1:])[:, :, 0])):
        yield


@pytest.mark.parametrize(
    ("prompt", "negative", "guidance", "n_steps"),
    [("a dog barks in the rain", "", 1.0, 8), ("rain", "a dog", 3.0, 3), ("a cat", "", 2.0, 1)],
)
def test_sounds_equal_those_of_the_pipeline(folders, prompt, negative, guidance, n_steps):
    folder = folders / "text-alone"
    pipeline = write_stable_audio_3(folder, sees_known=False)
    model = load_model(folder, device="cpu")
    noise = initial_noise([7], model.latent_shape(DURATION_S))
    with drawn_as_ours(noise, n_steps):
        expected = pipeline(
            prompt,
            duration=DURATION_S,
            negative_prompt=negative,
            guidance_scale=guidance,
            num_inference_steps=n_steps,
            latents=torch.from_numpy(noise[:, :, 0]),
        ).audios[0]
    settings = GenerateSettings.from_defaults(
        model.defaults, duration_s=DURATION_S, guidance_scale=guidance, steps=n_steps
    )
    request = GenerateRequest(prompt, negative_prompt=negative, seed=7)
    (sound,) = generate(model, [request], settings)
    assert sound.waveform.shape == (2, 22_050) and sound.waveform.std() > 1e-2
    np.testing.assert_allclose(sound.waveform, expected, atol=1e-5)


def test_without_a_recording_nothing_is_known(stable_audio):
    """As in Stability AI's code, which gives the mask and the latents that it keeps as zeros."""
    pipeline, model = stable_audio
    noise = initial_noise([7], model.latent_shape(DURATION_S))
    with drawn_as_ours(noise, 8):
        expected = StableAudio3InpaintPipeline(**pipeline.components)(
            "rain",
            duration=DURATION_S,
            audio=torch.zeros(1, 2, 1024),
            mask=torch.zeros(1, 1, 1),
            latents=torch.from_numpy(noise[:, :, 0]),
        ).audios[0]
    settings = GenerateSettings.from_defaults(model.defaults, duration_s=DURATION_S)
    (sound,) = generate(model, [GenerateRequest("rain", seed=7)], settings)
    np.testing.assert_allclose(sound.waveform, expected, atol=1e-5)


def test_a_recording_goes_through_the_latents_in_pieces_as_in_one(stable_audio):
    pipeline, model = stable_audio
    sound = np.random.default_rng(0).normal(0, 0.1, (1, 2, 300 * 1024)).astype(np.float32)
    latents = model.encode(sound)
    with torch.no_grad():
        expected = pipeline.vae.encode(torch.from_numpy(sound)).latents
        decoded = pipeline.vae.decode(expected).sample
    assert latents.shape == (1, 6, 1, 300)
    np.testing.assert_allclose(latents[:, :, 0], expected, atol=1e-5)
    np.testing.assert_allclose(model.decode(expected.numpy()[:, :, None]), decoded, atol=1e-5)


def test_holes_are_filled_as_by_the_pipeline(stable_audio):
    """Until the latents that stay are put back, which the pipeline does not do."""
    pipeline, model = stable_audio
    sound = np.random.default_rng(0).normal(0, 0.1, (1, 2, 22 * 1024)).astype(np.float32)
    clean, mask = model.encode(sound), np.zeros((1, 1, 1, 22), np.float32)
    mask[..., 8:13] = 1
    noise = initial_noise([7], clean.shape[1:])
    with drawn_as_ours(noise, 8):
        expected = StableAudio3InpaintPipeline(**pipeline.components)(
            "rain",
            duration=DURATION_S,
            audio=torch.from_numpy(sound),
            mask=torch.from_numpy(1 - mask[:, :, 0]),
            latents=torch.from_numpy(noise[:, :, 0]),
            output_type="latent",
        ).audios
    settings = GenerateSettings.from_defaults(model.defaults, duration_s=DURATION_S)
    scheduler = model.scheduler(settings)
    denoise = model.denoiser(["rain"], [""], settings, scheduler, known=known_part(clean, mask))
    *_, last = sample(denoise, scheduler, noise, 8)
    np.testing.assert_allclose(last.latents[:, :, 0], expected, atol=1e-4)
    blind = model.denoiser(["rain"], [""], settings, scheduler)
    *_, other = sample(blind, scheduler, noise, 8)
    assert np.abs(other.latents - last.latents).max() > 0.1


def test_a_recording_is_changed_as_by_the_pipeline(stable_audio):
    """On the same noise levels, whose order in the pipeline is that of older code."""
    pipeline, model = stable_audio
    sound = np.random.default_rng(0).normal(0, 0.1, (1, 2, 22 * 1024)).astype(np.float32)
    clean, first_step = model.encode(sound), 3
    noise = initial_noise([7], clean.shape[1:])
    settings = GenerateSettings.from_defaults(model.defaults, duration_s=DURATION_S)
    scheduler = model.scheduler(settings)
    scheduler.set_timesteps(8)
    left = scheduler.skip(first_step).tolist()
    assert left[0] == 0.625 and len(left) == 8 and left == sorted(left, reverse=True)
    module = "diffusers.pipelines.stable_audio_3.pipeline_stable_audio_3_audio2audio"
    with drawn_as_ours(noise, 8), patch(f"{module}.logsnr_sigma_schedule", lambda *_, **__: left):
        expected = StableAudio3AudioToAudioPipeline(**pipeline.components)(
            "rain",
            duration=DURATION_S,
            audio=torch.from_numpy(sound),
            init_noise_level=left[0],
            latents=torch.from_numpy(noise[:, :, 0]),
            output_type="latent",
        ).audios
    # Without what is known, which text-to-audio and this pipeline leave out.
    unet = model.networks.unet
    with patch.object(unet, "forward", partial(_without_known, unet.forward)):
        denoise = model.denoiser(["rain"], [""], settings, scheduler)
        *_, last = sample(denoise, scheduler, noise, 8, clean=clean, first_step=first_step)
    np.testing.assert_allclose(last.latents[:, :, 0], expected, atol=1e-4)


def _without_known(forward, *inputs, local_add_cond, **others):
    return forward(*inputs, **others)


def test_durations_and_batches(stable_audio):
    _, model = stable_audio
    settings = GenerateSettings.from_defaults(model.defaults, duration_s=DURATION_S)
    requests = [GenerateRequest(prompt, seed=3) for prompt in ("a cat", "rain in the rain")]
    together = list(generate(model, requests, settings, batch_size=2))
    for one, request in zip(together, requests, strict=True):
        (alone,) = generate(model, [request], settings)
        np.testing.assert_allclose(one.waveform, alone.waveform, atol=1e-5)
    assert model.latent_shape(2.0)[2] == 87  # no more than it takes
    shorter, longer = (model.text.told(s).encode(["a cat"]).cond for s in (1.0, 40.0))
    assert shorter.shape == (1, 257, 16)
    assert np.abs(shorter[0, -1] - longer[0, -1]).max() > 0.01
    np.testing.assert_array_equal(shorter[0, :-1], longer[0, :-1])


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("vae/config.json", {"sampling_rate": 48_000}, "48000 Hz"),
        ("vae/config.json", {"latent_dim": 8}, "8"),
        ("transformer/config.json", {"cond_token_dim": 24}, "16 channels"),
        ("transformer/config.json", {"local_add_cond_dim": 8}, "takes 8"),
        ("transformer/config.json", {"depth": 10**6}, "more layers"),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 1000}, "valid: 1"),
    ],
)
def test_parts_that_do_not_fit_are_named(stable_audio, folders, tmp_path, part, change, message):
    broken = shutil.copytree(folders / "sees-known", tmp_path / "broken")
    path = broken / part
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match=message):
        load_model(broken, device="cpu")


def test_its_files_are_known(stable_audio, folders):
    folder = folders / "sees-known"
    assert looks_complete(folder)
    paths = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    assert set(needed_files([*paths, "model.ckpt"])) == set(paths)


@pytest.fixture(scope="module")
def published(stable_audio, folders):
    folder = folders / "published"
    write_stability(folder, stable_audio[0])
    return folder


def test_stability_ais_layout_is_the_same_model(stable_audio, published):
    _, model = stable_audio
    same = load_model(published, device="cpu")
    assert same.defaults == model.defaults and same.latent_shape(1.0) == model.latent_shape(1.0)
    settings = GenerateSettings.from_defaults(model.defaults, duration_s=DURATION_S)
    request = GenerateRequest("a dog barks", seed=2)
    expected, found = (next(generate(each, [request], settings)) for each in (model, same))
    np.testing.assert_allclose(found.waveform, expected.waveform, atol=1e-6)
    assert looks_complete(published)
    paths = [str(path.relative_to(published)) for path in published.rglob("*") if path.is_file()]
    needless = ["t5gemma-b-b-ul2/README.md", "sample.wav", "model.ckpt"]
    assert set(needed_files([*paths, *needless])) == {*paths} - {
        "t5gemma-b-b-ul2/chat_template.jinja"
    }


def test_the_small_autoencoder_has_chunks(published, tmp_path):
    """32 patches are two latents of 16; their number must be even, so that chunks are whole."""
    folder = shutil.copytree(published, tmp_path / "small")
    chunks = {"sliding_window": None, "chunk_size": 32, "chunk_midpoint_shift": True}
    _change(folder, lambda side: side.update(chunks, strides=[16], downsampling_ratio=4096))
    path = folder / "model_config.json"
    config = json.loads(path.read_text())
    config["model"]["pretransform"]["config"]["downsampling_ratio"] = 4096
    path.write_text(json.dumps(config))
    model = load_model(folder, device="cpu")
    assert [model.latent_shape(s)[2] for s in (0.01, 0.2, 0.3)] == [2, 4, 4]
    settings = GenerateSettings.from_defaults(model.defaults, duration_s=DURATION_S)
    (sound,) = generate(model, [GenerateRequest("rain", seed=1)], settings)
    assert sound.waveform.shape == (2, 22_050) and sound.waveform.std() > 1e-3


def _change(folder, change):
    path = folder / "model_config.json"
    config = json.loads(path.read_text())
    for part in ("encoder", "decoder"):
        change(config["model"]["pretransform"]["config"][part]["config"])
    path.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sliding_window": [1, 2]}, "sliding_window is 2; valid: 1"),
        ({"sliding_window": None}, "chunk_size is None; valid: 32"),
        ({"strides": [4, 4]}, "number of strides is 2"),
        ({"variable_stride": False}, "variable_stride"),
        ({"strides": None}, "not that of a Stable Audio 3"),
        ({"channels": 16}, "but its config asks for"),
    ],
)
def test_what_a_config_asks_for_and_cannot_be_had_is_named(published, tmp_path, change, message):
    folder = shutil.copytree(published, tmp_path / "broken")
    _change(folder, lambda side: side.update(change))
    with pytest.raises(CheckpointError, match=message):
        load_model(folder, device="cpu")


def test_the_published_medium_has_as_many_tensors():
    """997 in all, 522 of them the transformer's (diffusers' tests of it)."""
    with torch.device("meta"):
        transformer = StableAudio3DiTModel()
        autoencoder = AutoencoderSAME(
            encoder_channels=256, encoder_transformer_depths=(12,), decoder_sinusoidal_blocks=(8,)
        )
    names = [stability_name_of_transformer(name) for name in transformer.state_dict()]
    names.remove("model.model.prompt_padding_embedding")
    assert len(names) == 522
    names += [stability_name_of_autoencoder(name) for name in autoencoder.state_dict()]
    n_positions, n_of_training, n_of_conditioning = 2 * 12, 1, 3
    assert len(names) + n_positions + n_of_training + n_of_conditioning == 997
    for name in names:
        assert unet_name(name) or vae_name(name), name


@pytest.mark.parametrize(("n_samples", "window_s"), [(16_760_832, 380), (5_292_032, 120)])
def test_its_config_states_the_window(published, tmp_path, n_samples, window_s):
    path = shutil.copytree(published, tmp_path / "other") / "model_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sample_size": n_samples}))
    assert find_family(path.parent).defaults.max_duration_s == window_s


@pytest.mark.parametrize("n_samples", [None, -1, 10**9, "many"])
def test_a_window_that_cannot_be_is_named(published, tmp_path, n_samples):
    path = shutil.copytree(published, tmp_path / "other") / "model_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sample_size": n_samples}))
    with pytest.raises(CheckpointError, match=f"sample_size is {n_samples}; valid"):
        load_model(path.parent, device="cpu")


def test_a_folder_without_t5gemma_is_named(published, tmp_path):
    folder = shutil.copytree(published, tmp_path / "part")
    shutil.rmtree(folder / "t5gemma-b-b-ul2")
    with pytest.raises(CheckpointError, match="the folder t5gemma-b-b-ul2 is missing"):
        load_model(folder, device="cpu")


def test_a_tensor_that_nobody_takes_is_named(published, tmp_path):
    folder = shutil.copytree(published, tmp_path / "broken")
    path = folder / "model.safetensors"
    content = path.read_bytes()
    (n_header,) = struct.unpack("<Q", content[:8])
    header = content[8 : 8 + n_header].replace(b"model.model.preprocess", b"model.other.preprocess")
    path.write_bytes(content[:8] + header + content[8 + n_header :])
    with pytest.raises(CheckpointError, match=r"model\.other\.preprocess_\S+ is not known"):
        load_model(folder, device="cpu")
