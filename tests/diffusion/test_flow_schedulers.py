"""Solvers of a flow, against diffusers' scheduler and its pipeline's noise levels."""

from unittest.mock import patch

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.stable_audio_3.pipeline_stable_audio_3 import logsnr_sigma_schedule

from auffusion_cli.config import FLOW_SCHEDULE, FLOW_SCHEDULERS, SCHEDULER_NAMES
from auffusion_cli.diffusion.schedulers import make_inverse, make_scheduler
from auffusion_cli.errors import UsageError

FLOW = {"_class_name": FLOW_SCHEDULE, "num_train_timesteps": 1}
SHAPE = (2, 3, 1, 5)


@pytest.mark.parametrize("name", FLOW_SCHEDULERS)
@pytest.mark.parametrize("n_steps", [1, 8, 100])
def test_same_states_as_diffusers(name, n_steps):
    own = make_scheduler(name, FLOW)
    own.set_timesteps(n_steps)
    theirs = FlowMatchEulerDiscreteScheduler(
        num_train_timesteps=1, stochastic_sampling=name == "pingpong"
    )
    theirs.set_timesteps(sigmas=logsnr_sigma_schedule(n_steps, -6.2, 2.0))
    np.testing.assert_allclose(own.timesteps, theirs.timesteps, atol=2e-7)
    noise = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    state, their_state = own.begin(noise), torch.from_numpy(noise)
    copy = make_scheduler("pingpong", FLOW)
    copy.begin(noise)
    random = "diffusers.schedulers.scheduling_flow_match_euler_discrete.randn_tensor"
    with patch(random, lambda *_, **__: torch.from_numpy(copy.draw(SHAPE[1:]))):
        for timestep, their_timestep in zip(own.timesteps.tolist(), theirs.timesteps, strict=True):
            output = np.tanh(state) - 0.5 * timestep
            state = own.step(output.astype(np.float32), timestep, state)
            their_output = torch.tanh(their_state) - 0.5 * their_timestep
            their_state = theirs.step(their_output, their_timestep, their_state).prev_sample
            np.testing.assert_allclose(state, their_state, atol=1e-5)
    assert state.dtype == np.float32


def test_noise_is_mixed_in_as_the_state_has_it():
    own = make_scheduler("pingpong", FLOW)
    own.set_timesteps(8)
    clean, noise = np.ones(SHAPE, np.float32), np.zeros(SHAPE, np.float32)
    levels = [float(own.add_noise(clean, noise, t).mean()) for t in own.timesteps.tolist()]
    np.testing.assert_allclose(levels, 1 - own.timesteps, atol=1e-6)
    assert levels[0] == 0 and 0.7 < levels[-1] < 0.9


@pytest.mark.parametrize("name", [name for name in SCHEDULER_NAMES if name not in FLOW_SCHEDULERS])
def test_others_are_refused_with_those_that_can(name):
    with pytest.raises(UsageError, match=f"--scheduler {name.replace('+', '.')} cannot") as error:
        make_scheduler(name, FLOW)
    assert error.value.hint == "Valid schedulers: pingpong, euler."


def test_numbered_steps_are_refused():
    with pytest.raises(UsageError, match="pingpong cannot follow"):
        make_scheduler("pingpong", {"beta_schedule": "linear"})
    with pytest.raises(UsageError, match="needs numbered time steps"):
        make_inverse(FLOW)
    with pytest.raises(UsageError, match=r"shift is .3\.0"):
        make_scheduler("euler", FLOW | {"shift": 3.0})
