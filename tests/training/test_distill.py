"""The distillation stage: a student learns the ways of a small teacher, in few steps."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from auffusion_cli.checkpoints.load import load_model
from auffusion_cli.diffusion.samplers import initial_noise, sample
from auffusion_cli.errors import UsageError
from auffusion_cli.requests.request import GenerateRequest, GenerateSettings
from auffusion_cli.tasks.generate import generate
from auffusion_cli.tasks.reproduce import reproduce
from auffusion_cli.training.config import DistillConfig, LoopConfig, SceneConfig, TrainingConfig
from auffusion_cli.training.diffusion_config import DiffusionConfig, GenerationConfig
from auffusion_cli.training.distill import DistillStage, turns
from auffusion_cli.training.effects import check_effects
from auffusion_cli.training.loop import train
from auffusion_cli.training.run import run
from auffusion_cli.training.samples import Sample
from auffusion_cli.training.trajectories import prepare_trajectories, student_of
from model_parts import with_parts

DISTILL = DistillConfig(steps=4, teacher_steps=16)
CAPTIONS = [f"{sound} {number}" for sound in ("a dog", "rain", "a bell") for number in range(4)]
HELD_OUT = ["a bird", "wind", "a dog", "rain"]
LOOP = LoopConfig(
    batch_size=4, max_steps=30, learning_rate=3e-3, warmup_steps=2, ema_decay=0.9, tensorboard=False
)


def make_teacher(wordy_model, prediction_type="v_prediction"):
    """A copy that may be trained."""
    unet = copy.deepcopy(wordy_model.networks.unet)
    model = with_parts(wordy_model, wordy_model.codec.griffin_lim, unet=unet)
    schedule = {**model.scheduler_config, "prediction_type": prediction_type}
    return replace(model, scheduler_config=schedule)


def learn(stage, tmp_path, **changes):
    losses = []
    train(
        stage,
        TrainingConfig(stage="distill", loop=replace(LOOP, **changes)),
        Accelerator(cpu=True),
        tmp_path,
        resume=False,
        on_step=lambda report: losses.append(report.losses["loss"]),
    )
    return losses


def ends(model, seeds, captions, **settings):
    settings = GenerateSettings.from_defaults(model.defaults, **settings)
    scheduler = model.scheduler(settings)
    denoise = model.denoiser(captions, [""] * len(captions), settings, scheduler)
    noise = initial_noise(seeds, model.latent_shape(model.defaults.max_duration_s))
    *_, last = sample(denoise, scheduler, noise, settings.steps)
    return last.latents


def test_a_student_comes_where_its_teacher_does(wordy_model, tmp_path):
    teacher, in_two = make_teacher(wordy_model), DistillConfig(steps=2, teacher_steps=16)
    found = prepare_trajectories(teacher, CAPTIONS, in_two, tmp_path, seed=0)
    seeds = range(100, 100 + len(HELD_OUT))
    on_schedule = replace(teacher, scheduler_config=student_of(teacher, 2).scheduler_config)
    goal = ends(on_schedule, seeds, HELD_OUT, steps=16, scheduler="dpm++")
    in_few = ends(on_schedule, seeds, HELD_OUT, steps=2, scheduler="ddim")

    student = student_of(teacher, 2)
    losses = learn(DistillStage(student, found, DiffusionConfig()), tmp_path / "out")
    assert np.mean(losses[-5:]) < 0.85 * losses[0]
    learned = load_model(tmp_path / "out", device="cpu", engine="torch")
    reached = ends(learned, seeds, HELD_OUT)
    error, before = (np.square(each - goal).mean() for each in (reached, in_few))
    assert error < before


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_who_knows_the_way_has_no_loss(wordy_model, tmp_path, prediction_type):
    teacher = make_teacher(wordy_model, prediction_type)
    found = prepare_trajectories(teacher, CAPTIONS[:2], DISTILL, tmp_path, seed=0)
    stage = DistillStage(student_of(teacher, 4), found, DiffusionConfig())
    batch = [Sample(0, seed=0), Sample(1, seed=0)]
    states = found.states([0, 1])
    calls = []

    class Knows(torch.nn.Module):
        def forward(self, latents, times, encoder_hidden_states):
            number = len(calls)
            calls.append((latents, times, encoder_hidden_states))
            timestep = int(times[0])
            still = stage._solver.step(torch.zeros_like(latents), timestep, latents)
            by_one = stage._solver.step(torch.ones_like(latents), timestep, latents) - still
            answer = (states[:, number + 1] - still) / by_one
            return type("Answer", (), {"sample": answer.requires_grad_()})

    stage.networks["unet"] = Knows()
    logged = [numbers["loss"] for _, numbers in stage.losses(stage.load(batch), step=0)]
    assert len(logged) == 4 and max(logged) < 1e-4
    assert [int(times[0]) for _, times, _ in calls] == [999, 749, 499, 249]
    text = torch.from_numpy(teacher.text.encode(CAPTIONS[:2]).cond)
    for number, (latents, _, seen) in enumerate(calls):
        torch.testing.assert_close(latents, states[:, number], rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(seen, text)


def test_a_step_starts_where_the_last_one_ended(wordy_model, tmp_path):
    teacher = make_teacher(wordy_model)
    found = prepare_trajectories(teacher, CAPTIONS[:1], DISTILL, tmp_path, seed=0)
    stage = DistillStage(student_of(teacher, 4), found, DiffusionConfig())
    seen = []
    stage.networks["unet"].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    losses = [loss for loss, _ in stage.losses(stage.load([Sample(0, seed=0)]), step=0)]
    own = student_of(teacher, 4)
    settings = GenerateSettings.from_defaults(own.defaults)
    scheduler = own.scheduler(settings)
    denoise = own.denoiser(CAPTIONS[:1], [""], settings, scheduler)
    noise = found.states([0])[:, 0].numpy()
    way = [noise, *(s.latents for s in sample(denoise, scheduler, noise, 4))]
    for latents, expected in zip(seen[:4], way[:4], strict=True):
        np.testing.assert_allclose(latents, expected, rtol=1e-3, atol=1e-4)
        assert not latents.requires_grad
    assert sum(losses).requires_grad


def test_a_turn_is_the_share_of_the_velocity(wordy_model):
    student = student_of(make_teacher(wordy_model), 4)
    solver = student.scheduler(GenerateSettings.from_defaults(student.defaults))
    solver.set_timesteps(4)
    latents, velocity = np.random.default_rng(0).normal(size=(2, 1, 4, 8, 8))
    for timestep, turn in zip(solver.timesteps, turns(solver), strict=True):
        moved = solver.step(velocity, timestep, latents)
        still = solver.step(0 * velocity, timestep, latents)
        np.testing.assert_allclose(moved - still, -turn * velocity, rtol=1e-9)
        assert 0 < turn < 1


def distil(store, checkpoint, output, **changes):
    loop = replace(LOOP, **{"batch_size": 2, "max_steps": 4, **changes})
    config = TrainingConfig(
        stage="distill",
        loop=loop,
        scenes=SceneConfig(duration_s=1.28, n_cached=3),
        diffusion=DiffusionConfig(init_from=str(checkpoint), name="quick"),
        distill=DistillConfig(steps=2, teacher_steps=4),
    )
    losses = []
    run(
        config,
        store.clips,
        output,
        device="cpu",
        resume=(output / "training.yaml").exists(),
        on_step=lambda report: losses.append(report.losses),
    )
    return losses


def test_a_student_is_trained_resumed_and_used(store, tiny_checkpoint, tmp_path):
    whole = distil(store, tiny_checkpoint, tmp_path / "whole")
    before = distil(store, tiny_checkpoint, tmp_path / "parts", max_steps=2)
    assert before + distil(store, tiny_checkpoint, tmp_path / "parts") == whole

    teacher = load_model(tiny_checkpoint, device="cpu", engine="torch")
    student = load_model(tmp_path / "whole", device="cpu", engine="torch")
    defaults = student.defaults
    assert (defaults.steps, defaults.scheduler, defaults.guidance_scale) == (2, "ddim", 1.0)
    assert defaults.max_duration_s == teacher.defaults.max_duration_s
    assert defaults.few_steps() == (2, "ddim")
    for part in ("autoencoder", "text_encoders", "adapters"):
        old, new = (getattr(m.networks, part).state_dict() for m in (teacher, student))
        assert all(torch.equal(old[name], new[name]) for name in old)
    old, new = (next(m.networks.unet.parameters()) for m in (teacher, student))
    assert not torch.equal(old, new)

    calls = []
    student.networks.unet.register_forward_pre_hook(
        lambda _, given: calls.append((len(given[0]), float(given[1])))
    )
    (result,) = generate(student, [GenerateRequest("a dog", seed=1)])
    assert calls == [(1, 999.0), (1, 499.0)]  # one call a step, without a second branch
    result.save(tmp_path / "dog.wav")
    assert reproduce(student, result.provenance, tmp_path / "dog.wav").identical


def test_what_a_student_cannot_have_is_told():
    def told(message, **sections):
        with pytest.raises(UsageError, match=message):
            check_effects(TrainingConfig(stage="distill", **sections))

    told(r"stage: distill needs diffusion\.init_from")
    of_teacher = DiffusionConfig(init_from="embedded")
    other = replace(of_teacher, generation=GenerationConfig(steps=3))
    told(r"diffusion\.generation: without effect on stage: distill", diffusion=other)
    uncached = SceneConfig(n_cached=0)
    told(r"scenes\.n_cached: 0", diffusion=of_teacher, scenes=uncached)
    mixed = SceneConfig(mix_probability=0.5)
    told(r"scenes\.mix_probability: without effect", diffusion=of_teacher, scenes=mixed)
    measured = LoopConfig(validate_every_steps=2)
    told(r"validate_every_steps: without effect", diffusion=of_teacher, loop=measured)
    with pytest.raises(UsageError, match=r"distill\.steps: without effect on stage: diffusion"):
        check_effects(TrainingConfig(distill=DistillConfig(steps=2)))
    with pytest.raises(UsageError, match=r"teacher_steps: 6 is not a multiple of distill\.steps"):
        DistillConfig(teacher_steps=6)
