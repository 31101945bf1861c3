"""The schedulers against diffusers': whole trajectories of a model that is not trained."""

import itertools
import math
from unittest.mock import patch

import diffusers
import numpy as np
import pytest
import torch

from auffusion_cli.config import SCHEDULERS
from auffusion_cli.diffusion.schedulers import make_inverse, make_scheduler
from auffusion_cli.errors import UsageError

PUBLISHED = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "skip_prk_steps": True,
    "set_alpha_to_one": False,
}
ZERO_SNR = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
SHAPE = (2, 3, 4, 5)


def theirs(name, config):
    """diffusers' scheduler, set up as Stable Diffusion's pipeline does it."""
    config = {"skip_prk_steps": True, **config, "clip_sample": False, "steps_offset": 1}
    if name == "dpm++":
        config["algorithm_type"] = "dpmsolver++"
    return getattr(diffusers, SCHEDULERS[name]).from_config(config)


def fake_model(latents, timestep):
    """Some smooth function of both, of about the size of a model's output."""
    return np.tanh(0.7 * latents + 0.3 * math.sin(timestep / 90)) + 0.1 * latents[:, ::-1]


def trajectories(name, config, n_steps):
    """(ours, theirs), (steps, ...) each: the states after every step from the same noise."""
    own, other = make_scheduler(name, config), theirs(name, config)
    own.set_timesteps(n_steps)
    other.set_timesteps(n_steps)
    assert own.timesteps.tolist() == other.timesteps.tolist()
    noise = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    assert own.init_noise_sigma == pytest.approx(float(other.init_noise_sigma), rel=1e-6)
    state, their_state = own.begin(noise), torch.from_numpy(noise)
    their_state = their_state * other.init_noise_sigma
    states, their_states, drawn = [], [], [np.zeros(SHAPE, np.float32)]
    if name == "ddpm":
        draw = own.draw
        own.draw = lambda shape: drawn.append(draw(shape)) or drawn[-1]
    for timestep, their_timestep in zip(own.timesteps.tolist(), other.timesteps, strict=True):
        output = fake_model(own.scale_model_input(state, timestep), timestep)
        state = own.step(output, timestep, state)
        seen = other.scale_model_input(their_state, their_timestep).numpy()
        output = torch.from_numpy(fake_model(seen, their_timestep.item()))
        with patch(
            "diffusers.schedulers.scheduling_ddpm.randn_tensor",
            lambda *_, **__: torch.from_numpy(drawn[-1]),
        ):
            their_state = other.step(output, their_timestep, their_state).prev_sample
        assert state.dtype == np.float32
        states.append(state)
        their_states.append(their_state.numpy())
    return np.stack(states), np.stack(their_states)


def assert_same(own, other, largest=1.0):
    """`largest` is of the states before the first step: both round in float32."""
    tolerance = max(1e-5 * max(np.abs(other).max(), 1), 2**-22 * largest)
    assert np.abs(own - other).max() <= tolerance


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_same_states_on_the_published_schedule(name, prediction, spacing):
    config = PUBLISHED | {"prediction_type": prediction, "timestep_spacing": spacing}
    for n_steps in (1, 2, 3, 7, 16, 50):
        assert_same(*trajectories(name, config, n_steps))


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize(
    "change",
    [
        {},
        {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},
        {"beta_schedule": "squaredcos_cap_v2"},
        {"trained_betas": np.linspace(1e-4, 0.03, 1000).tolist()},
        {"num_train_timesteps": 1500},
        {"set_alpha_to_one": True},
        {"clip_sample": True, "steps_offset": 0},
    ],
)
def test_same_states_on_other_schedules(name, change):
    assert_same(*trajectories(name, PUBLISHED | change, 12))


def test_same_states_by_the_defaults_of_the_classes():
    for name in SCHEDULERS:
        assert_same(*trajectories(name, {}, 12))


@pytest.mark.parametrize("name", [name for name in SCHEDULERS if name != "pndm"])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
def test_same_states_where_the_schedule_ends_without_signal(name, spacing):
    config = PUBLISHED | ZERO_SNR | {"timestep_spacing": spacing}
    begins_at = 4096 if name == "euler" else 1
    assert_same(*trajectories(name, config, 12), begins_at)


@pytest.mark.parametrize("name", ["dpm++", "unipc"])
def test_same_states_in_every_order(name):
    orders = (1, 2) if name == "dpm++" else (1, 2, 3)
    types = ("midpoint", "heun", "bh1", "bh2")
    for order, solver_type, last, lowers in itertools.product(
        orders, types, ("zero", "sigma_min"), (False, True)
    ):
        config = PUBLISHED | {
            "solver_order": order,
            "solver_type": solver_type,
            "final_sigmas_type": last,
            "lower_order_final": lowers,
        }
        if order == 3 and last == "zero" and not lowers:
            continue  # diffusers' equations have no solution
        for n_steps in (2, 10, 20):
            own, other = trajectories(name, config, n_steps)
            # diffusers' last states are not finite for some of UniPC's.
            assert np.isfinite(own).all()
            assert np.isfinite(other).all() or (name == "unipc" and last == "zero")
            known = np.isfinite(other)
            assert_same(own[known], other[known])


def test_same_states_where_dpm_solver_ends_by_euler():
    config = PUBLISHED | {"euler_at_final": True, "final_sigmas_type": "sigma_min"}
    assert_same(*trajectories("dpm++", config, 20))


@pytest.mark.parametrize("name", SCHEDULERS)
def test_noise_is_added_alike(name):
    clean, noise = np.random.default_rng(1).standard_normal((2, *SHAPE)).astype(np.float32)
    own, other = make_scheduler(name, PUBLISHED), theirs(name, PUBLISHED)
    own.set_timesteps(9)
    other.set_timesteps(9)
    for timestep, their_timestep in zip(own.timesteps.tolist(), other.timesteps, strict=True):
        expected = other.add_noise(
            torch.from_numpy(clean), torch.from_numpy(noise), their_timestep[None]
        )
        assert_same(own.add_noise(clean, noise, timestep), expected.numpy())


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_inversion_is_diffusers_own(spacing, prediction):
    config = PUBLISHED | {"prediction_type": prediction, "timestep_spacing": spacing}
    own = make_inverse(config)
    other = diffusers.DDIMInverseScheduler.from_config(
        {**config, "clip_sample": False, "steps_offset": 1}
    )
    own.set_timesteps(10)
    other.set_timesteps(10)
    assert own.timesteps.tolist() == other.timesteps.tolist()
    state = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    their_state = torch.from_numpy(state)
    for timestep in own.timesteps.tolist():
        state = own.step(fake_model(state, timestep), timestep, state)
        output = torch.from_numpy(fake_model(their_state.numpy(), timestep))
        their_state = other.step(output, timestep, their_state).prev_sample
    assert_same(state, their_state.numpy())


def test_every_number_of_steps_has_diffusers_time_steps():
    for name, spacing in itertools.product(SCHEDULERS, ("leading", "trailing", "linspace")):
        config = PUBLISHED | {"timestep_spacing": spacing}
        own, other = make_scheduler(name, config), theirs(name, config)
        for n_steps in (1, 2, 3, 4, 33, 75, 100, 333, 500, 999):
            own.set_timesteps(n_steps)
            other.set_timesteps(n_steps)
            assert own.timesteps.tolist() == other.timesteps.tolist()


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("dpm++", "use_karras_sigmas", True),
        ("euler", "timestep_type", "continuous"),
        ("dpm++", "solver_order", 3),
        ("unipc", "disable_corrector", [0]),
        ("pndm", "skip_prk_steps", False),
        ("ddim", "prediction_type", "sample"),
        ("ddim", "thresholding", True),
    ],
)
def test_what_is_not_implemented_is_refused_by_its_name(name, field, value):
    with pytest.raises(UsageError, match=field):
        make_scheduler(name, PUBLISHED | {field: value})


def test_what_another_scheduler_would_read_does_not_matter():
    of_others = {"use_karras_sigmas": True, "solver_order": 3}
    states, _ = trajectories("ddim", PUBLISHED | of_others, 5)
    np.testing.assert_array_equal(states, trajectories("ddim", PUBLISHED, 5)[0])


def test_the_noise_of_a_sound_is_its_own_in_any_batch():
    noise = np.random.default_rng(0).standard_normal((3, 4, 8)).astype(np.float32)
    scheduler = make_scheduler("ddpm", PUBLISHED)
    scheduler.begin(noise)
    together = [scheduler.draw((4, 8)) for _ in range(2)]
    scheduler.begin(noise[1:2])
    alone = [scheduler.draw((4, 8)) for _ in range(2)]
    assert np.array_equal(np.stack(alone)[:, 0], np.stack(together)[:, 1])
    assert not np.array_equal(together[0], together[1])
    assert np.stack(together).std() == pytest.approx(1, abs=0.1)


def test_noise_back_is_the_forward_process():
    scheduler = make_scheduler("ddim", PUBLISHED)
    scheduler.set_timesteps(10)
    generator = np.random.default_rng(0)
    clean = np.zeros((1, 1, 100, 100), np.float32)
    noise, back = generator.standard_normal((2, *clean.shape)).astype(np.float32)
    before, after = scheduler.timesteps[3:5].tolist()
    again = scheduler.noise_back(scheduler.add_noise(clean, noise, after), before, back)
    expected = scheduler.add_noise(clean, noise, before)
    assert again.std() == pytest.approx(expected.std(), rel=0.02)
