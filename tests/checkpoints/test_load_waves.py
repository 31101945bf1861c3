"""Systems that work on waveforms: whole sounds equal those of diffusers' own pipelines."""

import json
import shutil

import numpy as np
import pytest
import torch

from auffusion_cli.checkpoints.download import looks_complete
from auffusion_cli.checkpoints.listing import needed_files
from auffusion_cli.checkpoints.load import load_model
from auffusion_cli.diffusion.samplers import initial_noise
from auffusion_cli.errors import CheckpointError
from auffusion_cli.requests.request import GenerateRequest, GenerateSettings, TimelineRequest
from auffusion_cli.tasks.generate import generate
from published_systems import WAVE_WINDOW_S, write_stable_audio

PROMPTS = (("a dog barks in the rain", ""), ("rain", "a dog and a cat"), ("a cat", ""))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("systems") / "stable-audio"


@pytest.fixture(scope="module")
def stable_audio(folder):
    """(diffusers' pipeline, our model)"""
    pipeline = write_stable_audio(folder)
    return pipeline, load_model(folder, device="cpu")


@pytest.mark.parametrize(("prompt", "negative"), PROMPTS)
@pytest.mark.parametrize("n_steps", [2, 20])
def test_sounds_equal_those_of_the_pipeline(stable_audio, prompt, negative, n_steps):
    pipeline, model = stable_audio
    noise = initial_noise([7], model.latent_shape(WAVE_WINDOW_S))
    expected = pipeline(
        prompt,
        negative_prompt=negative or None,
        audio_end_in_s=WAVE_WINDOW_S,
        num_inference_steps=n_steps,
        guidance_scale=3.0,
        latents=torch.from_numpy(noise[:, :, 0]),
    ).audios[0]
    settings = GenerateSettings.from_defaults(model.defaults, steps=n_steps)
    request = GenerateRequest(prompt, negative_prompt=negative, seed=7)
    (sound,) = generate(model, [request], settings)
    expected = expected / max(expected.abs().max(), 1)
    assert sound.waveform.std() > 1e-3
    np.testing.assert_allclose(sound.waveform, expected, atol=1e-5)


def test_words_and_durations_matter_and_batches_do_not(stable_audio):
    _, model = stable_audio
    requests = [GenerateRequest(prompt, negative_prompt=no, seed=3) for prompt, no in PROMPTS]
    together = list(generate(model, requests, batch_size=3))
    alone = [next(generate(model, [request])) for request in requests]
    assert np.abs(alone[0].waveform - alone[2].waveform).max() > 1e-4
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one.waveform, other.waveform, atol=1e-5)
    (shorter, longer) = (model.text.told(s).encode(["a cat"]).cond for s in (1.0, 40.0))
    assert np.abs(shorter[0, -1] - longer[0, -1]).max() > 0.01


def test_a_shorter_sound_is_cut_in_both_channels(stable_audio):
    _, model = stable_audio
    settings = GenerateSettings.from_defaults(model.defaults, duration_s=0.2)
    (sound,) = generate(model, [GenerateRequest("rain", seed=1)], settings)
    assert sound.waveform.shape == (2, 8820)
    assert sound.log_mel.shape == (128, 18)
    assert not np.array_equal(*sound.waveform)


def test_loops_timelines_and_long_sounds_are_made(stable_audio):
    _, model = stable_audio
    settings = GenerateSettings.from_defaults(model.defaults, duration_s=1.1)
    requests = (
        GenerateRequest("rain", seed=1, loop=True),
        TimelineRequest("rain", seed=1, timeline="0-0.5s a cat; 0.5-1.1s a dog"),
    )
    for request in requests:
        (sound,) = generate(model, [request], settings)
        assert sound.waveform.shape == (2, 48_510)
        assert np.isfinite(sound.waveform).all() and sound.waveform.std() > 1e-3


def test_a_recording_goes_through_the_latents(stable_audio):
    pipeline, model = stable_audio
    sound = np.random.default_rng(0).normal(0, 0.1, (1, 2, 16 * 1024)).astype(np.float32)
    latents = model.encode(sound)
    with torch.no_grad():
        expected = pipeline.vae.encode(torch.from_numpy(sound)).latent_dist.mode()
    np.testing.assert_allclose(latents[:, :, 0], expected, atol=1e-5)
    assert latents.shape == (1, *model.latent_shape(WAVE_WINDOW_S))
    assert model.decode(latents).shape == sound.shape


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("vae/config.json", {"sampling_rate": 48_000}, "48000 Hz"),
        ("vae/config.json", {"audio_channels": 3}, "audio_channels is 3"),
        ("vae/config.json", {"downsampling_ratios": [2, 2, 2, 2, 2]}, "32 samples"),
        ("transformer/config.json", {"global_states_input_dim": 40}, "48 channels"),
        ("transformer/config.json", {"num_layers": 10**6}, "more layers"),
        ("projection_model/config.json", {"text_encoder_dim": 16}, "20 channels"),
        ("scheduler/scheduler_config.json", {"sigma_min": 600}, "sigma_min is 600"),
        ("scheduler/scheduler_config.json", {"sigma_schedule": "karras"}, "karras"),
    ],
)
def test_parts_that_do_not_fit_are_named(stable_audio, folder, tmp_path, part, change, message):
    broken = shutil.copytree(folder, tmp_path / "broken")
    path = broken / part
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match=message):
        load_model(broken, device="cpu")


def test_its_files_are_known(stable_audio, folder):
    assert looks_complete(folder)
    paths = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    assert set(needed_files([*paths, "model.ckpt", "model_config.json"])) == set(paths)
