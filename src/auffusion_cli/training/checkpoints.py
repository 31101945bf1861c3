"""Checkpoints of a training run: all that a resumed run needs, in folders whole or not there.

checkpoints/step-00002000/
  NAME.safetensors, NAME.optimizer.pt   for each trained network, without what is frozen in it
  ema.pt                                moving average of the first network's weights
  scaler.pt                             loss scale, with fp16
  state.json                            the step
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from auffusion_cli.errors import AuffusionError, CheckpointError
from auffusion_cli.files import atomic_file, atomic_folder, delete_folder
from auffusion_cli.training.config import LoopConfig
from auffusion_cli.training.sharding import Sharding, split, split_like, whole

DAMAGE = (
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    SafetensorError,
    pickle.UnpicklingError,
)
"""Exceptions of the readers of weights, pickles and JSON for damaged files."""
MAX_DETAIL_CHARACTERS = 160
"""Limit of a library's message, which may list every tensor."""


class MovingAverage(EMAModel):
    """diffusers' moving average, taken in one pass over the weights where it takes three."""

    @torch.no_grad()
    def step(self, parameters: Sequence[nn.Parameter]) -> None:
        if not self.foreach:
            super().step(parameters)
            return
        self.optimization_step += 1
        decay = self.get_decay(self.optimization_step)
        torch._foreach_lerp_(self.shadow_params, list(parameters), 1 - decay)


class TrainingState:
    """The changing state of a run: networks, optimisers, moving average, loss scale."""

    def __init__(
        self,
        networks: dict[str, nn.Module],
        loop: LoopConfig,
        accelerator: Accelerator,
        sharding: Sharding | None = None,
    ) -> None:
        """Replaces the entries of `networks` by their wrapped forms, or by split copies."""
        self.networks = networks
        self.is_split = sharding is not None
        self._plain = dict(networks)
        self.accelerator = accelerator
        self.step = 0
        self.in_step = False
        """True while the weights are partly updated."""
        for name, network in self._plain.items():
            if sharding is not None:
                networks[name] = split(network, sharding, accelerator)
                continue
            if loop.compile:
                network.compile()
            networks[name] = accelerator.prepare(network)
        # The optimisers stay unwrapped: accelerate's adjust the fp16 scale once for each of them,
        # but it may change only between steps.
        self.optimizers = {
            name: torch.optim.AdamW(
                _trained(self.unwrapped(name)),
                lr=loop.learning_rate,
                betas=loop.betas,
                weight_decay=loop.weight_decay,
                fused=True,
            )
            for name in networks
        }
        self.ema = None
        if loop.ema_decay is not None:
            decay, foreach = loop.ema_decay, not self.is_split
            self.ema = MovingAverage(self._main_parameters(), decay=decay, foreach=foreach)
            self.ema.to(accelerator.device)

    def update(self, trained: Sequence[str], learning_rate: float) -> None:
        """Step the optimisers of the `trained` networks, then the moving average."""
        self.in_step = True
        scaler = self.accelerator.scaler
        for name in trained:
            for group in self.optimizers[name].param_groups:
                group["lr"] = learning_rate
            if scaler is None:
                self.optimizers[name].step()
            else:
                scaler.step(self.optimizers[name])
        if scaler is not None and trained:
            scaler.update()
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.step(self._main_parameters())
        self.step += 1
        self.in_step = False

    @property
    def takes_part(self) -> bool:
        """Whether this process has to enter `averaged`, and call `save_checkpoint`."""
        return self.is_split or self.accelerator.is_main_process

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """A block in which the first network has its moving average as weights, if it has one.

        Where networks are split, the stage's own one has them then, too, in the main process.
        """
        parameters = self._main_parameters()
        if self.ema is not None:
            self.ema.store(parameters)
        try:
            if self.ema is not None:
                self.ema.copy_to(parameters)
            if self.is_split:
                weights = whole(self.unwrapped(self._main).state_dict())
                if self.accelerator.is_main_process:
                    self.main_network.load_state_dict(weights)
            yield
        finally:
            if self.ema is not None:
                self.ema.restore(parameters)

    def unwrapped(self, name: str) -> nn.Module:
        """The network whose parameters are trained."""
        return self.accelerator.unwrap_model(self.networks[name])

    @property
    def _main(self) -> str:
        return next(iter(self.networks))

    @property
    def main_network(self) -> nn.Module:
        """The first network as the stage knows it."""
        return self._plain[self._main]

    def _main_parameters(self) -> list[nn.Parameter]:
        return _trained(self.unwrapped(self._main))


def _trained(network: nn.Module) -> list[nn.Parameter]:
    """Its parameters without those that are frozen for good, as beside a LoRA."""
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def _frozen(network: nn.Module) -> dict[str, nn.Parameter]:
    return {
        name: parameter
        for name, parameter in network.named_parameters()
        if not parameter.requires_grad
    }


def newest_checkpoint(checkpoints: Path) -> Path | None:
    """The newest whole checkpoint of a run; None if there is none."""
    return found[-1] if (found := _find_checkpoints(checkpoints)) else None


def _find_checkpoints(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("step-????????") if (path / "state.json").is_file())


def save_checkpoint(checkpoints: Path, state: TrainingState, *, keep: int) -> None:
    """Write the state into a new folder; of the older ones the newest `keep` - 1 stay.

    Where networks are split all processes have to call it; the main one writes.

    Raises:
        AuffusionError: it cannot be written; the older ones are as they were.
    """
    if not state.accelerator.is_main_process:
        for _ in _contents(state):
            pass
        return
    final = checkpoints / f"step-{state.step:08d}"
    try:
        checkpoints.mkdir(parents=True, exist_ok=True)
        with atomic_folder(final) as beside:
            _write_state(beside, state)
    except (OSError, RuntimeError, SafetensorError) as error:  # each library has its own
        raise AuffusionError(
            f"{final} cannot be written: {_in_one_line(error)}",
            hint="Free some space; --resume continues from the checkpoint before.",
        ) from error
    for old in _find_checkpoints(checkpoints)[:-keep]:
        delete_folder(old)


def _write_state(folder: Path, state: TrainingState) -> None:
    for file_name, content in _contents(state):
        if file_name.endswith(".safetensors"):
            save_file(content, folder / file_name)
        else:
            torch.save(content, folder / file_name)
    (folder / "state.json").write_text(json.dumps({"step": state.step}), encoding="utf-8")


def _contents(state: TrainingState) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file name, what it holds), one after the other; collective where networks are split."""
    for name in state.networks:
        yield f"{name}.safetensors", _weights(state.unwrapped(name))
        yield f"{name}.optimizer.pt", whole(state.optimizers[name].state_dict())
    if state.ema is not None:
        yield "ema.pt", whole(state.ema.state_dict())
    if state.accelerator.scaler is not None:
        yield "scaler.pt", state.accelerator.scaler.state_dict()


def _weights(network: nn.Module) -> dict[str, Tensor]:
    frozen = _frozen(network)
    return {
        key: whole(value).detach().cpu().contiguous()
        for key, value in network.state_dict().items()
        if key not in frozen
    }


def save_main_weights(path: Path, state: TrainingState, metadata: dict[str, str]) -> None:
    """Write the weights of the first network, as they are, into a file of their own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as beside:
        save_file(_weights(state.main_network), beside, metadata=metadata)


def load_main_weights(path: Path, state: TrainingState) -> None:
    """Give the first network the weights that `save_main_weights` wrote."""
    network = state.main_network
    network.load_state_dict(_frozen(network) | load_file(path))


def load_checkpoint(folder: Path, state: TrainingState) -> None:
    """Restore `state` from the checkpoint `folder`.

    Raises:
        CheckpointError: a file of it is damaged, or of another network; the message names it.
    """
    device = state.accelerator.device
    for name in state.networks:
        network = state.unwrapped(name)
        with _reading(folder / f"{name}.safetensors") as path:
            own = network.state_dict()
            weights = {
                key: split_like(value, own.get(key)) for key, value in load_file(path).items()
            }
            network.load_state_dict(_frozen(network) | weights)
        with _reading(folder / f"{name}.optimizer.pt") as path:
            content = _load_pickle(path)
            if state.is_split:
                _split_moments(content, _trained(network))
            state.optimizers[name].load_state_dict(content)
            for group in state.optimizers[name].param_groups:
                group["fused"] = True  # not so in files of earlier versions
    if state.ema is not None:
        with _reading(folder / "ema.pt") as path:
            content = _load_pickle(path)
            pairs = zip(content["shadow_params"], state.ema.shadow_params, strict=True)
            content["shadow_params"] = [split_like(value, own) for value, own in pairs]
            state.ema.load_state_dict(content)
            state.ema.to(device)
    if state.accelerator.scaler is not None and (folder / "scaler.pt").exists():
        with _reading(folder / "scaler.pt") as path:
            state.accelerator.scaler.load_state_dict(_load_pickle(path))
    with _reading(folder / "state.json") as path:
        state.step = int(json.loads(path.read_text(encoding="utf-8"))["step"])


def _split_moments(content: dict[str, Any], parameters: Sequence[nn.Parameter]) -> None:
    """Split the moments in the state of an optimiser of `parameters` as these are."""
    for index, moments in content["state"].items():
        for key, value in moments.items():
            moments[key] = split_like(value, parameters[index])


@contextmanager
def _reading(path: Path) -> Iterator[Path]:
    """A block whose failure names `path`, and the checkpoint to use instead."""
    try:
        yield path
    except DAMAGE as error:
        older = [p.name for p in _find_checkpoints(path.parent.parent) if p.name < path.parent.name]
        raise CheckpointError(
            f"{path}: cannot be resumed from: {_in_one_line(error)}",
            hint=f"If the file is damaged, delete {path.parent}: --resume then takes {older[-1]}."
            if older
            else "There is no checkpoint before it: --overwrite starts anew.",
        ) from error


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:MAX_DETAIL_CHARACTERS] or type(error).__name__


def _load_pickle(path: Path) -> dict:
    return torch.load(path, map_location="cpu", weights_only=True)
