"""Other published systems: whole sounds equal those of diffusers' own pipelines."""

import numpy as np
import pytest
import torch

from auffusion_cli.checkpoints.load import load_model
from auffusion_cli.diffusion.samplers import initial_noise
from auffusion_cli.requests.request import GenerateRequest
from auffusion_cli.tasks.generate import generate
from published_systems import WINDOW_S, write_audioldm, write_audioldm2

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
