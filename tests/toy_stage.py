"""A stage small enough to see through: two linear networks and a known gradient."""

from dataclasses import replace

import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch import nn

from auffusion_cli.training.config import LoopConfig, TrainingConfig
from auffusion_cli.training.loop import train

LOOP = LoopConfig(
    batch_size=4,
    max_steps=6,
    learning_rate=0.1,
    warmup_steps=3,
    decay_steps=2,
    ema_decay=0.9,
    checkpoint_every_steps=2,
    tensorboard=False,
)


class ToyStage:
    """Regression of a sample's noise on its index; a second network joins in at step 2."""

    n_items = 5
    shards = None

    def __init__(self, fail_at: int | None = None) -> None:
        torch.manual_seed(0)
        main = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1))
        self.networks = {"main": main, "critic": nn.Linear(3, 1)}
        self.main = main
        self.fail_at = fail_at
        self.poison: tuple[int, float] | None = None
        self.exported: list[torch.Tensor] | None = None
        self.previews: list[int] = []
        self.validation_losses: list[float] = []
        self.validated: list[float] = []

    def trains(self, name, step):
        return name == "main" or step >= 2

    def load(self, batch):
        inputs = torch.stack([torch.randn(3, generator=s.generator()) for s in batch])
        return inputs, torch.tensor([[float(s.index)] for s in batch])

    def losses(self, loaded, step):
        if step == self.fail_at:
            raise RuntimeError("in the middle")
        inputs, targets = loaded
        for name in ("main", "critic"):
            if self.trains(name, step):
                loss = (self.networks[name](inputs) - targets).square().mean()
                if self.poison and self.poison[0] == step:
                    loss = loss * self.poison[1]
                yield loss, {name: loss.item()}

    def validation_loss(self):
        self.validated.append(self.main[2].bias.item())
        return self.validation_losses[len(self.validated) - 1]

    def export(self, folder):
        self.exported = [p.detach().clone() for p in self.main.parameters()]
        (folder / "result").write_text("here")

    def preview(self, folder, step):
        self.previews.append(step)


def run(output, *, stage=None, resume=False, stop_after=None, accelerator=None, **changes):
    """(losses of each step, steps done, stage)."""
    stage = stage or ToyStage()
    config = TrainingConfig(seed=7, loop=replace(LOOP, **changes))
    losses = []
    n_steps = train(
        stage,
        config,
        accelerator or Accelerator(cpu=True),
        output,
        resume=resume,
        on_step=lambda progress: losses.append(progress.losses),
        stop_requested=lambda: stop_after is not None and len(losses) >= stop_after,
    )
    return losses, n_steps, stage


def weights(output, step, network="main"):
    return load_file(output / f"checkpoints/step-{step:08d}/{network}.safetensors")


def assert_same_run(one, other, step=6):
    for network in ("main", "critic"):
        expected, got = weights(one, step, network), weights(other, step, network)
        assert all(torch.equal(expected[name], got[name]) for name in expected)
