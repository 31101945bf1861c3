"""The logs of a training beside TensorBoard's, which `test_loop.py` reads back."""

import importlib.util
import sys
from types import ModuleType

import pytest

from auffusion_cli.errors import UsageError
from auffusion_cli.training.config import LoopConfig, TrainingConfig
from auffusion_cli.training.effects import check_effects
from toy_stage import run


class Run:
    """What `wandb.init` gives: it keeps what it is told."""

    def __init__(self):
        self.logged, self.is_finished = {}, False

    def log(self, values, step):
        self.logged[step] = values

    def finish(self):
        self.is_finished = True


@pytest.fixture
def wandb(monkeypatch):
    """A stand-in of the package: `settings` of the last run, and the run."""
    module = ModuleType("wandb")
    module.__spec__ = importlib.util.spec_from_loader("wandb", None)

    def init(**settings):
        module.settings, module.run = settings, Run()
        return module.run

    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    return module


def test_weights_and_biases_get_the_same_log_offline(tmp_path, wandb):
    losses, _, _ = run(tmp_path / "mine", wandb="dogs", log_every_steps=2)
    assert wandb.settings["project"] == "dogs" and wandb.settings["name"] == "mine"
    assert wandb.settings["mode"] == "offline"
    assert wandb.settings["dir"] == str(tmp_path / "mine/logs")
    assert list(wandb.run.logged) == [2, 4, 6]
    assert wandb.run.logged[2]["loss/main"] == losses[1]["main"]
    assert {"gradient_norm/main", "learning_rate"} <= set(wandb.run.logged[2])
    assert wandb.run.is_finished


def test_it_is_sent_where_the_environment_says_so(tmp_path, wandb, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    run(tmp_path, wandb="dogs", max_steps=1)
    assert wandb.settings["mode"] == "online"


def test_without_the_package_it_is_refused_at_once(monkeypatch):
    monkeypatch.setattr("auffusion_cli.training.effects.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"loop\.wandb: the package wandb is not installed"):
        check_effects(TrainingConfig(loop=LoopConfig(wandb="dogs")))
    check_effects(TrainingConfig())
