"""The noise schedule of a checkpoint's folder, checked before any scheduler runs on it. No torch.

Every field is untrusted.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from auffusion_cli.checkpoints.families import find_family
from auffusion_cli.checkpoints.layout import read_json
from auffusion_cli.config import CONTINUOUS_SCHEDULE, FLOW_SCHEDULE, MAX_STEPS, SCHEDULERS
from auffusion_cli.errors import CheckpointError

SCHEDULE_CLASSES = (
    *SCHEDULERS.values(),
    "DDIMInverseScheduler",
    "DEISMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LCMScheduler",
    "LMSDiscreteScheduler",
)
"""Classes of diffusers whose configs describe one and the same kind of noise schedule."""
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
MAX_LEVEL = 1e6
"""Of noise to signal, which such a schedule begins with."""


def read_scheduler_config(folder: Path) -> dict[str, Any]:
    """The noise schedule of the checkpoint in `folder`, checked.

    Every scheduler runs on this schedule: a config that lacks it, or describes another kind of
    schedule, would give a sound on a wrong one.
    """
    family = find_family(folder)
    if family is not None and family.scheduler_config is not None:
        return dict(family.scheduler_config)
    path = folder / "scheduler" / "scheduler_config.json"
    config = read_json(path)
    check_scheduler_config(config, path)
    return config


def check_scheduler_config(config: Mapping[str, Any], path: Path | str) -> None:
    """Raise a CheckpointError, which names `path`, for a noise schedule that cannot be used."""
    class_name = config.get("_class_name")
    if class_name == CONTINUOUS_SCHEDULE:
        _check_continuous(config, path)
        return
    if class_name == FLOW_SCHEDULE:
        _check_flow(config, path)
        return
    if class_name is not None and class_name not in SCHEDULE_CLASSES:
        raise CheckpointError(
            f"{path}: _class_name is {str(class_name)[:60]!r}, which is not known to run on a "
            "discrete variance-preserving noise schedule",
            hint=f"Known: {', '.join(sorted(SCHEDULERS.values()))}.",
        )
    for name in ("use_flow_sigmas", "thresholding"):
        if config.get(name):
            raise CheckpointError(f"{path}: {name} is not supported")
    n_steps = config.get("num_train_timesteps", 1000)
    if not _is_whole(n_steps) or not MAX_STEPS < n_steps <= 10_000:
        raise CheckpointError(
            f"{path}: num_train_timesteps is {str(n_steps)[:20]}; valid: whole numbers from "
            f"{MAX_STEPS + 1} to 10000"
        )
    _check_betas(config, n_steps, path)
    valid = {
        "prediction_type": ("epsilon", "v_prediction"),
        "timestep_spacing": ("leading", "trailing", "linspace"),
    }
    for name, values in valid.items():
        if name in config and config[name] not in values:
            raise CheckpointError(
                f"{path}: {name} is {str(config[name])[:60]!r}; valid: {', '.join(values)}"
            )
    if config.get("rescale_betas_zero_snr") and config.get("prediction_type") != "v_prediction":
        raise CheckpointError(
            f"{path}: with rescale_betas_zero_snr the last time step holds no signal, which a "
            "network that predicts the noise (epsilon) cannot start from",
            hint='"prediction_type": "v_prediction" is what such a network is trained with.',
        )


def _check_continuous(config: Mapping[str, Any], path: Path | str) -> None:
    low, high = config.get("sigma_min"), config.get("sigma_max")
    if not (_is_level(low) and _is_level(high) and low < high):
        raise CheckpointError(
            f"{path}: sigma_min is {str(low)[:20]} and sigma_max {str(high)[:20]}; "
            f"0 < sigma_min < sigma_max <= {MAX_LEVEL:g} must hold"
        )
    for name, valid in (
        ("prediction_type", "v_prediction"),
        ("sigma_schedule", "exponential"),
        ("sigma_data", 1.0),
    ):
        if config.get(name, valid) != valid:
            raise CheckpointError(f"{path}: {name} is {str(config[name])[:60]!r}; valid: {valid}")


def _check_flow(config: Mapping[str, Any], path: Path | str) -> None:
    """The model sees the share of noise itself, so that a time step may count to nothing else."""
    n_steps = config.get("num_train_timesteps", 1000)
    if n_steps != 1:
        raise CheckpointError(
            f"{path}: num_train_timesteps is {str(n_steps)[:20]}; of a {FLOW_SCHEDULE} valid: 1"
        )


def _is_level(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 < value <= MAX_LEVEL


def _check_betas(config: Mapping[str, Any], n_steps: int, path: Path | str) -> None:
    betas = config.get("trained_betas")
    if betas is not None:
        if not (isinstance(betas, list) and len(betas) == n_steps and all(map(_is_beta, betas))):
            raise CheckpointError(f"{path}: trained_betas is not {n_steps} numbers from 0 to 1")
        return
    for name in ("beta_start", "beta_end", "beta_schedule"):
        if name not in config:
            raise CheckpointError(f"{path}: lacks {name}, which the noise schedule is made of")
    start, end = config["beta_start"], config["beta_end"]
    if not (_is_beta(start) and _is_beta(end) and 0 < start <= end):
        raise CheckpointError(
            f"{path}: beta_start is {str(start)[:20]!r} and beta_end {str(end)[:20]!r}; "
            "0 < beta_start <= beta_end < 1 must hold"
        )
    if config["beta_schedule"] not in BETA_SCHEDULES:
        raise CheckpointError(
            f"{path}: beta_schedule is {str(config['beta_schedule'])[:60]!r}; "
            f"valid: {', '.join(BETA_SCHEDULES)}"
        )


def _is_beta(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
