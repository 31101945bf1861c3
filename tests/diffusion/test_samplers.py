"""The denoising loop against an oracle: a denoiser that knows the answer must be led to it."""

import numpy as np
import pytest

from auffusion_cli.config import SCHEDULERS
from auffusion_cli.diffusion.samplers import initial_noise, sample, turned_noise
from auffusion_cli.diffusion.schedulers import make_scheduler
from auffusion_cli.errors import UsageError

CONFIG = {
    "_class_name": "PNDMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "set_alpha_to_one": False,
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
}
SHAPE = (4, 8, 8)


def oracle(clean, scheduler):
    """Predict exactly the noise that separates the latents from `clean`.

    Euler's state is x0 + sigma * noise, seen by the model divided by sqrt(sigma^2 + 1); the others
    keep sqrt(alpha) * x0 + sqrt(1 - alpha) * noise. Both look the same from here.
    """

    def denoise(latents, timestep):
        alpha = float(scheduler.alphas_bar[int(timestep)])
        return (latents - alpha**0.5 * clean) / (1 - alpha) ** 0.5

    return denoise


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("n_steps", [2, 3, 10])
def test_every_scheduler_reaches_what_the_oracle_knows(name, n_steps):
    clean = initial_noise([7, 8], SHAPE)
    scheduler = make_scheduler(name, CONFIG)
    steps = list(sample(oracle(clean, scheduler), scheduler, initial_noise([1, 2], SHAPE), n_steps))
    assert [step.index for step in steps] == list(range(steps[0].n_steps))
    assert len(steps) == n_steps + (name == "pndm")
    # The last step of the published schedule keeps alpha 0.998, so that a little noise stays.
    assert np.abs(steps[-1].latents - clean).max() < 0.2


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("first_step", [1, 5, 9])
def test_starting_part_of_the_way_reaches_the_same(name, first_step):
    clean = initial_noise([7, 8], SHAPE)
    scheduler = make_scheduler(name, CONFIG)
    noise = initial_noise([1, 2], SHAPE)
    steps = list(
        sample(oracle(clean, scheduler), scheduler, noise, 10, clean=clean, first_step=first_step)
    )
    assert len(steps) == 10 - first_step + (name == "pndm" and first_step < 9)
    assert np.abs(steps[-1].latents - clean).max() < 0.2


def test_pndm_from_the_middle_visits_its_second_time_step_twice():
    scheduler = make_scheduler("pndm", CONFIG)
    seen = []

    def denoise(latents, timestep):
        seen.append(int(timestep))
        return np.zeros_like(latents)

    noise = initial_noise([0], SHAPE)
    list(sample(denoise, scheduler, noise, 10, clean=noise, first_step=7))
    assert seen == [201, 101, 101, 1]


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_single_step_is_one_call(name):
    scheduler = make_scheduler(name, CONFIG)
    noise = initial_noise([1], SHAPE)
    steps = list(sample(lambda latents, timestep: latents * 0, scheduler, noise, 1))
    assert [(step.index, step.n_steps) for step in steps] == [(0, 1)]
    assert np.isfinite(steps[0].latents).all()


def test_noise_of_a_seed_does_not_depend_on_its_batch():
    alone = initial_noise([5], SHAPE)
    among = initial_noise([1, 5, 2**63 - 1], SHAPE)
    assert np.array_equal(alone[0], among[1])
    assert not np.array_equal(among[0], among[1])


def test_noise_is_turned_towards_another_and_keeps_its_power():
    noise, other = initial_noise([1, 2], (4, 32, 128))
    assert np.array_equal(turned_noise(noise, other, 0.0), noise)
    assert np.array_equal(turned_noise(noise, other, 1.0), other)
    turned = [turned_noise(noise, other, share) for share in (0.25, 0.5, 0.75)]
    assert [each.std() for each in turned] == pytest.approx([1.0] * 3, abs=0.02)
    likeness = [np.corrcoef(each.ravel(), other.ravel())[0, 1] for each in turned]
    angles = np.array([0.25, 0.5, 0.75]) * np.pi / 2
    assert likeness == pytest.approx(np.sin(angles), abs=0.02)


def test_unknown_scheduler_is_named_with_the_valid_ones():
    with pytest.raises(UsageError, match="plms") as error:
        make_scheduler("plms", CONFIG)
    assert "pndm, ddim, dpm++, unipc, euler, ddpm" in error.value.hint
