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

import torch
from accelerate import Accelerator
from diffusers.training_utils import EMAModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from auffusion_cli.errors import AuffusionError, CheckpointError
from auffusion_cli.files import atomic_file, atomic_folder, delete_folder
from auffusion_cli.training.config import LoopConfig

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


class TrainingState:
    """The changing state of a run: networks, optimisers, moving average, loss scale."""

    def __init__(
        self, networks: dict[str, nn.Module], loop: LoopConfig, accelerator: Accelerator
    ) -> None:
        """Replaces the entries of `networks` by their wrapped forms."""
        self.networks = networks
        self.accelerator = accelerator
        self.step = 0
        self.in_step = False
        """True while the weights are partly updated."""
        # The optimisers stay unwrapped: accelerate's adjust the fp16 scale once for each of them,
        # but it may change only between steps.
        self.optimizers = {
            name: torch.optim.AdamW(
                _trained(network),
                lr=loop.learning_rate,
                betas=loop.betas,
                weight_decay=loop.weight_decay,
                fused=True,
            )
            for name, network in networks.items()
        }
        self.ema = None
        if loop.ema_decay is not None:
            parameters = _trained(next(iter(networks.values())))
            self.ema = EMAModel(parameters, decay=loop.ema_decay, foreach=True)
            self.ema.to(accelerator.device)
        for name, network in networks.items():
            if loop.compile:
                network.compile()
            networks[name] = accelerator.prepare(network)

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

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """A block in which the first network has its moving average as weights, if it has one."""
        if self.ema is None:
            yield
            return
        parameters = self._main_parameters()
        self.ema.store(parameters)
        try:
            self.ema.copy_to(parameters)
            yield
        finally:
            self.ema.restore(parameters)

    @property
    def main_network(self) -> nn.Module:
        """The first network, unwrapped."""
        return self.accelerator.unwrap_model(next(iter(self.networks.values())))

    def _main_parameters(self) -> list[nn.Parameter]:
        return _trained(self.main_network)


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

    Raises:
        AuffusionError: it cannot be written; the older ones are as they were.
    """
    final = checkpoints / f"step-{state.step:08d}"
    try:
        checkpoints.mkdir(parents=True, exist_ok=True)
        with atomic_folder(final) as beside:
            _write_state(beside, state)
    except (OSError, RuntimeError, SafetensorError) as error:  # each library has its own
        raise AuffusionError(
            f"{final} cannot be written: {_in_one_line(error)}",
            hint="free some space; --resume continues from the checkpoint before",
        ) from error
    for old in _find_checkpoints(checkpoints)[:-keep]:
        delete_folder(old)


def _write_state(folder: Path, state: TrainingState) -> None:
    for name, network in state.networks.items():
        weights = _weights(state.accelerator.unwrap_model(network))
        save_file(weights, folder / f"{name}.safetensors")
        torch.save(state.optimizers[name].state_dict(), folder / f"{name}.optimizer.pt")
    if state.ema is not None:
        torch.save(state.ema.state_dict(), folder / "ema.pt")
    if state.accelerator.scaler is not None:
        torch.save(state.accelerator.scaler.state_dict(), folder / "scaler.pt")
    (folder / "state.json").write_text(json.dumps({"step": state.step}), encoding="utf-8")


def _weights(network: nn.Module) -> dict[str, Tensor]:
    frozen = _frozen(network)
    return {
        key: value.detach().cpu().contiguous()
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
    for name, network in state.networks.items():
        with _reading(folder / f"{name}.safetensors") as path:
            network = state.accelerator.unwrap_model(network)
            network.load_state_dict(_frozen(network) | load_file(path))
        with _reading(folder / f"{name}.optimizer.pt") as path:
            state.optimizers[name].load_state_dict(_load_pickle(path))
            for group in state.optimizers[name].param_groups:
                group["fused"] = True  # not so in files of earlier versions
    if state.ema is not None:
        with _reading(folder / "ema.pt") as path:
            state.ema.load_state_dict(_load_pickle(path))
            state.ema.to(device)
    if state.accelerator.scaler is not None and (folder / "scaler.pt").exists():
        with _reading(folder / "scaler.pt") as path:
            state.accelerator.scaler.load_state_dict(_load_pickle(path))
    with _reading(folder / "state.json") as path:
        state.step = int(json.loads(path.read_text(encoding="utf-8"))["step"])


@contextmanager
def _reading(path: Path) -> Iterator[Path]:
    """A block whose failure names `path`, and the checkpoint to use instead."""
    try:
        yield path
    except DAMAGE as error:
        older = [p.name for p in _find_checkpoints(path.parent.parent) if p.name < path.parent.name]
        raise CheckpointError(
            f"{path}: cannot be resumed from: {_in_one_line(error)}",
            hint=f"if the file is damaged, delete {path.parent}: --resume then takes {older[-1]}"
            if older
            else "there is no checkpoint before it: --overwrite starts anew",
        ) from error


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:MAX_DETAIL_CHARACTERS] or type(error).__name__


def _load_pickle(path: Path) -> dict:
    return torch.load(path, map_location="cpu", weights_only=True)
