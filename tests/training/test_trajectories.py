"""The teacher's trajectories: where they pass, and that each is computed once."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from auffusion_cli.diffusion.samplers import initial_noise, sample
from auffusion_cli.training import trajectories
from auffusion_cli.training.clip_store import ClipStore
from auffusion_cli.training.config import DistillConfig, SceneConfig
from auffusion_cli.training.preparation import Preparation
from auffusion_cli.training.samples import scene_seed
from auffusion_cli.training.trajectories import (
    N_IN_FILE,
    draw_captions,
    prepare_trajectories,
    student_of,
    teacher_settings,
)

DISTILL = DistillConfig(steps=2, teacher_steps=4)
CAPTIONS = ["a dog", "rain", "a bell"]


@pytest.fixture
def walks(monkeypatch):
    """The captions of each walk of the teacher, as they are taken."""
    taken, walk = [], trajectories._walk

    def watched(teacher, captions, *rest):
        taken.append(list(captions))
        return walk(teacher, captions, *rest)

    monkeypatch.setattr(trajectories, "_walk", watched)
    return taken


def test_a_trajectory_is_the_guided_way_of_many_steps(wordy_model, tmp_path):
    found = prepare_trajectories(wordy_model, CAPTIONS, DISTILL, tmp_path, seed=3)
    states = found.states([0, 2]).numpy()
    assert len(found) == 3 and states.shape[:2] == (2, 3) and states.dtype == np.float32

    settings = teacher_settings(wordy_model.defaults, DISTILL)
    assert (settings.steps, settings.scheduler, settings.guidance_scale) == (4, "dpm++", 3.0)
    schedule = {**wordy_model.scheduler_config, "timestep_spacing": "trailing"}
    teacher = replace(wordy_model, scheduler_config=schedule)
    shape = teacher.latent_shape(teacher.defaults.max_duration_s)
    noise = initial_noise([scene_seed(3, 2)], shape)
    scheduler = teacher.scheduler(settings)
    denoise = teacher.denoiser(["a bell"], [""], settings, scheduler)
    steps = list(sample(denoise, scheduler, noise, 4))
    expected = np.concatenate([noise, steps[1].latents, steps[3].latents])
    np.testing.assert_allclose(states[1], expected, rtol=2e-3, atol=2e-3)  # kept in float16


def test_the_teacher_comes_by_every_time_step_of_the_student(wordy_model):
    for n_steps in (1, 3, 4, 8):
        config = DistillConfig(steps=n_steps)
        student = student_of(wordy_model, n_steps)
        own = student.scheduler(teacher_settings(student.defaults, config))
        own.set_timesteps(n_steps)
        defaults = replace(wordy_model.defaults, steps=100, scheduler="pndm")
        settings = teacher_settings(defaults, config)
        assert settings.steps >= 20 and settings.steps % n_steps == 0
        passed = student.scheduler(settings)
        passed.set_timesteps(settings.steps)
        assert own.timesteps.tolist() == passed.timesteps[:: settings.steps // n_steps].tolist()
        assert own.timesteps[0] == 999


def test_each_is_computed_once(wordy_model, tmp_path, walks):
    captions = [f"dog {i}" for i in range(N_IN_FILE)]
    reports = []

    def prepare(captions, config=DISTILL, model=wordy_model):
        walks.clear()
        told = Preparation(on_progress=lambda *report: reports.append(report))
        return prepare_trajectories(model, captions, config, tmp_path, 0, told)

    first = prepare(captions)
    assert walks == [captions] and reports == [("computing trajectories", N_IN_FILE, N_IN_FILE)]
    prepare(captions)
    assert walks == []
    more = prepare([*captions, "rain"])  # those that are there stay
    assert walks == [["rain"]]
    np.testing.assert_array_equal(more.states([0]), first.states([0]))
    prepare(["rain", *captions[1:]])
    assert len(walks) == 1
    prepare(captions, replace(DISTILL, guidance_scale=1.0))
    assert len(walks) == 1


def test_of_several_processes_each_computes_a_part(wordy_model, tmp_path, walks):
    captions = [f"dog {i}" for i in range(N_IN_FILE + 1)]
    waited = []

    def process(index):
        return Preparation(
            SimpleNamespace(
                num_processes=2, process_index=index, wait_for_everyone=lambda: waited.append(index)
            )
        )

    with pytest.raises(FileNotFoundError):  # here nobody waits for the other
        prepare_trajectories(wordy_model, captions, DISTILL, tmp_path, 0, process(1))
    assert walks == [[captions[-1]]] and waited == [1]
    found = prepare_trajectories(wordy_model, captions, DISTILL, tmp_path, 0, process(0))
    assert walks[1:] == [captions[:-1]] and found.states([N_IN_FILE]).isfinite().all()


def test_captions_are_of_all_clips_or_drawn(store):
    scenes = SceneConfig(duration_s=1.28)
    assert draw_captions(store, scenes, seed=0) == ["A noise", "A tone"]
    drawn = draw_captions(store, replace(scenes, n_cached=20), seed=0)
    assert len(drawn) == 20 and set(drawn) == {"A noise", "A tone"}
    assert drawn[:5] == draw_captions(store, replace(scenes, n_cached=5), seed=0)
    assert drawn != draw_captions(store, replace(scenes, n_cached=20), seed=1)

    clips = [replace(store.clips[0], kind="a"), *[replace(store.clips[1], kind="b")] * 9]
    phrased = ClipStore([replace(clip, phrases=("noise",)) for clip in clips], 16000)
    even = SceneConfig(duration_s=1.28, n_cached=200, kind_balance=1.0, phrase_probability=0.5)
    drawn = draw_captions(phrased, even, seed=0)
    assert 30 < drawn.count("A noise") < 70 < drawn.count("noise") < 130
