"""The distillation stage: a student that takes its teacher's trajectories in few steps.

The student begins as the teacher, and learns to come in one call each from one point of a
trajectory to the next, which took the teacher several steps with two branches for the guidance: so
both are distilled at once (progressive distillation, Salimans & Ho 2022, arXiv 2202.00512; of
guided models, Meng et al. 2023, arXiv 2210.03142). As in AudioTurbo (arXiv 2505.22106) nothing but
the teacher's own pairs of noise and sound is learned from, so that recordings are not needed.

The student walks by itself: every step starts where its last one ended, and is to end where the
teacher's way passes. Its errors are thus seen and corrected in training, not only in use.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from auffusion_cli.diffusion.schedule import Scheduler
from auffusion_cli.model import Model
from auffusion_cli.requests.request import GenerateSettings
from auffusion_cli.training.diffusion_config import DiffusionConfig
from auffusion_cli.training.outputs import Previews, export_model
from auffusion_cli.training.samples import Sample
from auffusion_cli.training.stage import Losses
from auffusion_cli.training.trajectories import Trajectories


class DistillStage:
    """The UNet of a student on its teacher's trajectories; see `stage.Stage`."""

    shards = None

    def __init__(self, student: Model, trajectories: Trajectories, config: DiffusionConfig) -> None:
        """Set up the stage; impossible previews are UsageErrors."""
        self.model = student
        self.trajectories = trajectories
        self.n_items = len(trajectories)
        self._previews = Previews(student, config)
        settings = GenerateSettings.from_defaults(student.defaults)
        self._solver = student.scheduler(settings)
        self._solver.set_timesteps(settings.steps)
        self._timesteps: list[int] = self._solver.timesteps.tolist()
        self._turns = turns(self._solver)
        unet = student.networks.unet
        if config.gradient_checkpointing:
            unet.enable_gradient_checkpointing()
        unet.train()
        self.networks: dict[str, nn.Module] = {"unet": unet}

    def trains(self, name: str, step: int) -> bool:
        return True

    def load(self, batch: Sequence[Sample]) -> tuple[Tensor, list[str]]:
        """States (B, n_steps + 1, C, h, w) and captions."""
        indices = [sample.index for sample in batch]
        captions = [self.trajectories.captions[index] for index in indices]
        return self.trajectories.states(indices), captions

    def losses(self, loaded: tuple[Tensor, list[str]], step: int) -> Losses:
        device = self.model.networks.torch_device
        states = loaded[0].to(device, non_blocking=True)
        text = torch.from_numpy(self.model.text.encode(loaded[1]).cond).to(device)
        latents = states[:, 0]
        for number, (timestep, turn) in enumerate(zip(self._timesteps, self._turns, strict=True)):
            times = torch.full((len(latents),), timestep, device=device)
            output = self.networks["unet"](latents, times, encoder_hidden_states=text).sample
            reached = self._solver.step(output.float(), timestep, latents)
            # As an error of the velocity, whatever is predicted and however far the step leads.
            error = (reached - states[:, number + 1]).square().mean() / turn**2
            yield error / len(self._timesteps), {"loss": error.item()}
            latents = reached.detach()

    def export(self, folder: Path) -> None:
        """Write the student's checkpoint into `folder`, beside its other contents."""
        export_model(self.model, folder)

    def preview(self, folder: Path, step: int) -> None:
        """Write the preview prompts' sounds and spectrograms, in the student's steps."""
        self._previews.write(folder, step)


def turns(solver: Scheduler) -> list[float]:
    """The sine of the angle that each step of a run turns the latents by.

    Sound and noise are the axes of a circle, on which the velocity is the tangent (Salimans & Ho
    2022, appendix D): a step moves the latents by the sine times the velocity.
    """
    timesteps = [*solver.timesteps.tolist(), -1]
    shares = [(solver.add_noise(1.0, 0.0, t), solver.add_noise(0.0, 1.0, t)) for t in timesteps]
    return [
        sigma * to_alpha - alpha * to_sigma
        for (alpha, sigma), (to_alpha, to_sigma) in pairwise(shares)
    ]
