"""The teacher's trajectories, which the distillation stage learns to follow in few steps.

A trajectory is the way from a caption's noise to its sound that the teacher takes with guidance and
many steps: its latents at the student's time steps. Each is computed once and kept, a few in a file
named by all that they depend on. So a run that is stopped while they are made goes on where it was,
and more of them are added to those that are there.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from auffusion_cli.config import GenerationDefaults
from auffusion_cli.diffusion.samplers import initial_noise, sample
from auffusion_cli.files import atomic_file
from auffusion_cli.model import Model
from auffusion_cli.requests.request import GenerateSettings
from auffusion_cli.training.clip_store import ClipStore
from auffusion_cli.training.config import DistillConfig, SceneConfig
from auffusion_cli.training.preparation import ALONE, Preparation
from auffusion_cli.training.prior import model_digest
from auffusion_cli.training.samples import scene_seed

FOLDER_NAME = "trajectories"
N_IN_FILE = 8
TEACHER_SOLVER = "dpm++"
"""One state for each call, at the noise levels of the schedule, and accurate in few steps."""
STUDENT_SOLVER = "ddim"
"""A jump depends on nothing but where it starts."""


class Trajectories:
    """N trajectories with their captions."""

    def __init__(self, files: Sequence[Path], captions: Sequence[str]) -> None:
        self._files = [np.load(path, mmap_mode="r") for path in files]
        self.captions = tuple(captions)

    def __len__(self) -> int:
        return len(self.captions)

    def states(self, indices: Sequence[int]) -> Tensor:
        """(B, n_steps + 1, C, h, w) float32 latents, from the noise to the sound."""
        rows = [self._files[index // N_IN_FILE][index % N_IN_FILE] for index in indices]
        return torch.from_numpy(np.stack(rows).astype(np.float32))


def student_of(teacher: Model, n_steps: int) -> Model:
    """The teacher with the defaults of its student: so many steps of one call each.

    The steps begin at the last time step of the schedule, where nothing but noise is left.
    """
    defaults = replace(
        teacher.defaults,
        steps=n_steps,
        guidance_scale=1.0,
        guidance_rescale=0.0,
        scheduler=STUDENT_SOLVER,
    )
    schedule = {**teacher.scheduler_config, "timestep_spacing": "trailing"}
    return replace(teacher, defaults=defaults, scheduler_config=schedule)


def teacher_settings(defaults: GenerationDefaults, config: DistillConfig) -> GenerateSettings:
    """How the teacher samples: with its own guidance and steps, where `config` leaves them open.

    Its steps are a multiple of the student's, so that it comes by all of the student's time steps.
    """
    n_steps = config.teacher_steps
    if n_steps is None:
        few, _ = defaults.few_steps(TEACHER_SOLVER)
        n_steps = math.ceil(few / config.steps) * config.steps
    return GenerateSettings.from_defaults(
        defaults, steps=n_steps, scheduler=TEACHER_SOLVER, guidance_scale=config.guidance_scale
    )


def draw_captions(store: ClipStore, scenes: SceneConfig, seed: int) -> list[str]:
    """Captions of the trajectories: one for each clip, or `scenes.n_cached` of drawn clips."""
    captions = []
    for number in range(scenes.n_cached or len(store)):
        rng = random.Random(scene_seed(seed, number))
        index = store.pick(rng, scenes) if scenes.n_cached else number
        captions.append(store.clips[index].wordings.draw(rng, scenes.phrase_probability))
    return captions


def prepare_trajectories(
    teacher: Model,
    captions: Sequence[str],
    config: DistillConfig,
    root: Path,
    seed: int,
    preparation: Preparation = ALONE,
) -> Trajectories:
    """The trajectories of exactly these inputs under `root`; missing ones are computed."""
    settings = teacher_settings(teacher.defaults, config)
    # On the student's schedule, whose time steps the teacher is to come by.
    teacher = replace(teacher, scheduler_config=student_of(teacher, config.steps).scheduler_config)
    facts = asdict(settings), teacher.scheduler_config, config.steps, seed
    of_teacher = model_digest(teacher, *facts)
    folder = root / FOLDER_NAME
    folder.mkdir(parents=True, exist_ok=True)
    starts = range(0, len(captions), N_IN_FILE)
    mine = set(preparation.share.of(starts))
    files = []
    for first in starts:
        some = captions[first : first + N_IN_FILE]
        name = hashlib.sha256(repr((of_teacher, first, some)).encode()).hexdigest()[:16]
        files.append(folder / f"{name}.npy")
        if files[-1].is_file() or first not in mine:
            continue
        seeds = [scene_seed(seed, first + i) for i in range(len(some))]
        states = _walk(teacher, some, seeds, settings, config.steps)
        with atomic_file(files[-1]) as beside, beside.open("wb") as file:
            np.save(file, states.astype(np.float16))
        preparation.tell("computing trajectories", first + len(some), len(captions))
    preparation.wait()
    return Trajectories(files, captions)


def _walk(
    teacher: Model,
    captions: Sequence[str],
    seeds: Sequence[int],
    settings: GenerateSettings,
    n_steps: int,
) -> np.ndarray:
    """(B, n_steps + 1, C, h, w): the latents at every so many-th of the teacher's steps."""
    noise = initial_noise(seeds, teacher.latent_shape(teacher.defaults.max_duration_s))
    scheduler = teacher.scheduler(settings)
    denoise = teacher.denoiser(captions, [""] * len(captions), settings, scheduler)
    steps = sample(denoise, scheduler, noise, settings.steps)
    every = settings.steps // n_steps
    passed = [step.latents for step in steps if (step.index + 1) % every == 0]
    return np.stack([noise, *passed], axis=1)
