"""--engine auto|torch|onnx -> the engine, and why. Imports torch only where there may be a GPU."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from auffusion_cli.errors import CheckpointError, UsageError

ENGINES = ("torch", "onnx")
GPU_FILES = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
"""What drivers of NVIDIA (under Linux and under Windows' subsystem) and AMD leave in the system."""


@dataclass(frozen=True)
class Choice:
    """An engine, and what forced it."""

    engine: str
    """torch or onnx"""
    reason: str | None = None
    """Why auto did not take onnx; None where it did, or where the engine was asked for."""
    is_forced: bool = False
    """Whether the task or an option, not the machine or the model, is that reason."""


def choose_engine(
    asked: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    missing_graph: Path | None = None,
    needs_torch: str | None = None,
) -> Choice:
    """The engine `asked` for, or for "auto" ONNX Runtime where it can do what is asked on a CPU.

    Args:
        missing_graph: a graph that the checkpoint lacks.
        needs_torch: what of the task only torch can do, such as "attention".

    Raises:
        UsageError: it is not an engine, or cannot do what is asked.
        CheckpointError: the checkpoint has no graphs.
    """
    if asked not in ("auto", *ENGINES):
        raise UsageError(
            f"--engine {asked!r} is not known", hint=f"Valid: auto, {', '.join(ENGINES)}."
        )
    if asked == "torch":
        return Choice("torch")
    if asked == "onnx":
        if needs_torch:
            raise UsageError(
                f"--engine onnx: {needs_torch} needs torch",
                hint="Leave --engine out: it is chosen by what is asked.",
            )
        check_onnx_dtype(dtype)
        if missing_graph:
            raise CheckpointError(
                f"{missing_graph}: missing; the checkpoint has no graphs for --engine onnx",
                hint="`auffusion models convert --to onnx` makes them.",
            )
        return Choice("onnx")
    return _automatic(device, dtype, missing_graph, needs_torch)


def check_onnx_dtype(dtype: str) -> None:
    """Raise a UsageError for a precision that ONNX Runtime does not compute in."""
    if dtype not in ("auto", "fp32"):
        raise UsageError(
            f"--engine onnx computes in fp32, not {dtype}",
            hint=f"Leave --dtype out, or take --engine torch --dtype {dtype}.",
        )


def _automatic(
    device: str, dtype: str, missing_graph: Path | None, needs_torch: str | None
) -> Choice:
    if needs_torch:
        return Choice("torch", f"{needs_torch} needs it", is_forced=True)
    if dtype not in ("auto", "fp32"):
        return Choice("torch", f"--dtype {dtype} needs it", is_forced=True)
    if device not in ("auto", "cpu"):
        return Choice("torch", f"for --device {device}")
    if missing_graph:
        return Choice("torch", "the model has no graphs of ONNX")
    if device == "auto" and has_gpu():
        return Choice("torch", "there is a GPU")
    return Choice("onnx")


def has_gpu() -> bool:
    """Whether torch has a GPU here; it is imported only where the system looks like it."""
    if not _may_have_gpu():
        return False
    from auffusion_cli.device import choose_device

    return choose_device("auto").type != "cpu"


def _may_have_gpu() -> bool:
    if sys.platform == "darwin":
        return platform.machine() == "arm64"
    if "+cpu" in metadata.version("torch") or os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False
    return any(map(os.path.exists, GPU_FILES)) or shutil.which("nvidia-smi") is not None
